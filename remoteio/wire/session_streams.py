"""The streams that carry a session, one after the other: a socket, or two pipes, as sshd gives a program. Shipped.

Each works on copies of the descriptors it is made of, with numbers far above those that a job may want; nobody else
closes them. What is common to both:

    fd        to read from
    whole     whether recv(2) can wait until a buffer is full
    given_up  what is read from now on is not to be taken

Threads: one reads and one writes; any may call ``shut``, and ``close`` once nobody does either.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct

from remoteio.wire.link import SLOW

_LEAST = 100  # number of a copy
_PARTS = 1000  # that go into one call; IOV_MAX is 1024
_AGAIN = 200  # milliseconds between looks whether a full pipe was given up: nothing wakes who waits for room in it
_PIPE = 256 << 10  # bytes; a pipe has 64 KiB else, and a large frame would take 16 waits
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; fcntl has the name from Python 3.10 on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Parts = list["bytes | memoryview"]
    Stream = Union["SocketStream", "PipeStream"]


def stream_of(read_fd: int, write_fd: int) -> Stream:
    """Make the stream that these descriptors are. Raises OSError: no descriptor is left for the copies."""
    if all(stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in (read_fd, write_fd)):
        return SocketStream(read_fd, write_fd)
    return PipeStream(read_fd, write_fd)


def _copies(read_fd: int, write_fd: int) -> tuple[int, int]:
    read = fcntl.fcntl(read_fd, fcntl.F_DUPFD_CLOEXEC, _LEAST)
    try:
        return read, fcntl.fcntl(write_fd, fcntl.F_DUPFD_CLOEXEC, _LEAST)
    except OSError:
        os.close(read)
        raise


def _behind(parts: Parts, n: int) -> Parts:
    """Return what is left of `parts` without the first `n` bytes."""
    done = 0
    while done < len(parts) and n >= len(parts[done]):
        n -= len(parts[done])
        done += 1
    parts = parts[done:]
    if n:
        parts[0] = memoryview(parts[0])[n:]
    return parts


class SocketStream:
    """A stream whose descriptors are sockets, or one."""

    __slots__ = ("_read", "_write", "fd", "given_up")
    whole = True

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read, self._write = (socket.socket(fileno=fd) for fd in _copies(read_fd, write_fd))
        self.fd, self.given_up = self._read.fileno(), False
        self._read.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", SLOW, 0))

    def put(self, parts: Parts, wait: bool) -> Parts:
        """Write `parts`; return what of them is left, if it may not `wait`. Raises OSError."""
        flags = 0 if wait else socket.MSG_DONTWAIT
        while parts:
            try:
                if len(parts) == 1:
                    n = self._write.send(parts[0], flags)
                    if n == len(parts[0]):
                        return []
                else:
                    n = self._write.sendmsg(parts[:_PARTS], (), flags)
            except BlockingIOError:
                return parts
            parts = _behind(parts, n)
        return parts

    def shut(self) -> None:
        """Wake whoever is in it, for good. What had come may still be read: it is in order."""
        for end in (self._read, self._write):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has ended by itself

    def close(self) -> None:
        """Close the copies."""
        self._read.close()
        self._write.close()


class PipeStream:
    """A stream of two pipes.

    No shutdown wakes who waits in a pipe. Who reads is woken by a byte of our own: a pipe can be opened anew through
    /proc, for either direction (pipe(7), proc_pid_fd(5)). It comes behind all that is the session's, so what is read
    once `given_up` is set is dropped as a whole; the other end sends it again. The pipe in the other direction is left
    as it is, since the other end may still be reading it: who writes does not wait in the call.
    """

    __slots__ = ("_write", "fd", "given_up")
    whole = False

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.fd, self._write = _copies(read_fd, write_fd)
        self.given_up = False
        os.set_blocking(self._write, False)  # this end of it is ours alone
        try:
            fcntl.fcntl(self._write, _F_SETPIPE_SZ, _PIPE)
        except OSError:
            pass  # the user has as much of them as pipe(7) allows, or it is no pipe

    def put(self, parts: Parts, wait: bool) -> Parts:
        """Write `parts`; return what of them is left, if it may not `wait`. Raises OSError."""
        while parts:
            try:
                n = os.write(self._write, parts[0]) if len(parts) == 1 else os.writev(self._write, parts[:_PARTS])
            except BlockingIOError:
                if not wait:
                    return parts
                self._await_room()
            else:
                parts = _behind(parts, n)
        return parts

    def _await_room(self) -> None:
        poll = select.poll()
        poll.register(self._write, select.POLLOUT)
        while not poll.poll(_AGAIN):
            if self.given_up:
                raise OSError(errno.EPIPE, "it was given up")

    def shut(self) -> None:
        """Wake whoever is in it, for good."""
        self.given_up = True
        try:
            anew = os.open("/proc/self/fd/%d" % self.fd, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # it is a socket, or there is no /proc: its reader is woken when the other end closes it
        try:
            os.write(anew, b"\0")
        except OSError:
            pass  # it is full: nobody waits in it
        finally:
            os.close(anew)

    def close(self) -> None:
        """Close the copies."""
        os.close(self.fd)
        os.close(self._write)
