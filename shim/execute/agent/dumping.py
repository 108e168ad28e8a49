"""Saving the job, and leaving: the transaction around criu's dump, on the execute host. Shipped.

States of one dump, in the thread that dumps. What fails before COMMITTED, whatever it is, leaves the job running here
as it was, and the image before this one the latest; home is told in a sentence which step it was (`_step`)::

    asked      preflight: what CRIU could not save is refused before anything is touched
    criu       init has forked it; from its freezing the tree to `post-dump` nobody of the tree can do anything
    still      at `post-dump`: all of the tree is in the spool, and criu waits for our answer; streams are at rest
    stays:     criu is answered "yes", the tree goes on, and the image is sent from the spool: COMMITTED, done
    leaves:    the image is sent while criu waits. COMMITTED: held; anything else: criu is answered "no"
    held:      home is told that the tree stands still until it says what becomes of it. END: `_end_here`;
               THAW, as no host could go on from the image: criu is answered "no". What fails here is this agent's
               end, and the tree's: it may be going on elsewhere

Why the tree of a job that leaves is stopped by init too, with SIGSTOP, while criu holds it anyway: a criu that is
killed lets the tree go on, and home may have committed the image by then: two of the job would run. So criu
is never answered after the commit but by home's word, and its socket stays open until the kernel has killed it with
all of the namespace: at either it would thaw the tree. And `JobTree.still` is held until nothing of the tree is left,
or the owner's guard could continue it in between.

What runs beside this thread: the job may end at any moment but while criu holds it, and its keeper then removes
criu's log under our hands, but not the image: that nobody but this process has. Its end is told by whoever hears init:
here nothing is said of it, and nothing that goes wrong here is the agent's end. Home may give the dump up (`give_up`),
at any moment but after the commit; then `put` and `get` of the channel raise. The owner may come back:
`freeze` waits for `still`.

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

from checkpoint.execute import criu, dump, in_place, page_scans, preflight, terminals, waits
from checkpoint.execute.chunker import ChunkerError
from checkpoint.execute.dump import DumpError
from checkpoint.execute.followed import Followed
from checkpoint.execute.spool import Spool
from checkpoint.wire.image_wire import ImageWireError
from checkpoint.wire.manifest import ManifestError
from remoteio.errors import RexecError
from remoteio.wire.link import LinkClosed
from shim.execute.agent import dump_preflight, fault_points, thread_scheduling
from shim.execute.agent.checkpoint_parts import CheckpointParts
from shim.execute.agent.criu_process import Place
from shim.execute.agent.diagnostics import aside, fail, where
from shim.execute.agent.image_channel import CutShort
from shim.execute.agent.job_tree import Gone
from shim.execute.agent.owner_guard import OwnerGuard
from shim.execute.init import messages
from shim.wire import job_messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

FREEZE_S = 30  # for criu to bring the tree to a stop


class _Left(dump.Left):
    """Home has the job go on elsewhere: it must not run here again."""


class _Cut(dump.Left):
    """The link is gone: nobody says any more what becomes of the tree."""


class _Returned(DumpError):
    """Home has the job go on here, though its image is committed."""


class Dumper:
    """Takes dumps, one after the other.

    Threads: `run` is one of its own, and does all of it; `ask`, `give_up`, `end` are called by the agent's main thread,
    `vacate` by the owner's guard, `end` by the one that hears init, `told` in a signal's handler.
    """

    def __init__(self, parts: CheckpointParts, guard: OwnerGuard) -> None:
        self._parts, self._guard = parts, guard
        self._asked: queue.SimpleQueue[tuple[int, bool] | None] = queue.SimpleQueue()
        self.serial = self.done = 0  # the highest that was asked for, and the last that is over
        self._given_up: dict[int, str] = {}
        self._leaves = False  # the dump that is under way is to leave
        self._step = ""  # of the dump that is under way
        self._words: queue.SimpleQueue[tuple[int, bool] | None] = queue.SimpleQueue()  # serial, and is it END
        self._found = dump_preflight.Found()
        self._followed = Followed()
        self._held: ExitStack | None = None  # what must stay open until the job has been ended here

    def ask(self, serial: int, leave: bool) -> None:
        """Have a dump taken, soon: the next after those asked for before."""
        self.serial = max(self.serial, serial)
        self._asked.put((serial, leave))

    def vacate(self, why: str) -> None:
        """Have the job leave, soon, because this host wants it to; unless it is leaving."""
        if not self._leaves:
            self._asked.put(self._leaving(why, self._guard.at_once))

    def told(self) -> None:
        """Have the job leave at once, as this process is told to end: who says so waits for no other host."""
        self._asked.put((0, True))

    def _leaving(self, why: str, at_once: bool) -> tuple[int, bool]:
        self.serial += 1
        self._parts.news(job_messages.LEAVING, why=why, serial=self.serial, at_once=at_once)
        return self.serial, True

    def give_up(self, serial: int, why: str) -> None:
        """Give up that dump, if it is not over: the store cannot keep it, or no host could go on from it."""
        self._given_up[serial] = why
        self._words.put((serial, False))
        if serial > self.done:
            self._parts.channel.cut()

    def leave(self, serial: int) -> None:
        """Have the job end here, as that dump is what goes on."""
        self._words.put((serial, True))

    def end(self) -> None:
        """Have `run` return as soon as it can: the job has ended."""
        self._asked.put(None)
        self._words.put(None)

    def run(self) -> None:
        """Take dumps until the job has ended. Raises LinkClosed."""
        while (asked := self._asked.get()) is not None:
            serial, leave = asked
            self._leaves = leave
            try:
                if not serial:
                    serial, leave = self._leaving("its agent is told to end there", True)
                self._dump(serial, leave)
                continue
            except LinkClosed:
                raise
            except Exception as e:  # the boundary: whatever ends the making of an image is no end of the job
                self._leaves = False
                why, returned = _sentence(e, self._step), isinstance(e, _Returned)
            if not self._parts.tree.has_ended():
                self._refused(serial, why, returned)
            self.done = serial

    def _refused(self, serial: int, why: str, returned: bool) -> None:
        self._parts.link.flush()  # what was sent of the image comes before
        self._parts.news(job_messages.REFUSED, serial=serial, why=why)
        try:
            self._guard.stays(again=not returned)
        except Gone:
            return  # it has ended meanwhile
        except RexecError as e:
            aside(str(e))  # it stands still until its host's owner is away

    # one dump

    def _dump(self, serial: int, leave: bool) -> None:
        """Take one dump. Returns when it is committed and the job stays; if it has left, this process has ended."""
        parts = self._parts
        parts.channel.begin(leave)
        parts.news(job_messages.DUMPING, serial=serial)
        self._at("preflight", "looking for what cannot be saved")
        parts.means.criu()
        self._found = dump_preflight.look(parts, leave)
        self._at("room", "making room for the image")
        place = Place(parts.sandbox, "%d-%d" % (parts.checkpoint.generation, serial))
        try:
            with parts.tree.to_save():
                try:
                    head = self._criu(place, serial, leave)
                except _Left:
                    self._end_here(serial)
                except _Cut:
                    fail(LinkClosed("the link is gone"))
            if leave:
                raise DumpError("the job could not leave")
            self._at("sending", "sending the image")
            head["criu"] = dump.times(place.work)
            self._followed.committed(place.spool, self._send(place.spool, serial, head, leaves=False))
            self.done = serial
            fault_points.reached("committed")
        finally:
            place.tidy()

    def _end_here(self, serial: int) -> NoReturn:
        """End the job here, and then this process: it has left."""
        try:
            fault_points.reached("committed")
            self._parts.tree.leave()
            fault_points.reached("left")
            self._parts.news(job_messages.MOVED, serial=serial)
            self._parts.leave()
        except Exception as e:  # it may be going on elsewhere: its keeper ends it with this process
            fail(e)

    def _hold(self, serial: int) -> NoReturn:
        """Keep the tree as it stands until home says what becomes of it. Raises _Left, _Returned, Gone."""
        try:
            fault_points.reached("held")
            self._parts.news(job_messages.HELD, serial=serial)
            while (word := self._words.get()) is not None and word[0] != serial:
                continue  # of a dump before
        except Exception as e:
            fail(e)
        if word is None:
            raise Gone("the job has ended")
        raise _Left if word[1] else _Returned(self._given_up[serial])

    def _at(self, point: str, doing: str) -> None:
        """Take note of which step of a dump comes next: what goes wrong in it is told with its name."""
        self._step = doing
        fault_points.reached(point)

    def _criu(self, place: Place, serial: int, leave: bool) -> dict[str, object]:
        """Run criu's dump; what only this side knows of the image. Raises _Left if the job is to end here."""
        parts, tree, streams = self._parts, self._parts.tree, self._parts.streams
        head: dict[str, object] = {}
        spool = place.spool
        ours = leave and not tree.frozen  # to stop; but as the image has it, it runs
        standing: list[in_place.Standing] = []

        @_or_cut
        def still(frozen_us: int) -> None:
            self._at("post-dump", "bringing the job's streams and files to rest")
            now = time.monotonic()
            head.update(self._head(leave, frozen_us))
            place.settle()
            try:
                changed = waits.anew(spool, tree.waits, now)
                standing.append(in_place.Standing(tree.root(), changed))
                terminals.by_their_names(spool, preflight.numbers(tree.root()), dump_preflight.terminal(parts))
            except criu.CriuError as e:
                raise DumpError("the checkpoint failed: %s" % e) from e
            if ours:
                tree.freeze()  # from now on it stands still whatever becomes of criu: what is committed, stays so
            _require_silence(sock)  # or what was counted is not what the image's tree had said
            size = spool.size() + self._followed.size()
            parts.news(job_messages.DUMPED, serial=serial, frozen_us=frozen_us, bytes=size)

        @_or_cut
        def send() -> None:
            self._at("sending", "sending the image")
            returned.callback(self._followed.committed, spool, self._send(spool, serial, head, leaves=True))
            self._hold(serial)

        def begin_calls() -> None:
            for threads in standing:
                threads.go_on()

        with ExitStack() as after:  # all of it is done, whatever goes wrong with some of it
            returned = after.enter_context(ExitStack())
            follows = self._followed.look(tree.root(), spool)
            sock, fds = place.start(parts.means.criu().bundle, tree)
            try:
                self._at("criu", "saving its processes")
                root = int(tree.ask(messages.DUMP, b"1" if follows else b"", fds=fds))
            except BaseException:
                sock.close()
                raise
            finally:
                for fd in fds:
                    os.close(fd)
            after.callback(begin_calls)  # criu has let go of the tree
            answers = page_scans.Answers(self._followed.left_out, self._followed.anonymous)
            after.callback(answers.end)
            after.callback(tree.await_criu, FREEZE_S)
            if ours:
                after.callback(tree.thaw)
            after.callback(sock.close)
            after.callback(streams.let_go)
            after.callback(streams.retype)  # it stays
            after.callback(parts.relay.criu, False)
            own = [] if streams.tty is None else [streams.tty]
            ttys = [criu.tty_key(*tty) for tty in own + self._found.controlling]
            request = criu.dump_request(
                root, unprivileged=parts.sandbox.plan.apart, leave_running=True, ttys=tuple(ttys), timeout=FREEZE_S,
                keep_tcp=self._found.keep_tcp,
            )  # fmt: skip
            head["root"] = root
            if follows:
                answers.begin(sock)
            tree.look()
            parts.relay.criu(True)
            try:
                dump.dump(sock, request, place.work, parts.log, still, send if leave else None)
            except dump.Left:
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
        if parts.relay.handles.locked:
            locks = {"handles": tree.open_files(), "numbers": preflight.numbers(parts.sandbox.pid)}
        return {
            "facts": parts.means.criu().facts.plain(),
            **streams, **self._found.told(),
            "frozen": tree.frozen, "stopped": tree.stood if tree.frozen else [],
            **locks,
            "threads": thread_scheduling.look(tree.root(), parts.cpus),
            "last_pid": preflight.highest(tree.root()), "frozen_us": frozen_us, "keep_tcp": self._found.keep_tcp,
        }  # fmt: skip

    def _send(self, spool: Spool, serial: int, head: dict[str, object], leaves: bool) -> dict[str, bytes]:
        """Send the image until the store has committed it; its tables of pages. Raises DumpError, Gone, LinkClosed."""
        channel = self._parts.channel
        try:
            known = self._followed.whole(spool, leaves)
            return dump.send(spool, _described(spool, head), channel.put, channel.get, known)
        except CutShort as e:
            if serial in self._given_up:
                raise DumpError(self._given_up[serial]) from e
            raise Gone("the job has ended") from e
        except (ChunkerError, ImageWireError, ManifestError, OSError) as e:
            self._followed.forget()
            raise DumpError("the image cannot be sent: %s" % e) from e


def _sentence(e: Exception, step: str) -> str:
    if isinstance(e, (DumpError, RexecError)):
        return str(e)
    what = str(e) if isinstance(e, OSError) else "%r, at %s" % (e, where(e))
    return "the checkpoint failed while %s: %s; the job goes on" % (step, what)


def _described(spool: Spool, head: dict[str, object]) -> bytes:
    """Return the head of the image in the spool, with what is known of that once it is whole. Raises DumpError."""
    return json.dumps({**head, "kinds": dump.kinds(spool)}).encode()


def _or_cut(call: Callable[..., None]) -> Callable[..., None]:
    """Make LinkClosed, which `call` raises in the middle of criu's conversation, _Cut: criu is not to be answered."""

    def called(*args: int) -> None:
        try:
            call(*args)
        except LinkClosed as e:
            raise _Cut from e

    return called


def _require_silence(sock: socket.socket) -> None:
    """Raise DumpError if criu has died: while it waits for our answer it says nothing, and the tree stands still."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if poll.poll(0):
        raise DumpError("criu was killed in the middle of the checkpoint")
