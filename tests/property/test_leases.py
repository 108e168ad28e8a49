"""Home and a host with leases between them, and messages under way both ways: real files, events and export, no mount.

What the job could have heard of by a line from home it never sees otherwise afterwards, be it what a file that is
opened on the host holds in the kernel's pages, or what is in a directory that is; and of each node that the job's
kernel may use home knows, and of no other. And so when home is killed, and another process takes the job up.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remoteio.execute.bare import Bare
from remoteio.execute.known_ahead import anew
from remoteio.execute.told import Told
from remoteio.submit.export import node_log
from remoteio.submit.export.changes import Changes
from remoteio.submit.export.confine import Confinement
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.first_names import Uses
from remoteio.submit.export.learned_walks import ATTRIBUTES, CONTENTS, use_of
from remoteio.submit.export.learned_walks import NAMES as NAMES_ALONE
from remoteio.submit.export.node_log import NodeLog
from remoteio.submit.export.once import Opened, Unfit
from remoteio.submit.export.pushing import Pushing
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.taken_up import take_up
from remoteio.submit.export.written_files import WrittenFiles
from remoteio.wire import fuse_abi as abi
from remoteio.wire.frames import BREAK, FUSE, KNOWN, LEASED, PUSHED, STDIN, FrameReader, frame
from remoteio.wire.link import Link
from remoteio.wire.listed import walk

NAMES = (b"a", b"b", b"d", b"d/a", b"d/b")
ABSENT: tuple[object, ...] = ()
OPS = abi.OPEN_IN.pack(os.O_RDONLY, 0)
BOOT = b"b" * 36
HELD = b"/"  # in place of the name of what stays open


def described(path: bytes) -> tuple[object, ...]:
    try:
        st_ = os.lstat(path)
    except OSError:
        return ABSENT
    return st_.st_mode, st_.st_nlink, st_.st_size, st_.st_mtime_ns, st_.st_ctime_ns


def told(attr: bytes) -> tuple[object, ...]:
    _, size, _, _, m, c, _, mn, cn, mode, links, *_ = abi.ATTR.unpack(attr)
    return mode, links, size, m * 10**9 + mn, c * 10**9 + cn


def inside(path: bytes) -> dict[bytes, tuple[object, ...]]:
    return {name: described(path + b"/" + name) for name in os.listdir(path)}


def below(top: bytes) -> list[bytes]:
    """All paths below `top`, from there: directories move, with what is in them."""
    found = [(os.path.relpath(at, top), names) for at, *both in os.walk(top) for names in both]
    return [os.path.normpath(os.path.join(at, name)) for at, names in found for name in names]


def holds(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


class ToHome:
    """Takes what the host sends: requests, which wait to be delivered."""

    def __init__(self) -> None:
        self.sent: deque[bytes] = deque()

    def send(self, kind: int, payload: bytes, later: bool = False) -> None:
        assert kind == FUSE
        self.sent.append(bytes(payload))


class Host(Told):
    """The relay without a kernel: `answered` are the replies that one would have got."""

    def __init__(self) -> None:
        self.up = ToHome()
        super().__init__(cast(Link, self.up))
        self.answered: dict[int, bytes] = {}
        self._unique = 0
        self._known.leases.heard = time.monotonic() + 3600

    def from_link(self, payload: bytes | memoryview) -> None:
        unique = abi.OUT_HEADER.unpack_from(payload)[2]
        if unique:
            op, nodeid, _, stamp, _, _ = self._asked.pop(unique)
            self._known.answered(op, nodeid, stamp)
            self.answered[unique] = bytes(payload)

    def ordered(self, payload: bytes | memoryview) -> None:
        while payload:
            size = abi.OUT_HEADER.unpack_from(payload)[0]
            self.from_link(payload[:size])
            payload = payload[size:]

    def ask(self, op: int, nodeid: int, args: bytes) -> tuple[int, bytes | None]:
        """The number of the request, and what is answered here: what came for a time has had it."""
        self._unique += 1
        raw = abi.request(op, nodeid, args, self._unique)
        answer = None
        if op in (abi.LOOKUP, abi.GETATTR, abi.OPEN, abi.OPENDIR, abi.READ):
            self._known.ahead.bare = Bare()
            answer = self._known.answer(op, self._unique, nodeid, memoryview(raw), time.monotonic() + 100)
        if answer is None:
            self._asked[self._unique] = (op, nodeid, 0, self._known.asked(op, nodeid), 0.0, raw)
            self._send(op, raw)
        self.give_back()
        return self._unique, answer

    def read_directory(self, nodeid: int, fh: int, size: int) -> bytes:
        """What is read first of a directory that was opened here."""
        args = abi.READ_IN.pack(fh, 0, size, 0, 0, 0, 0)
        raw = memoryview(abi.request(abi.READDIRPLUS, nodeid, args))
        answer = self._known.answer(abi.READDIRPLUS, 1, nodeid, raw, time.monotonic() + 100)
        assert answer is not None
        return answer[abi.OUT_HEADER.size :]

    def release(self, fh: int) -> None:
        if abi.OWN <= fh < abi.OWN_FILES:
            self._known.listings.closed(fh)
            self.give_back()
        elif fh < abi.OWN or self._known.opened.close(fh):
            self.up.send(FUSE, abi.request(abi.RELEASE, 0, abi.RELEASE_IN.pack(fh, 0, 0, 0)))

    def clear(self) -> None:
        self._known.leases.clear()
        self._known.listings.sweep()
        self._known.ahead.sweep()
        for fh in list(self._known.listings._reads):
            self._known.listings.closed(fh)
        self.give_back()


class World:
    def __init__(self, top: Path) -> None:
        self.top = os.fsencode(top) + b"/"
        os.makedirs(self.top + b"d", exist_ok=True)
        self.log, self.killed = f"{top}.log", False
        self.export = self.home(waits=False)
        self.host, self.down = Host(), deque[bytes]()
        self.history: list[dict[bytes, tuple[object, ...]]] = []
        self.contents: list[set[bytes | None]] = []  # of all files, at the same times
        self.within: list[dict[int, dict[bytes, tuple[object, ...]]]] = []  # of directories, by inode number
        self.heard = 0  # the first of history that the job may still see
        self.lines: deque[int] = deque()
        self.kernel: Counter[int] = Counter()  # lookups
        self.names: dict[bytes, int] = {b"": abi.ROOT_ID}
        self.asked: dict[int, tuple[int, bytes]] = {}
        self.nodes: dict[int, int] = {}  # unique of what was asked by a name -> node
        self.opens: dict[int, int] = {}  # unique of an OPEN -> node
        self.pages: dict[int, bytes] = {}  # nodeid -> what the kernel has of a file
        self.kept: dict[int, set[bytes]] = {}  # nodeid -> the names that it has of a directory
        self.reads: dict[int, tuple[int, int, bool]] = {}  # unique of a READ -> node, handle, whether its pages stay
        self.sent_before = 0  # READs that were answered by what home has sent unasked
        self.held: list[tuple[int, int]] = []  # what stays open: node, handle
        self.changed()

    def home(self, waits: bool) -> Export:
        record = WrittenFiles(Changes(), None, NodeLog(self.log, BOOT, waits))
        ids = ShownIds(os.geteuid(), os.getegid(), frozenset())
        export = Export(ids, os.fsdecode(self.top), record, Confinement())
        assert export.leases.begin()
        assert export.leases._mounts is not None
        export.leases._mounts.poll.unregister(export.leases._mounts.fd)  # a mount of another test's would take all back
        return export

    def kill(self) -> None:
        """Home is killed, with all that is under way; another takes the job up. Raises Unfit."""
        self.killed = True
        self.export.close()
        self.host.up.sent.clear()
        self.down.clear()
        self.lines.clear()
        at_home = {fh: node for node, fh in [*self.held, *(each[:2] for each in self.reads.values())] if fh < abi.OWN}
        opened = [Opened(fh, node, 0) for fh, node in at_home.items()]
        opened += [Opened(*each) for each in anew(self.host._known)]
        told = node_log.read(self.log, BOOT)
        self.export = self.home(waits=True)
        take_up(self.export, told, opened, (), max(at_home, default=0))
        assert self.export.inodes.log is not None
        self.export.inodes.log.begin()
        for *_, raw in self.host._asked.values():
            self.host.up.send(FUSE, bytes(raw))

    def stale(self, nodeid: int) -> None:
        """The kernel is told that it knows that node no more, and looks its names up again."""
        assert self.killed and nodeid not in self.export.inodes.nodes
        self.forget(nodeid)

    def changed(self) -> None:
        paths = below(self.top)
        self.history.append({name: described(self.top + name) for name in {*NAMES, *paths}})
        self.contents.append({holds(self.top + name) for name in paths})
        directories = [self.top, *(self.top + name for name in paths if os.path.isdir(self.top + name))]
        self.within.append({os.stat(path).st_ino: inside(path) for path in directories})

    def change(self, what: str, name: bytes, other: bytes) -> None:
        path = self.top + name
        try:
            if what == "write":
                with open(path, "ab") as file:
                    file.write(b"%d " % len(self.history))
            elif what == "mkdir":
                os.mkdir(path)
            elif what == "remove":
                os.unlink(path) if not os.path.isdir(path) else os.rmdir(path)
            elif what == "rename":
                os.rename(path, self.top + other)
            elif what == "link":
                os.link(path, self.top + other)
            else:
                os.chmod(path, 0o600 if os.stat(path).st_mode & 0o111 else 0o711)
        except OSError:
            pass  # nothing is there, or something is in the way: nothing has changed
        self.changed()

    def say(self, kind: int, payload: bytes) -> None:
        """Home sends a frame, as a link does: behind what is due."""
        self.down.append(self.export.leases.due() + frame(kind, payload))

    def line(self) -> None:
        self.lines.append(len(self.history) - 1)
        self.say(STDIN, b"x")

    def push(self, walks: list[tuple[int, int]] | None = None) -> None:
        """Home sends what is said to be used, unasked; `walks`: what is used of the tree of one directory."""
        uses: Uses = {b"/d": None, b"/a": [], b"/d/a": [], b"/d/b": [(0, 10)], b"/d/c": None}
        uses = uses if walks is None else {b"/d": walks}
        pushing = Pushing(uses.items())
        assert pushing.credited(1 << 20)
        for payload in pushing.due(self.export):
            self.say(PUSHED, payload)

    def deliver_up(self) -> None:
        if self.host.up.sent:
            answer = self.export.answer(abi.Request(self.host.up.sent.popleft()))
            if answer is not None:
                self.say(*answer)

    def deliver_down(self) -> None:
        for kind, payload in FrameReader().feed(self.down.popleft()) if self.down else ():
            if kind == STDIN:
                self.heard = self.lines.popleft()
            else:
                host = self.host
                take = {FUSE: host.from_link, KNOWN: host.known, LEASED: host.leased, BREAK: host.broken}
                take[PUSHED] = host.pushed
                take.get(kind, host.ordered)(payload)
        for unique, reply in tuple(self.host.answered.items()):
            del self.host.answered[unique]
            self.take(unique, reply, home=True)

    def job(self, what: str, name: bytes) -> None:
        parent, _, last = name.rpartition(b"/")
        if what == "lookup" and self.known(parent):
            self.ask(abi.LOOKUP, self.names[parent], last + b"\0", name)
        elif what == "list" and self.known(parent):
            self.ask(abi.OPENDIR, self.names[parent], OPS, name)
        elif what == "getattr" and self.known(name):
            self.ask(abi.GETATTR, self.names[name], abi.GETATTR_IN.pack(0, 0, 0), name)
        elif what in ("open", "hold") and self.known(name):
            self.ask(abi.OPEN, self.names[name], OPS, name if what == "open" else HELD)
        elif what == "read" and self.held:
            node, fh = self.held.pop()
            self.pages.pop(node, None)
            self.read(node, fh, home=False)
        elif what == "forget" and self.known(name) and name:
            self.forget(self.names.pop(name))

    def known(self, name: bytes) -> bool:
        return name in self.names

    def forget(self, nodeid: int) -> None:
        if self.kernel[nodeid]:
            self.host.forget([(nodeid, self.kernel.pop(nodeid))])
        self.names = {name: node for name, node in self.names.items() if node != nodeid}

    def ask(self, op: int, nodeid: int, args: bytes, name: bytes) -> None:
        unique, answer = self.host.ask(op, nodeid, args)
        self.asked[unique] = op, name
        self.nodes[unique] = nodeid
        if op in (abi.OPEN, abi.OPENDIR):
            self.opens[unique] = nodeid
        if answer is not None:
            self.take(unique, answer, home=False)

    def take(self, unique: int, reply: bytes, home: bool) -> None:
        op, name = self.asked.pop(unique)
        error, body = abi.OUT_HEADER.unpack_from(reply)[1], reply[abi.OUT_HEADER.size :]
        node = self.nodes.pop(unique, 0)
        if self.killed and error == -errno.ESTALE and node not in self.export.inodes.nodes:
            self.stale(node)
        if op == abi.LOOKUP and not error:
            nodeid = abi.ENTRY.unpack_from(body)[0]
            if nodeid:
                self.kernel[nodeid] += 1
                self.names[name] = nodeid
            else:
                self.names.pop(name, None)
            if not home:
                self.truth(name, told(body[abi.ENTRY.size :]) if nodeid else ABSENT)
        elif op == abi.GETATTR and not error and not home:
            seen, found = told(body[abi.ATTR_OUT.size :]), self.history[self.heard :]
            assert any(seen in then.values() for then in found), "no file has been so since"
        elif op == abi.OPENDIR and not error:
            fh, flags, _ = abi.OPEN_OUT.unpack_from(body)
            self.directory_opened(self.opens[unique], fh, flags, home, all_of_it=not unique % 2)
            self.host._known.listings.closed(fh)
            self.host.release(fh)
        elif op == abi.OPEN and not error:
            fh, flags, _ = abi.OPEN_OUT.unpack_from(body)
            self.opened(self.opens[unique], fh, bool(flags & abi.FOPEN_KEEP_CACHE), name == HELD, home)
        elif op == abi.READ:
            node, fh, stays = self.reads.pop(unique)
            if not error and stays:
                self.pages[node] = body
            self.host.release(fh)

    def directory_opened(self, directory: int, fh: int, flags: int, home: bool, all_of_it: bool) -> None:
        """The kernel drops the listing that it has kept, or reads that, or what the host has."""
        if not flags & abi.FOPEN_KEEP_CACHE:
            self.kept.pop(directory, None)
        if directory in self.kept:
            number = self.export.inodes.nodes[directory].ino
            within = [then.get(number, {}).keys() for then in self.within[self.heard :]]
            assert self.kept[directory] in within, "it has not been so since"
        elif not home:
            listing = self.host.read_directory(directory, fh, 4096 if all_of_it else 200)
            self.listed(directory, listing)
            if all_of_it and flags & abi.FOPEN_CACHE_DIR:
                self.kept[directory] = {name for _, _, _, name, *_ in walk(listing)} - {b".", b".."}

    def opened(self, node: int, fh: int, keeps: bool, held: bool, home: bool) -> None:
        """The kernel is told that a file is open: it drops its pages, and what is being read, or `keeps` them."""
        if not keeps:
            self.pages.pop(node, None)
            self.reads = {read: (at, by, stays and at != node) for read, (at, by, stays) in self.reads.items()}
        if held:
            self.held.append((node, fh))
        else:
            self.read(node, fh, home)

    def read(self, node: int, fh: int, home: bool) -> None:
        if node in self.pages:
            if not home:
                assert any(self.pages[node] in then for then in self.contents[self.heard :]), (
                    "no file has held it since"
                )
            self.host.release(fh)
            return
        unique, answer = self.host.ask(abi.READ, node, abi.READ_IN.pack(fh, 0, 4096, 0, 0, 0, 0))
        self.asked[unique] = abi.READ, b""
        self.reads[unique] = node, fh, True
        if answer is not None:
            self.sent_before += 1
            found = self.contents[self.heard :]
            assert any(answer[abi.OUT_HEADER.size :] in then for then in found), "no file has held it since"
            self.take(unique, answer, home=False)

    def listed(self, directory: int, listing: bytes) -> None:
        """Take what was read of a directory that was opened on the host: its begin, or all."""
        number = self.export.inodes.nodes[directory].ino
        within = [then.get(number, {}) for then in self.within[self.heard :]]
        entries = walk(listing)
        names = {name for _, _, _, name, *_ in entries} - {b".", b".."}
        assert any(names == then.keys() or (len(entries) == 1 and names <= then.keys()) for then in within)
        for start, _, nodeid, name, *_ in entries:
            if nodeid:
                seen = told(listing[start + abi.ENTRY.size : start + abi.ENTRY.size + abi.ATTR.size])
                assert any(seen == then.get(name) for then in within)
                self.host.forget([(nodeid, 1)])

    def truth(self, name: bytes, seen: tuple[object, ...]) -> None:
        # what is in a directory may have been asked for when that had another name
        parent, _, last = name.rpartition(b"/")
        for then in self.history[self.heard :]:
            moved = {place for place in then if place.endswith(b"/" + last)}
            moved |= {b"d/" + last, b"a/" + last, b"b/" + last}
            if any(seen == then.get(place, ABSENT) for place in (moved if parent else {name})):
                return
        raise AssertionError(f"{name!r} has not been so since")

    def end(self) -> None:
        while self.host.up.sent or self.down:
            self.deliver_up()
            self.deliver_down()
        for _, fh in self.held:
            self.host.release(fh)
        while self.host.up.sent or self.down:
            self.deliver_up()
            self.deliver_down()
        nodes = self.export.inodes.nodes
        in_use = {node for node, count in self.kernel.items() if count}
        assert self.killed or in_use <= set(nodes), "home has lost what is in use"
        for node in list(self.kernel):
            self.forget(node)
        self.host.clear()
        while self.host.up.sent or self.down:
            self.deliver_up()
            self.deliver_down()
        assert not self.host._known.leases._nodes
        assert not self.host._known.opened.untold and not self.host._known.opened._told
        assert not self.export.inodes.handles and not self.export.late._expected
        assert self.killed or set(nodes) == {abi.ROOT_ID}, "home knows what nobody refers to"
        self.export.inodes._check()
        self.export.close()


NAME = st.sampled_from((b"a", b"d", b"d/a", b"d/a"))
OTHER = st.sampled_from(NAMES)
CHANGE = st.sampled_from(["write", "write", "mkdir", "remove", "remove", "rename", "link", "chmod"])
ASK = st.sampled_from(["lookup", "lookup", "lookup", "list", "getattr", "open", "open", "hold", "read", "forget"])
PUSHES: dict[str, list[tuple[int, int]] | None] = {
    "push": None, "push listing": [], "push names": use_of(NAMES_ALONE), "push attributes": use_of(ATTRIBUTES),
    "push contents": use_of(CONTENTS),
}  # fmt: skip
STEP = st.one_of(
    st.tuples(CHANGE, NAME, OTHER),
    st.tuples(st.just("hear of"), NAME, OTHER),  # a change, and all that is under way arrives
    st.tuples(st.just("know"), NAME, OTHER),  # the answers to several questions arrive
    st.tuples(ASK, NAME, OTHER),
    st.tuples(st.sampled_from(["line", "up", "down", "up", "down", "settle"]), NAME, OTHER),
    st.tuples(st.sampled_from([*PUSHES]), NAME, OTHER),
    st.tuples(st.just("kill"), NAME, OTHER),
)


def do(world: World, what: str, name: bytes, other: bytes) -> None:
    if what == "know":
        for each in (b"d", name, name):
            asks(world, "lookup", each)
            asks(world, "open", each)
    elif what == "hear of":
        world.change("remove" if os.path.lexists(world.top + name) else "write", name, other)
        world.line()
        settle(world)
    elif what in PUSHES:
        world.push(PUSHES[what])
    elif what in ("line", "up", "down", "settle"):
        {"line": world.line, "up": world.deliver_up, "down": world.deliver_down, "settle": lambda: settle(world)}[
            what
        ]()
    elif what == "kill":
        world.kill()
    elif what in ("lookup", "list", "getattr", "open", "hold", "read", "forget"):
        world.job(what, name)
    else:
        world.change(what, name, other)


@settings(max_examples=150)
@example([("hear of", b"d/a", b"a"), ("rename", b"d", b"a"), ("hear of", b"a", b"a"), *[("know", b"d/a", b"a")] * 2])
@given(st.lists(STEP, min_size=5, max_size=50))
def test_what_the_job_was_told_of_is_never_unseen_and_no_node_is_lost(
    steps: list[tuple[str, bytes, bytes]],
) -> None:
    top = Path(tempfile.mkdtemp(prefix="leases-", dir="/var/tmp"))
    try:
        world = World(top / "top")
        try:
            for step in steps:
                do(world, *step)
        except Unfit:
            world.export.close()  # it goes on from its image, and knows nothing
            return
        world.end()
    finally:
        shutil.rmtree(top)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def settle(world: World) -> None:
    while world.host.up.sent or world.down:
        world.deliver_up()
        world.deliver_down()


def asks(world: World, what: str, name: bytes) -> bool:
    """Whether home is asked."""
    settle(world)
    world.job(what, name)
    asked = any(abi.Request(raw).op in (abi.LOOKUP, abi.GETATTR) for raw in world.host.up.sent)
    settle(world)
    return asked


def test_what_was_told_is_asked_for_again_once_it_has_changed(world: World) -> None:
    world.change("write", b"d/a", b"")
    for name in (b"d", b"d/a", b"d/b"):
        asks(world, "lookup", name)
    asks(world, "open", b"d/a")
    for name in (b"d", b"d/a", b"d/b"):
        assert not asks(world, "lookup", name), "its lease holds, and that there is none"
    world.change("write", b"d/a", b"")
    world.line()
    assert asks(world, "lookup", b"d/a")
    assert not asks(world, "lookup", b"d/b")
    world.change("write", b"d/b", b"")
    world.line()
    assert asks(world, "lookup", b"d/b")
    assert not asks(world, "lookup", b"d/a")
    world.end()


def opens(world: World, name: bytes) -> list[int]:
    """What home is asked when a file is opened and read."""
    settle(world)
    world.job("open", name)
    sent = []
    while world.host.up.sent or world.down:
        sent += [abi.Request(raw).op for raw in list(world.host.up.sent)[:1]]
        world.deliver_up()
        world.deliver_down()
    return sent


def test_a_file_is_opened_on_the_host_until_it_has_changed(world: World) -> None:
    world.change("write", b"d/a", b"")
    for name in (b"d", b"d/a"):
        asks(world, "lookup", name)
    assert opens(world, b"d/a") == [abi.OPEN, abi.READ, abi.RELEASE]
    assert opens(world, b"d/a") == []
    world.pages.clear()
    assert opens(world, b"d/a") == [abi.OPENED, abi.READ, abi.RELEASE]
    for change in ("write", "chmod", "write"):
        world.change(change, b"d/a", b"")
        world.line()
        assert opens(world, b"d/a")[:1] == [abi.OPEN]
        asks(world, "lookup", b"d/a")  # as its kernel does that was told of a change
        opens(world, b"d/a")
        assert opens(world, b"d/a") == []
    world.end()


def test_what_home_has_sent_is_used_until_it_has_changed(world: World) -> None:
    for change in ("mkdir", "write"):
        world.change(change, b"d/a" if change == "write" else b"a", b"")
    world.push()
    settle(world)
    for name in (b"d", b"d/a", b"d/b"):
        assert not asks(world, "lookup", name)
    assert opens(world, b"d/a") == [] and world.sent_before == 1
    assert opens(world, b"d/a") == [] and world.sent_before == 1, "the kernel has its pages"
    world.change("write", b"d/a", b"")
    world.line()
    world.push()  # it was changed since, so what comes of it now may be older than that
    assert opens(world, b"d/a") == [abi.OPEN, abi.READ, abi.RELEASE]
    world.end()


@pytest.mark.parametrize("what", [what for what, walks in PUSHES.items() if walks is not None])
def test_a_tree_that_is_sent_unasked_is_as_it_is_and_no_node_of_it_is_lost(world: World, what: str) -> None:
    world.change("mkdir", b"d/b", b"")
    world.change("write", b"d/a", b"")
    world.push(PUSHES[what])
    settle(world)
    for name in (b"d/a", b"d/b"):
        asks(world, "lookup", name)
        asks(world, "getattr", name)
        asks(world, "list", name)
        asks(world, "open", name)
    asks(world, "forget", b"d/a")
    for how, name in (("chmod", b"d/b"), ("write", b"d/a"), ("remove", b"d/b")):
        world.change(how, name, b"")
        world.line()
        settle(world)
        for each in (b"d", b"d/a", b"d/b"):
            asks(world, "lookup", each)
        asks(world, "list", b"d/a")
    world.end()


@pytest.mark.parametrize("what", [what for what, walks in PUSHES.items() if walks is not None])
def test_a_tree_that_is_sent_unasked_and_has_changed_meanwhile_is_not_taken(world: World, what: str) -> None:
    world.change("write", b"d/a", b"")
    asks(world, "lookup", b"d")
    asks(world, "lookup", b"d/a")
    world.push(PUSHES[what])
    late, world.down = world.down, deque[bytes]()
    world.change("write", b"d/a", b"")
    world.change("mkdir", b"d/b", b"")
    world.line()
    settle(world)
    world.down = late
    settle(world)
    for name in (b"d/a", b"d/b"):
        for each in ("lookup", "getattr", "list"):
            asks(world, each, name)
    world.end()


def test_a_directory_that_was_listed_is_known_by_all_its_names(world: World) -> None:
    world.change("mkdir", b"a", b"")
    asks(world, "list", b"a")
    assert not asks(world, "lookup", b"b"), "there is none"
    assert asks(world, "lookup", b"a"), "it is there, and was not looked into"
    assert not asks(world, "lookup", b"a")
    world.end()


def test_a_directory_is_opened_on_the_host_until_it_has_changed(world: World) -> None:
    world.change("mkdir", b"a", b"")
    world.change("write", b"b", b"")

    def lists(name: bytes) -> list[int]:
        settle(world)
        world.job("list", name)
        sent = [op for raw in world.host.up.sent if (op := abi.Request(raw).op) == abi.OPENDIR]
        settle(world)
        return sent

    asks(world, "lookup", b"a")
    assert lists(b"a/a") == lists(b"a") == lists(b"a") == [abi.OPENDIR], "nothing is known of a directory in it"
    asks(world, "lookup", b"d")
    assert lists(b"a/a") == lists(b"a") == []
    world.change("write", b"b", b"")
    assert lists(b"a") == [], "the same names are in it"
    world.change("remove", b"b", b"")
    world.line()
    settle(world)
    assert lists(b"a") == [abi.OPENDIR]
    assert lists(b"a/a") == lists(b"a") == []
    world.change("chmod", b"a", b"")
    world.line()
    settle(world)
    assert lists(b"a/a") == [abi.OPENDIR]
    world.end()


def test_attributes_of_a_directory_that_is_removed_are_asked_for(world: World) -> None:
    asks(world, "lookup", b"d")
    asks(world, "list", b"d/a")
    assert not asks(world, "getattr", b"d")
    world.change("remove", b"d", b"")
    world.line()
    assert asks(world, "getattr", b"d")
    world.end()


def test_a_change_by_another_name_is_seen(world: World, tmp_path: Path) -> None:
    world.change("write", b"a", b"")
    (tmp_path / "elsewhere").mkdir()
    asks(world, "lookup", b"a")
    asks(world, "open", b"a")
    for change in ("ln a elsewhere/a", "echo x >> elsewhere/a"):
        assert not asks(world, "lookup", b"a")
        assert os.system(f"cd {tmp_path} && {change}") == 0
        world.changed()
        world.line()
        assert asks(world, "lookup", b"a")
    world.end()


def test_a_home_that_takes_the_job_up_is_asked_for_all_and_knows_what_is_open(world: World) -> None:
    for name in (b"a", b"d/a"):
        world.change("write", name, b"")
    for name in (b"d", b"a", b"d/a"):
        asks(world, "lookup", name)
    opens(world, b"d/a")
    for _ in range(2):
        world.job("hold", b"d/a")
    (node, told_of), (_, fh) = world.held
    assert min(told_of, fh) >= abi.OWN_FILES and not world.host.up.sent, "both are open on the host alone"
    world.host._tell_of(lambda: [told_of])
    settle(world)
    world.kill()
    assert set(world.export.inodes.handles) == {told_of, fh}
    assert asks(world, "lookup", b"d/a") and not asks(world, "lookup", b"d/a")
    for handle in (told_of, fh):
        world.read(node, handle, home=True)
    settle(world)
    assert world.pages[node] == holds(world.top + b"d/a")
    assert not world.export.inodes.handles, "each is closed there"
    world.held.clear()
    world.end()


def test_a_file_that_only_the_host_has_open_and_others_have_replaced_is_not_taken_up(world: World) -> None:
    world.change("write", b"d/a", b"")
    for what, name in (("lookup", b"d"), ("lookup", b"d/a"), ("open", b"d/a"), ("hold", b"d/a")):
        settle(world)
        world.job(what, name)
    world.change("remove", b"d/a", b"")
    world.change("write", b"d/a", b"")
    with pytest.raises(Unfit, match="removed or replaced"):
        world.kill()
    world.export.close()
