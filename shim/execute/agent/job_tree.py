"""The tree of processes of a job that can be checkpointed, as the agent has it: in the hands of init. Shipped.

Init's side of it is shim/execute/init/tree_control.py, and what the two say messages.py. Three threads of the agent
want something of the tree: the one that dumps, the one that restores and the one that watches for the machine's owner.

* Questions go one at a time (`_asking`), since answers carry no number: init answers in the order in which it was
  asked, and an answer that nobody waits for any longer is counted (`_owed`) and passed over when it comes.
* Whoever stops the tree, continues it or has criu at it holds `still` all the while, or the owner's guard would
  continue a tree that is being saved. It can be entered again: a dump freezes the tree while it holds it.
* The owner who comes back while criu has the tree waits no longer than for criu's end: criu itself holds the tree.

That the job has ended can be known to a thread in any of these calls, as Gone. None of them says so to home: whoever
hears init does.
"""

from __future__ import annotations

import json
import os
import queue
import select
import threading
import time
from contextlib import contextmanager

from checkpoint.execute import preflight, waits
from remoteio.errors import RexecError
from shim.execute.agent import fault_points
from shim.execute.agent.agent import tell_init
from shim.execute.agent.diagnostics import aside, leaves, where
from shim.execute.init import messages
from shim.execute.init.messages import Message
from shim.execute.init.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ASK_S = 60.0  # for an answer of init, which waits for nothing but the job's files


class Gone(RexecError):
    """Say that the job ended while something was being done about it."""


