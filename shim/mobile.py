"""The agent of a job that can be checkpointed. Shipped; imported only for such a job.

Beside what every agent does it takes orders (shim/orders.py), one after the other in a thread of its own, and watches
for the machine's owner. departure.py has the dump, arrival.py the restore, watch_owner.py the owner.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import struct
import threading

from checkpoint import compat, unbundle
from checkpoint import provide as provider
from checkpoint.manifest import Manifest
from remoteio import frames
from remoteio.errors import RexecError
from remoteio.link import Link, Window, credit
from shim import orders, terminal_state
from shim.agent import PULSE, Agent
from shim.arrival import Arrival
from shim.departure import Departure, Gone
from shim.spec import JobSpec, Moving
from shim.taps import Feed, Tap
from shim.watch_owner import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    Frames = list[tuple[int, "bytes | memoryview"]]

ASK_S = 60.0  # for an answer of init, which waits for nothing but the job's files


def cache() -> str:
    """Where criu is kept on this host: beside the runtime (shim/stage.py)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~") + "/.cache"
    return base + "/rexec/criu"


def provide(link: Link, moving: Moving, early: Frames) -> tuple[provider.Provided, Frames]:
    """A criu that works here, asked of the submit side if need be; and the frames that came meanwhile.

    Raises RexecError: this host cannot dump at all.
    """
    found, why = provider.find(cache(), moving.criu)
    left = list(early)
    if found is None and moving.criu and not unbundle.present(cache(), moving.criu):
        link.send(frames.NEWS, orders.news(orders.CRIU, need=moving.criu))
        try:
            unbundle.unpack(_archive(link, left), moving.criu, cache())
        except (unbundle.BundleError, OSError) as e:
            raise RexecError(str(e)) from e
        found, why = provider.brought(cache(), moving.criu)
    if found is None:
        host = os.uname().nodename
        raise RexecError(f"{host} cannot checkpoint a job: {why}; `rexec doctor --fix` obtains a criu that can be sent")
    return found, left


def _archive(link: Link, left: Frames) -> bytes:
    """The bundle that is being sent; other frames are put aside in `left`."""
    poll = select.poll()
    poll.register(link.read_fd, select.POLLIN)
    archive = bytearray()
    while True:
        while not poll.poll(int(PULSE * 1000)):
            link.send(frames.PING)
        for kind, payload in link.receive():
            if kind != frames.BUNDLE:
                left.append((kind, payload))
            elif payload:
                archive += payload
            else:
                return bytes(archive)


