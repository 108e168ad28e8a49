"""Describes a job by this process's own circumstances: directory, environment, ids, umask, limits.

It only looks: a program with other threads may call it at any time.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from remoteio.errors import RexecError
from remoteio.submit.umask import own_umask
from shim.submit.foreground import environment
from shim.wire import scheduling
from shim.wire.descriptors import Descriptor
from shim.wire.job_spec import JobSpec

if TYPE_CHECKING:
    from shim.wire.forwards import Forward

_PATH_MAX = 4096  # linux/limits.h, the final NUL included


def describe(
    command: Sequence[str | bytes],
    *,
    directory: str | bytes | None,
    env: Sequence[bytes],
    scratch: Sequence[str | bytes],
    stdio: Sequence[int],
    tty: Sequence[int] = (),
    descriptors: Sequence[Descriptor] = (),
    forward: Sequence[str] = (),
) -> JobSpec:
    """Describe `command` as a job that is to find what this process would give it. Raises RexecError.

    directory   where it is to run; None: where this process is
    env         NAME=VALUE or NAME each, as --env has them, on top of this process's environment
    scratch     directories here at which it is to find private space of the host's
    stdio       which of 0, 1 and 2 it is to have
    tty         the settings of its terminal (terminal_state.read); empty: it has none
    descriptors those from 3 on
    forward     ports that lead from one end to the other, as --forward has them
    """
    cwd = _directory(directory)
    for path in scratch:
        if not os.path.isdir(path):
            raise RexecError(f"scratch space at {os.fsdecode(path)}: there is no such directory here; make one")
    ports, found = forwarded(forward)
    ours = os.environb if directory is None else {**os.environb, b"PWD": cwd}
    return JobSpec(
        argv=_words(command), env=environment.for_job(ours, [*env, *found]), cwd=cwd,
        uid=os.geteuid(), gid=os.getegid(), groups=os.getgroups(), umask=own_umask(),
        hostname=os.fsencode(socket.gethostname()), limits=_limits(),
        scratch=[os.fsencode(os.path.abspath(path)) for path in scratch], stdio=list(stdio), tty=list(tty),
        scheduling=scheduling.own(), descriptors=list(descriptors), forwards=ports,
    )  # fmt: skip


def forwarded(asked: Sequence[str]) -> tuple[list[Forward], list[bytes]]:
    """Read what --forward says: the ports, and what tells the job of them. Raises ForwardError."""
    if not asked:
        return [], []
    from shim.submit import forwarding  # hardly ever

    ports = forwarding.forwards(asked)
    return ports, forwarding.variables(ports)


def _words(command: Sequence[str | bytes]) -> list[bytes]:
    if not command[0]:
        raise RexecError("the command is empty; name a program")
    return [os.fsencode(word) for word in command]


def _directory(given: str | bytes | None) -> bytes:
    try:
        cwd = os.path.abspath(os.fsencode(given)) if given else os.getcwdb()
    except FileNotFoundError as e:
        raise RexecError("the directory you are in has been removed; cd to another") from e
    if len(cwd) >= _PATH_MAX:
        raise RexecError(
            f"the path of {os.fsdecode(cwd[:60])}… has {len(cwd)} bytes, and a job can start in one of"
            f" {_PATH_MAX - 1} at the most; go to a directory further up"
        )
    if not os.path.isdir(cwd):
        raise RexecError(f"{os.fsdecode(cwd)} is no directory; name one that exists")
    if not os.access(cwd, os.X_OK):
        raise RexecError(f"you may not enter {os.fsdecode(cwd)}; name a directory that you may")
    return cwd


def _limits() -> list[tuple[int, int, int]]:
    """The resource limits, as (resource, soft, hard)."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"]
    return [(number, *resource.getrlimit(number)) for number in (getattr(resource, name) for name in names)]
