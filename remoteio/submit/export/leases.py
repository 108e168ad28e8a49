"""Submit side: what the job's host may answer from until somebody changes it, and the breaks that take it back.

Each directory and file of which something is leased is watched by inotify(7), as an inode: so a change is seen by
whatever name it is made. The kernel queues an event inside the system call that makes the change. `due` reads what is
queued, and the link calls it for each frame before that is sent: what the job could hear of a change comes behind the
break. A watch is set, and armed, before what is told is read; a change in between makes a break, which the stamps of
the host set against the reply, whichever of the two comes first (``execute.known``).

Only what inotify tells of is leased: filesystems of this machine's own kernel. Of what is mounted or unmounted
``mounted_over`` tells. Nothing tells of what changes through a mapping (mmap(2)) before the file is closed. A directory
or file that changes all the time, an overflow of the queue, or more watches than there may be:
the job asks, as it does of anything else.

Armed: who changes it causes a break. After that, until it is told again, the job knows nothing, and is told nothing.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from remoteio import inotify as ino
from remoteio.submit.export.filesystems import ChangedHere
from remoteio.submit.export.held_open import unwritten
from remoteio.submit.export.mounted_over import Mounts, Over
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.watches import ITSELF, NAMES, Watch
from remoteio.wire import frames
from remoteio.wire import leases as wire
from remoteio.wire.coherence import TTL
from remoteio.wire.link import Link, LinkClosed

MOST_WATCHES = 1 << 15  # of an inode of about 1 KiB each; an eighth of what the user may have, if that is less
_REST = 5.0  # seconds
_LEFT = 16  # inotify instances of this user's, of 128 as a rule, for other programs
_BREAKS = 0.05  # seconds between two breaks that go by themselves
_SELF = ino.IN_ATTRIB | ino.IN_MOVE_SELF | ino.IN_DELETE_SELF
_FILE = ino.IN_MODIFY | ino.IN_CLOSE_WRITE
_LEASABLE = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)  # the others change without an event: who holds a channel
_LACKS = (
    "the host asks for names and files again each second, as this user has hardly one %s left here to watch them with: "
    "see what uses them, or `sudo sysctl fs.inotify.max_user_%s`"
)
_WATCHES = "/proc/sys/fs/inotify/max_user_watches"


class Leases:
    """Watches what is leased, and tells what is leased no more. Leases nothing until `begin`.

    Threads: any. `lock` guards all; nothing is waited for under it. Under it `opened` is told whose file may be opened,
    and `touched` says which nodes others have changed by a name in a directory."""

    opened: Callable[[int, int], None] | None = None
    touched: Callable[[int, bytes, bool], list[int]] | None = None

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inotify: ino.Inotify | None = None
        self._mounts: Mounts | None = None
        self._nodes: OrderedDict[int, Watch] = OrderedDict()
        self.numbers: dict[int, Watch] = {}
        self._local = ChangedHere()
        self.resting: dict[int, float] = {}  # by node, until when; EVERYTHING: all was taken back
        self.most = MOST_WATCHES  # from which on the oldest is left
        self.news: list[bytes] = []
        self._over = threading.Event()
        self._may = threading.Event()
        self._lacks: Callable[[str], None] = lambda why: None

    def begin(self) -> bool:
        """Lease from now on: the link asks what is `due`. False: this user is to have no more inotify instances."""
        with self.lock:
            if self.inotify is not None or self._over.is_set():
                return not self._over.is_set()
            try:
                with open(_WATCHES, encoding="ascii") as file:
                    self.most = min(MOST_WATCHES, int(file.read()) // 8)
                watches = _instance()
            except OSError:
                self._lacks(_LACKS % ("inotify instance", "instances=1024"))
                return False
            self.inotify, self._mounts = watches, Mounts(watches.fileno())
            return True

    def start(self, link: Link, lacks: Callable[[str], None]) -> None:
        """Lease over that link, once the job `runs`: what is shown to criu alone, nobody else may be told of.

        `lacks` is told, in a sentence, what there is not enough of for that, and must not wait.
        """
        self._lacks = lacks
        link.go_ahead(self.due)
        threading.Thread(target=_serve, args=(self, link), name="leases", daemon=True).start()

    def runs(self) -> None:
        """Lease from TTL on, as what ends sooner asks nothing twice; or from when it is `wanted`."""
        self._may.set()

    def wanted(self) -> bool | None:
        """Lease from now on, if this job has leases. Whether it has; None: not yet."""
        return self.begin() if self._may.is_set() or self.inotify is not None else None

    def begun(self) -> bool:
        """Wait until it is time to `begin`, and do. False: nothing is leased."""
        self._may.wait()
        return not self._over.wait(TTL) and self.begin()

    def close(self, held: Callable[[int], None] = lambda fd: None) -> None:
        """Lease nothing any more. `held` may keep the descriptor open elsewhere: who closes it last waits 20 ms."""
        self._over.set()
        self._may.set()
        with self.lock:
            if self.inotify is not None and self._mounts is not None:
                held(self.inotify.fileno())
                self.inotify.close()
                self._mounts.close()
                self.inotify = None

    def wait(self, pause: float) -> bool:
        """Wait `pause` seconds, and then until something is due. False: it is over."""
        watches = self.inotify
        if watches is None:
            return False
        poll = select.poll()
        poll.register(watches.fileno(), select.POLLIN)
        while not self._over.wait(pause):
            if poll.poll(1000):
                with self.lock:
                    self.drain()
                    if self.news:
                        return True
        return False

    # before something is told

    def name(self, parent: Node, at: int, name: bytes, locked: bool = False) -> bool:
        """Arm a name in the directory `parent`, open as `at`, which is about to be looked up. False: do not lease.

        `locked`: a file in it may have been locked, as the job's kernel is given no time for what it is told.
        """
        local = (locked or not parent.shared) and self._is_local(parent, at)
        with self.lock:
            watch = self._directory(parent, at) if local else None
            if watch is not None:
                watch.arm(name)
            return watch is not None

    def listing(self, node: Node, fd: int) -> bool:
        """Arm all names in a directory, and itself, which is about to be read. False: do not lease them."""
        local = not node.shared and self._is_local(node, fd)
        with self.lock:
            watch = self._directory(node, fd) if local else None
            if watch is not None:
                watch.all_broken, watch.itself_broken, watch.broken = False, False, None
            return watch is not None

    def attributes(self, node: Node, at: int, name: bytes = b"") -> int:
        """Arm the attributes of `node`, which has that name in the directory open as `at`, or is open as that.

        1: they were armed already, and what was read before holds; 0: it is to be read again; -1: do not lease them.
        """
        local = self._is_local(node, -1 if name else at)
        with self.lock:
            if self.inotify is None or node.kind not in _LEASABLE or _guarded(node):
                return -1
            watch = self._nodes.get(node.id)
            if watch is None:
                if not local:
                    return -1
                mask = _SELF | (NAMES if node.kind == stat.S_IFDIR else _FILE)
                watch = self._add(node, b"/proc/self/fd/%d/%s" % (at, name) if name else b"/proc/self/fd/%d" % at, mask)
                if watch is None:
                    return -1
            if not watch.all_broken and not watch.itself_broken:
                return 1
            watch.arm(ITSELF)
            return 0

    def watches(self, node: Node, fd: int) -> bool:
        """Arm a file that is open as `fd`, and is about to be read ahead. False: what is read may change unseen."""
        return self._is_local(node, fd) and self.attributes(node, fd) >= 0

    def making(self, parent: Node, name: bytes, fails: bool = False, event: int = ino.IN_CREATE) -> None:
        """Break nothing for that alone that the name is made, or removed, now: the host has told of it, or is told of
        it with the reply. `fails`: it was not."""
        with self.lock:
            if (watch := self._nodes.get(parent.id)) is not None and watch.does(event, name, fails):
                self._break(watch, name)

    def known(self, node: Node) -> bool:
        """Arm the attributes of `node`, which are about to be read, if it is watched. False: do not lease them."""
        with self.lock:
            watch = self._nodes.get(node.id)
            if watch is None or _guarded(node):
                return False
            watch.arm(ITSELF)
            return True

    def _is_local(self, node: Node, fd: int) -> bool:
        """Does inotify see all changes there? Not under the lock: it may wait for ever."""
        return self.inotify is not None and self._local.sees(node.dev, fd)

    # the watches; all under the lock

    def _directory(self, node: Node, at: int) -> Watch | None:
        if self.inotify is None or node.rights.closed:
            return None
        return self._nodes.get(node.id) or self._add(node, b"/proc/self/fd/%d" % at, _SELF | NAMES)

    def _add(self, node: Node, path: bytes, mask: int) -> Watch | None:
        watches = self.inotify
        if watches is None or self.resting.get(node.id, 0.0) > time.monotonic():
            return None
        follow = 0 if path.rpartition(b"/")[0] == b"/proc/self/fd" else ino.IN_DONT_FOLLOW
        try:
            number = watches.add(path, mask | follow | ino.IN_MASK_ADD)
        except OSError as e:  # it may not be read, or there are no more: it is asked for, as others are
            if e.errno == errno.ENOSPC:
                self._lacks(_LACKS % ("inotify watch", "watches=524288"))
                self._lacks = lambda why: None
            return None
        same = self.numbers.get(number)
        if same is not None:  # of a node that the job's kernel has forgotten, or of a name that was replaced just now
            self._break(same)
            self._nodes.pop(same.nodeid, None)
        watch = self.numbers[number] = self._nodes[node.id] = Watch(node, number)
        if len(self._nodes) > self.most:
            self._leave(next(iter(self._nodes.values())))
        return watch

    def _leave(self, watch: Watch) -> None:
        self._break_all() if watch.beside else self._break(watch)
        del self._nodes[watch.nodeid]
        del self.numbers[watch.number]
        if self.inotify is not None:
            self.inotify.remove(watch.number)

    def _break(self, watch: Watch, name: bytes = b"") -> None:
        if watch.all_broken:
            return
        if not name or watch.hides:
            watch.all_broken = True
            self.news.append(wire.pack_break(watch.nodeid, b""))
        elif watch.loses(name):
            self.news.append(wire.pack_break(watch.nodeid, name))

    # what is due

    def _break_all(self) -> None:
        self.resting[wire.EVERYTHING] = float("inf")
        for watch in self._nodes.values():
            watch.all_broken = True
        self.news.append(wire.pack_break(wire.EVERYTHING, b""))

    def due(self) -> bytes:
        """Return the frame that takes back what others have changed by now; nothing if there is none."""
        with self.lock:
            self.drain()
            if not self.news:
                return b""
            news, self.news = b"".join(self.news), []
        return frames.frame(frames.BREAK, news)

    def drain(self) -> None:
        """Take note of what has happened. Under the lock."""
        watches, mounts = self.inotify, self._mounts
        ready = mounts.poll.poll(0) if watches is not None and mounts is not None else ()
        for fd, _ in ready:
            if mounts is not None and fd == mounts.fd:
                self._local.clear()
                _mounted(self, self._nodes, mounts.over())
        while ready and watches is not None and (events := watches.read()):
            for number, mask, name in events:
                self._happened(number, mask, os.fsencode(name))

    def _happened(self, number: int, mask: int, name: bytes) -> None:
        if self.opened is not None and not name and mask & (ino.IN_OPEN | ino.IN_IGNORED | ino.IN_Q_OVERFLOW):
            self.opened(number, mask)
        if mask & ino.IN_Q_OVERFLOW:
            self._break_all()
            return
        watch = self.numbers.get(number)
        if watch is not None and watch.beside and self.touched and name:
            others = self.touched(watch.nodeid, name, bool(mask & NAMES))
            self.news += [wire.pack_break(node, b"") for node in others]
        if watch is None or mask & ino.IN_OPEN or (name and not mask & NAMES) or watch.saw(mask, name):
            return  # left meanwhile; of what is in a directory, and has a watch of its own; or known to the host
        self._break_all() if watch.beside and mask & ino.IN_IGNORED else self._break(watch, name)
        if mask & ino.IN_IGNORED:
            self._nodes.pop(watch.nodeid, None)
            del self.numbers[number]
            return
        if watch.is_busy(now := time.monotonic()):
            self._leave(watch)
            self.resting = {node: until for node, until in self.resting.items() if until > now}
            self.resting[watch.nodeid] = now + _REST


def _mounted(leases: Leases, nodes: dict[int, Watch], over: Over | None) -> None:
    """Take back the names over which something was mounted, or unmounted; None: these may be any. Under the lock."""
    if over is None:
        leases._break_all()
        return
    for watch in list(nodes.values()):
        for *key, name in over:
            if watch.key == tuple(key):
                leases._break_all() if watch.beside else leases._break(watch, name)


def _serve(leases: Leases, link: Link) -> None:
    """Send what is due, where nothing else is sent."""
    if not leases.begun():
        return
    try:
        while leases.wait(_BREAKS):
            link.send(frames.BREAK)  # behind what is due
    except LinkClosed:
        return  # whoever receives says so


def _instance() -> ino.Inotify:
    """Make one, if as many as others may need are left then: criu refuses without. Raises OSError."""
    made: list[ino.Inotify] = []
    try:
        for _ in range(1 + _LEFT):
            made.append(ino.Inotify())
        return made.pop()
    finally:
        for each in made:
            each.close()


def _guarded(node: Node) -> bool:
    """Is it in a directory in which a file was locked? Then nothing is to be told ahead of the question."""
    return node.parent is not None and node.parent.shared


def leasable(leases: Leases, fd: int, st: os.stat_result) -> bool:
    """Say whether the contents of a file may be leased that is open as `fd`, and whose attributes are armed: not if
    somebody has it open for writing, who may have it mapped, which makes no event."""
    return leases.inotify is not None and unwritten(fd, st)


def gone(leases: Leases, node: Node) -> None:
    """Leave a directory that the job has removed: nothing of it is told any more, and so nothing is taken back."""
    with leases.lock:
        watch = leases._nodes.get(node.id)
        if watch is not None and not watch.beside:
            watch.all_broken = True
            leases._leave(watch)


def changing(leases: Leases, node: Node) -> None:
    """Break nothing for that alone that the job changes a file now: its host has known no more of it since it asked for
    that, and a break would come behind what the job reads back."""
    watch = leases._nodes.get(node.id)
    if watch is None or watch.all_broken or watch.beside or node.kind != stat.S_IFREG:
        return
    with leases.lock:
        leases.drain()  # what others have done by now
        watch.all_broken = True
