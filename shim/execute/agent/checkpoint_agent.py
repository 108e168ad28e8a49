"""The agent of a job that can be checkpointed. Shipped; imported only for such a job.

Beside what every agent does it takes orders (shim/wire/job_messages.py), one after the other in a thread of its own,
and watches for the machine's owner. dumping.py has the dump, restoring.py the restore, owner_guard.py
the owner.
"""

from __future__ import annotations

import os
import queue
import select
import struct
import threading

from checkpoint.execute import find_criu
from checkpoint.wire import compat, criu_bundle
from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed, credit
from shim.execute.agent.counted_streams import CountedSink, CountedSource
from shim.execute.agent.dumping import Dumper
from shim.execute.agent.job_tree import Gone, Means, Mobile
from shim.execute.agent.owner_guard import OwnerGuard
from shim.execute.agent.restoring import Restorer
from shim.execute.init import messages, namespaces
from shim.execute.init.messages import Message
from shim.wire import job_messages, lease, terminal_state
from shim.wire.job_spec import CheckpointSpec, JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    Frames = list[tuple[int, "bytes | memoryview"]]


def cache() -> str:
    """Where criu is kept on this host: beside the runtime (shim/execute/stage.py)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~") + "/.cache"
    return base + "/rexec/criu"


def provide(link: Link, spec: JobSpec, checkpoint: CheckpointSpec, early: Frames) -> tuple[Means | str, Frames]:
    """What a dump needs of this host, a criu that works asked of the submit side if need be, or why it cannot be had;
    and the frames that came meanwhile. Raises LinkClosed."""
    left = list(early)
    try:
        found, why = _find(link, checkpoint, bool(os.geteuid() or spec.uid), left)
        if found is not None:
            return Means(found.bundle, compat.host_facts(found.version, namespaces.login_ids())), left
    except LinkClosed:
        raise
    except Exception as e:  # whatever it was: there is a job to run all the same
        why = str(e) if isinstance(e, (criu_bundle.BundleError, RexecError)) else "%s: %s" % (type(e).__name__, e)
    host = os.uname().nodename
    return f"{host} cannot checkpoint a job: {why}; `rexec doctor --fix` obtains a criu that can be sent", left


def _find(link: Link, checkpoint: CheckpointSpec, apart: bool, left: Frames) -> tuple[find_criu.FoundCriu | None, str]:
    def pulse() -> None:
        link.send(frames.PING)

    found, why = find_criu.find(cache(), checkpoint.criu, apart, pulse)
    if found is None and checkpoint.criu and not criu_bundle.present(cache(), checkpoint.criu):
        link.send(frames.NEWS, job_messages.news(job_messages.CRIU, need=checkpoint.criu))
        archive = _archive(link, left)
        if not archive:
            return None, why  # it cannot be sent
        criu_bundle.unpack(archive, checkpoint.criu, cache())
        found, why = find_criu.brought(cache(), checkpoint.criu, apart, pulse)
    return found, why


def _archive(link: Link, left: Frames) -> bytes:
    """The bundle that is being sent; other frames are put aside in `left`."""
    poll = select.poll()
    poll.register(link.read_fd, select.POLLIN)
    archive = bytearray()
    while True:
        while not poll.poll(int(lease.PULSE * 1000)):
            link.send(frames.PING)
        for kind, payload in link.receive():
            if kind != frames.BUNDLE:
                left.append((kind, payload))
            elif payload:
                archive += payload
            else:
                return bytes(archive)


class CheckpointAgent(Mobile):
    """One job on this host that may leave it, or has come from another."""

    def __init__(self, link: Link, spec: JobSpec, checkpoint: CheckpointSpec, means: Means | str) -> None:
        """`means`: as `provide` has it. Raises RexecError."""
        super().__init__(link, spec, checkpoint, means, os.path.join(cache(), "criu-failed.log"))
        self._size = b""
        self.departure = Dumper(self)
        self.arrival = Restorer(self) if self.manifest is not None else None
        self.watcher: OwnerGuard | None = None
        self._threads = [
            threading.Thread(target=self._guard, args=(work.run,), name=name, daemon=True)
            for name, work in (("departure", self.departure), ("arrival", self.arrival))
            if work is not None
        ]

    # what the base calls

    def _input(self, fd: int) -> None:
        feed = CountedSink(self.link, frames.STDIN, fd, terminal=fd != self.sandbox.stdio.get(0))
        if self.manifest is not None and fd == self.sandbox.stdio.get(0):
            feed.prime(self.manifest.streams.stdin_unread, self.manifest.streams.stdin)
            if self.manifest.stats.get("stdin_ended"):
                feed.put(b"")
        elif self.manifest is not None:
            feed.written = self.manifest.streams.stdin + len(self.manifest.streams.stdin_unread)
            feed.hold(True)  # until criu has made the terminal's settings those of the old one
        self.feed = feed
        feed.suspend = self._suspend
        feed.start(self._end)

    def _output(self, kind: int, fd: int) -> None:
        sent = 0
        if self.manifest is not None:
            sent = self.manifest.streams.stdout if kind == frames.STDOUT else self.manifest.streams.stderr
        self.taps[kind] = self._sources[kind] = CountedSource(self.link, kind, fd, sent, self._lives)
        self.taps[kind].start(self._end)

    def _suspend(self) -> None:
        """^Z was typed. Where the job's own group has the terminal it stops nobody; all others the kernel stops."""
        try:
            if os.tcgetpgrp(self._master) == os.getpgid(self.departure.root()):
                self._tell_init(messages.SUSPEND)
        except (OSError, Gone):
            return  # the job has just ended

    def _take(self, kind: int, payload: bytes | memoryview) -> None:
        if kind == frames.IMAGE:
            if self.arrival is not None and not self.arrival.whole:
                self.arrival.receive(payload)
            else:
                self.images.put(bytes(payload))
                self.link.send(*credit(frames.IMAGE, len(payload)))
        elif kind == frames.CREDIT and payload[0] == frames.IMAGE:
            self.window.give(int.from_bytes(payload[1:5], "little"))
        elif kind == frames.ORDER:
            self._order(job_messages.parse(payload))
        elif kind == frames.STDIN:
            if self.feed is not None:
                self.feed.put(payload)
        elif kind == frames.WINSIZE:
            self._size = bytes(payload)
            super()._take(kind, payload)
        else:
            super()._take(kind, payload)

    def _order(self, order: dict[str, object]) -> None:
        what, serial = order["order"], int(str(order["serial"]))
        if what in (job_messages.CHECKPOINT, job_messages.VACATE):
            self.serial = max(self.serial, serial)
            self.departure.ask(serial, what == job_messages.VACATE)
        elif what == job_messages.THAW:
            self.departure.give_up(serial, str(order.get("why", "the image could not be kept")))
        elif what == job_messages.GO:
            self.gate.put(serial == self.checkpoint.generation)
        elif what == job_messages.KILL:
            self.gate.put(False)
            self._tell_init(messages.SIGNAL, b"9")

    def _told(self, what: Message | None, rest: bytes, fds: list[int]) -> bool:
        if what in messages.ANSWERS:
            if what in (messages.DUMPING, messages.RESTORING):
                self.criu_ended = queue.SimpleQueue()  # that of the one before may have come too late
            self.replies.put((what, rest))
            return False
        if what is messages.CRIU_ENDED:
            self.criu_ended.put(rest.decode("utf-8", "replace"))
            return False
        if what is messages.TERMINAL:
            rdev, dev = rest.split()
            self.tty, self.slave = (int(rdev), int(dev)), fds[1]
        if what is messages.STARTED:
            self._begin()
        if what is None and self.moved:
            threading.Event().wait()  # whoever moved it ends this process
        if what in (messages.ENDED, messages.FAILED, None):
            if self.slave >= 0:
                os.close(self.slave)  # the last one: now its master comes to its end
                self.slave = -1
            self._stop()
        return super()._told(what, rest, fds)

    def _stop(self) -> None:
        """The job has ended: whoever dumps or restores it lets go, before its spool is removed under their hands."""
        self.over.set()
        self.replies.put((None, b""))
        self.images.put(None)
        self.window.close()
        self.criu_ended.put("")
        self.gate.put(False)
        self.departure.end()
        if self.arrival is not None:
            self.arrival.end()
        for thread in self._threads:
            thread.join()

    def _lives(self) -> bool:
        """Init closes its socket before the kernel kills all others of its pid namespace: pid_namespaces(7)."""
        poll = select.poll()
        poll.register(self.sandbox.init, 0)
        return not poll.poll(0)

    def _died(self, why: bytes) -> tuple[int, bytes]:
        return frames.NEWS, job_messages.news(job_messages.DEAD, why=os.fsdecode(why))

    def run(self, frames_left: Frames) -> None:
        for thread in self._threads:
            thread.start()
        super().run(frames_left)

    def _begin(self) -> None:
        """The job runs here from now on."""
        if self.unable:
            self.news(job_messages.UNABLE, why=self.unable)
        if self._master >= 0 and self.manifest is not None:
            # criu has set the size that the terminal had where the job came from
            terminal_state.resize(self._master, self._size or struct.pack("HHHH", *self.spec.tty[:4]))
        if self.feed is not None:
            self.feed.hold(False)
        self.watcher = OwnerGuard(self, self.departure)
        threading.Thread(target=self._guard, args=(self.watcher.run,), name="owner", daemon=True).start()

    def stays(self) -> None:
        if self.watcher is not None:
            self.watcher.stays()
