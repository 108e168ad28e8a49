"""Saving the job, and leaving: the transaction around criu's dump, on the execute host. Shipped.

States of one dump, in the thread that dumps. What fails before COMMITTED leaves the job running here, and the image
before this one the latest::

    asked      preflight: what CRIU could not save is refused before anything is touched
    criu       init has forked it; from its freezing the tree to `post-dump` nobody of the tree can do anything
    still      at `post-dump`: all of the tree is in the spool, and criu waits for our answer; streams are at rest
    stays:     criu is answered "yes", the tree goes on, and the image is sent from the spool: COMMITTED, done
    leaves:    the image is sent while criu waits. COMMITTED: `_end_here`; anything else: criu is answered "no"

Why the tree of a job that leaves is stopped by init too, with SIGSTOP, while criu holds it anyway: a criu that is
killed lets the tree go on, and home may have committed the image by then: two of the job would run. So criu
is never answered after the commit, and its socket stays open until the kernel has killed it with all of the namespace:
at either it would thaw the tree. And `JobTree.still` is held until nothing of the tree is left, or the owner's guard
could continue it in between.

What runs beside this thread: the job may end at any moment but while criu holds it, and its keeper then removes the
spool under our hands. Its end is told by whoever hears init: here nothing is said of it, and nothing that goes wrong
here is the agent's end. Home may give the dump up (`give_up`), at any moment but after the commit; then `put` and `get`
of the channel raise. The owner may come back: `freeze` waits for `still`.

Not taken: to have criu end the tree by itself (without --leave-running): it does so before the store has the image.
"""

from __future__ import annotations

import json
import os
import queue
import select
import socket
import time
from contextlib import ExitStack

from checkpoint.execute import criu, dump, in_place, live_sockets, preflight, terminals, waits
from checkpoint.execute.chunker import ChunkerError
from checkpoint.execute.dump import DumpError
from checkpoint.wire.image_wire import ImageWireError
from checkpoint.wire.manifest import ManifestError
from remoteio.errors import RexecError
from remoteio.wire.link import LinkClosed
from shim.execute.agent import criu_process, fault_points, thread_scheduling
from shim.execute.agent.checkpoint_parts import CheckpointParts
from shim.execute.agent.diagnostics import where
from shim.execute.agent.image_channel import CutShort
from shim.execute.agent.job_tree import Gone
from shim.execute.agent.owner_guard import OwnerGuard
from shim.execute.init import messages
from shim.wire import job_messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FREEZE_S = 30  # for criu to bring the tree to a stop
NAMED = 5  # of what stands in the way of a dump


class _Committed(Exception):
    """The store has the image of a job that leaves: it must not run here again. Passes through criu's conversation."""


