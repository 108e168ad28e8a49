"""How a process is scheduled, as nice, ionice, chrt and taskset set it: looked up here, taken on there. Shipped.

Sources: setpriority(2), ioprio_set(2), sched(7), sched_setaffinity(2). Each holds for a thread, by its tid; 0: the one
that asks.
"""

from __future__ import annotations

import os

from remoteio.syscalls import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# ioprio_set and ioprio_get: asm/unistd.h of x86, s390, powerpc, and asm-generic/unistd.h of all that came later
_CALLS = {"x86_64": (251, 252), "i686": (289, 290), "s390x": (282, 283), "ppc64le": (273, 274)}
_SET, _GET = _CALLS.get(os.uname().machine, (30, 31))
_WHO_PROCESS = 1
_POLICIES = (os.SCHED_FIFO, os.SCHED_RR, os.SCHED_BATCH, os.SCHED_IDLE)  # those that need no more than a priority


def io_priority(tid: int) -> int:
    """Return class and level as the kernel has them in one number; 0: they follow nice. Raises OSError."""
    return check(libc.syscall(_GET, _WHO_PROCESS, tid), "ioprio_get")


def set_io_priority(tid: int, value: int) -> None:
    """Set class and level. Raises OSError."""
    check(libc.syscall(_SET, _WHO_PROCESS, tid, value), "ioprio_set")


def own() -> list[int]:
    """Return nice, I/O priority, policy, its priority, and the CPUs of this thread; no CPU: any. Raises OSError.

    CPUs that are all that the first process of this machine has are no wish of the user's.
    """
    cpus = os.sched_getaffinity(0)
    return [
        os.getpriority(os.PRIO_PROCESS, 0), io_priority(0), os.sched_getscheduler(0),
        os.sched_getparam(0).sched_priority, *(() if cpus >= os.sched_getaffinity(1) else sorted(cpus)),
    ]  # fmt: skip


def fitting(wanted: Iterable[int], here: set[int]) -> set[int]:
    """Return which of the CPUs `here` stand for those `wanted`: those of the same numbers; all, where there is none.

    So the kernel does too, with a process whose CPUs go away: it runs on any.
    """
    return here.intersection(wanted) or here


def take_on(said: Sequence[int]) -> None:
    """Have this thread scheduled so, as far as it may. Raises OSError."""
    if not said:
        return  # a job on record from before
    nice, io, policy, priority, *cpus = said
    if cpus:
        os.sched_setaffinity(0, fitting(cpus, os.sched_getaffinity(0)))
    try:
        if policy & ~os.SCHED_RESET_ON_FORK in _POLICIES:
            os.sched_setscheduler(0, policy, os.sched_param(priority))
    except PermissionError:
        pass  # this login may not: sched(7)
    try:
        if nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError:
        pass  # it is further down already, or this login may not raise it
    try:
        if io:
            set_io_priority(0, io)
    except PermissionError:
        pass  # a class for root
