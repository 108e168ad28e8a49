"""Threads of another process, stopped and looked at by ptrace(2). Shipped. x86-64 only.

Nobody is told of such a stop, as a parent would be of SIGSTOP. ptrace goes by thread: whoever stops a process here is
the thread that does the rest, too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time

from checkpoint.execute import syscalls, waits

SEIZE, INTERRUPT, DETACH, SYSCALL, CONT = 0x4206, 0x4207, 17, 24, 7  # linux/ptrace.h
_GETREGS, _SETREGS, _GETSIGMASK, _SETSIGMASK = 12, 13, 0x420A, 0x420B
_EVENT_STOP = 128
_WALL = 0x40000000
_LOOK_S = 0.0005
_REGISTERS = struct.Struct("=27Q")  # user_regs_struct, in the order of waits.py's numbers, which begin at 1
SYSCALL_INSTRUCTION = b"\x0f\x05"
_NO_CALL = (1 << 64) - 1
_EINTR = (1 << 64) - 4


def ptrace(request: int, thread: int, address: int, data: int) -> bool:
    """ptrace(2); False: there is no such thread any more, or it may not be traced."""
    try:
        syscalls.ptrace(request, thread, address, data)
    except OSError:
        return False
    return True


class StillGoing(Exception):
    """A thread does not stop: it waits where nothing interrupts it. Who stops it ends, and lets go of it by that."""


def stop(pid: int, stops: dict[int, int], within: float | None = None) -> None:
    """Stop all threads of a process; put for each into `stops` the signal that it was about to be given, or 0.

    Raises StillGoing if one of them has not stopped `within` so many seconds, once all others of its look have.
    """
    limit = None if within is None else time.monotonic() + within
    tried: set[int] = set()
    going = False
    while new := [thread for at in waits.threads(pid) if (thread := int(at.rpartition("/")[2])) not in tried]:
        tried.update(new)
        seized = [thread for thread in new if ptrace(SEIZE, thread, 0, 0)]
        for thread in seized:
            ptrace(INTERRUPT, thread, 0, 0)
        for thread in seized:
            try:
                number = stopped_by(thread, limit)
            except StillGoing:
                going = True
                continue
            if number is not None:
                stops[thread] = number
        if going:
            raise StillGoing


def stopped_by(thread: int, limit: float | None = None) -> int | None:
    """Wait until the thread stops; the signal that it is about to be given, or 0; None: it has ended.

    Raises StillGoing once time.monotonic() is `limit`.
    """
    try:
        while True:
            pid, status = os.waitpid(thread, _WALL if limit is None else _WALL | os.WNOHANG)
            if pid:
                break
            if limit is not None and time.monotonic() >= limit:
                raise StillGoing
            time.sleep(_LOOK_S)
    except ChildProcessError:
        return None  # its process has executed a program
    if not os.WIFSTOPPED(status):
        return None
    return 0 if status >> 16 == _EVENT_STOP else os.WSTOPSIG(status) or signal.SIGTRAP


def registers(thread: int) -> list[int] | None:
    """Read a stopped thread's registers, by waits.py's numbers, [0] being none; None: it has ended."""
    buffer = ctypes.create_string_buffer(_REGISTERS.size)
    if not ptrace(_GETREGS, thread, 0, ctypes.addressof(buffer)):
        return None
    return [0, *_REGISTERS.unpack(buffer.raw)]


def set_registers(thread: int, values: list[int]) -> None:
    """Give a stopped thread these registers."""
    buffer = ctypes.create_string_buffer(_REGISTERS.pack(*values[1:]))
    ptrace(_SETREGS, thread, 0, ctypes.addressof(buffer))


def signal_mask(thread: int) -> int | None:
    """Read which signals a stopped thread blocks, as the kernel's sigset_t; None: that cannot be had."""
    mask = ctypes.c_uint64()
    return mask.value if ptrace(_GETSIGMASK, thread, 8, ctypes.addressof(mask)) else None


def set_signal_mask(thread: int, mask: int) -> bool:
    """Have a stopped thread block these signals."""
    wanted = ctypes.c_uint64(mask)
    return ptrace(_SETSIGMASK, thread, 8, ctypes.addressof(wanted))


def put_before_its_call(values: list[int]) -> bool:
    """Change the registers of a thread whose call our stop has made fail, so that it makes the call again.

    False: it was in none of those calls; with the others the kernel itself goes on.
    """
    if values[waits.ORIG_AX] not in waits.ONCE_ONLY or values[waits.AX] != _EINTR:
        return False
    values[waits.IP] -= len(SYSCALL_INSTRUCTION)
    values[waits.AX] = values[waits.ORIG_AX]
    not_interrupted(values)
    return True


def not_interrupted(values: list[int]) -> None:
    """Change the registers so that the kernel takes them for those of a thread that was in no call."""
    values[waits.ORIG_AX] = _NO_CALL