class Dumper:
    """Takes dumps, one after the other.

    Threads: `run` is one of its own, and does all of it; `ask`, `give_up`, `end` are called by the agent's main thread,
    `vacate` by the owner's guard, `end` by the one that hears init.
    """

    def __init__(self, parts: CheckpointParts, guard: OwnerGuard) -> None:
        self._parts, self._guard = parts, guard
        self._asked: queue.SimpleQueue[tuple[int, bool] | None] = queue.SimpleQueue()
        self._serial = 0  # the highest that was asked for
        self._current = 0
        self._given_up: dict[int, str] = {}
        self._keep_tcp = False  # both ends of each of its connections are in the tree
        self._mapped: list[str] = []  # files
        self._controlling: list[tuple[int, int]] = []  # what it has open as /dev/tty: st_rdev and st_dev
        self._held: ExitStack | None = None  # what must stay open until the job has been ended here

    def ask(self, serial: int, leave: bool) -> None:
        """Have a dump taken, soon: the next after those asked for before."""
        self._serial = max(self._serial, serial)
        self._asked.put((serial, leave))

    def vacate(self, why: str) -> None:
        """Have the job leave, soon, because this host wants it to."""
        self._serial += 1
        self._parts.news(job_messages.LEAVING, why=why, serial=self._serial)
        self._asked.put((self._serial, True))

    def give_up(self, serial: int, why: str) -> None:
        """Give up that dump, if it is not over: the store cannot keep it."""
        self._given_up[serial] = why
        if serial == self._current:
            self._parts.channel.cut()

    def end(self) -> None:
        """Have `run` return as soon as it can: the job has ended."""
        self._asked.put(None)

    def run(self) -> None:
        """Take dumps until the job has ended. Raises LinkClosed."""
        while (asked := self._asked.get()) is not None:
            serial, leave = asked
            try:
                self._dump(serial, leave)
            except LinkClosed:
                raise
            except Exception as e:  # whatever ends the making of an image is no end of the job
                if not self._parts.tree.has_ended():
                    self._refused(serial, _sentence(e))

    def _refused(self, serial: int, why: str) -> None:
        self._parts.link.flush()  # what was sent of the image comes before
        self._parts.news(job_messages.REFUSED, serial=serial, why=why)
        try:
            self._guard.stays()
        except Gone:
            return  # it has ended meanwhile

    # one dump

    def _dump(self, serial: int, leave: bool) -> None:
        """Take one dump. Returns when it is committed and the job stays; if it has left, this process has ended."""
        parts = self._parts
        self._current = serial
        parts.channel.begin()
        parts.news(job_messages.DUMPING, serial=serial)
        parts.means.criu()
        fault_points.reached("preflight")
        self._preflight(leave)
        spool = parts.sandbox.make_image_directory("%d-%d" % (parts.checkpoint.generation, serial))
        try:
            with parts.tree.still:
                try:
                    head = self._criu(spool, serial, leave)
                except _Committed:
                    self._end_here(serial)
            if leave:
                raise DumpError("the job could not leave")
            fault_points.reached("sending")
            head["criu"] = dump.times(spool)
            self._send(spool, serial, head)
            fault_points.reached("committed")
        finally:
            criu_process.tidy(spool)

    def _end_here(self, serial: int) -> NoReturn:
        """End the job here, and then this process: it has left."""
        fault_points.reached("committed")
        self._parts.tree.leave()
        fault_points.reached("left")
        self._parts.news(job_messages.MOVED, serial=serial)
        self._parts.link.flush()
        os._exit(0)

    def _preflight(self, leave: bool) -> None:
        tree = self._parts.tree
        unix, rows = live_sockets.unix(), live_sockets.tcp(tree.root())
        tasks = preflight.look(tree.root())
        whole = preflight.tree(tree.root()) == [task.host_pid for task in tasks]
        apart = self._parts.sandbox.plan.apart
        found = preflight.obstacles(tasks, preflight.Reach(apart, _may_ask_limits(), self._terminal()))
        found += preflight.ipc(tree.ask(messages.ASK_IPC).decode().split(), apart, os.uname().release)
        found += preflight.ended_sessions(tree.root())
        found += [] if self._parts.sandbox.plan.root else preflight.hidden(tree.root())
        own = tree.ask(messages.ASK_OWN_FILES, b"1" if apart else b"", limit=None).decode()
        if own:
            found.append(own)
        unix_now, rows_now = live_sockets.unix(), live_sockets.tcp(tree.root())
        found += live_sockets.ended_unread(tasks, rows_now) + live_sockets.pending(tasks, unix_now)
        found += live_sockets.outside(tasks, unix, unix_now) if whole else []
        tcp = live_sockets.connections(tasks, rows, rows_now)
        # All or none; and only root may take one apart (TCP_REPAIR).
        others = [connection.other for connection in tcp]
        self._keep_tcp = bool(tcp) and not apart and live_sockets.OUTSIDE not in others
        forbidden = [live_sockets.UNACCEPTED, *([live_sockets.CLOSED_UNSENT] if self._keep_tcp else [])]
        found += [f"{c.words} is {c.other}, which CRIU cannot save" for c in tcp if c.other in forbidden]
        if found:
            more = "; and %d more" % (len(found) - NAMED) if found[NAMED:] else ""
            raise DumpError("; ".join(found[:NAMED]) + more)
        self._controlling = preflight.by_controlling(tasks)
        self._mapped = sorted(frozenset().union(*(task.files for task in tasks)))
        if leave and tcp and not self._keep_tcp:
            more = " and %d more" % (len(tcp) - 1) if tcp[1:] else ""
            self._parts.news(job_messages.CLOSES, why=tcp[0].words + more)

    def _terminal(self) -> tuple[int, int] | None:
        tty = self._parts.streams.tty
        return (os.major(tty[0]), os.minor(tty[0])) if tty is not None else None

    def _criu(self, spool: str, serial: int, leave: bool) -> dict[str, object]:
        """Run criu's dump; what only this side knows of the image. Raises _Committed if the job may leave now."""
        parts, tree, streams = self._parts, self._parts.tree, self._parts.streams
        head: dict[str, object] = {}
        ours = leave and not tree.frozen  # to stop; but as the image has it, it runs
        standing: list[in_place.Standing] = []

        def still(frozen_us: int) -> None:
            fault_points.reached("post-dump")
            now = time.monotonic()
            head.update(self._head(leave, frozen_us))
            try:
                changed = waits.anew(spool, tree.waits, now)
                standing.append(in_place.Standing(tree.root(), changed))
                terminals.by_their_names(spool, preflight.numbers(tree.root()), self._terminal())
            except criu.CriuError as e:
                raise DumpError("the checkpoint failed: %s" % e) from e
            if ours:
                tree.freeze()  # from now on it stands still whatever becomes of criu: what is committed, stays so
            _require_silence(sock)  # or what was counted is not what the image's tree had said
            parts.news(job_messages.DUMPED, serial=serial, frozen_us=frozen_us, bytes=dump.spool_size(spool))

        def send() -> None:
            fault_points.reached("sending")
            self._send(spool, serial, head)
            raise _Committed

        def begin_calls() -> None:
            for threads in standing:
                threads.go_on()

        with ExitStack() as after:  # all of it is done, whatever goes wrong with some of it
            sock, fds = criu_process.start(parts.means.criu().bundle, spool)
            fault_points.reached("criu")
            try:
                root = int(tree.ask(messages.DUMP, fds=fds))
            except BaseException:
                sock.close()
                raise
            finally:
                for fd in fds:
                    os.close(fd)
            after.callback(begin_calls)  # criu has let go of the tree
            after.callback(tree.await_criu, FREEZE_S)
            if ours:
                after.callback(tree.thaw)
            after.callback(sock.close)
            after.callback(streams.let_go)
            after.callback(streams.retype)  # it stays
            after.callback(parts.relay.criu, False)
            own = [] if streams.tty is None else [streams.tty]
            ttys = [criu.tty_key(*tty) for tty in own + self._controlling]
            request = criu.dump_request(
                root, unprivileged=parts.sandbox.plan.apart, leave_running=True, ttys=tuple(ttys), timeout=FREEZE_S,
                keep_tcp=self._keep_tcp,
            )  # fmt: skip
            head["root"] = root
            tree.look()
            parts.relay.criu(True)
            try:
                dump.dump(sock, request, spool, parts.log, still, send if leave else None)
            except _Committed:
                self._held = after.pop_all()  # nothing of that: above all criu's socket stays open
                raise
        return head

    def _head(self, leave: bool, frozen_us: int) -> dict[str, object]:
        """Bring the streams to rest, as the tree stands still, and say what only this side knows of the image."""
        parts, tree = self._parts, self._parts.tree
        tree.ask(messages.WRITE_BACK, limit=None)
        streams = parts.streams.rest(leave)
        # Which process has which file open is asked for only where the job has locked one.
        locks: dict[str, object] = {}
        if parts.relay.locks_asked:
            locks = {"handles": tree.open_files(), "numbers": preflight.numbers(parts.sandbox.pid)}
        return {
            "facts": parts.means.criu().facts.plain(),
            **streams, "controlling": self._controlling, "mapped": self._mapped,
            "frozen": tree.frozen, "stopped": tree.stood if tree.frozen else [],
            **locks,
            "threads": thread_scheduling.look(tree.root(), parts.cpus),
            "last_pid": preflight.highest(tree.root()), "frozen_us": frozen_us, "keep_tcp": self._keep_tcp,
        }  # fmt: skip

    def _send(self, spool: str, serial: int, head: dict[str, object]) -> None:
        """Send the image until the store has committed it. Raises DumpError, Gone, LinkClosed."""
        files = spool + "/image"
        try:
            dump.select(spool, files)
            dump.send(files, json.dumps(head).encode(), self._parts.channel.put, self._parts.channel.get)
        except CutShort as e:
            if serial in self._given_up:
                raise DumpError(self._given_up[serial]) from e
            raise Gone("the job has ended") from e
        except (ChunkerError, ImageWireError, ManifestError, OSError) as e:
            raise DumpError("the image cannot be sent: %s" % e) from e


def _may_ask_limits() -> bool:
    with open("/proc/self/status") as f:
        return preflight.may_ask_limits(f.read())


def _require_silence(sock: socket.socket) -> None:
    """Raise DumpError if criu has died: while it waits for our answer it says nothing, and the tree stands still."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if poll.poll(0):
        raise DumpError("criu was killed in the middle of the checkpoint")


def _sentence(e: Exception) -> str:
    if isinstance(e, (DumpError, RexecError)):
        return str(e)
    return "the checkpoint failed: %s" % (e if isinstance(e, OSError) else "%r, at %s" % (e, where(e)))
