"""Two links that last, and the stream between them, which can be cut and replaced."""

from __future__ import annotations

import os
import socket
import threading

from remoteio.wire.session_link import SessionLink


def stream(pipes: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Make a stream: what each end reads from and writes to."""
    if pipes:
        (near, far_out), (far, near_out) = os.pipe(), os.pipe()
        return (near, near_out), (far, far_out)
    ends = [end.detach() for end in socket.socketpair()]
    return (ends[0], os.dup(ends[0])), (ends[1], os.dup(ends[1]))


class Ends:
    """Two links that last, and what each is told of cuts. `pipes`: their streams are pipes, else sockets."""

    def __init__(self, pipes: bool) -> None:
        self._pipes = pipes
        self.cuts: list[str] = []
        self.noticed = threading.Event()
        here, there = stream(pipes)
        self.one, self.other = SessionLink(*here), SessionLink(*there)
        for link in (self.one, self.other):
            link.last(self._cut)
        self._close(*here, *there)

    def _close(self, *fds: int) -> None:
        for fd in fds:
            os.close(fd)  # the links have their own

    def _cut(self, why: str) -> None:
        self.cuts.append(why)
        self.noticed.set()

    def cut(self) -> None:
        self.one.drop("the test cuts it")

    def rejoin(self) -> None:
        """Cut it, if it is not, and put another stream in its place."""
        self.one.drop()
        self.other.drop()
        here, there = stream(self._pipes)
        mine, theirs = self.one.position, self.other.position
        self.one.join(*here, theirs)
        self.other.join(*there, mine)
        self._close(*here, *there)

    def close(self) -> None:
        self.one.close()
        self.other.close()