class MobileAgent(Agent):
    """One job on this host that may leave it, or has come from another."""

    def __init__(self, link: Link, spec: JobSpec, moving: Moving, provided: provider.Provided) -> None:
        super().__init__(link, spec)
        self.link, self.spec, self.moving, self.kept = link, spec, moving, self._kept
        self.bundle = provided.bundle
        self.log = os.path.join(cache(), "criu-failed.log")
        self.manifest = Manifest.from_bytes(moving.restore) if moving.restore else None
        self.facts = compat.host_facts(provided.version, "zero" if self.kept.plan.user else "root")
        self.replies: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
        self.criu_ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.images: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # the store's payloads; None: given up
        self.window = Window(Window.IMAGE)
        self.gate: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.still = threading.RLock()  # who stops or continues the tree, or has criu at it, holds it
        self.moved = False
        self.taps: dict[int, Tap] = {}
        self.feed: Feed | None = None
        self.pipes = {k: os.fstat(fd).st_ino for k, fd in self.kept.stdio.items()}
        self.tty: tuple[int, int] | None = None
        self.slave = -1
        self.serial = 0
        self._size = b""
        self._asking = threading.Lock()
        self.departure = Departure(self)
        self.arrival = Arrival(self) if self.manifest is not None else None
        self.watcher: Watcher | None = None

    # what the base calls

    def _input(self, fd: int) -> None:
        feed = Feed(self.link, frames.STDIN, fd, terminal=fd != self.kept.stdio.get(0))
        if self.manifest is not None and fd == self.kept.stdio.get(0):
            feed.prime(self.manifest.streams.stdin_unread, self.manifest.streams.stdin)
            if self.manifest.stats.get("stdin_ended"):
                feed.put(b"")
        self.feed = feed
        feed.start(self._end)

    def _output(self, kind: int, fd: int) -> None:
        sent = 0
        if self.manifest is not None:
            sent = self.manifest.streams.stdout if kind == frames.STDOUT else self.manifest.streams.stderr
        self.taps[kind] = self._sources[kind] = Tap(self.link, kind, fd, sent)
        self.taps[kind].start(self._end)

    def _take(self, kind: int, payload: bytes | memoryview) -> None:
        if kind == frames.IMAGE:
            if self.arrival is not None and not self.arrival.whole:
                self.arrival.receive(bytes(payload))
                self.link.send(*credit(frames.IMAGE, len(payload)))
            else:
                self.images.put(bytes(payload))
                self.link.send(*credit(frames.IMAGE, len(payload)))
        elif kind == frames.CREDIT and payload[0] == frames.IMAGE:
            self.window.give(int.from_bytes(payload[1:5], "little"))
        elif kind == frames.ORDER:
            self._order(orders.parse(payload))
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
        if what in (orders.CHECKPOINT, orders.VACATE):
            self.serial = max(self.serial, serial)
            self.departure.ask(serial, what == orders.VACATE)
        elif what == orders.THAW:
            self.departure.give_up(serial, str(order.get("why", "the image could not be kept")))
        elif what == orders.GO:
            self.gate.put(serial == self.moving.generation)
        elif what == orders.KILL:
            self.gate.put(False)
            self._tell_init(b"K9")

    def _told(self, what: bytes, rest: bytes, fds: list[int]) -> bool:
        if what and what in b"zwydr":
            self.replies.put((what, rest))
            return False
        if what == b"c":
            self.criu_ended.put(int(rest))
            return False
        if what == b"P":
            rdev, dev = rest.split()
            self.tty, self.slave = (int(rdev), int(dev)), fds[1]
        if what == b"S":
            self._begin()
        if not what and self.moved:
            threading.Event().wait()  # whoever moved it ends this process
        if what in (b"E", b""):
            if self.slave >= 0:
                os.close(self.slave)  # the last one: now its master comes to its end
                self.slave = -1
            self.replies.put((b"", b""))
            self.images.put(None)
            self.window.close()
        return super()._told(what, rest, fds)

    def run(self, frames_left: Frames) -> None:
        threading.Thread(target=self._guard, args=(self.departure.run,), name="departure", daemon=True).start()
        if self.arrival is not None:
            threading.Thread(target=self._guard, args=(self.arrival.run,), name="arrival", daemon=True).start()
        super().run(frames_left)

    def _begin(self) -> None:
        """The job runs here from now on."""
        if self._master >= 0 and self.manifest is not None:
            # criu has set the size that the terminal had where the job came from
            terminal_state.resize(self._master, self._size or struct.pack("HHHH", *self.spec.tty[:4]))
        self.watcher = Watcher(self)
        threading.Thread(target=self._guard, args=(self.watcher.run,), name="owner", daemon=True).start()

    # for departure, arrival and watcher

    def news(self, what: str, **more: object) -> None:
        self.link.send(frames.NEWS, orders.news(what, **more))

    def tell(self, message: bytes) -> None:
        """Tell init, which does not answer that."""
        self._tell_init(message)

    def ask(self, message: bytes, answer: bytes, fds: tuple[int, ...] = ()) -> bytes:
        """Tell init, and wait for its answer of that letter. Raises RexecError if it has ended."""
        with self._asking:
            try:
                socket.send_fds(self.kept.init, [message], list(fds))
            except (BrokenPipeError, ConnectionError) as e:
                raise Gone("the job has ended") from e
            try:
                what, rest = self.replies.get(timeout=ASK_S)
            except queue.Empty as e:
                raise RexecError("the job's first process does not answer; its memory may have run out") from e
            if not what:
                self.replies.put((what, rest))
                raise Gone("the job has ended")
            if what != answer:
                raise RexecError("the job's first process answered %r to %r" % (what, message[:1]))
            return rest

    def spool(self, name: str) -> str:
        """A new empty directory on this host for an image."""
        path = os.path.join(self.kept.images, name)
        os.mkdir(path, 0o700)
        return path

    def leave(self) -> None:
        """The image is committed: nothing of the job is left here when this returns."""
        self.moved = True
        self.kept.end()
