"""The system calls in which a tree's threads wait, begun anew where criu has them fail with EINTR. Shipped.

A thread that sleeps for a time, or polls, cannot be told by its registers how long it still has to: the kernel keeps
that (restart_syscall(2)), criu cannot read it, and has the call fail (-EINTR in place of -ERESTART_RESTARTBLOCK, in
compel/arch/x86/src/lib/infect.c). epoll_wait(2) fails so of itself whenever it is stopped: signal(7). A program that
is sent no signals looks for no EINTR. So

    look    while the tree runs: who waits in which call, how long, and since when (by the scheduler: /proc/PID/sched)
    anew    in criu's image: the thread is put before its call again, with the time that remains

What remains is exact where the program wants to be told it (the second timespec of nanosleep(2), which the kernel has
written), where it waits until a moment (futex(2) of pthreads), or without end. Else it is known to some milliseconds;
if the kernel does not tell (CONFIG_SCHED_DEBUG before Linux 6.15), or the time can stand in no register, the whole time
begins anew. A sleep without a second timespec becomes a poll of nothing, for up to 24 days. Only for x86-64.
"""

from __future__ import annotations

import math
import os
import re
import struct
import time

from checkpoint.execute import criu_images, preflight
from checkpoint.execute.criu import CriuError
from checkpoint.execute.spool import Spool
from checkpoint.value import Value
from checkpoint.wire import protobuf

# asm/unistd_64.h
POLL, NANOSLEEP, SIGTIMEDWAIT, FUTEX, RESTART, CLOCK_NANOSLEEP = 7, 35, 128, 202, 219, 230
EPOLL_WAIT, EPOLL_PWAIT, EPOLL_PWAIT2 = 232, 281, 441
# Those that fail with EINTR when they are stopped, whoever does it; the others the kernel itself goes on with.
ONCE_ONLY = (SIGTIMEDWAIT, EPOLL_WAIT, EPOLL_PWAIT, EPOLL_PWAIT2)
KNOWN = (POLL, NANOSLEEP, FUTEX, CLOCK_NANOSLEEP, *ONCE_ONLY)
_TIMED_CLOCKS = (0, 1, 7, 11)  # of clock_nanosleep: not those of processor time
# images/core.proto, images/core-x86.proto: the numbers of their fields; of registers, user_regs_struct's order too.
_MACHINE, _THREAD, _TASK, _THREAD_CORE = 1, 2, 3, 5
_X86_64, _REGISTERS, _MODE, _NATIVE = 1, 2, 28, 1
R10, R9, R8, AX, DX, SI, DI, ORIG_AX, IP, SP = 8, 9, 10, 11, 13, 14, 15, 16, 17, 20
_ARGUMENTS = (DI, SI, DX, R10, R8, R9)
_SHARED_SIGNALS, _BLOCKED, _OWN_SIGNALS, _OWN_BLOCKED, _SECCOMP = 10, 5, 9, 6, 11
_EINTR = (1 << 64) - 4
_SYSCALL = 2  # bytes of the instruction
_MOST_MS = (1 << 31) - 1


class Wait(Value):
    """A thread in a system call that waits.

    call       its number
    arguments  its six
    sp, ip     registers
    began      when, by CLOCK_MONOTONIC in seconds; None: it is not known
    lasts      how long it is to wait, in seconds; None: not known, or for ever
    """

    __slots__ = ("arguments", "began", "call", "ip", "lasts", "sp")
    call: int
    arguments: tuple[int, ...]
    sp: int
    ip: int
    began: float | None
    lasts: float | None

    def __init__(
        self, call: int, arguments: tuple[int, ...], sp: int, ip: int, began: float | None, lasts: float | None
    ) -> None:  # fmt: skip
        self._set(call=call, arguments=arguments, sp=sp, ip=ip, began=began, lasts=lasts)

    def same(self, other: Wait) -> bool:
        """Tell whether the other can be the same call, or what the kernel has made of it when it was stopped."""
        same = (self.arguments, self.sp, self.ip) == (other.arguments, other.sp, other.ip)
        return same and other.call in (self.call, RESTART)

    def left(self, now: float) -> float | None:
        """Return how long it is still to wait; None: not known."""
        return None if self.began is None or self.lasts is None else max(0.0, self.began + self.lasts - now)


Waits = dict[int, Wait]  # by the thread's number in its own namespace


