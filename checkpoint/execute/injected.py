"""System calls that another process is made to make, by ptrace(2): what can be changed by itself alone. Shipped.

All its threads are stopped; its first one makes the calls, with its signals blocked, and is put where it was. The
instruction for it is the vDSO's, which every process has. x86-64 only, as all that changes registers here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading

from checkpoint.execute import traced, waits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    T = TypeVar("T")

    class Call(Protocol):
        """Have it make the system call of that number: what it returns, a negative errno too; None: it has ended."""

        def __call__(self, number: int, first: int, second: int = 0) -> int | None: ...


_STOP_S = 0.5  # a thread that can be interrupted stops at once


def calls(pid: int, work: Callable[[Call], T]) -> T | None:
    """Have `work` make calls as that process; None: it does not let us, at this moment at least.

    `work` is done in a thread of its own, and raises nothing but OSError, as this does.
    """
    found: list[T | None] = []
    failed: list[OSError] = []

    def thread() -> None:
        try:
            found.append(_stopped(pid, work))
        except traced.StillGoing:
            return  # with this thread ends what it has of others
        except OSError as e:
            failed.append(e)

    at_work = threading.Thread(target=thread)
    at_work.start()
    at_work.join()
    if failed:
        raise failed[0]
    return found[0] if found else None


def _stopped(pid: int, work: Callable[[Call], T]) -> T | None:
    stops: dict[int, int] = {}
    try:
        traced.stop(pid, stops, _STOP_S)
        # By its first thread: another one may have descriptors of its own (CLONE_FILES), and they are not pid's.
        return _by(pid, work) if stops.get(pid) == 0 else None
    finally:
        for thread, number in stops.items():
            registers = traced.registers(thread) if not number else None
            if registers is not None and traced.put_before_its_call(registers):
                traced.set_registers(thread, registers)
            traced.ptrace(traced.DETACH, thread, 0, number)


def _by(pid: int, work: Callable[[Call], T]) -> T | None:
    at = _instruction(pid)
    before, mask = traced.registers(pid), traced.signal_mask(pid)
    if at is None or before is None or mask is None or not traced.set_signal_mask(pid, (1 << 64) - 1):
        return None
    try:
        return work(lambda number, first, second=0: _call(pid, before, at, number, first, second))
    finally:
        # In this stop, and no other, the kernel looks at whether a call was interrupted.
        traced.ptrace(traced.INTERRUPT, pid, 0, 0)
        _go_on(pid, traced.CONT, 0)
        traced.set_registers(pid, before)
        traced.set_signal_mask(pid, mask)


def _instruction(pid: int) -> int | None:
    """Find an instruction of the vDSO that makes a system call: every process has it, and it can be executed."""
    with open("/proc/%d/maps" % pid) as f:
        spans = [line.split()[0] for line in f if line.rstrip().endswith("[vdso]")]
    for span in spans:
        start, end = (int(part, 16) for part in span.split("-"))
        with open("/proc/%d/mem" % pid, "rb", 0) as memory:
            found = os.pread(memory.fileno(), end - start, start).find(traced.SYSCALL_INSTRUCTION)
        if found >= 0:
            return start + found
    return None


def _call(thread: int, registers: list[int], at: int, number: int, first: int, second: int) -> int | None:
    values = list(registers)
    values[waits.IP], values[waits.AX], values[waits.DI], values[waits.SI] = at, number, first, second
    values[waits.DX] = 0
    traced.not_interrupted(values)
    traced.set_registers(thread, values)
    for _ in ("before the call", "after it"):
        if not _go_on(thread, traced.SYSCALL, signal.SIGTRAP):
            return None
    after = traced.registers(thread)
    return None if after is None else ctypes.c_int64(after[waits.AX]).value


def _go_on(thread: int, how: int, until: int) -> bool:
    """Have a thread go on to the stop that is meant; what else it stops for, a SIGSTOP, it gets. False: it ended."""
    given = 0
    while traced.ptrace(how, thread, 0, given):
        by = traced.stopped_by(thread)
        if by is None or by == until:
            return by is not None
        given = by
    return False
