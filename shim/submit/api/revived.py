"""Have a job supervised again that has lost its supervisor, and find out from where it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from remoteio.errors import RexecError
from shim.submit.job import control_socket, detached, record, submission


@dataclass(frozen=True, slots=True)
class Revived:
    """A job that goes on.

    whence  from where: where it runs, or from which image, and why; a clause
    kept    a sentence for each file that stays as it is, with a copy kept
    """

    whence: str
    kept: tuple[str, ...]


def revive(directory: record.Job, on: str | None = None) -> Callable[[], Revived]:
    """Start its supervisor, in the background; what is returned waits until it is known from where the job goes on.

    `on`: where it may run from now on; None: as before.

    Raises SubmitError where it has a supervisor, or no image at all, or its files forbid it.
    """
    hosts = None if on is None else submission.host_names(on)
    resumed = submission.resume(directory, None, hosts, detach=True, force=False, take_up=True)
    detached.start(directory, resumed=resumed, take_up=True)

    def whence() -> Revived:
        *_, answer = control_socket.ask(directory.control, do="whence")
        if not answer["done"]:
            raise RexecError(f"the supervisor of job {directory.id} has ended: see `rexec log {directory.id}`")
        return Revived(str(answer["text"]), () if answer["taken"] else kept(directory, resumed))

    return whence


def kept(directory: record.Job, resumed: submission.Resumed) -> tuple[str, ...]:
    """Say of each file that stays as it is that a copy is kept."""
    since = f"since image {resumed.image.number} was made: see `rexec log {directory.id}` for what is kept"
    return tuple(f"{named.clause} {since}" for named in resumed.unsure)
