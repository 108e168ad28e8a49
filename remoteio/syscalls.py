"""The system calls Python has no function for, through libc. All raise OSError."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import stat
import struct

from remoteio.kernel_structs import STATX

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
MSG_WAITALL = 0x100
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC = 1, 1  # linux/mount.h
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_CLONE3 = 435  # the same on every architecture
# asm/unistd.h; 272 in those that have the generic table
_KCMP = {"x86_64": 312, "i686": 349, "armv7l": 378, "ppc64le": 354, "s390x": 343}.get(os.uname().machine, 272)
_KCMP_VM = 1
_BTIME = 0x800  # STATX_BTIME
_M_ARENA_MAX = -8  # malloc.h
_TYPE, _INO = 0x1, 0x100
_DONT_SYNC = 0x4000  # AT_STATX_DONT_SYNC
_NOFOLLOW, _NO_AUTOMOUNT = 0x100, 0x800  # AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT
IMMUTABLE, APPEND, MOUNTED = 0x10, 0x20, 0x2000  # STATX_ATTR_IMMUTABLE, _APPEND, _MOUNT_ROOT (Linux 5.8)
SOCKET = 1  # no attribute of statx(2)'s: what is marked is one

_DIRENT = struct.Struct("=QQHB")  # 19 bytes: d_ino d_off d_reclen d_type of struct linux_dirent64, see getdents(2)
_DIRENTS = 1 << 15  # bytes of them that are asked for at once, as by readdir(3)
_DirentsBuffer, _StatfsBuffer = ctypes.c_char * _DIRENTS, ctypes.c_char * 256
_STATFS = struct.Struct("=IIQ" if os.uname().machine == "s390x" else "=QQQ")  # f_type f_bsize f_blocks; 64-bit Linux


def check(result: int, what: str) -> int:
    """Return `result`, or raise OSError with the errno libc left, `what` naming the call."""
    if result < 0:
        e = ctypes.get_errno()
        raise OSError(e, f"{what}: {os.strerror(e)}")
    return result


def fill(sock: int, room: memoryview) -> int:
    """Wait until `room` is full of what comes over the socket, or for its SO_RCVTIMEO: recv(2), MSG_WAITALL.

    Raises BlockingIOError if nothing came in that time.
    """
    buffer = (ctypes.c_char * len(room)).from_buffer(room)
    while True:
        n = libc.recv(sock, buffer, ctypes.c_size_t(len(room)), MSG_WAITALL)
        if n >= 0 or ctypes.get_errno() != errno.EINTR:
            return check(n, "recv")


def one_arena() -> None:
    """Have all threads to come get memory from one place, where libc can: mallopt(3).

    Each would hold on to a place of its own, and no two want memory at once, or hardly ever: Python lets one run.
    """
    if hasattr(libc, "mallopt"):  # musl's has none, nor such places
        libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give the kernel back what memory has been freed, where libc can: malloc_trim(3). It takes a millisecond."""
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def fork_as(pid: int) -> int:
    """Fork a process of one thread, the child's number chosen: clone3(2) with set_tid, Linux 5.5.

    Raises EEXIST if the number is taken, EPERM without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE over the pid namespace.
    """
    wanted = ctypes.c_int(pid)
    # flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup
    args = struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    return check(libc.syscall(_CLONE3, args, len(args)), "clone3")


def same_memory(one: int, other: int) -> bool:
    """Tell whether two processes share their memory, as those of vfork(2) do: kcmp(2). False: one of them has ended."""
    try:
        return check(libc.syscall(_KCMP, one, other, _KCMP_VM, 0, 0), "kcmp") == 0
    except ProcessLookupError:
        return False


def mount_nowhere(kind: bytes, options: dict[bytes, bytes | None]) -> int:
    """Mount a filesystem that has no source where nobody else finds it; its root, open as by O_PATH. Linux 5.2.

    `options`: by name; None: one without a value. Source: fsopen(2), fsconfig(2), fsmount(2), whose numbers are the
    same on every architecture.
    """
    context = check(libc.syscall(_FSOPEN, kind, _FSOPEN_CLOEXEC), "fsopen")
    try:
        for name, value in options.items():
            how = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            check(libc.syscall(_FSCONFIG, context, how, name, value, 0), "fsconfig")
        check(libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig")
        return check(libc.syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0), "fsmount")
    finally:
        os.close(context)


def setns(fd: int, kind: int) -> None:
    """setns(2): be in the namespace open as `fd`, of that CLONE_NEW… kind."""
    check(libc.setns(fd, kind), "setns")


