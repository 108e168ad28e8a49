"""A job that does not wait for its changes, over streams that are cut anywhere: what an observer at home sees.

Frames are late, overtake one another and are sent again; home does what it may in any order, some in vain. Whatever is
done or said there comes after all that the job had been told was done when it asked for it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import cast
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from remoteio.execute import behind
from remoteio.execute.at_once import AT_ONCE
from remoteio.execute.leased_names import is_absent, named
from remoteio.execute.making import Grant
from remoteio.execute.relay import Relay
from remoteio.submit.export.ordered import Ordered
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import CHANGES, MAY_WRITE
from remoteio.wire.frames import ACK, AFTER, FUSE, STDOUT, FrameReader, frame
from remoteio.wire.link import Link
from remoteio.wire.makes import MADE
from remoteio.wire.session import Session

FILES, TOP = (5, 6), 1
ATTR = abi.ATTR_OUT.pack(0, 0, 0) + abi.ATTR.pack(5, *[0] * 8, 0o100644, 1, 0, 0, 0, 4096, 0)
DATA = b"data"


class End:
    """One end of a session: frames that wait to be sent, and bytes under way, which a cut loses."""

    def __init__(self) -> None:
        self.session, self.reader, self.under_way = Session(), FrameReader(), bytearray()
        self.waiting: list[bytes] = []

    def send(self, kind: int, *payload: bytes | bytearray | memoryview, later: bool = False) -> None:
        """Have a frame sent, as a Link does."""
        self.waiting.append(frame(kind, b"".join(payload)))

    def put(self, k: int = 0) -> None:
        """Send one of those that wait."""
        if self.waiting:
            self._put(self.waiting.pop(k % len(self.waiting)))
        elif self.session.owed:
            self._put(self.session.tell())

    def _put(self, data: bytes) -> None:
        self.session.keep([data])
        self.under_way += data

    def take(self, other: End, n: int) -> list[tuple[int, bytes]]:
        """Receive `n` bytes of the other's, if so many are under way; return the frames that are whole with them."""
        data = bytes(other.under_way[:n])
        del other.under_way[:n]
        self.session.received += len(data)
        found = []
        for kind, payload in self.reader.feed(data):
            if kind == ACK:
                self.session.told(payload)
            else:
                found.append((kind, bytes(payload)))
        return found


def cut(one: End, other: End) -> None:
    """Lose all that is under way, and send again what the other lacks, over another stream."""
    for end, far in ((one, other), (other, one)):
        end.under_way = bytearray(b"".join(end.session.rejoin(far.session.received)))


class Kernel(Relay):
    """The relay without its mount: `told` are the replies to what it was asked, by number."""

    def __init__(self, link: End) -> None:
        super().__init__(-1, cast(Link, link), self._fails)
        self.told: dict[int, int] = {}
        self.read = b""  # what it was told last

    def _fails(self, error: BaseException) -> None:
        raise error

    def _beside(self, job: Callable[[], None]) -> None:
        job()

    def _to_kernel(self, message: bytes | memoryview) -> bool:
        _, error, unique = abi.OUT_HEADER.unpack_from(message)
        if unique:
            assert unique not in self.told, "each is answered once"
            self.told[unique] = -error
            self.read = bytes(message[abi.OUT_HEADER.size :])
        return True

    def asks(self, op: int, unique: int, nodeid: int, args: bytes) -> None:
        """Take a request, as ``_read_kernel`` does."""
        raw = abi.request(op, nodeid, args, unique)
        if op in AT_ONCE and self.behind.answers.granted and self._at_once(op, unique, nodeid, raw):
            return
        self._asked[unique] = (op, nodeid, 0, self._known.asked(op, nodeid), 0.0, raw)
        self._send(op, raw)


