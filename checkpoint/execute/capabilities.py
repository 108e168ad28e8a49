"""The capabilities that criu has in the job's user namespace, and the job has not. Shipped.

Sources: capabilities(7), user_namespaces(7), linux/capability.h, linux/prctl.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from checkpoint.execute.syscalls import check, libc

_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_SETUID = 7
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable of the first 32, then of the others


def take_along() -> None:
    """Have this process keep, over exec, the capabilities that it has in its user namespace. Raises OSError.

    As uid 0 of the namespace, to which exec gives them all; or, where the namespace has no such id, as who it is, by
    the ambient set. Then without CAP_SETUID, which nobody could use: a criu that has it begins a restore with
    setuid(0) (prepare_userns_creds in criu/namespaces.c).
    """
    try:
        os.setresuid(0, 0, 0)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        _keep_by_ambient_set()
    else:
        os.setresgid(0, 0, 0)


def _keep_by_ambient_set() -> None:
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0))
    sets = ctypes.create_string_buffer(_SETS.size)
    check(libc.capget(header, sets), "capget")
    _, low, _, _, high, _ = _SETS.unpack(sets.raw)
    low &= ~(1 << _SETUID)
    check(libc.capset(header, _SETS.pack(low, low, low, high, high, high)), "capset")
    for number in range(64):
        if (high << 32 | low) >> number & 1:
            check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0), "prctl")
