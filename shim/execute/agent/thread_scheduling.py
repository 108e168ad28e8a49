"""What CRIU does not keep of how the job's threads are scheduled: CPUs and I/O priority. Shipped.

It keeps nice, policy and priority. The agent looks and sets, as its login is the job's user or root: the job's init,
which is root in name only, may not set another user's I/O priority.
"""

from __future__ import annotations

import os

from checkpoint.execute.preflight import tree
from shim.wire import scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from shim.execute.owner.word import OwnerWord


def look(root: int, cpus: list[int]) -> list[tuple[int, int, list[int]]]:
    """List (tid as the job numbers it, I/O priority, CPUs) of each thread that any host would not give the same.

    `root`: the pid of the tree's root here; `cpus`: those that home asked for. No CPU: any. Raises OSError.
    """
    here = os.sched_getaffinity(0)
    usual = scheduling.fitting(cpus, here) if cpus else here
    found = []
    for tid, theirs in _threads(root):
        try:
            io, at = scheduling.io_priority(tid), os.sched_getaffinity(tid)
        except ProcessLookupError:
            continue  # it has ended
        kept = cpus if at == usual else sorted(at)
        if io or kept:
            found.append((theirs, io, kept))
    return found


def put_back(root: int, rows: list[tuple[int, int, list[int]]]) -> list[tuple[int, int, list[int]]]:
    """Schedule the threads beneath the process `root` as ``look`` found them; what the kernel did not permit.

    Until criu lets them go they have the ids of uid 0 of their namespace, whose I/O priority no ordinary login may set.
    Raises OSError.
    """
    left: list[tuple[int, int, list[int]]] = []
    here = os.sched_getaffinity(0)
    wanted = {tid: (io, cpus) for tid, io, cpus in rows}
    for tid, theirs in _threads(root) if rows else ():
        io, cpus = wanted.get(theirs, (0, []))
        if cpus:
            os.sched_setaffinity(tid, scheduling.fitting(cpus, here))
        try:
            if io:
                scheduling.set_io_priority(tid, io)
        except PermissionError:
            left.append((theirs, io, []))
        except ProcessLookupError:
            continue  # it runs already, and has ended
    return left


def lower(root: int, word: OwnerWord) -> None:
    """Have all threads beneath the process `root`, which came from another host, run as low as its owner says here.

    Raises OSError.
    """
    for tid, _ in _threads(root):
        try:
            if os.getpriority(os.PRIO_PROCESS, tid) < word.nice:
                os.setpriority(os.PRIO_PROCESS, tid, word.nice)
            if word.io:
                scheduling.set_io_priority(tid, word.io)
        except ProcessLookupError:
            continue  # it has ended


def _threads(root: int) -> Iterator[tuple[int, int]]:
    """Yield the tid of each thread here, and as the job numbers it."""
    for pid in tree(root):
        try:
            for tid in os.listdir("/proc/%d/task" % pid):
                with open("/proc/%d/task/%s/status" % (pid, tid)) as f:
                    yield int(tid), int(next(line for line in f if line.startswith("NSpid:")).split()[-1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
