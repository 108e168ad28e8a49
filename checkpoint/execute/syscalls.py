"""The system calls that Python has no function for, through libc. All raise OSError. Shipped.

As remoteio/syscalls.py, of which this package knows nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
_PIDFD_GETFD = 438  # the same on every architecture: pidfd_getfd(2), Linux 5.6
_PROCESS_VM_READV, _PROCESS_VM_WRITEV = 310, 311  # of x86-64
_IOVEC = struct.Struct("@PN")


def check(result: int, what: str) -> int:
    """Return `result`, or raise OSError with the errno libc left, `what` saying what failed."""
    if result < 0:
        e = ctypes.get_errno()
        raise OSError(e, "%s: %s" % (what, os.strerror(e)))
    return result


def copied(pid: int, number: int) -> int:
    """Open here what that process has open as descriptor `number`."""
    process = os.pidfd_open(pid)
    try:
        return check(libc.syscall(_PIDFD_GETFD, process, number, 0), "pidfd_getfd")
    finally:
        os.close(process)


def ptrace(request: int, thread: int, address: int, data: int) -> None:
    """Trace a thread: ptrace(2), but for the requests that return what they read."""
    arguments = ctypes.c_int(thread), ctypes.c_void_p(address), ctypes.c_void_p(data)
    check(libc.ptrace(ctypes.c_long(request), *arguments), "ptrace")


def syscall(what: str, number: int, *arguments: object) -> int:
    """Make the system call of that number, which is named `what`."""
    libc.syscall.restype = ctypes.c_long
    return check(int(libc.syscall(ctypes.c_long(number), *arguments)), what)


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Read another process's memory, whosever /proc/PID/mem is: process_vm_readv(2)."""
    buffer = ctypes.create_string_buffer(size)
    _transfer("process_vm_readv", _PROCESS_VM_READV, pid, ctypes.addressof(buffer), address, size)
    return buffer.raw


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Write into another process's memory: process_vm_writev(2)."""
    buffer = ctypes.create_string_buffer(data, len(data))
    _transfer("process_vm_writev", _PROCESS_VM_WRITEV, pid, ctypes.addressof(buffer), address, len(data))


def _transfer(what: str, number: int, pid: int, here: int, there: int, size: int) -> None:
    if size:
        ours, theirs = (ctypes.create_string_buffer(_IOVEC.pack(place, size)) for place in (here, there))
        one = ctypes.c_ulong(1)
        if syscall(what, number, ctypes.c_int(pid), ours, one, theirs, one, ctypes.c_ulong(0)) != size:
            raise OSError(errno.EFAULT, what + ": " + os.strerror(errno.EFAULT))
