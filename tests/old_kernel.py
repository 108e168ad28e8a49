"""Starts a program for which the kernel lacks Landlock or seccomp: their calls fail as on a kernel without them.

python -m tests.old_kernel WHAT[,WHAT] UID PROGRAM [ARGUMENT]...     WHAT: landlock, seccomp
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/filter.h
_NUMBER, _FIRST = 0, 16  # in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _FILTER = 22, 2
_LANDLOCK = (444, 445, 446)
_SECCOMP, _PRCTL = {"x86_64": (317, 157), "aarch64": (277, 167), "riscv64": (277, 167)}[os.uname().machine]


def _op(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, value)


def install(lacking: list[str]) -> None:
    """Have those calls fail in this process from now on, and in what it executes. It must be root's."""
    code = [_op(_LOAD, _NUMBER)]
    absent = _op(_RETURN, _ERRNO | errno.ENOSYS)
    for number in (*(_LANDLOCK if "landlock" in lacking else ()), *((_SECCOMP,) if "seccomp" in lacking else ())):
        code += [_op(_EQUAL, number, 0, 1), absent]
    if "seccomp" in lacking:  # prctl(2): EINVAL from a kernel without it
        unknown = _op(_RETURN, _ERRNO | errno.EINVAL)
        code += [_op(_EQUAL, _PRCTL, 0, 3), _op(_LOAD, _FIRST), _op(_EQUAL, _PR_SET_SECCOMP, 0, 1), unknown]
    code.append(_op(_RETURN, _ALLOW))
    text = b"".join(code)
    buffer = ctypes.create_string_buffer(text, len(text))
    program = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "the filter cannot be set")


if __name__ == "__main__":
    install(sys.argv[1].split(","))
    if int(sys.argv[2]):
        os.setresgid(*[int(sys.argv[2])] * 3)
        os.setresuid(*[int(sys.argv[2])] * 3)
    os.execvp(sys.argv[3], sys.argv[3:])
