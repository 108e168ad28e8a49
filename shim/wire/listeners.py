"""Listens for who connects to a port that leads to the other end. Shipped; used at both ends."""

from __future__ import annotations

import errno
import os
import select
import socket

from remoteio.errors import RexecError
from shim.wire import loopback
from shim.wire.forwards import Forward, Side

_WAITING = 128  # who wants to connect


class Listeners:
    """Lets in who connects at one end, if he is a user of that side. One thread, but for ``listen``: called once."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._found: dict[int, tuple[socket.socket, Forward]] = {}
        self._spare = os.open(os.devnull, os.O_RDONLY)  # to turn somebody away when there is no other descriptor left

    def listen(self) -> None:
        """Listen where somebody is to connect. Raises RexecError."""
        found = {}
        try:
            for forward in self._side.forwards:
                if forward.at_home == self._side.at_home:
                    sock = _listening(*forward.listen)
                    found[sock.fileno()] = sock, forward
        except RexecError:
            for sock, _ in found.values():
                sock.close()
            raise
        self._found = found

    def wait(self, poll: select.poll, room: bool) -> None:
        """Have `poll` tell of who connects, if there is room for him."""
        for fd in self._found:
            poll.register(fd, select.POLLIN if room else 0)

    def __contains__(self, fd: int) -> bool:
        return fd in self._found

    def accept(self, fd: int) -> tuple[socket.socket, Forward] | None:
        """Let in who connects there; None: he has gone, or was turned away."""
        listener, forward = self._found[fd]
        try:
            sock, whose = listener.accept()
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away(listener)
            return None
        if loopback.owner(whose, sock.getsockname()) in self._side.users:
            return sock, forward
        loopback.abort(sock)
        return None

    def _turn_away(self, listener: socket.socket) -> None:
        """Reset who waits first: or it would be looked for ever whether he may come in."""
        os.close(self._spare)
        try:
            loopback.abort(listener.accept()[0])
        except OSError:
            pass  # the descriptor went to another thread, or he has gone
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Let nobody in any more."""
        for sock, _ in self._found.values():
            sock.close()
        os.close(self._spare)


def _listening(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # those that were before are no obstacle
        sock.bind((host, port))
        sock.listen(_WAITING)
    except OSError as e:
        sock.close()
        text = "--forward: nothing can listen at %s:%d of %s (%s): say another port, or `any` where the job listens"
        raise RexecError(text % (host, port, socket.gethostname(), e.strerror)) from e
    sock.setblocking(False)
    return sock