def look(root: int, before: Waits) -> Waits:
    """Look for who waits in the tree of the process `root`, which runs. `before`: what was found the last time.

    A thread that has been stopped since, or is, goes on with the same call: then it began when it was seen first.
    """
    if os.uname().machine != "x86_64":
        return {}
    scheduler = _Scheduler()
    found: Waits = {}
    for pid in preflight.tree(root):
        for at in threads(pid):
            try:
                number, wait = _wait(at, scheduler)
            except (OSError, ValueError):
                continue  # it has ended, runs, or hides
            known = before.get(number)
            if known is not None and known.same(wait) and (wait.call == RESTART or wait.began is None):
                wait = known
            if wait.call != RESTART:
                found[number] = wait
    return found


def threads(pid: int) -> list[str]:
    """List the directories of a process's threads; none if it has ended."""
    try:
        return ["/proc/%d/task/%s" % (pid, name) for name in os.listdir("/proc/%d/task" % pid)]
    except (FileNotFoundError, ProcessLookupError):
        return []


def own_number(at: str) -> int:
    """Read what a thread is called in its own namespace. Raises OSError, ValueError."""
    return int(_line(at + "/status", "NSpid:").split()[-1])


def _line(path: str, name: str) -> str:
    with open(path) as f:
        for line in f:
            if line.startswith(name):
                return line
    raise ValueError(name)


def _wait(at: str, scheduler: _Scheduler) -> tuple[int, Wait]:
    with open(at + "/syscall") as f:
        words = f.read().split()
    call = int(words[0])  # or "running"
    if call not in (*KNOWN, RESTART):
        raise ValueError(call)
    arguments = tuple(int(word, 16) for word in words[1:7])
    began = scheduler.slept(at) if call != RESTART else None
    return own_number(at), Wait(
        call, arguments, int(words[7], 16), int(words[8], 16), began, _lasts(at, call, arguments)
    )  # fmt: skip


def _lasts(at: str, call: int, arguments: tuple[int, ...]) -> float | None:
    if call in (POLL, EPOLL_WAIT, EPOLL_PWAIT):
        ms = _signed(arguments[2 if call == POLL else 3])
        return None if ms < 0 else ms / 1000
    if call == FUTEX:
        return None
    where = arguments[{NANOSLEEP: 0, CLOCK_NANOSLEEP: 2, SIGTIMEDWAIT: 2}.get(call, 3)]
    if not where or call == RESTART:
        return None
    with open(at + "/mem", "rb", 0) as f:
        seconds, nanoseconds = struct.unpack("=qq", os.pread(f.fileno(), 16, where).ljust(16, b"\0"))
    return float(seconds + nanoseconds / 1e9)


def _signed(argument: int) -> int:
    return int((argument & 0xFFFFFFFF ^ 0x80000000) - 0x80000000)


