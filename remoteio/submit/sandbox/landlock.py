"""Landlock, landlock(7): where a thread may write from now on, and that it may execute nothing and use no network.

Numbers and layouts are those of linux/landlock.h, and the same on every architecture. What may be read, and chmod(2),
chown(2), utimensat(2) and extended attributes, are not restricted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator

from remoteio.syscalls import check, libc

OLDEST = 2  # with 1 no file is moved from one directory to another

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1
_EXECUTE = 1 << 0
# WRITE_FILE; REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, _DIR, _REG, _SOCK, _FIFO, _BLOCK, _SYM; REFER
_WRITE = 1 << 1 | 0b111111111 << 4 | 1 << 13
_TRUNCATE = 1 << 14  # from 3 on
_IOCTL_DEV = 1 << 15  # from 5 on
_NET = 0b11  # BIND_TCP, CONNECT_TCP; from 4 on
_SCOPED = 1 << 0  # ABSTRACT_UNIX_SOCKET; from 6 on
_KERNELS = (b"proc", b"sys", b"dev")  # of the root: nothing there is a job's


def version() -> int:
    """Ask for the kernel's version of Landlock; 0: it has none, or it is switched off."""
    try:
        return check(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION), "landlock_create_ruleset")
    except OSError as e:
        if e.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):  # EPERM: a container's filter of calls
            raise
        return 0


def restrict(writable: Iterable[bytes]) -> bool:
    """Have this thread write beneath those directories only. False: the kernel does not do it.

    It must have PR_SET_NO_NEW_PRIVS. Raises OSError.
    """
    has = version()
    if has < OLDEST:
        return False
    write = _WRITE | (_TRUNCATE if has >= 3 else 0)
    handled = write | _EXECUTE | (_IOCTL_DEV if has >= 5 else 0)
    attributes = struct.pack("=QQQ", handled, _NET if has >= 4 else 0, _SCOPED if has >= 6 else 0)
    size = ctypes.c_size_t(len(attributes))  # an older kernel takes more than it knows, if that is zero
    rules = check(libc.syscall(_CREATE_RULESET, attributes, size, 0), "landlock_create_ruleset")
    try:
        for path in writable:
            _allow(rules, path, write)
        check(libc.syscall(_RESTRICT_SELF, rules, 0), "landlock_restrict_self")
    finally:
        os.close(rules)
    return True


def _allow(rules: int, path: bytes, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # it is not there, or no directory: nothing can be written beneath it
    try:
        rule = struct.pack("=Qi", rights, fd)
        check(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0), "landlock_add_rule")
    finally:
        os.close(fd)


def everywhere() -> list[bytes]:
    """List directories beneath which all is that a job may be allowed to change.

    Where this user can make nothing in the root directory: those there but for the kernel's own. What is mounted over
    one of these later is not beneath it. So where the kernel itself does so (autofs), and where this user can make new
    ones: the root directory.
    """
    if os.access("/", os.W_OK, effective_ids=True) or any(path.count(b"/") == 1 for path in _automounted()):
        return [b"/"]
    with os.scandir(b"/") as found:
        return [each.path for each in found if each.name not in _KERNELS and not each.is_symlink()]


def _automounted() -> Iterator[bytes]:
    """Where a filesystem is mounted when somebody comes by: proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            mount, _, kind = line.partition(b" - ")
            if kind.startswith(b"autofs "):
                yield mount.split(b" ")[4]
