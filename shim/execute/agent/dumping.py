"""Saving the job, and leaving: the transaction around criu's dump, on the execute host. Shipped.

Whatever fails before the commit leaves the job running here, and the image before this one the latest. After the
commit the job's namespaces are killed here, never left to criu: it thaws the tree where it is killed itself.

The job may end at any moment but while criu holds it, and its keeper then removes the spool under our hands. Its end is
told by whoever hears init: here nothing is said of it, and nothing that goes wrong here is the agent's end.
"""

from __future__ import annotations

import json
import os
import queue
import select
import socket
from contextlib import ExitStack

from checkpoint.execute import criu, dump, preflight
from checkpoint.execute.chunker import ChunkerError
from checkpoint.execute.dump import DumpError
from checkpoint.wire.image_wire import ImageWireError
from checkpoint.wire.manifest import ManifestError
from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.link import LinkClosed, Window
from shim.execute.agent import counted_streams, typeahead
from shim.execute.agent.agent import aside, where
from shim.execute.agent.job_tree import ASK_S, Gone, Mobile
from shim.execute.init import messages
from shim.wire import job_messages

FREEZE_S = 30  # for criu to bring the tree to a stop
STORE_S = 600.0  # without a word of the store
NAMED = 5  # of what stands in the way of a dump


def reached(point: str) -> None:
    """Tests put something else in its place, to kill a process at just that point."""


