"""The processes of a job's tree, by the /proc of its pid namespace: listed, stopped and continued. Shipped.

How the tree is stopped. Without criu: SIGSTOP to each pid, parents first, until a look finds nobody who still goes.
With criu, which must not be stopped: to each other pid at once; criu holds the tree by ptrace, so it cannot fork, and
the stop is pending until criu lets it go: then the tree stands still, not runs.

Whoever called vfork(2), as dash and posix_spawn do, cannot stop before its child has executed a program: a child that
were stopped before that would leave it where nobody sees it stopped, and criu could not seize it. It is stopped last.

The tree forks, ends and is killed beside all of this: a pid that was listed may be gone at the next line, and is
passed over.
"""

from __future__ import annotations

import os
import signal
import time

from remoteio.syscalls import same_memory

# Seconds: what sleeps or runs stops within the next tick; what waits for the disk (D) sees nothing meanwhile.
_STANDS_WITHIN, _LOOK = 0.2, 0.0005
# Seconds: in which a child of vfork(2) looks through PATH and executes, also where home is far.
_EXECUTES_WITHIN = 2.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class ProcessTree:
    """Stops and continues all processes of init's namespace but itself and criu.

    criu   the pid of a criu at work, which is never stopped, continued or counted with the tree; 0: none
    """

    def __init__(self, proc: int) -> None:
        """`proc`: a descriptor of the namespace's /proc."""
        self._proc = proc
        self.criu = 0

    def living(self) -> list[int]:
        """Return who has not ended."""
        return [pid for pid in self._pids() if pid != self.criu and self.stat(pid)[0] not in (b"Z", b"")]

    def takes(self, pid: int, number: int) -> bool:
        """Tell whether it leaves that signal to the kernel, neither ignoring nor catching it."""
        try:
            fd = os.open("%d/status" % pid, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except (FileNotFoundError, ProcessLookupError):
            return False
        try:
            said = os.read(fd, 8192)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        masks = [line.split()[1] for line in said.splitlines() if line.startswith((b"SigIgn:", b"SigCgt:"))]
        return not any(int(mask, 16) >> (number - 1) & 1 for mask in masks)

    def standing(self) -> list[int]:
        """Return who stands still already."""
        return [pid for pid in self._pids() if self.stat(pid)[0] in (b"T", b"t")]

    def _pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self._proc) if name.isdigit() and name != "1"]

    def stat(self, pid: int) -> tuple[bytes, int, int]:
        """Return state, parent and group of a process; (b"", 0, 0) if it has ended."""
        try:
            fd = os.open("%d/stat" % pid, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except (FileNotFoundError, ProcessLookupError):
            return b"", 0, 0
        try:
            fields = os.read(fd, 4096).rpartition(b")")[2].split()
        except ProcessLookupError:
            return b"", 0, 0
        finally:
            os.close(fd)
        return fields[0], int(fields[1]), int(fields[2])

    def _by_depth(self) -> list[list[int]]:
        """The tree's processes, but for criu: the job's own parents first, each level a list."""
        above = {pid: self.stat(pid)[1] for pid in self._pids() if pid != self.criu}
        levels: list[list[int]] = []
        for pid in above:
            depth, at = 0, above[pid]
            while at in above and depth < len(above):
                depth, at = depth + 1, above[at]
            levels += [[] for _ in range(depth + 1 - len(levels))]
            levels[depth].append(pid)
        return levels

    def go_on(self, but: set[int]) -> None:
        """Continue all but those, children before their parents: a shell that looks must not find its job stopped."""
        for level in reversed(self._by_depth()):
            _send(set(level) - but, signal.SIGCONT)

    def stop(self, wanted: Callable[[int], bool] = lambda pid: True) -> None:
        """Stop all that are wanted; a criu that is at work holds the tree, which so neither forks nor is seen to stop.

        Parents before their children, and each stands before those below it are told: a shell that waits for its job
        would wake for that one's stop, and have seen it although it is stopped itself a moment later. Nobody is told
        twice, nor who stands already: a SIGSTOP that is pending interrupts criu at its work. What was forked meanwhile
        is met by another look, and so is what was about to execute.
        """
        if self.criu:
            _send((pid for pid in self._pids() if pid != self.criu and wanted(pid)), signal.SIGSTOP)
            return
        told: set[int] = set()
        began = time.monotonic()
        while levels := [
            level
            for every in self._by_depth()
            if (level := [pid for pid in every if self._goes(pid, told) and wanted(pid)])
        ]:
            for level in levels:
                late = time.monotonic() > began + _EXECUTES_WITHIN
                due = [pid for pid in level if late or not self._vforked(pid)]
                _send(due, signal.SIGSTOP)
                told.update(due)
                while (
                    any(self.stat(pid)[0] in (b"S", b"R") for pid in due) and time.monotonic() < began + _STANDS_WITHIN
                ):
                    time.sleep(_LOOK)
                if due != level:
                    time.sleep(_LOOK)

    def _vforked(self, pid: int) -> bool:
        """Has it the memory of its parent, which waits in the kernel? So it has not executed anything yet."""
        parent = self.stat(pid)[1]
        return self.stat(parent)[0] == b"D" and same_memory(parent, pid)

    def _goes(self, pid: int, told: set[int]) -> bool:
        return pid not in told and self.stat(pid)[0] not in (b"T", b"t", b"Z", b"X", b"")


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it has ended, or nobody is left