class _Scheduler:
    """Since when threads sleep: the scheduler's clock, and what it shows on each CPU when CLOCK_MONOTONIC shows 0."""

    def __init__(self) -> None:
        self._zero: dict[int, float] = {}
        self._cpus = os.sched_getaffinity(0)

    def slept(self, at: str) -> float | None:
        """Return when the thread ran last, by CLOCK_MONOTONIC; None: it is not asleep, or the kernel does not tell."""
        with open(at + "/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        if fields[0] != "S":
            return None
        try:
            ran = _ran(at)
        except (OSError, ValueError):
            return None
        return ran - self._at_zero(int(fields[36]))

    def _at_zero(self, cpu: int) -> float:
        if cpu not in self._zero:
            try:
                os.sched_setaffinity(0, {cpu})
            except OSError:
                pass  # that one is not ours to use: they are nearly the same
            try:
                time.sleep(0.0001)  # what it tells is when we began to run
                now = time.monotonic()
                self._zero[cpu] = _ran("/proc/thread-self") - now
            finally:
                os.sched_setaffinity(0, self._cpus)
        return self._zero[cpu]


def _ran(at: str) -> float:
    return float(_line(at + "/sched", "se.exec_start").split()[-1]) / 1000


# ------------------------------------------------------------------------------------------------ the image


def anew(spool: Spool, waits: Waits, now: float) -> dict[int, dict[int, int]]:
    """Put each thread of criu's image that a stop took out of its call before it again; returns the registers changed,
    by the thread's number. `now`: CLOCK_MONOTONIC. Raises CriuError, OSError.
    """
    changed = {}
    for name in spool.names():
        found = re.fullmatch(r"core-(\d+)\.img", name)
        if found is None:
            continue
        number, image = int(found[1]), spool.read(name)
        try:
            new, changes = thread_anew(image, waits.get(number), now)
        except protobuf.ProtobufError as e:
            raise CriuError("the image's registers of thread %d: an entry %s" % (number, e)) from e
        if changes:
            spool.write(name, new)
            changed[number] = changes
    return changed


def thread_anew(image: bytes, seen: Wait | None, now: float) -> tuple[bytes, dict[int, int]]:
    """Change one core image, as `anew`: it, and which registers of it. Raises CriuError, ProtobufError."""
    entry, end = criu_images.first(image, criu_images.CORE)
    core = protobuf.decode(entry)
    registers = protobuf.decode(protobuf.content(protobuf.decode(protobuf.content(core, _THREAD)), _REGISTERS))
    if protobuf.integer(core, _MACHINE) != _X86_64 or (protobuf.integer(registers, _MODE) or _NATIVE) != _NATIVE:
        return image, {}
    values = {number: protobuf.integer(registers, number) or 0 for number in range(1, 28)}
    call = values[ORIG_AX]
    stopped = Wait(call, tuple(values[n] for n in _ARGUMENTS), values[SP], values[IP], None, None)
    if seen is not None and not seen.same(stopped):
        seen = None
    if call == RESTART and seen is not None:
        call = seen.call
    if values[AX] != _EINTR or call not in KNOWN or _interrupted(core):
        return image, {}
    changes = {IP: values[IP] - _SYSCALL, AX: call}
    left = None if seen is None else seen.left(now)
    again = _again(call, stopped.arguments, left)
    if AX in again and protobuf.integer(protobuf.decode(protobuf.content(core, _THREAD_CORE)), _SECCOMP):
        again = {}  # a filter may let it make no other call
    changes.update(again)
    return image[:8] + criu_images.entry(_replace(entry, changes)) + image[end:], changes


def _again(call: int, arguments: tuple[int, ...], left: float | None) -> dict[int, int]:
    """What other registers the call must have to last only so long; those of poll(2) if it can have none."""
    ms = None if left is None or left * 1000 >= _MOST_MS else math.ceil(left * 1000)
    if call == NANOSLEEP and arguments[1]:
        return {DI: arguments[1]}  # where the kernel has written what remains
    if call == CLOCK_NANOSLEEP and arguments[3] and not arguments[1] & 1:
        return {DX: arguments[3]}
    if ms is None:
        return {}
    if call == NANOSLEEP or (call == CLOCK_NANOSLEEP and arguments[0] in _TIMED_CLOCKS):
        return {AX: POLL, DI: 0, SI: 0, DX: ms}
    if call == POLL:
        return {DX: ms}
    if call in (EPOLL_WAIT, EPOLL_PWAIT):
        return {R10: ms}
    return {AX: EPOLL_PWAIT, R10: ms} if call == EPOLL_PWAIT2 else {}


def _interrupted(core: protobuf.Fields) -> bool:
    """Whether a signal is under way to it, which is what EINTR is for."""
    task, thread = (protobuf.decode(protobuf.content(core, n)) for n in (_TASK, _THREAD_CORE))
    blocked = protobuf.integer(thread, _OWN_BLOCKED) or protobuf.integer(task, _BLOCKED) or 0
    for fields, number in ((task, _SHARED_SIGNALS), (thread, _OWN_SIGNALS)):
        queue = protobuf.decode(protobuf.content(fields, number))
        for info in queue.get(1, []):
            said = protobuf.content(protobuf.decode(info if isinstance(info, bytes) else b""), 1)
            signal = int.from_bytes(said[:4], "little")
            if signal and not blocked >> (signal - 1) & 1:
                return True
    return False


def _replace(core: bytes, changes: dict[int, int]) -> bytes:
    def within(raw: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
        return b"".join(
            protobuf.encode([(n, change(value))]) if n == number and isinstance(value, bytes) else whole
            for n, value, whole in protobuf.records(raw)
        )

    def put(registers: bytes) -> bytes:
        return b"".join(
            protobuf.encode([(n, changes[n])]) if n in changes else whole for n, _, whole in protobuf.records(registers)
        )

    return within(core, _THREAD, lambda thread: within(thread, _REGISTERS, put))


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