class Dumper:
    """Takes dumps, one after the other."""

    def __init__(self, agent: Mobile) -> None:
        self._agent = agent
        self._asked: queue.SimpleQueue[tuple[int, bool] | None] = queue.SimpleQueue()
        self._current = 0
        self._given_up: dict[int, str] = {}
        self.frozen = False  # by the owner's return
        self._typed = b""  # what lay unread at the terminal
        self._before: list[int] = []  # pids that stood still before that
        self._keep_tcp = False  # both ends of each of its connections are in the tree

    def ask(self, serial: int, leave: bool) -> None:
        """Have a dump taken, soon."""
        self._asked.put((serial, leave))

    def give_up(self, serial: int, why: str) -> None:
        """The store cannot keep that dump."""
        self._given_up[serial] = why
        if serial == self._current:
            self._agent.images.put(None)
            self._agent.window.close()

    def end(self) -> None:
        """The job has ended: `run` returns as soon as it can."""
        self._asked.put(None)

    def run(self) -> None:
        """Until the job has ended. Raises LinkClosed."""
        while (asked := self._asked.get()) is not None:
            serial, leave = asked
            try:
                self._dump(serial, leave)
            except LinkClosed:
                raise
            except Exception as e:  # whatever ends the making of an image is no end of the job
                if not self._over():
                    self._refused(serial, _sentence(e))

    def _over(self) -> bool:
        """Has the job ended? Then that is what the submit side is to hear, and it does."""
        try:
            self.root()
        except Gone:
            return self._agent.over.wait(ASK_S)
        return self._agent.over.is_set()

    def _refused(self, serial: int, why: str) -> None:
        self._agent.link.flush()  # what was sent of the image comes before
        self._agent.news(job_messages.REFUSED, serial=serial, why=why)
        try:
            self._agent.stays()
        except Gone:
            return  # it has ended meanwhile

    # the owner is back

    def freeze(self) -> None:
        """Stop the whole tree, at once unless criu holds it anyway."""
        with self._agent.still:
            if not self.frozen:
                reached("freeze")
                self._before = [int(pid) for pid in self._agent.ask(messages.STOP_TREE, limit=None).split()]
                self.frozen = True

    def thaw(self) -> None:
        """Continue what freeze stopped."""
        with self._agent.still:
            if self.frozen:
                self._agent.ask(messages.CONTINUE_TREE, b" ".join(b"%d" % pid for pid in self._before), limit=None)
                self.frozen = False

    # one dump

    def _dump(self, serial: int, leave: bool) -> None:
        agent = self._agent
        self._current = serial
        while not agent.images.empty():
            agent.images.get()  # of a dump that was given up
        agent.window = Window(Window.IMAGE)
        agent.news(job_messages.DUMPING, serial=serial)
        agent.able()
        reached("preflight")
        self._preflight(leave)
        spool = agent.spool("%d-%d" % (agent.checkpoint.generation, serial))
        try:
            with agent.still:
                head = self._criu(spool, serial, leave)
            if not leave:
                reached("sending")
                head["criu"] = dump.times(spool)
                self._send(spool, serial, head)
                reached("committed")
        finally:
            tidy(spool)
        if leave:
            raise DumpError("the job could not leave")

    def _preflight(self, leave: bool) -> None:
        tasks = preflight.look(self.root())
        apart = self._agent.sandbox.plan.apart
        found = preflight.obstacles(tasks, apart)
        if self._agent.ask(messages.ASK_IPC) != b"0":
            found.append("the job has System V shared memory, semaphores or message queues, which are not saved")
        if found:
            more = "; and %d more" % (len(found) - NAMED) if found[NAMED:] else ""
            raise DumpError("; ".join(found[:NAMED]) + more)
        tcp = preflight.connections(tasks, preflight.tcp(self.root()))
        # All or none: criu cannot keep one connection and close another; and only root may take one apart (TCP_REPAIR).
        self._keep_tcp = bool(tcp) and not apart and not any(leads_out for _, leads_out in tcp)
        if leave and tcp and not self._keep_tcp:
            more = " and %d more" % (len(tcp) - 1) if tcp[1:] else ""
            self._agent.news(job_messages.CLOSES, why=tcp[0][0] + more)

    def root(self) -> int:
        """The pid here of the tree's root: keeper, init, root. Raises Gone."""
        pid = self._agent.sandbox.pid
        try:
            for _ in range(2):
                with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
                    pid = int(f.read().split()[0])
        except (FileNotFoundError, ProcessLookupError, IndexError) as e:
            raise Gone("the job has ended") from e
        return pid

    def _criu(self, spool: str, serial: int, leave: bool) -> dict[str, object]:
        agent = self._agent
        head: dict[str, object] = {}
        ours = leave and not self.frozen  # to stop; but as the image has it, it runs

        def still(frozen_us: int) -> None:
            reached("post-dump")
            head.update(self._head(leave, frozen_us))
            if ours:
                self.freeze()  # from now on it stands still whatever becomes of criu: what is committed, stays so
            held()  # or what was counted is not what the image's tree had said
            agent.news(job_messages.DUMPED, serial=serial, frozen_us=frozen_us, bytes=dump.spool_size(spool))

        def go() -> None:
            reached("sending")
            self._send(spool, serial, head)
            reached("committed")
            agent.leave()
            reached("left")
            agent.news(job_messages.MOVED, serial=serial)
            agent.link.flush()
            os._exit(0)

        def held() -> None:
            """While criu waits for our answer it says nothing: an event is its end, and the tree goes on."""
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            if poll.poll(0):
                raise DumpError("criu was killed in the middle of the checkpoint")

        with ExitStack() as after:  # all of it is done, whatever goes wrong with some of it
            sock, fds = start(agent.able().bundle, spool)
            reached("criu")
            try:
                root = int(agent.ask(messages.DUMP, fds=fds))
            except BaseException:
                sock.close()
                raise
            finally:
                for fd in fds:
                    os.close(fd)
            after.callback(agent.await_criu, FREEZE_S)
            if ours:
                after.callback(self.thaw)
            after.callback(sock.close)
            if agent.feed is not None:
                after.callback(agent.feed.hold, False)
            after.callback(self._retype)  # it stays
            after.callback(agent.criu, False)
            ttys = (criu.tty_key(*agent.tty),) if agent.tty is not None else ()
            request = criu.dump_request(
                root, unprivileged=agent.sandbox.plan.apart, leave_running=True, ttys=ttys, timeout=FREEZE_S,
                keep_tcp=self._keep_tcp,
            )  # fmt: skip
            head["root"] = root
            agent.criu(True)
            dump.dump(sock, request, spool, agent.log, still, go if leave else None)
        return head

    def _head(self, leave: bool, frozen_us: int) -> dict[str, object]:
        """The tree stands still: bring the streams to rest; what only this side knows of the image."""
        agent = self._agent
        agent.ask(messages.WRITE_BACK)
        if agent.feed is not None:
            agent.feed.hold(True)
        sent = {kind: tap.drain(counted_streams.QUIET if agent.tty else 0) for kind, tap in agent.taps.items()}
        unread, read = b"", 0
        feed = agent.feed
        if feed is not None:
            try:
                unread = feed.unread() if not feed.terminal else typeahead.take(agent.slave)
            except ValueError as e:
                raise DumpError(str(e)) from e
            read = feed.written - len(unread)
            if feed.terminal:
                self._typed = unread
                if not leave:
                    self._retype()
            feed.hold(leave and feed.terminal)  # what is typed now comes after what is put back
        return {
            "facts": agent.able().facts.plain(),
            "streams": {
                "stdout": sent.get(frames.STDOUT, 0), "stderr": sent.get(frames.STDERR, 0),
                "stdin": read, "stdin_unread": unread.hex(),
            },
            "stdin_ended": feed is not None and feed.ended,
            "pipes": {str(k): inode for k, inode in agent.pipes.items()},
            "terminal": list(agent.tty) if agent.tty is not None else None,
            "frozen": self.frozen, "stopped": self._before if self.frozen else [],
            **agent.open_files(),
            "last_pid": preflight.highest(self.root()), "frozen_us": frozen_us, "keep_tcp": self._keep_tcp,
        }  # fmt: skip

    def _retype(self) -> None:
        """Put back what was taken out of the terminal to be saved."""
        unread, self._typed = self._typed, b""
        typeahead.put(self._agent.master, self._agent.slave, unread)

    def _send(self, spool: str, serial: int, head: dict[str, object]) -> None:
        """Until the store has committed it."""
        agent = self._agent
        files = spool + "/image"

        def put(payload: list[bytes | memoryview]) -> None:
            if not agent.window.take_all(sum(map(len, payload))):
                raise self._cut_short(serial)
            agent.link.send(frames.IMAGE, *payload)

        def get(wait: bool) -> bytes | None:
            try:
                payload = agent.images.get(wait, STORE_S)
            except queue.Empty as e:
                if not wait:
                    return None
                raise DumpError("nothing was heard of the store for %.0f s" % STORE_S) from e
            if payload is None:
                raise self._cut_short(serial)
            return payload

        try:
            dump.select(spool, files)
            dump.send(files, json.dumps(head).encode(), put, get)
        except (ChunkerError, ImageWireError, ManifestError, OSError) as e:
            raise DumpError("the image cannot be sent: %s" % e) from e

    def _cut_short(self, serial: int) -> Exception:
        return DumpError(self._given_up[serial]) if serial in self._given_up else Gone("the job has ended")


def _sentence(e: Exception) -> str:
    if isinstance(e, (DumpError, RexecError)):
        return str(e)
    return "the checkpoint failed: %s" % (e if isinstance(e, OSError) else "%r, at %s" % (e, where(e)))


def tidy(spool: str) -> None:
    """Remove a spool. What cannot be removed goes when the job ends; that is told on standard error only."""
    try:
        dump.wipe(spool)
    except OSError as e:
        aside("the files of an image are left in %s: %s" % (spool, e))


def start(bundle: str, spool: str) -> tuple[socket.socket, tuple[int, ...]]:
    """What a criu needs from outside: our end of its socket, and its descriptors in tree_control.DESCRIPTORS' order."""
    criu.prepare(spool)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    said = os.open(os.path.join(spool, criu.STDERR_NAME), os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    directory = os.O_DIRECTORY | os.O_CLOEXEC
    return mine, (
        theirs.detach(),
        os.open(bundle, os.O_PATH | directory),
        os.open(spool, os.O_RDONLY | directory),
        said,
    )
