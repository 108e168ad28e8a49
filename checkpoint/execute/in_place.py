"""Calls in which threads wait, begun anew in the tree that has been dumped and goes on where it is. Shipped.

What waits.py does to the image, done to the tree: criu has these calls fail with EINTR there too. Only who traces a
thread can change its registers, and that is criu until it lets go of it. So while it holds the tree, the instruction
that comes next for such a thread is replaced by one that jumps to itself (/proc/PID/mem). Once criu has gone all
threads of the process are stopped by ptrace(2), the instruction is put back, and the thread before its call. Nobody is
told of such a stop, as a parent would be of SIGSTOP, and no signal is lost: of a thread that was given one meanwhile
the call has been interrupted, and that is left so.

All of it must be done by one thread, as ptrace goes by thread.
"""

from __future__ import annotations

import os
import time

from checkpoint.execute import preflight, traced, waits

_SYSCALL, _TO_ITSELF = traced.SYSCALL_INSTRUCTION, b"\xeb\xfe"

Changes = dict[int, int]


class Standing:
    """The threads of a tree that are to begin their calls anew; to be made while criu holds the tree.

    Changed only by its own methods.
    """

    def __init__(self, root: int, changed: dict[int, Changes]) -> None:
        """`changed`: what waits.anew returned for the tree of the process `root`."""
        self._since = time.monotonic()
        self._threads: dict[int, dict[int, Changes]] = {}  # by process, by thread
        self._replaced: dict[int, dict[int, bytes]] = {}  # by process, by address
        for pid in preflight.tree(root) if changed else []:
            for at in waits.threads(pid):
                try:
                    changes = changed.get(waits.own_number(at))
                except (OSError, ValueError):
                    continue  # it has ended
                if changes is not None:
                    self._hold(pid, int(at.rpartition("/")[2]), changes)

    def _hold(self, pid: int, thread: int, changes: Changes) -> None:
        at = changes[waits.IP] + len(_SYSCALL)
        replaced = self._replaced.setdefault(pid, {})
        try:
            if at not in replaced:
                with open("/proc/%d/mem" % pid, "r+b", 0) as memory:
                    code = os.pread(memory.fileno(), 4, at - 2)
                    if code[:2] != _SYSCALL or len(code) != 4:
                        return  # not what is known of x86-64
                    os.pwrite(memory.fileno(), _TO_ITSELF, at)
                replaced[at] = code[2:]
        except OSError:
            return  # a kernel that lets nobody write there (proc_mem.force_override): that call fails with EINTR
        self._threads.setdefault(pid, {})[thread] = changes

    def go_on(self) -> None:
        """Have them begin their calls, once criu has let go of the tree. Raises OSError."""
        late = int((time.monotonic() - self._since) * 1000)
        for pid, replaced in self._replaced.items():
            stops: dict[int, int] = {}
            try:
                traced.stop(pid, stops)
                if replaced:
                    _put_back(pid, replaced)
                for thread, number in stops.items():
                    if not number:
                        self._begin(thread, self._threads.get(pid, {}).get(thread), late)
            finally:
                for thread, number in stops.items():
                    traced.ptrace(traced.DETACH, thread, 0, number)
        self._replaced = {}

    def _begin(self, thread: int, changes: Changes | None, late: int) -> None:
        registers = traced.registers(thread)
        if registers is None:
            return
        if changes is not None and registers[waits.IP] == changes[waits.IP] + len(_SYSCALL):
            changes = dict(changes)
            for number in (waits.DX, waits.R10):
                if number in changes and changes[waits.AX] != waits.CLOCK_NANOSLEEP:  # whose is an address
                    changes[number] = max(0, changes[number] - late)
            for number, value in changes.items():
                registers[number] = value
            traced.not_interrupted(registers)
        elif not traced.put_before_its_call(registers):  # by our own stop
            return
        traced.set_registers(thread, registers)


def _put_back(pid: int, replaced: dict[int, bytes]) -> None:
    try:
        with open("/proc/%d/mem" % pid, "r+b", 0) as memory:
            for at, code in replaced.items():
                os.pwrite(memory.fileno(), code, at)
    except (FileNotFoundError, ProcessLookupError):
        return  # it has ended
