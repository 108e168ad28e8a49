"""What init does for a job that can be checkpointed: stops and continues its tree, starts criu beside it. Shipped.

Its messages are in messages.py, what the agent does with them in shim/execute/agent/job_tree.py.

Init is one thread, and does one message after the other; between two it reaps. So nothing here runs beside anything
else of init, but all of it beside the tree, which forks, ends and is killed meanwhile: a pid that was listed may be
gone at the next line, and is passed over.

States, of which any two may hold at once:

    job       0: still to be restored; else the pid of the tree's root, whose end is the job's
    stopped   the agent has had the tree stopped: a stop is not told, and no SIGCONT of home's wakes it
    criu      one is at work; to the kernel it is a child of init, and of the tree it is none: never stopped,
              continued or counted with it

How the tree is stopped stands in process_tree.py.

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

from checkpoint.execute import criu, page_scans
from checkpoint.wire import criu_bundle
from remoteio.errors import RexecError
from remoteio.syscalls import fork_as, mount_nowhere, setns, syncfs
from shim.execute.init import clocks, ipc_limits, messages, removed_above, renamed_sockets
from shim.execute.init.images import Images
from shim.execute.init.messages import Message
from shim.execute.init.namespaces import CLONE_NEWIPC, JOB_PIDS, some_pid, unshare
from shim.execute.init.open_handles import handles
from shim.execute.init.own_files import OwnFiles
from shim.execute.init.process_tree import ProcessTree

# criu's own pids, which must not be among those that it restores: below 300, where a count that has come to its end
# begins anew (RESERVED_PIDS of kernel/pid.c).
CRIU_PIDS = 200
# which descriptors come along, in this order
DESCRIPTORS = (criu.SOCKET_FD, criu.BUNDLE_FD, criu.WORK_FD, 2)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class TreeControl:
    """Made before the root is entered, so that it need not look for its own files there."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.job = 0  # the pid of the tree's root, 0: not yet restored
        self.status: int | None = None  # of a job that ended before it was known to be one
        self.stopped = False  # by us: nobody is to hear of it, and no signal to wake it
        self._proc = self._root = -1
        self._tree = ProcessTree(-1)
        self._stood: list[int] = []  # before criu came, to which all are stopped
        self._images = Images()  # until criu has ended
        self._ends: dict[int, int] = {}
        self._ended: dict[int, int] = {}  # wait status of what ended while the tree was being restored

    def enter(self, ends: dict[int, int], scratch: list[str]) -> None:
        """The root has been entered. `ends`: the job's end of each pipe, and -1: its terminal; `scratch`: directories
        that are the job's own here, as /dev and /dev/shm are."""
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._tree = ProcessTree(self._proc)
        self._root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._own_files = OwnFiles(scratch, self._proc)
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
        standing = self._tree.standing() if not self._tree.criu else self._stood
        self.stopped = True
        self._tree.stop()
        return b" ".join(b"%d" % pid for pid in standing)

    def _continue_tree(self, rest: bytes, fds: list[int]) -> bytes:
        self._tree.go_on({int(pid) for pid in rest.split()})
        self.stopped = False
        return b""

    def _write_back(self, rest: bytes, fds: list[int]) -> bytes:
        syncfs(self._root)
        if self._images.fd >= 0:  # or criu has been killed: that was when they were handed over
            self._own_files.save(self._images.fd)
            renamed_sockets.follow(self._images.fd)
            self._own_files.criu_has_them()
        return b""

    def _ask_ipc(self, rest: bytes, fds: list[int]) -> bytes:
        return b" ".join(_system_v(self._proc) + ([b"mq"] if _queues() else []))

    def _ask_own_files(self, rest: bytes, fds: list[int]) -> bytes:
        return self._own_files.obstacle(self._tree.living(), bool(rest)).encode("utf-8", "backslashreplace")

    def _tidy(self, rest: bytes, fds: list[int]) -> bytes:
        self._own_files.criu_has_them()
        ipc_limits.uncover()
        removed_above.remove(json.loads(rest))
        return b""

    def _list_open_files(self, rest: bytes, fds: list[int]) -> bytes:
        os.write(fds[0], json.dumps(handles(self._proc, self._root, self._tree.living())).encode())
        return b""

    def _suspend(self, rest: bytes, fds: list[int]) -> bytes:
        self.suspend()
        return b""

    def _spool(self, rest: bytes, fds: list[int]) -> bytes:
        self._images.mount(self._proc, fds[0])
        return b""

    def _dump(self, rest: bytes, fds: list[int]) -> bytes:
        self._stood = self._tree.standing()
        self._own_files.criu_begins(self._tree.living())
        # the job is counting pids on meanwhile
        self._start(fds, {}, lambda: fork_as(CRIU_PIDS + 1), apart=bool(_system_v(self._proc)), answered=rest == b"1")
        return b"%d" % self.job

    def _restore(self, rest: bytes, fds: list[int]) -> bytes:
        asked = json.loads(rest)
        if asked["clocks"] is not None:
            clocks.go_on(self._proc, *asked["clocks"])
        self._own_files.restore(self._images.fd)
        if asked["rootless"]:
            ipc_limits.cover(self._images.fd)
        above = removed_above.missing(asked["above"])
        self._number(CRIU_PIDS)
        # number of criu's descriptor -> ours, by the number the job knows it under
        self._start(fds, {int(there): self._ends[int(k)] for there, k in asked["ends"].items()}, os.fork)
        return json.dumps(above).encode()

    def _goes_on(self, rest: bytes, fds: list[int]) -> bytes:
        pid, last = rest.split()
        self.job = int(pid)
        self.status = self._ended.pop(self.job, None)
        self._join_ipc()
        self._number(max(int(last), JOB_PIDS))
        for k, fd in self._ends.items():
            if k >= 0:
                os.close(fd)
        messages.send(self._sock, messages.STARTED)
        return b""

    def reaped(self, pid: int, status: int) -> None:
        """Take note that a child that is not the job's root has ended."""
        if pid == self._tree.criu:
            self._tree.criu = 0
            why = b""
            try:
                self._own_files.criu_has_them()
            except OSError as e:
                why = b"what was made for criu cannot be removed: " + os.strerror(e.errno or errno.EIO).encode()
            self._images.close()
            messages.send(self._sock, messages.CRIU_ENDED, why)
        elif not self.job:
            self._ended[pid] = status

    def _start(
        self, fds: list[int], inherited: dict[int, int], fork: Callable[[], int], apart: bool = False,
        answered: bool = False,
    ) -> None:  # fmt: skip
        """Start criu. `apart`: where the job has IPC: CRIU saves no namespace that is its own. `answered`: by the agent
        when it asks for pages, page_scans.py."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        given = dict(zip(DESCRIPTORS, fds))
        given[0], given[1], given[criu.IMAGES_FD] = null, given[2], self._images.fd
        try:
            pid = fork()
        except OSError:
            os.close(null)
            raise
        if pid == 0:
            try:
                os.setsid()
                if apart:
                    unshare(CLONE_NEWIPC)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                if answered:
                    page_scans.offer(given[criu.SOCKET_FD])
                criu.become(criu_bundle.LOADER, criu_bundle.LIBRARY_DIRS, criu_bundle.PROGRAM, {**given, **inherited})
            except (OSError, RexecError) as e:
                os.write(fds[-1], str(e).encode("utf-8", "backslashreplace"))
            finally:
                os._exit(127)
        os.close(null)
        self._tree.criu = pid

    # the tree

    def _join_ipc(self) -> None:
        """Be in the namespace for it that criu has made for the job, if it has."""
        try:
            fd = os.open("%d/ns/ipc" % self.job, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except (FileNotFoundError, ProcessLookupError):
            return  # the job has ended
        try:
            setns(fd, CLONE_NEWIPC)
        finally:
            os.close(fd)

    def suspend(self) -> None:
        """What SIGTSTP would do to the job's first process group, were that not its session's first: of a group that
        has nobody above it in its session (POSIX: orphaned process group) the kernel lets it stop none."""
        tree = self._tree
        tree.stop(lambda pid: tree.stat(pid)[2] == self.job and tree.takes(pid, signal.SIGTSTP))

    # pids

    def _number(self, last: int) -> None:
        """The next pid of this namespace follows `last`: pid_namespaces(7)."""
        fd = os.open("sys/kernel/ns_last_pid", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            os.write(fd, b"%d" % last)
        finally:
            os.close(fd)


def _system_v(proc: int) -> list[bytes]:
    """The kinds of System V IPC that there are in this process's namespace: /proc/sysvipc has a heading and lines."""
    found = []
    for kind in ("shm", "sem", "msg"):
        with open(os.open("sysvipc/" + kind, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)) as f:
            if len(f.readlines()) > 1:
                found.append(kind.encode())
    return found


def _queues() -> list[str]:
    """The names of POSIX message queues in this process's namespace: mq_overview(7). Raises OSError."""
    try:
        root = mount_nowhere(b"mqueue", {})
    except OSError as e:
        if e.errno not in (errno.ENODEV, errno.ENOSYS, errno.EPERM):
            raise
        return []  # a kernel without them, or before Linux 5.2, or a container that forbids the look
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    finally:
        os.close(root)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


# What each message has it do.
_ACTIONS = {
    messages.STOP_TREE: TreeControl._stop_tree,
    messages.CONTINUE_TREE: TreeControl._continue_tree,
    messages.WRITE_BACK: TreeControl._write_back,
    messages.ASK_IPC: TreeControl._ask_ipc,
    messages.ASK_OWN_FILES: TreeControl._ask_own_files,
    messages.TIDY: TreeControl._tidy,
    messages.LIST_OPEN_FILES: TreeControl._list_open_files,
    messages.SUSPEND: TreeControl._suspend,
    messages.SPOOL: TreeControl._spool,
    messages.DUMP: TreeControl._dump,
    messages.RESTORE: TreeControl._restore,
    messages.GOES_ON: TreeControl._goes_on,
}