class World:
    """A job and home. `must` has of each request and each word what had been answered when the job came by it."""

    def __init__(self) -> None:
        self.there, self.here = End(), End()
        self.job, self.home = Kernel(self.there), Ordered()
        self.home.begin = self._begin
        self.behind = self.job.behind
        self.unique = self.words = 0
        self.asked: dict[int, tuple[int, int]] = {}  # number -> operation and file
        self.must: dict[int, frozenset[int]] = {}
        self.to_say: list[tuple[int, int]] = []  # words, each with the change that it waits for
        self.begun: list[bytes] = []
        self.done: list[int] = []
        self.heard: list[int] = []
        self.numbered: set[int] = set()  # changes that may be answered before they are done
        self.refused: set[int] = set()  # that never went home: an error was due
        self.answered_here: set[int] = set()  # nor did these
        self.in_vain: set[int] = set()  # which home could not do
        # of those, the answered, until a call is told
        self.late: dict[int, set[int]] = {file: set() for file in (*FILES, TOP)}
        # what a file holds that was empty, if all of it is what the host was told is done
        self.holds: dict[int, bytes | None] = dict.fromkeys(FILES, b"")
        for file in FILES:
            self._granted(file)
        self.names: dict[int, bytes] = {}  # request -> the name that it takes away, of a file that the job has made
        self.job._known.leases.heard = float("inf")

    def _granted(self, file: int) -> None:
        self.job._known.written.begin(file, ATTR[abi.ATTR_OUT.size :], 0, float("inf"))
        body = abi.OPEN_OUT.pack(file + 10, MAY_WRITE, 0)
        self.job.behind.answers.opened(abi.OPEN, abi.reply(1, body), 0.0)

    # at the host

    def answered(self) -> frozenset[int]:
        return frozenset(u for u, error in self.job.told.items() if not error and self.asked[u][0] in CHANGES)

    def asks(self, op: int, file: int, args: bytes) -> None:
        self.unique += 2
        self.asked[self.unique] = op, file
        others = op == abi.READ  # of other files it tells nothing
        self.must[self.unique] = frozenset(u for u in self.answered() if not others or self.asked[u][1] == file)
        self.job.asks(op, self.unique, file, args)
        if self.behind.change(self.unique) is not None:
            self.numbered.add(self.unique)
        if self.job.told.get(self.unique):
            self.refused.add(self.unique)
            self.late[file].clear()
        elif op == abi.WRITE:
            known = self.unique in self.numbered and self.holds[file] is not None
            self.holds[file] = args[abi.WRITE_IN.size :] if known else None
        elif op == abi.READ and self.unique in self.job.told:
            assert self.job.read == self.holds[file], "it reads what it wrote"
            self.answered_here.add(self.unique)
        elif op == abi.GETATTR and self.unique in self.job.told:
            assert self.holds[file] is not None, "it is told what it wrote"
            self.answered_here.add(self.unique)

    def writes(self, file: int, appends: bool = False) -> None:
        flags = 0o2000 if appends else 0
        data = b"%04d" % (self.unique % 10000)
        self.asks(abi.WRITE, file, abi.WRITE_IN.pack(file + 10, 0, len(data), 0, 0, flags, 0) + data)

    def unlinks(self) -> None:
        name = b"%d" % self.unique
        self.job._known.making._enter(TOP, Grant({(abi.CREATE, 0, 0): (0, ())}, []))
        self.job._known.leases.name(TOP, name, MADE + self.unique)
        self.asks(abi.UNLINK, TOP, name + b"\0")
        self.names[self.unique] = name
        assert self.unique in self.numbered and is_absent(self.job._known.leases, TOP, name)

    def renames(self) -> None:
        old, new = b"%d" % self.unique, b"%d new" % self.unique
        making, leases = self.job._known.making, self.job._known.leases
        making._enter(TOP, Grant({(abi.CREATE, 0, 0): (0, ())}, []))
        making.owns(MADE + self.unique)
        leases.name(TOP, old, MADE + self.unique)
        leases.name(TOP, new, 0)
        self.asks(abi.RENAME, TOP, abi.RENAME_IN.pack(TOP) + old + b"\0" + new + b"\0")
        self.asked[self.unique] = abi.RENAME2, TOP
        self.names[self.unique] = old
        assert self.unique in self.numbered and is_absent(leases, TOP, old)
        assert named(leases, TOP, new) == MADE + self.unique - 2

    def says(self) -> None:
        self.words += 1
        self.must[-self.words] = self.answered()
        self.to_say.append((self.words, self.behind._answered))

    def speaks(self) -> None:
        """Pass on what was said, in its order, as far as may be."""
        while self.to_say and self.behind.has_done(self.to_say[0][1]):
            self.there.send(STDOUT, b"%d" % self.to_say.pop(0)[0])

    def interrupts(self, k: int) -> None:
        if unanswered := [unique for unique in self.asked if unique not in self.job.told]:
            unique = unanswered[k % len(unanswered)]
            if not self.job._interrupt(unique):
                self.job._send(abi.INTERRUPT, abi.request(abi.INTERRUPT, 0, abi.INTERRUPT_IN.pack(unique), unique | 1))

    # at home

    def _begin(self, request: bytes | memoryview) -> bool:
        self.begun.append(bytes(request))
        return True

    def does(self, k: int, fails: bool) -> None:
        """Do one of the requests that may be done."""
        if not self.begun:
            return
        _, op, unique, *_ = abi.IN_HEADER.unpack_from(self.begun.pop(k % len(self.begun)))
        if op == abi.INTERRUPT:
            return
        assert self.must[unique] <= set(self.done), "it is done before what the job had done before"
        assert unique not in self.done
        self.done.append(unique)
        fails = fails and op in CHANGES
        if fails:
            self.in_vain.add(unique)
        body = {abi.WRITE: abi.WRITE_OUT.pack(len(DATA), 0), abi.GETATTR: ATTR, abi.READ: DATA}.get(op, b"")
        self.here.send(FUSE, abi.failure(unique, errno.EDQUOT) if fails else abi.reply(unique, body))
        for each in self.home.done(unique):
            self._begin(each)

    # between

    def home_takes(self, n: int) -> None:
        for kind, payload in self.here.take(self.there, n):
            if kind == STDOUT:
                assert self.must[-int(payload)] <= set(self.done), "it says what is not done"
                self.heard.append(int(payload))
            else:
                assert kind in (FUSE, AFTER)
                self.begun += map(bytes, self.home.take(kind, payload))

    def job_takes(self, n: int) -> None:
        for kind, payload in self.there.take(self.here, n):
            assert kind == FUSE
            self._replied(payload)
        self.speaks()

    def _replied(self, payload: bytes) -> None:
        _, error, unique = abi.OUT_HEADER.unpack_from(payload)
        op, file = self.asked[unique]
        before = self.job.told.get(unique)
        self.job.from_link(payload)
        if error and op == abi.WRITE:
            self.holds[file] = None
        if error and unique in self.names:
            assert not is_absent(self.job._known.leases, TOP, self.names[unique]), "what has the name is home's to tell"
        if before == 0 and error:
            self.late[file].add(unique)
        elif before is None and error and op == abi.WRITE and unique not in self.numbered:
            self.late[file].clear()  # it is told the first of them, and its own is one of them
        elif before is None and op == abi.FSYNC:
            assert self.job.told[unique] or not self.late[file], "fsync says that all is well, and it is not"
            if not error:  # what it was told is of others
                self.late[file].clear()

    def ends(self) -> None:
        """Go on to the end, which is told when all is done."""
        self.says()
        while self.to_say or len(self.job.told) < len(self.asked):
            self.there.put()
            self.home_takes(1000)
            self.does(0, False)
            self.here.put()
            self.job_takes(1000)
        assert any(self.late.values()) == (self.behind.untold() is not None), "at the latest with the end"
        while self.there.waiting or self.there.under_way or self.begun:
            self.there.put()
            self.home_takes(1000)
            self.does(0, False)
        assert sorted(self.heard) == list(range(1, self.words + 1))
        assert sorted(self.done) == sorted(self.asked.keys() - self.refused - self.answered_here), "each once"
        in_order = [unique for unique in self.done if unique in self.numbered]
        assert in_order == sorted(self.numbered), "in the job's order"
        assert self.home._count == self.home._bytes == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("write", "write", "write", "append", "sync", "look", "read", "remove", "say", "interrupt", "send", "send",
             "answer", "answer", "unlink", "rename", "do", "do", "fail", "fail", "home", "home", "job", "job", "cut")
        ),
        st.integers(0, 400),
    ),
    min_size=40,
    max_size=120,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_what_is_seen_at_home_comes_after_what_the_job_did(steps: list[tuple[str, int]]) -> None:
    with patch.object(behind, "ROOM", 3):
        world = World()
        by_name: dict[str, Callable[[int], object]] = {
            "write": lambda n: world.writes(FILES[n % 2]),
            "append": lambda n: world.writes(FILES[n % 2], appends=True),
            "sync": lambda n: world.asks(abi.FSYNC, FILES[n % 2], abi.FSYNC_IN.pack(FILES[n % 2] + 10, 0, 0)),
            "look": lambda n: world.asks(abi.GETATTR, FILES[n % 2], abi.GETATTR_IN.pack(0, 0, 0)),
            "read": lambda n: world.asks(
                abi.READ, FILES[n % 2], abi.READ_IN.pack(FILES[n % 2] + 10, 0, 10, 0, 0, 0, 0)
            ),
            "remove": lambda n: world.asks(abi.UNLINK, 1, b"name\0"),
            "unlink": lambda n: world.unlinks(),
            "rename": lambda n: world.renames(),
            "say": lambda n: world.says(),
            "interrupt": world.interrupts,
            "send": world.there.put,  # large ones are overtaken by small ones, and threads by one another
            "answer": lambda n: world.here.put(),
            "do": lambda n: world.does(n, False),
            "fail": lambda n: world.does(n, True),
            "home": world.home_takes,
            "job": world.job_takes,
            "cut": lambda n: cut(world.there, world.here),
        }
        for what, n in steps:
            by_name[what](n)
        world.ends()
