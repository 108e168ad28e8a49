"""Keeps a job from what its login has on this host that is neither a file nor a process. Shipped.

Job and host share the network, and with it the names of abstract unix sockets (unix(7)): X servers listen on them, and
session buses, which do all that somebody of their user's id asks. And a process inherits the keyring of the session
that it was started in (session-keyring(7)), as ssh's login has one. All that init starts has what is set here: the
job, and the criu that dumps it or makes it anew, whose children are in the domain that criu itself is in.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from remoteio.syscalls import check, libc

# linux/landlock.h; their numbers are the same on every architecture.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_CREATE_RULESET_VERSION = 1
_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_SCOPES_SINCE = 6  # of Landlock's ABI: Linux 6.12
# asm/unistd.h; 219 in those that have the generic table
_KEYCTL = {"x86_64": 250, "i686": 288, "armv7l": 311, "ppc64le": 271, "s390x": 280}.get(os.uname().machine, 219)
_JOIN_SESSION_KEYRING = 1  # linux/keyctl.h


def scopes() -> bool:
    """Tell whether this kernel can keep processes from others' abstract sockets."""
    return int(libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)) >= _SCOPES_SINCE


def leave_abstract_sockets() -> None:
    """Have this process, and all that come of it, reach only abstract sockets of their own: landlock(7), Linux 6.12.

    Nothing is done by a kernel that cannot. With no right to files named in it such a domain forbids nothing else, and
    its processes may trace each other. Not signals too, from which the pid namespace keeps all others: that
    scope would have each thread ask which of the process's own it may send one. Raises OSError.
    """
    if not scopes():
        return
    rules = struct.pack("=QQQ", 0, 0, _SCOPE_ABSTRACT_UNIX_SOCKET)  # struct landlock_ruleset_attr
    fd = check(libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0), "landlock_create_ruleset")
    try:
        check(libc.syscall(_RESTRICT_SELF, fd, 0), "landlock_restrict_self")
    except OSError as e:
        if e.errno != errno.E2BIG:  # sixteen deep, and in such a domain already: a job in a job
            raise
    finally:
        os.close(fd)


def leave_keys() -> None:
    """Have this process, and all that come of it, a session keyring of their own: keyctl(2). Raises OSError."""
    try:
        check(libc.syscall(_KEYCTL, _JOIN_SESSION_KEYRING, None), "keyctl")
    except OSError as e:
        if e.errno not in (errno.ENOSYS, errno.EPERM):  # no keys here, or a container that lets nobody at them
            raise
