"""What init does for a job that can be checkpointed: stops and continues its tree, starts criu beside it. Shipped.

Its messages are in messages.py, what the agent does with them in shim/execute/agent/job_tree.py.

Init is one thread, and does one message after the other; between two it reaps. So nothing here runs beside anything
else of init, but all of it beside the tree, which forks, ends and is killed meanwhile: a pid that was listed may be
gone at the next line, and is passed over.

States, of which any two may hold at once:

    job       0: still to be restored; else the pid of the tree's root, whose end is the job's
    stopped   the agent has had the tree stopped: a stop is not told, and no SIGCONT of home's wakes it
    _criu     a criu is at work; to the kernel it is a child of init, and of the tree it is none: never stopped,
              continued or counted with it

How the tree is stopped. Without criu: SIGSTOP to -1, which the kernel sends to all of the namespace but init in one
go (kill(2)), so that nothing can fork past it. With criu, which must not be stopped: to each pid; criu holds the tree
by ptrace, so it cannot fork, and the stop is pending until criu lets it go: then the tree stands still, not runs.

The pids of a tree that is dumped and restored must be free again: criu has pids of its own below those of jobs
(CRIU_PIDS < RESERVED_PIDS < JOB_PIDS), by clone3's set_tid beside a job that runs, and by ns_last_pid where the
tree is still to come. After a restore the count goes on behind the highest pid that there was.

What ends while the tree is being restored may be its root: its status is kept until GOES_ON names the root.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time

from checkpoint.execute import criu
from checkpoint.wire import criu_bundle
from remoteio.syscalls import fork_as, syncfs
from shim.execute.init import messages
from shim.execute.init.messages import Message
from shim.execute.init.namespaces import JOB_PIDS, some_pid
from shim.execute.init.open_handles import handles

# criu's own pids, which must not be among those that it restores: below 300, where a count that has come to its end
# begins anew (RESERVED_PIDS of kernel/pid.c).
CRIU_PIDS = 200
# which descriptors come along, in this order
DESCRIPTORS = (criu.SOCKET_FD, criu.BUNDLE_FD, criu.IMAGES_FD, 2)

# Seconds: what sleeps or runs stops within the next tick; what waits for the disk (D) sees nothing meanwhile.
_STANDS_WITHIN, _LOOK = 0.2, 0.0005

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class TreeControl:
    """Made before the root is entered, so that it need not look for its own files there."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.job = 0  # the pid of the tree's root, 0: not yet restored
        self.status: int | None = None  # of a job that ended before it was known to be one
        self.stopped = False  # by us: nobody is to hear of it, and no signal to wake it
        self._proc = self._root = -1
        self._criu = 0
        self._stood: list[int] = []  # before criu came, to which all are stopped
        self._images = -1  # criu's directory, while it runs
        self._ends: dict[int, int] = {}
        self._ended: dict[int, int] = {}  # wait status of what ended while the tree was being restored

    def enter(self, ends: dict[int, int]) -> None:
        """The root has been entered. `ends`: the job's end of each pipe, and -1: its terminal."""
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._ends = ends
        self._number(some_pid())

    def take(self, said: Message, rest: bytes, fds: list[int]) -> None:
        """Do what one message of the agent asks for, and answer it."""
        try:
            answer = _ACTIONS[said](self, rest, fds)
            if said.answer is not None:
                messages.send(self._sock, said.answer, answer)
        except Exception as e:
            if said.answer is None:
                raise
            messages.send(self._sock, messages.FAULT, str(e).encode("utf-8", "replace")[:1000])
        finally:
            for fd in fds:
                os.close(fd)

    # What a message has it do: _ACTIONS. Each returns the payload of the answer, if there is one.

    def _stop_tree(self, rest: bytes, fds: list[int]) -> bytes:
        standing = self._standing() if not self._criu else self._stood
        self.stopped = True
        self._stop()
        return b" ".join(b"%d" % pid for pid in standing)

    def _continue_tree(self, rest: bytes, fds: list[int]) -> bytes:
        self._go_on({int(pid) for pid in rest.split()})
        return b""

    def _write_back(self, rest: bytes, fds: list[int]) -> bytes:
        syncfs(self._root)
        if self._images >= 0:  # or criu has been killed: that was when they were handed over
            self._hand_over()
        return b""

    def _ask_ipc(self, rest: bytes, fds: list[int]) -> bytes:
        return b"%d" % any(map(self._in_use, ("shm", "sem", "msg")))

    def _list_open_files(self, rest: bytes, fds: list[int]) -> bytes:
        pids = [pid for pid in self._pids() if pid != self._criu and self._stat(pid)[0] not in (b"Z", b"")]
        os.write(fds[0], json.dumps(handles(self._proc, self._root, pids)).encode())
        return b""

    def _suspend(self, rest: bytes, fds: list[int]) -> bytes:
        self.suspend()
        return b""

    def _dump(self, rest: bytes, fds: list[int]) -> bytes:
        self._stood = self._standing()
        self._start(fds, {}, lambda: fork_as(CRIU_PIDS + 1))  # the job is counting on meanwhile
        return b"%d" % self.job

    def _restore(self, rest: bytes, fds: list[int]) -> bytes:
        asked = json.loads(rest)
        self._number(CRIU_PIDS)
        # number of criu's descriptor -> ours, by the number the job knows it under
        self._start(fds, {int(there): self._ends[int(k)] for k, there in asked.items()}, os.fork)
        return b""

    def _goes_on(self, rest: bytes, fds: list[int]) -> bytes:
        pid, last = rest.split()
        self.job = int(pid)
        self.status = self._ended.pop(self.job, None)
        self._number(max(int(last), JOB_PIDS))
        for k, fd in self._ends.items():
            if k >= 0:
                os.close(fd)
        messages.send(self._sock, messages.STARTED)
        return b""

    def reaped(self, pid: int, status: int) -> None:
        """A child that is not the job's root has ended."""
        if pid == self._criu:
            self._criu = 0
            why = b""
            try:
                self._hand_over()
            except OSError as e:
                why = b"what criu wrote cannot be handed over: " + os.strerror(e.errno or errno.EIO).encode()
            os.close(self._images)
            self._images = -1
            messages.send(self._sock, messages.CRIU_ENDED, why)
        elif not self.job:
            self._ended[pid] = status

    def _start(self, fds: list[int], inherited: dict[int, int], fork: Callable[[], int]) -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        given = dict(zip(DESCRIPTORS, fds))
        given[0], given[1] = null, given[2]
        try:
            pid = fork()
        except OSError:
            os.close(null)
            raise
        if pid == 0:
            try:
                os.setsid()
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                criu.become(criu_bundle.LOADER, criu_bundle.LIBRARY_DIRS, criu_bundle.PROGRAM, {**given, **inherited})
            except OSError as e:
                os.write(fds[-1], str(e).encode("utf-8", "backslashreplace"))
            finally:
                os._exit(127)
        os.close(null)
        self._criu, self._images = pid, os.dup(given[criu.IMAGES_FD])

    def _hand_over(self) -> None:
        """What criu wrote as uid 0 of this namespace is the agent's from here on, as the directory is."""
        owner = os.fstat(self._images)
        for name in os.listdir(self._images):
            try:
                os.chown(name, owner.st_uid, owner.st_gid, dir_fd=self._images, follow_symlinks=False)
            except FileNotFoundError:
                continue  # the agent gave it up, and removes it

    # the tree

    def _in_use(self, kind: str) -> bool:
        """Whether there is System V IPC of that kind in the job's namespace: /proc/sysvipc has a heading and lines."""
        with open(os.open("sysvipc/" + kind, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)) as f:
            return len(f.readlines()) > 1

    def suspend(self) -> None:
        """What SIGTSTP would do to the job's first process group, were that not its session's first: of a group that
        has nobody above it in its session (POSIX: orphaned process group) the kernel lets it stop none."""
        for pid in self._pids():
            group = self._stat(pid)[2]
            if group == self.job and self._takes(pid, signal.SIGTSTP):
                try:
                    os.kill(pid, signal.SIGSTOP)
                except ProcessLookupError:
                    continue  # it has ended

    def _takes(self, pid: int, number: int) -> bool:
        """Does it leave that signal to the kernel, neither ignoring nor catching it?"""
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

    def _standing(self) -> list[int]:
        return [pid for pid in self._pids() if self._stat(pid)[0] in (b"T", b"t")]

    def _pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self._proc) if name.isdigit() and name != "1"]

    def _stat(self, pid: int) -> tuple[bytes, int, int]:
        """State, parent and group of a process; (b"", 0, 0) if it has ended."""
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
        above = {pid: self._stat(pid)[1] for pid in self._pids() if pid != self._criu}
        levels: list[list[int]] = []
        for pid in above:
            depth, at = 0, above[pid]
            while at in above and depth < len(above):
                depth, at = depth + 1, above[at]
            levels += [[] for _ in range(depth + 1 - len(levels))]
            levels[depth].append(pid)
        return levels

    def _go_on(self, but: set[int]) -> None:
        """Children before their parents: a shell that looks must not find its job stopped."""
        for level in reversed(self._by_depth()):
            _send(set(level) - but, signal.SIGCONT)
        self.stopped = False

    def _stop(self) -> None:
        """All but criu; where that is, it holds the tree, which so neither forks nor is seen to stop.

        Parents before their children, and each stands before those below it are told: a shell that waits for its job
        would wake for that one's stop, and have seen it although it is stopped itself a moment later. Nobody is told
        twice, nor who stands already: a SIGSTOP that is pending interrupts criu at its work. What was forked meanwhile
        is met by another look.
        """
        if self._criu:
            _send((pid for pid in self._pids() if pid != self._criu), signal.SIGSTOP)
            return
        told: set[int] = set()
        until = time.monotonic() + _STANDS_WITHIN
        while levels := [
            level for every in self._by_depth() if (level := [pid for pid in every if self._goes(pid, told)])
        ]:
            for level in levels:
                _send(level, signal.SIGSTOP)
                told.update(level)
                while any(self._stat(pid)[0] in (b"S", b"R") for pid in level) and time.monotonic() < until:
                    time.sleep(_LOOK)

    def _goes(self, pid: int, told: set[int]) -> bool:
        return pid not in told and self._stat(pid)[0] not in (b"T", b"t", b"Z", b"X", b"")

    # pids

    def _number(self, last: int) -> None:
        """The next pid of this namespace follows `last`: pid_namespaces(7)."""
        fd = os.open("sys/kernel/ns_last_pid", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            os.write(fd, b"%d" % last)
        finally:
            os.close(fd)


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it has ended, or nobody is left


# What each message has it do.
_ACTIONS = {
    messages.STOP_TREE: TreeControl._stop_tree,
    messages.CONTINUE_TREE: TreeControl._continue_tree,
    messages.WRITE_BACK: TreeControl._write_back,
    messages.ASK_IPC: TreeControl._ask_ipc,
    messages.LIST_OPEN_FILES: TreeControl._list_open_files,
    messages.SUSPEND: TreeControl._suspend,
    messages.DUMP: TreeControl._dump,
    messages.RESTORE: TreeControl._restore,
    messages.GOES_ON: TreeControl._goes_on,
}
