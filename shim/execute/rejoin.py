"""The entry of a second connection to a host whose agent runs there: hand this one over to it. Shipped.

It is asked one line (shim/wire/rendezvous.py). Whether the agent has ended is judged by its process alone: it
is no more, on the same boot of the same machine, or this is another boot. A socket that cannot be had says nothing.
"""

from __future__ import annotations

import os
import select
import signal
import socket

from remoteio.errors import ProtocolError
from shim.execute.agent import at_door
from shim.wire import rendezvous
from shim.wire.rendezvous import Whereabouts

_AGAIN = 2000  # milliseconds between signs that the agent is there and does not answer
_ENDS, _DIES = 5000, 5000  # milliseconds that an agent may take to end by itself, and when it is killed


def main(read_fd: int, write_fd: int) -> int:
    """Do what is asked. Returns this process's exit status."""
    # who is told to end is the agent: it needs its stream until it has
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    try:
        want, secret, where, position = rendezvous.asked(_line(read_fd))
        found = _look_for(where)
        if not found and want == rendezvous.END:
            found = _end(where, secret)
        if found:
            _say(write_fd, *found)
            return 0
        with _connect(where) as agent:
            agent.send(at_door.ASKED.pack(at_door.TAKE if want == rendezvous.TAKE else at_door.JOIN, secret, position))
            return _hand_over(agent, where, read_fd, write_fd)
    except BrokenPipeError:
        return 1  # home has gone, and will ask again
    except (OSError, ProtocolError) as e:
        _say(write_fd, rendezvous.REFUSED, str(e))
        return 1


def _line(fd: int) -> bytes:
    # byte by byte: what follows is the agent's
    said = bytearray()
    while not said.endswith(b"\n") and len(said) < rendezvous.LINE:
        byte = os.read(fd, 1)
        if not byte:
            raise BrokenPipeError
        said += byte
    return bytes(said)


def _say(fd: int, said: str, why: str = "") -> None:
    data = rendezvous.line(said=said, why=why)
    while data:
        data = data[os.write(fd, data) :]


def _look_for(where: Whereabouts) -> tuple[str, str] | None:
    """Tell why its agent cannot be here, or is no more; None: it is here."""
    node = os.uname().nodename
    if node != where.node:
        return rendezvous.ELSEWHERE, "%s answers, and the job is on %s" % (node, where.node)
    with open("/proc/sys/kernel/random/boot_id") as f:
        if f.read().strip() != where.boot:
            return rendezvous.GONE, "the machine was started anew"
    return None if _runs(where) else (rendezvous.GONE, "its agent has ended there")


def _runs(where: Whereabouts) -> bool:
    try:
        with open("/proc/%d/stat" % where.pid, "rb") as f:
            state, began = rendezvous.started(f.read())
    except (FileNotFoundError, ProcessLookupError):
        return False
    return began == where.started and state not in "ZX"


def _connect(where: Whereabouts) -> socket.socket:
    """Connect to the agent's socket, if that is this user's. Raises OSError."""
    directory, name = os.path.split(where.path)
    at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(at).st_uid != os.geteuid():
            raise OSError("%s is another user's" % directory)
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            agent.connect("/proc/self/fd/%d/%s" % (at, name))
        except OSError:
            agent.close()
            raise
        return agent
    finally:
        os.close(at)


def _end(where: Whereabouts, secret: bytes) -> tuple[str, str]:
    """End the agent, and with it the job: it is asked to, and killed if it does not, stopped or frozen as it may be."""
    process = os.pidfd_open(where.pid)
    if _runs(where):  # or the number has become another's before it was opened
        ended = select.poll()
        ended.register(process, select.POLLIN)
        try:
            with _connect(where) as agent:
                agent.send(at_door.ASKED.pack(at_door.END, secret, 0))
        except OSError:
            pass  # it is killed then
        if not ended.poll(_ENDS):
            signal.pidfd_send_signal(process, signal.SIGKILL)
            if not ended.poll(_DIES):
                return rendezvous.WAITS, "its agent does not end there"
    return rendezvous.GONE, "its agent was ended"


def _hand_over(agent: socket.socket, where: Whereabouts, read_fd: int, write_fd: int) -> int:
    """Give the agent this process's standard input and output, and wait until it has done with them."""
    wait = select.poll()
    wait.register(agent, select.POLLIN)
    while not wait.poll(_AGAIN):
        if not _runs(where):
            break
        _say(write_fd, rendezvous.WAITS, "its agent is there and does not answer")
    if not _runs(where) or agent.recv(1) != at_door.YES:
        gone = _look_for(where)
        _say(write_fd, *(gone or (rendezvous.REFUSED, "the agent there does not know this run")))
        return 1
    socket.send_fds(agent, [b"."], [read_fd, write_fd])
    os.close(read_fd)
    os.close(write_fd)
    try:
        agent.recv(1)  # nothing comes but its end
    except OSError:
        pass  # which it is as well
    return 0