class JobTree:
    """Stops, continues and looks at one job's processes, by asking its init.

    still   held by who stops or continues the tree, or has criu at it
    over    the job has ended, and its end is being told
    moved   it has been ended here by us, as it goes on elsewhere or not at all
    frozen  it stands still for the machine's owner; `stood` are the pids that had stood still before
    goes    set unless it stands still until home is back; it goes on when neither that nor the owner wants it to stand
    waits   in which calls its threads were found when they last ran

    Threads: see the module; `answered`, `criu_has_ended` and `end` are called by the one that hears init.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.still = threading.RLock()
        self.over = threading.Event()
        self.moved = False
        self.frozen = False
        self.goes = threading.Event()
        self.goes.set()
        self.stood: list[int] = []
        self.waits: waits.Waits = {}
        self._asking = threading.Lock()
        self._owed = 0  # answers that were not waited for any longer
        self._replies: queue.SimpleQueue[tuple[Message | None, bytes]] = queue.SimpleQueue()
        self._criu_ended: queue.SimpleQueue[str] = queue.SimpleQueue()  # of the one started last: "", or what it left

    # What init says.

    def answered(self, message: Message, payload: bytes) -> None:
        """Take an answer of init."""
        if message in (messages.DUMPING, messages.RESTORING):
            self._criu_ended = queue.SimpleQueue()  # that of the one before may have come too late
        self._replies.put((message, payload))

    def criu_has_ended(self, why: bytes) -> None:
        """Take the payload of CRIU_ENDED."""
        self._criu_ended.put(why.decode("utf-8", "replace"))

    def end(self) -> None:
        """Let go all who wait: the job has ended."""
        self.over.set()
        self.goes.set()
        self._replies.put((None, b""))
        self._criu_ended.put("")

    # What init is asked.

    def tell(self, message: Message, payload: bytes = b"") -> None:
        """Tell init what it does not answer."""
        tell_init(self._sandbox.init, message, payload)

    def ask(
        self, message: Message, payload: bytes = b"", fds: tuple[int, ...] = (), limit: float | None = ASK_S
    ) -> bytes:  # fmt: skip
        """Tell init, and wait for the payload of its answer, `limit` seconds at most.

        Raises Gone if it has ended, and RexecError if it cannot do that.
        """
        with self._asking:
            try:
                messages.send(self._sandbox.init, message, payload, fds)
            except (BrokenPipeError, ConnectionError) as e:
                raise Gone("the job has ended") from e
            said, rest = self._await_answer(limit)
        if said is messages.FAULT:
            raise RexecError("the job's first process cannot do its part: %s" % rest.decode("utf-8", "replace"))
        if said is not message.answer:
            raise RexecError("the job's first process answered %r to %r" % (said, message))
        return rest

    def _await_answer(self, limit: float | None) -> tuple[Message, bytes]:
        while True:
            try:
                said, rest = self._replies.get(timeout=limit)
            except queue.Empty as e:
                self._owed += 1
                raise RexecError("the job's first process does not answer; its memory may have run out") from e
            if said is None:
                self._replies.put((said, rest))  # for whoever asks next
                raise Gone("the job has ended")
            if not self._owed:
                return said, rest
            self._owed -= 1

    def await_criu(self, seconds: float) -> None:
        """Wait until criu has ended. Raises RexecError if it does not, or something of its is left."""
        try:
            why = self._criu_ended.get(timeout=seconds)
        except queue.Empty as e:
            raise RexecError("criu has not ended %.0f s after it was told to" % seconds) from e
        if why:
            raise RexecError(why)

    def freeze(self) -> None:
        """Stop the whole tree, at once unless criu holds it anyway. Raises Gone, RexecError."""
        with self.still:
            if not self.frozen:
                fault_points.reached("freeze")
                if self.goes.is_set():
                    self.look()
                    self.stood = [int(pid) for pid in self.ask(messages.STOP_TREE, limit=None).split()]
                self.frozen = True

    @contextmanager
    def to_save(self) -> Iterator[None]:
        """Hold `still`, to save the tree: not while that stands until home is back, which would be saved too."""
        while True:
            self.goes.wait()
            with self.still:
                if self.goes.is_set():
                    yield
                    return

    def look(self) -> None:
        """Look for who waits in which call: to be done before anything stops the tree. Raises Gone.

        Whatever else goes wrong with it is no reason not to stop the tree: calls that wait begin anew then.
        """
        root = self.root()
        try:
            self.waits = waits.look(root, self.waits)
        except Exception as e:  # a boundary: the owner waits, and so does the dump
            self.waits = {}
            aside("it is not known in which calls the job waits: %r, at %s" % (e, where(e)))

    def thaw(self) -> None:
        """Continue what ``freeze`` stopped. Raises Gone, RexecError."""
        with self.still:
            if self.frozen:
                if self.goes.is_set():
                    self.go_on(self.stood)
                self.frozen = False

    def stand(self) -> None:
        """Stop the whole tree, though who waits for a file stops only once that is there. Raises RexecError.

        It is not looked for who waits in which call: nobody saves a tree whose files are out of reach.
        """
        with self.still:
            try:
                if not self.frozen:
                    self.stood = [int(pid) for pid in self.ask(messages.STOP_TREE, limit=None).split()]
                self.goes.clear()
            except Gone:
                return  # how it ended is told when home is back

    def rise(self) -> None:
        """Continue what ``stand`` stopped, unless the owner has it stand. Raises RexecError."""
        with self.still:
            if not (self.goes.is_set() or self.frozen):
                try:
                    self.go_on(self.stood)
                except Gone:
                    return  # its end is being told
            self.goes.set()

    def go_on(self, but: list[int]) -> None:
        """Continue all processes but these. Raises Gone, RexecError."""
        self.ask(messages.CONTINUE_TREE, b" ".join(b"%d" % pid for pid in but), limit=None)

    def open_files(self) -> object:
        """Return what open_handles.py of init finds of the tree, which must stand still. Raises as ``ask``."""
        with open(os.memfd_create("handles"), "w+b") as f:
            self.ask(messages.LIST_OPEN_FILES, fds=(f.fileno(),))
            f.seek(0)
            return json.load(f)

    # What the kernel tells of it.

    def init(self) -> int:
        """Return the pid here of the job's init, the keeper's child. Raises Gone."""
        try:
            return _children(self._sandbox.pid)[0]
        except (FileNotFoundError, ProcessLookupError, IndexError) as e:
            raise Gone("the job has ended") from e

    def root(self) -> int:
        """Return the pid here of the tree's root: keeper, init, root. Raises Gone.

        A criu that has restored it may still be ending beside it: it has closed its socket, and has no memory any more.
        """
        init, until = self.init(), time.monotonic() + ASK_S
        try:
            while not (found := [pid for pid in _children(init) if not _ends(pid)]):
                if not _children(init) or time.monotonic() > until:
                    raise Gone("the job has ended")
                time.sleep(0.001)  # what ends is init's to take away, at once
        except (FileNotFoundError, ProcessLookupError) as e:
            raise Gone("the job has ended") from e
        return found[0]

    def lives(self) -> bool:
        """Tell whether init lives: it closes its socket before the kernel kills all others: pid_namespaces(7)."""
        poll = select.poll()
        poll.register(self._sandbox.init, 0)
        return not poll.poll(0)

    def places(self) -> set[bytes]:
        """Tell where the threads of the tree work, and what their roots are. Raises OSError: they cannot be asked."""
        found = set()
        for pid in preflight.tree(self._sandbox.pid):
            try:
                for tid in os.listdir("/proc/%d/task" % pid):
                    found |= {os.readlink(b"/proc/%d/task/%s/%s" % (pid, tid.encode(), of)) for of in (b"cwd", b"root")}
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended since
        return found

    def has_ended(self) -> bool:
        """Tell whether the job has ended; then that is what home is to hear, and it does."""
        try:
            self.root()
        except Gone:
            return self.over.wait(ASK_S)
        return self.over.is_set()

    def leave(self) -> None:
        """End the job on this host, as its image is what goes on: nothing of it is left here when this returns."""
        self.moved = True
        self._sandbox.end()
        leaves()


def _children(pid: int) -> list[int]:
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return list(map(int, f.read().split()))


def _ends(pid: int) -> bool:
    """Whether it has given up its memory: the first that do_exit of the kernel does."""
    try:
        with open("/proc/%d/statm" % pid, "rb") as f:
            return f.read().startswith(b"0 ")
    except (FileNotFoundError, ProcessLookupError):
        return True
