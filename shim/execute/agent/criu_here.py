"""Whether images of a job can be made on this host: its criu, or the one that the submit side sends. Shipped."""

from __future__ import annotations

import os

from checkpoint.execute import find_criu
from checkpoint.wire import compat, criu_bundle
from remoteio.errors import RexecError
from remoteio.execute import machine
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from remoteio.wire.session import COUNT
from shim.execute.agent.cache import kept
from shim.execute.init import namespaces
from shim.wire import job_messages, lease
from shim.wire.job_spec import CheckpointSpec, JobSpec

_ACKNOWLEDGED = 1 << 20  # bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    Frames = list[tuple[int, "bytes | memoryview"]]


class CriuHere:
    """A criu that works on this host.

    bundle  the directory that it is in
    facts   what decides where an image that it makes can go on, its version among it
    """

    __slots__ = ("bundle", "facts")

    def __init__(self, bundle: str, facts: compat.Facts) -> None:
        self.bundle, self.facts = bundle, facts


class Means:
    """Has a criu for this job, or says why there is none. Never changed.

    unable  why no image can be made here, a sentence; empty: it can
    """

    __slots__ = ("_criu", "unable")

    def __init__(self, criu: CriuHere | None, unable: str = "") -> None:
        self._criu, self.unable = criu, unable

    def with_uid_map(self, uid_map: str) -> Means:
        """Make the same means for a job that has these ids."""
        if self._criu is None:
            return self
        return Means(CriuHere(self._criu.bundle, self._criu.facts.with_uid_map(uid_map)))

    def criu(self) -> CriuHere:
        """Return the criu. Raises RexecError: why there is none here."""
        if self._criu is None:
            raise RexecError(self.unable)
        return self._criu


def cache() -> str:
    """Return where criu is kept on this host."""
    return kept("criu")


def provide(link: Link, spec: JobSpec, checkpoint: CheckpointSpec, early: Frames) -> tuple[Means, Frames]:
    """Find a criu that works here, asked of the submit side if need be; and return the frames that came meanwhile.

    Raises LinkClosed.
    """
    left = list(early)
    try:
        found, why = _find(link, checkpoint, bool(os.geteuid() or spec.uid), left)
        if found is not None:
            return Means(CriuHere(found.bundle, compat.host_facts(found.version, namespaces.login_ids()))), left
    except LinkClosed:
        raise
    except Exception as e:  # whatever it was: there is a job to run all the same
        why = str(e) if isinstance(e, (criu_bundle.BundleError, RexecError)) else "%s: %s" % (type(e).__name__, e)
    host = machine.name()
    return Means(
        None, f"{host} cannot checkpoint a job: {why}; `rexec doctor --fix` obtains a criu that can be sent"
    ), left  # fmt: skip


def _find(
    link: Link, checkpoint: CheckpointSpec, apart: bool, left: Frames
) -> tuple[find_criu.FoundCriu | None, str]:  # fmt: skip
    def pulse() -> None:
        link.send(frames.PING)

    found, why = find_criu.find(cache(), checkpoint.criu, apart, pulse)
    if found is None and checkpoint.criu and not criu_bundle.present(cache(), checkpoint.criu):
        link.send(frames.NEWS, job_messages.news(job_messages.CRIU, need=checkpoint.criu))
        archive = _archive(link, left)
        if not archive:
            return None, why  # it cannot be sent
        criu_bundle.unpack(archive, checkpoint.criu, cache())
        found, why = find_criu.brought(cache(), checkpoint.criu, apart, pulse)
    return found, why


def _archive(link: Link, left: Frames) -> bytes:
    """Receive the bundle that is being sent; other frames are put aside in `left`.

    Home keeps what it sends until it is acknowledged, which this end does not do by itself before it outlives a stream.
    """
    archive, told = bytearray(), link.received
    while True:
        while not link.readable(lease.PULSE):
            link.send(frames.PING)
        for kind, payload in link.receive():
            if kind != frames.BUNDLE:
                left.append((kind, payload))
            elif payload:
                archive += payload
            else:
                return bytes(archive)
        if link.received - told >= _ACKNOWLEDGED:
            told = link.received
            link.send(frames.ACK, COUNT.pack(told))
