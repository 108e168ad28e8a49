"""Ends the job of an rexec that was killed by SIGKILL: its host takes that for a line that is cut, and would wait.

A shell waits in a session of its own for the end of a pipe from that rexec, which says a line there before it ends in
any other way. Where none comes, the shell becomes an rexec that dials the host and has the agent ended, as is done for
what is over here while a host is away (ending.py). How the agent is asked lies in a file without a name.

One that has a job for less than a second has no shell yet, as most are over by then. Where another process serves the
files (resident.py), that one ends the job of a run that is killed; and if it is killed itself, its keeper does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from shim.submit import own_code
from shim.submit.engines import names

if TYPE_CHECKING:
    from shim.submit.hosts.config import Host
    from shim.submit.hosts.dialler import Agent, Dialler

_SOON = 1.0  # seconds
_WAITS = 'read said || exec "$@"'


@contextmanager
def ended(dialler: Dialler | None) -> Iterator[None]:
    """Have the agent that is dialled ended if this process is killed in the body; None: another looks after it."""
    if dialler is None or ends_by_itself(dialler.host):
        yield
        return
    over = threading.Event()
    guard = threading.Thread(target=_guard, args=(dialler.host, dialler.agent, over), name="orphaned", daemon=True)
    guard.start()
    try:
        yield
    finally:
        over.set()
        guard.join()


def ends_by_itself(host: Host) -> bool:
    """Tell whether an agent there is ended without us: by its engine; or, on this machine, as it sees us end."""
    return host.ssh is None or names.is_job(host.ssh)


def words(host: Host, agent: Agent) -> bytes:
    """Say how that agent is asked, which is known where to be."""
    assert agent.where is not None
    door = [os.fsdecode(item) for item in agent.where.pack()]
    row = {"host": host[:4], "secret": agent.secret.hex(), "lease": agent.lease, "door": door}
    return json.dumps(row).encode()


def start(said: bytes, before: Sequence[str] = (), stdin: int | None = None) -> None:
    """Start who has the agent ended of which `words` has said that; by way of the program `before`. Raises OSError."""
    import subprocess  # most are over before

    told = os.memfd_create("rexec-orphaned")
    try:
        os.write(told, said)
        os.lseek(told, 0, os.SEEK_SET)
        subprocess.Popen(
            [*before, *own_code.command(__name__), str(told)], stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(told,), cwd="/", start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(told)


def _guard(host: Host, agent: Agent, over: threading.Event) -> None:
    while not over.wait(_SOON):
        if agent.where is not None:
            with suppress(OSError):  # no process or descriptor is to be had: its lease ends it then
                _wait(words(host, agent), over)
            return


def _wait(said: bytes, over: threading.Event) -> None:
    """Have a shell wait until it is `over`. Raises OSError."""
    theirs, ours = os.pipe()
    try:
        start(said, ("/bin/sh", "-c", _WAITS, "sh"), theirs)
        over.wait()
        os.write(ours, b"\n")
    finally:
        os.close(theirs)
        os.close(ours)


def main() -> None:
    """Be what the shell becomes."""
    own_code.import_only_ours()
    with open(int(sys.argv[1]), "rb") as file:
        end(file.read())


def end(said: bytes) -> None:
    """Dial until it is known that nothing runs there of what `words` has told, or that its lease is over."""
    from shim.submit.hosts import ending
    from shim.submit.hosts.config import Host
    from shim.submit.hosts.connect import connect
    from shim.submit.hosts.dialler import Agent
    from shim.wire.rendezvous import Whereabouts

    row = json.loads(said)
    name, ssh, options, python = row["host"]
    where = Whereabouts.unpack([os.fsencode(item) for item in row["door"]])
    agent = Agent(bytes.fromhex(row["secret"]), row["lease"], where)
    ending.end(Host(name, ssh, tuple(options), python), agent, connect, threading.Event())
