"""Submit side: programs that this user may execute and not read (mode 0111), as the job's kernel must read them.

Of a program that is this user's own, and of his own group, a process has the right to read it that is alone in a user
namespace (user_namespaces(7): CAP_DAC_OVERRIDE over files whose owner and group it maps); the file stays as it is. Of
anybody else's, the kernel here lets no process of this user read a byte.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable

from remoteio.submit.export.descriptors import Descriptors
from remoteio.submit.export.nodes import Node
from remoteio.submit.sandbox.threads import Call

EXECUTE = 0x20  # of the flags of an OPEN: __FMODE_EXEC in linux/fs.h, by execve(2) alone

# argv: the descriptor to open anew, which is given back over the socket that is descriptor 0
_OPEN = """
import ctypes, os, socket, sys
ids = os.geteuid(), os.getegid()
if ctypes.CDLL(None).unshare(0x10000000):  # CLONE_NEWUSER
    sys.exit(1)
for name, text in ("setgroups", "deny"), ("uid_map", "0 %d 1" % ids[0]), ("gid_map", "0 %d 1" % ids[1]):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
fd = os.open("/proc/self/fd/" + sys.argv[1], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
socket.send_fds(socket.socket(fileno=0), [b"x"], [fd])
"""


def reopen(descriptors: Descriptors, node: Node, flags: int, outside: Call) -> int:
    """Open a file as ``Descriptors.reopen`` does; with EXECUTE among the flags, also a program that may not be read.

    `outside` calls what starts a process for that.
    """
    try:
        return descriptors.reopen(node, flags & ~EXECUTE)
    except PermissionError:
        if not flags & EXECUTE or flags & (os.O_ACCMODE | os.O_TRUNC):
            raise
    found = descriptors.open_by_name(node)
    try:
        return outside(lambda: _open_to_execute(found))
    finally:
        os.close(found)


def open_file(opener: Callable[[int], int], flags: int) -> int:
    """Call `opener` with these flags; where O_NOATIME is refused, without it."""
    try:
        return opener(flags)
    except PermissionError:
        if not flags & os.O_NOATIME:
            raise
        return opener(flags & ~os.O_NOATIME)  # only an owner may ask for it; the job's kernel has checked what it knows


def _open_to_execute(fd: int) -> int:
    """Open for reading, anew, the program that is open as `fd` (O_PATH). Raises PermissionError."""
    if not os.access("/proc/self/fd/%d" % fd, os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, "not a program that this user may execute")
    import subprocess  # hardly ever: each run would wait for it

    here, there = socket.socketpair()
    with here, there:
        argv = [sys.executable, "-I", "-S", "-c", _OPEN, str(fd)]
        null = subprocess.DEVNULL
        done = subprocess.run(
            argv, stdin=there.fileno(), stdout=null, stderr=null, pass_fds=(fd,), check=False
        )  # fmt: skip
        if done.returncode == 0:
            _, (opened,), _, _ = socket.recv_fds(here, 1, 1)
            os.set_inheritable(opened, False)
            return opened
    raise PermissionError(errno.EACCES, "a program of another user that this one may not read")
