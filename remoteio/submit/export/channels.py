"""Unix sockets and fifos whose other end is a process of this machine: how the job is kept from them.

The file of either is no more than a name; the channel is in the kernel of those who use it. In the job's kernel it is
another one, where nobody has bound the socket and nobody holds the fifo. So connect(2) would say ECONNREFUSED, by which
a program takes the socket for one that was left behind, unlinks it and binds it anew: nobody could reach the user's
server here again. And open(2) of the fifo would wait for ever. What is shown of such a file makes the job's kernel
refuse both with EACCES, whoever asks, be it root (fs/namei.c, inode_permission and may_open):

* a socket that is bound here has a group that no namespace maps. Nothing may be written to it then, which is what
  connect(2) asks for, and its name may not be removed, replaced or moved (EOVERFLOW).
* a fifo that is open here is a device, and the job's root is mounted ``nodev``. It is another file than the fifo that
  it is as soon as nobody here has it open: the kernel does not bear that a file becomes one of another kind.

What nobody here holds is the job's own, as is all that it binds and opens itself.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time

from remoteio import syscalls
from remoteio.submit.sandbox.threads import Call

NO_ID = (1 << 32) - 1  # no user namespace maps it: user_namespaces(7)
_O_PATH = 0o10000000  # in fdinfo
_SHARE = 20  # of one processor's time, one in so many goes into looking for open fifos at most


def bound(fd: int) -> bool:
    """Tell whether a process of this machine has bound the unix socket whose file is open (O_PATH) as `fd`; close that.

    True too where this process may not know. Whoever has bound it notices nothing: a connect of a datagram socket is
    all that is tried, and fails with EPROTOTYPE if it is one of another type (net/unix/af_unix.c, unix_find_bsd).
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect("/proc/self/fd/%d" % fd)
    except OSError as e:
        return e.errno != errno.ECONNREFUSED
    finally:
        os.close(fd)
    return True


class Fifos:
    """Knows which fifos processes of this machine have open, as far as this user may know: proc_pid_fd(5).

    Threads: any; two may look at the same time, and either's answer is right.
    """

    def __init__(self, outside: Call) -> None:
        """`outside` calls what looks: a restricted thread sees nothing of other processes."""
        self._outside = outside
        self._held: frozenset[tuple[int, int]] = frozenset()
        self._until = 0.0

    def held(self, st: os.stat_result) -> bool:
        """Tell whether the fifo that `st` describes is open."""
        if time.monotonic() >= self._until:
            self._held, took = self._outside(_looked)
            self._until = time.monotonic() + _SHARE * took
        return (st.st_dev, st.st_ino) in self._held


def _looked() -> tuple[frozenset[tuple[int, int]], float]:
    """Look for open fifos; them, and the processor time that it took: on a busy machine it may have waited for long."""
    began = time.thread_time()
    return frozenset(_open_fifos()), time.thread_time() - began


def _open_fifos() -> set[tuple[int, int]]:
    """(st_dev, st_ino) of each, pipes without a name among them."""
    found: set[tuple[int, int]] = set()
    me = str(os.getpid())
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid == me:
            continue
        try:
            numbers = os.listdir("/proc/%s/fd" % pid)
        except OSError:
            continue  # it has ended, or is another user's
        for number in numbers:
            try:
                # another job's files are asked for nothing: its host, or its home, may be away
                mode, dev, ino = syscalls.stat_unasked("/proc/%s/fd/%s" % (pid, number))
                if stat.S_ISFIFO(mode) and (dev, ino) not in found and _opened("/proc/%s/fdinfo/%s" % (pid, number)):
                    found.add((dev, ino))
            except OSError:
                continue  # closed meanwhile
    return found


def _opened(fdinfo: str) -> bool:
    """Is it open to be read or written, not only looked at (O_PATH)?"""
    with open(fdinfo, "rb") as f:
        flags = [line.split()[1] for line in f if line.startswith(b"flags:")]
    return bool(flags) and not int(flags[0], 8) & _O_PATH