def utimensat(path: str, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """Set a file's times, utimensat(2): (seconds, nanoseconds) each, the latter possibly UTIME_NOW or UTIME_OMIT."""
    check(libc.utimensat(AT_FDCWD, os.fsencode(path), struct.pack("=qqqq", *atime, *mtime), 0), "utimensat")


def renameat2(olddir: int, old: bytes, newdir: int, new: bytes, flags: int) -> None:
    """Rename, renameat2(2): flags NOREPLACE 1, EXCHANGE 2."""
    check(libc.renameat2(olddir, old, newdir, new, flags), "renameat2")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2), with its modes (keep size, punch hole, zero range, collapse, insert)."""
    check(libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)), "fallocate")


def statx(fd: int, mask: int) -> tuple[int, ...]:
    """Return by statx(2) the fields of ``struct statx`` in the kernel's order (``fuse_statx``'s too)."""
    buffer = ctypes.create_string_buffer(STATX.size)
    check(libc.statx(fd, b"", AT_EMPTY_PATH, mask, buffer), "statx")
    return STATX.unpack(buffer.raw)


def stat_unasked(path: str) -> tuple[int, int, int]:
    """Return st_mode, st_dev and st_ino by statx(2) as this machine knows them: no FUSE server is asked."""
    buffer = ctypes.create_string_buffer(STATX.size)
    check(libc.statx(AT_FDCWD, os.fsencode(path), _DONT_SYNC, _TYPE | _INO, buffer), "statx")
    fields = STATX.unpack(buffer.raw)
    return fields[6], os.makedev(fields[-2], fields[-1]), fields[7]


def marks(at: int, name: bytes = b"") -> int:
    """Tell by statx(2), of what has that name in the directory open as `at`, or of that itself, which of IMMUTABLE,
    APPEND, MOUNTED and SOCKET it is. Raises OSError; EOPNOTSUPP where the kernel does not tell what is mounted."""
    buffer = ctypes.create_string_buffer(STATX.size)
    how = _NOFOLLOW | _NO_AUTOMOUNT | (0 if name else AT_EMPTY_PATH)
    check(libc.statx(at, name, how, _TYPE, buffer), "statx")
    fields = STATX.unpack(buffer.raw)
    if not fields[10] & MOUNTED:
        raise OSError(errno.EOPNOTSUPP, "statx does not tell of mounts")
    fixed: int = fields[2] & (IMMUTABLE | APPEND | MOUNTED)
    return fixed | (SOCKET if stat.S_ISSOCK(fields[6]) else 0)


def born(fd: int) -> int:
    """Tell when a file was made, in ns, with which a number that was used again is told; 0: its filesystem does not."""
    fields = statx(fd, _BTIME)
    return fields[13] * 1_000_000_000 + fields[14] if fields[0] & _BTIME else 0


def fstatfs(fd: int) -> tuple[int, int]:
    """Return by fstatfs(2) f_type, whose values are in linux/magic.h, and f_blocks."""
    buffer = _StatfsBuffer()
    check(libc.fstatfs(fd, buffer), "fstatfs")
    kind, _, blocks = _STATFS.unpack_from(buffer)
    return kind, blocks


def getdents64(fd: int) -> list[tuple[int, int, int, bytes]]:
    """Read the rest of an open directory by getdents64(2): (d_ino, d_off, d_type, d_name) of each entry."""
    buffer = _DirentsBuffer()
    found, fields = [], _DIRENT.unpack_from
    while size := check(libc.getdents64(fd, buffer, _DIRENTS), "getdents64"):
        data, at = ctypes.string_at(buffer, size), 0
        end = data.index
        while at < size:
            inode, position, length, kind = fields(data, at)
            found.append((inode, position, kind, data[at + 19 : end(0, at + 19)]))
            at += length
    return found


def syncfs(fd: int) -> None:
    """Write back everything of that filesystem before this returns: syncfs(2)."""
    check(libc.syncfs(fd), "syncfs")


def flock(fd: int, how: int) -> None:
    """flock(2), which Python's own begins anew when a signal has interrupted it: EINTR."""
    check(libc.flock(fd, how), "flock")


def lock_range(fd: int, lock: bytes) -> None:
    """fcntl(2) F_OFD_SETLKW with a struct flock, which Python's own begins anew: EINTR."""
    check(libc.fcntl(fd, fcntl.F_OFD_SETLKW, lock), "fcntl")


def let_interrupt(number: int) -> None:
    """Have that signal do nothing but interrupt the system call that a thread is in: signal(2), siginterrupt(3)."""
    # a handler has to be a function in C, as no thread may run Python there: this one does nothing with its argument
    libc.signal(number, libc.abs)
    check(libc.siginterrupt(number, 1), "siginterrupt")
