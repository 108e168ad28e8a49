"""Where a new stream joins an agent whose stream was cut: a socket that only this login and this run can use. Shipped.

It lies in a directory of the login's alone, goes by the directory's descriptor, as the path may be longer than a
socket's address holds (unix(7)), and is asked by shim/execute/rejoin.py: that must be the same user (SO_PEERCRED) and
know the secret that home made for this run and sent in START. It hands over the stream as two descriptors
(SCM_RIGHTS), so no process copies its bytes; it stays to keep sshd's channel open, until this end of it is closed.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from _operator import _compare_digest  # of the module hmac, which reads OpenSSL: a hundred agents may at once
from collections.abc import Callable

from remoteio.errors import ProtocolError
from remoteio.wire.session_link import SessionLink
from shim.execute.agent import at_door
from shim.execute.agent.diagnostics import start_thread
from shim.wire import rendezvous

NAME = "door"
_PATIENCE = 5.0  # seconds for who has connected: others may wait behind it
_CREDENTIALS = struct.Struct("3i")  # struct ucred


class Door:
    """Has streams joined to `link` that know `secret`.

    Threads: one of its own accepts, one connection at a time. ``cut`` is called by whoever sees the stream's end;
    `_lock` guards `_relay` between the two.
    """

    def __init__(self, directory: str, secret: bytes, link: SessionLink, state: Callable[[], bytes]) -> None:
        """Bind the socket. `state` makes what a home is sent first that knows nothing any more. Raises OSError."""
        self._secret, self._link, self._state = secret, link, state
        self._lock = threading.Lock()
        self._relay: socket.socket | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.bind("/proc/self/fd/%d/%s" % (at, NAME))
        finally:
            os.close(at)
        self._socket.listen(8)
        self._path = directory + "/" + NAME

    def open(self) -> list[bytes]:
        """Begin to accept; returns where this is, for HELLO."""
        start_thread("door", self._accept)
        with open("/proc/sys/kernel/random/boot_id") as f, open("/proc/self/stat", "rb") as own:
            boot, began = f.read().strip(), rendezvous.started(own.read())[1]
        return rendezvous.Whereabouts(self._path, os.uname().nodename, boot, os.getpid(), began).pack()

    def cut(self) -> None:
        """Let go of the relay whose stream has ended."""
        with self._lock:
            relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

    def _accept(self) -> None:
        while True:
            relay, _ = self._socket.accept()
            try:
                if not self._take(relay):
                    relay.close()
            except (OSError, ProtocolError):
                relay.close()  # it is gone again, says nothing, or comes too late: its home has another stream by now

    def _take(self, relay: socket.socket) -> bool:
        """Do what it asks for. False: it is not to be heard, or has handed over nothing. Raises OSError."""
        relay.settimeout(_PATIENCE)
        _, uid, _ = _CREDENTIALS.unpack(relay.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        said = relay.recv(at_door.ASKED.size + 1)
        if uid != os.geteuid() or len(said) != at_door.ASKED.size:
            return False
        want, secret, theirs = at_door.ASKED.unpack(said)
        if not _compare_digest(secret, self._secret):
            relay.send(at_door.NO)
            return False
        if want == at_door.END:
            os._exit(1)  # and with it ends the job: see shim/execute/init/keeper.py
        if want == at_door.JOIN and theirs < self._link.acknowledged:
            return False  # asked long ago, and under way since: the stream that is there is not to be given up for it
        relay.send(at_door.YES)
        _, fds, _, _ = socket.recv_fds(relay, 1, 2, socket.MSG_CMSG_CLOEXEC)
        try:
            if len(fds) == 2:
                self._join(relay, fds, theirs, anew=want == at_door.TAKE)
            return len(fds) == 2
        finally:
            for fd in fds:
                os.close(fd)  # the link has its own

    def _join(self, relay: socket.socket, fds: list[int], theirs: int, anew: bool) -> None:
        self._link.drop()  # home has left the stream before this one, though nobody may have told us
        with self._lock:
            self._relay = relay
        if anew:
            self._link.parked()  # what came from the home before is done
        said = rendezvous.line(said=rendezvous.JOINED, position=0 if anew else self._link.position)
        try:
            while said:
                said = said[os.write(fds[1], said) :]
        except OSError:
            pass  # it is cut already: who reads sees that
        if anew:
            self._link.renew(fds[0], fds[1], self._state)
        else:
            self._link.join(fds[0], fds[1], theirs)
