"""Changes that the relay answers before home has done them: which, in what order they are sent, and what is told."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator

import pytest

from remoteio.execute import behind
from remoteio.execute.at_once import AT_ONCE
from remoteio.execute.behind import Behind
from remoteio.execute.relay import Relay
from remoteio.wire import fuse_abi as abi
from remoteio.wire import later
from remoteio.wire.behind import HEAD, MAY_OWN, MAY_SET, MAY_WRITE, SAME_FILE, SAME_LARGE
from remoteio.wire.frames import AFTER, FUSE, FrameReader
from remoteio.wire.link import Link
from remoteio.wire.listed import pack
from remoteio.wire.makes import MORE, Granted
from remoteio.wire.session_link import SessionLink
from tests.until import HANG

FILE, OTHER, HANDLE = 5, 6, 17
ATTR = abi.ATTR.pack(FILE, 0, 0, 1, 2, 3, 0, 0, 0, stat.S_IFREG | 0o644, 1, 1000, 1001, 0, 4096, 0)


THEIRS = abi.ATTR.pack(FILE, 9, 0, 1, 2, 3, 0, 0, 0, stat.S_IFREG | 0o644, 1, 7, 1001, 0, 4096, 0)


class Ends:
    """A relay with a file that the job has just made, what it tells the kernel, and what it sends home."""

    def __init__(self, lasts: bool = False) -> None:
        self._kernel, to_kernel = os.pipe()
        unused, other = os.pipe()
        self._home, to_home = os.pipe()
        self._fds = (self._kernel, to_kernel, unused, other, self._home, to_home)
        for fd in (self._kernel, self._home):
            os.set_blocking(fd, False)
        self._reader = FrameReader()
        self.link = SessionLink(unused, to_home) if lasts else Link(unused, to_home)
        if isinstance(self.link, SessionLink):
            self.link.last(lambda why: None)
        self.relay = Relay(to_kernel, self.link, self._fails)
        self.behind: Behind = self.relay.behind
        self._unique = 0

    def _fails(self, error: BaseException) -> None:
        raise error

    def made(self, words: int = MAY_WRITE | MAY_SET | MAY_OWN) -> None:
        body = abi.ENTRY.pack(FILE, 0, 1, 1, 0, 0) + ATTR + abi.OPEN_OUT.pack(HANDLE, words, 0)
        self.relay._asked[1] = (abi.CREATE, 1, 1, self.relay._known.asked(abi.CREATE, 1), 0.0, bytes(56))
        self.relay.from_link(abi.reply(1, body))
        ((_, reply),) = self.told()
        assert abi.OPEN_OUT.unpack(reply[-abi.OPEN_OUT.size :]) == (HANDLE, 0, 0), "the kernel is not told of it"

    def asks(self, op: int, args: bytes, nodeid: int = FILE) -> int:
        """Have the kernel ask; the request's number. False: the relay passes it on."""
        self._unique += 1
        raw = abi.request(op, nodeid, args, self._unique)
        if op not in AT_ONCE or not self.relay._at_once(op, self._unique, nodeid, raw):
            self.behind.send(raw)
        return self._unique

    def writes(self, data: bytes, at: int = 0, flags: int = 0, how: int = 0) -> int:
        return self.asks(abi.WRITE, abi.WRITE_IN.pack(HANDLE, at, len(data), how, 0, flags, 0) + data)

    def sets(self, valid: int, mode: int = 0, uid: int = 0, gid: int = 0, mtime: int = 0, size: int = 0) -> int:
        args = abi.SETATTR_IN.pack(valid, 0, HANDLE, size, 0, 0, mtime, 0, 0, 0, 0, mode, 0, uid, gid, 0)
        return self.asks(abi.SETATTR, args)

    def told(self) -> list[tuple[int, bytes]]:
        """The messages to the kernel: the error and number, and the message."""
        try:
            data, found = os.read(self._kernel, 1 << 16), []
        except BlockingIOError:
            return []
        while data:
            size, error, _ = abi.OUT_HEADER.unpack_from(data)
            found.append((-error, data[:size]))
            data = data[size:]
        return found

    def errors(self) -> list[int]:
        """The errors that the kernel was told of; a notification is none."""
        return [error for error, told in self.told() if error and abi.OUT_HEADER.unpack_from(told)[2]]

    def sent(self) -> list[tuple[int, int, int]]:
        """The requests that went home: number, what it comes after, operation; -1: with none."""
        try:
            frames = self._reader.feed(os.read(self._home, 1 << 20))
        except BlockingIOError:
            return []
        found = []
        for kind, payload in frames:
            assert kind in (FUSE, AFTER)
            number, after = HEAD.unpack_from(payload) if kind == AFTER else (-1, -1)
            found.append((number, after, abi.Request(payload[HEAD.size if kind == AFTER else 0 :]).op))
        return found

    def close(self) -> None:
        assert self.relay._aside.rest(HANG)
        if isinstance(self.link, SessionLink):
            self.link.close()
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    made.made()
    yield made
    made.close()


def done(ends: Ends, unique: int, size: int) -> None:
    ends.relay.from_link(abi.reply(unique, abi.WRITE_OUT.pack(size, 0)))


def test_a_write_is_answered_at_once_and_what_comes_after_it_says_so(ends: Ends) -> None:
    first, second = ends.writes(b"abc"), ends.writes(b"de", 3)
    assert [abi.WRITE_OUT.unpack(told[abi.OUT_HEADER.size :])[0] for _, told in ends.told()] == [3, 2]
    ends.asks(abi.GETATTR, abi.GETATTR_IN.pack(0, 0, 0), OTHER)
    ends.asks(abi.READ, abi.READ_IN.pack(1, 0, 10, 0, 0, 0, 0), OTHER)
    ends.asks(abi.LOOKUP, b"name\0", 1)
    ends.asks(abi.OPEN, abi.OPEN_IN.pack(os.O_RDONLY, 0), OTHER)
    ends.asks(abi.OPEN, abi.OPEN_IN.pack(os.O_WRONLY, 0), OTHER)
    assert ends.sent() == [
        (1, 0, abi.WRITE), (2, 1, abi.WRITE), (0, 2, abi.GETATTR), (-1, -1, abi.READ), (0, 2, abi.LOOKUP),
        (-1, -1, abi.OPEN), (0, 2, abi.OPEN),
    ]  # fmt: skip
    done(ends, first, 3)
    done(ends, second, 2)
    ends.asks(abi.LOOKUP, b"name\0", 1)
    assert ends.sent() == [(-1, -1, abi.LOOKUP)]


@pytest.mark.parametrize(
    "flags", [os.O_APPEND, os.O_DSYNC, os.O_DIRECT], ids=["append", "dsync", "direct"],
)  # fmt: skip
def test_a_write_of_another_kind_waits_for_home(ends: Ends, flags: int) -> None:
    ends.writes(b"abc", flags=flags)
    assert ends.told() == [] and ends.sent() == [(-1, -1, abi.WRITE)]


def test_a_write_is_answered_by_a_handle_that_was_opened_to_append_if_it_does(ends: Ends) -> None:
    """fcntl(2) may have it write elsewhere, and another at the end: the kernel has pages of that, and asks."""
    reply = abi.reply(9, abi.OPEN_OUT.pack(HANDLE, abi.FOPEN_DIRECT_IO | MAY_WRITE, 0))
    told = ends.behind.answers.opened(abi.OPEN, reply, 0.0)
    assert abi.OPEN_OUT.unpack_from(told, abi.OUT_HEADER.size)[1] == abi.FOPEN_DIRECT_IO
    ends.writes(b"abc", flags=os.O_APPEND)
    assert len(ends.told()) == 1 and ends.sent() == [(1, 0, abi.WRITE)]
    ends.writes(b"abc")
    ends.writes(b"abc", flags=os.O_APPEND | os.O_DSYNC)
    assert ends.told() == [] and [op for *_, op in ends.sent()] == [abi.WRITE] * 2
    ends.behind.answers.closed(HANDLE)
    ends.behind.answers.opened(abi.OPEN, abi.reply(9, abi.OPEN_OUT.pack(HANDLE, MAY_WRITE, 0)), 0.0)
    ends.writes(b"abc", flags=os.O_APPEND)
    assert ends.told() == [], "the number is another's by now"


def test_nothing_is_answered_that_home_has_not_granted(ends: Ends) -> None:
    ends.behind.answers.closed(HANDLE)
    ends.writes(b"abc")
    assert ends.told() == [] and [each[0] for each in ends.sent()] == [-1]


@pytest.mark.parametrize("how", [0, abi.WRITE_CACHE], ids=["written", "mapped"])
def test_what_is_changed_in_a_locked_file_is_home_s_before_the_lock_is_given_up(ends: Ends, how: int) -> None:
    ends.relay.handles.locked.add(FILE)
    ends.writes(b"abc", how=how)
    ends.asks(abi.SETLK, abi.LK_IN.pack(HANDLE, 1, 0, 0, 2, 1, 0, 0))
    assert len(ends.told()) == 1
    assert ends.sent() == [(1, 0, abi.WRITE), (0, 1, abi.SETLK)]


def test_what_is_in_a_locked_file_is_asked_for_as_others_may_lock_it(ends: Ends) -> None:
    ends.relay._known.leases.heard = float("inf")
    ends.writes(b"abc")
    read = abi.READ_IN.pack(HANDLE, 0, 10, 0, 0, 0, 0)
    ends.asks(abi.READ, read)
    assert [told[abi.OUT_HEADER.size :] for _, told in ends.told()][1:] == [b"abc"]
    ends.relay.handles.locked.add(FILE)
    ends.asks(abi.READ, read)
    assert ends.told() == [], "home is to know what the pages stand for that are written out at the unlock"
    ends.relay.kept_locks.replied(
        FILE, abi.request(abi.SETLK, FILE, abi.LK_IN.pack(HANDLE, 1, 0, 0, 1, 1, 0, 0)), True, 1, 1
    )
    ends.asks(abi.READ, read)
    assert len(ends.told()) == 1, "nobody can have locked it meanwhile"


@pytest.mark.parametrize("body", [SAME_FILE, SAME_LARGE])
def test_pages_of_a_file_that_nobody_else_has_had_open_are_written_out_too(ends: Ends, body: bytes) -> None:
    args = abi.LK_IN.pack(HANDLE, 1, 0, 0, 1, 1, 0, 0)
    ends.relay._locks(abi.SETLK, 9, FILE, raw := abi.request(abi.SETLK, FILE, args, 9))
    ends.relay._asked[9] = (abi.SETLK, FILE, 1, ends.relay._known.asked(abi.SETLK, FILE), 0.0, raw)
    ends.relay.from_link(abi.reply(9, body))
    ends.told()
    ends.relay._give_up()
    told = [abi.OUT_HEADER.unpack_from(each)[1] for _, each in ends.told()]
    assert told == ([abi.NOTIFY_INVAL_INODE] if body == SAME_FILE else [])


def test_a_new_file_is_cut_before_home_has_cut_it(ends: Ends) -> None:
    ends.writes(b"abcdef")
    ends.told()
    ends.sets(abi.FATTR_SIZE | abi.FATTR_FH, size=4)
    (answer,) = ends.told()
    assert abi.ATTR.unpack_from(answer[1], abi.OUT_HEADER.size + abi.ATTR_OUT.size)[1] == 4
    assert [each[0] for each in ends.sent()] == [1, 2]
    ends.behind.answers.closed(HANDLE)
    ends.sets(abi.FATTR_SIZE | abi.FATTR_FH, size=2)
    assert ends.told() == [], "it may not be written by that handle"


def test_mode_times_and_own_ids_of_a_new_file_are_answered_with_its_size(ends: Ends) -> None:
    ends.writes(b"abc")
    ends.sets(abi.FATTR_MODE, mode=stat.S_IFREG | 0o600)
    ends.sets(abi.FATTR_UID | abi.FATTR_GID, uid=1000, gid=1001)
    ends.sets(abi.FATTR_MTIME, mtime=7)
    _, first, second, third = (told for _, told in ends.told())
    at = abi.OUT_HEADER.size + abi.ATTR_OUT.size
    _, size, _, _, mtime, _, _, _, _, mode, _, uid, gid, *_ = abi.ATTR.unpack(third[at:])
    assert (size, mtime, mode, uid, gid) == (3, 7, stat.S_IFREG | 0o600, 1000, 1001)
    assert abi.ATTR_OUT.unpack_from(third, abi.OUT_HEADER.size)[:2] == (0, 0), (
        "the kernel asks again before it uses them"
    )
    assert len(first) == len(second) == len(third)
    assert [each[0] for each in ends.sent()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("valid", "mode", "uid"),
    [(abi.FATTR_MODE, 0o4755, 0), (abi.FATTR_UID, 0, 7), (abi.FATTR_SIZE, 0, 0)],
    ids=["set-user-id", "another owner", "size"],
)  # fmt: skip
def test_what_home_might_refuse_or_make_otherwise_waits_for_home(ends: Ends, valid: int, mode: int, uid: int) -> None:
    ends.sets(valid, mode=mode, uid=uid)
    assert ends.told() == [] and ends.sent() == [(-1, -1, abi.SETATTR)]
    ends.sets(abi.FATTR_MODE, mode=0o600)
    assert ends.told() == [], "what the file is like now is home's to tell"


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (abi.GETATTR, abi.ATTR_OUT.pack(1, 0, 0) + THEIRS), (abi.LOOKUP, abi.ENTRY.pack(FILE, 0, 1, 1, 0, 0) + THEIRS),
        (abi.FALLOCATE, b""), (abi.COPY_FILE_RANGE, abi.WRITE_OUT.pack(9, 0)), (abi.READDIRPLUS, b""),
    ],
    ids=["getattr", "lookup", "fallocate", "copy", "readdirplus"],
)  # fmt: skip
def test_what_home_tells_of_a_file_is_newer_than_what_is_known_here(ends: Ends, op: int, body: bytes) -> None:
    ends.relay._asked[99] = (op, FILE, 1, 0, 0.0, bytes(200))
    ends.relay.from_link(abi.reply(99, body))
    ends.told()
    ends.sets(abi.FATTR_MODE, mode=0o600)
    assert ends.told() == []


@pytest.mark.parametrize("meanwhile", [OTHER, FILE])
def test_what_home_tells_of_a_file_is_what_is_changed_next(ends: Ends, meanwhile: int) -> None:
    known, longer = ends.relay._known, ATTR[:8] + (9).to_bytes(8, "little") + ATTR[16:]
    ends.relay._asked[99] = (abi.GETATTR, FILE, 1, known.asked(abi.GETATTR, FILE), 0.0, bytes(200))
    known.asked(abi.SETATTR, meanwhile)
    ends.relay.from_link(abi.reply(99, abi.ATTR_OUT.pack(1, 0, 0) + longer))
    ends.told()
    ends.sets(abi.FATTR_MODE, mode=0o600)
    sizes = [abi.ATTR.unpack(told[-abi.ATTR.size :])[1] for _, told in ends.told()]
    assert sizes == ([9] if meanwhile == OTHER else []), "unless the job has changed it since that was asked for"


def test_a_write_before_the_last_says_nothing_of_what_others_do(ends: Ends) -> None:
    first, last = ends.writes(b"abc"), ends.writes(b"de", 3)
    shorter = ATTR[:8] + (3).to_bytes(8, "little") + ATTR[16:]
    ends.relay.known(abi.reply(first, abi.WRITE_OUT.pack(3, 0)) + shorter)
    ends.told()
    ends.sets(abi.FATTR_MODE, mode=0o600)
    assert [error for error, _ in ends.told()] == [0] and last


@pytest.mark.parametrize("op", [abi.OPENDIR, abi.LIST, abi.FETCH])
def test_what_home_tells_of_other_files_is_no_news_of_this_one(ends: Ends, op: int) -> None:
    for node in (OTHER, FILE):
        entry = abi.ENTRY.pack(node, 0, 1, 1, 0, 0) + ATTR + abi.DIRENT.pack(node, 1, 1, 8) + b"n" + bytes(7)
        if op == abi.OPENDIR:
            ends.relay._asked[99] = (op, 1, 1, 0, 0.0, bytes(200))
            ends.relay.known(abi.reply(99, abi.OPEN_OUT.pack(9, 0, 0)) + ATTR + b"\1" + entry)
        else:
            ends.behind.answers.came_ahead(op, node, pack(OTHER, ATTR, entry) if op == abi.LIST else b"")
        ends.told()
        ends.sets(abi.FATTR_MODE, mode=0o600)
        assert len(ends.told()) == (node == OTHER)


def test_what_others_write_meanwhile_is_newer_than_what_is_known_here(ends: Ends) -> None:
    first = ends.writes(b"abc")
    ends.told()
    longer = ATTR[:8] + (9).to_bytes(8, "little") + ATTR[16:]
    ends.relay.known(abi.reply(first, abi.WRITE_OUT.pack(3, 0)) + longer)
    ends.sets(abi.FATTR_MODE, mode=0o600)
    assert ends.told() == []


def test_what_the_job_says_waits_until_home_has_done_what_came_before(ends: Ends) -> None:
    first, said = ends.writes(b"abc"), threading.Event()
    ends.told()

    def say() -> None:
        ends.behind.settle()
        said.set()

    thread = threading.Thread(target=say)
    thread.start()
    assert not said.wait(0.05)
    second = ends.writes(b"de", 3)
    done(ends, first, 3)
    assert said.wait(HANG), "what came later is not waited for"
    thread.join()
    done(ends, second, 2)
    ends.behind.settle()


def test_what_home_could_not_do_is_told_once_by_the_next_call_on_that_file(ends: Ends) -> None:
    for op, args in ((abi.WRITE, b""), (abi.FSYNC, abi.FSYNC_IN.pack(HANDLE, 0, 0))):
        unique = ends.writes(b"abc")
        ends.told()
        ends.relay.from_link(abi.failure(unique, errno.EDQUOT))
        assert ends.behind.told(abi.FLUSH, FILE) == errno.EDQUOT
        assert ends.behind.untold() == (abi.WRITE, errno.EDQUOT), "nobody may have looked at what close said"
        if op == abi.WRITE:
            ends.writes(b"de", 3)
        else:
            ends.relay._asked[99] = (op, FILE, 1, 0, 0.0, args)
            ends.relay.from_link(abi.reply(99))
        assert errno.EDQUOT in [error for error, _ in ends.told()]
        assert ends.behind.untold() is None
        assert ends.behind.told(abi.FSYNC, FILE) == 0


def test_what_home_could_not_write_is_not_read_back(ends: Ends) -> None:
    first = ends.writes(b"abc")
    ends.asks(abi.READ, abi.READ_IN.pack(HANDLE, 0, 10, 0, 0, 0, 0))
    assert [told[abi.OUT_HEADER.size :] for _, told in ends.told()][1:] == [b"abc"]
    ends.sent()
    ends.relay.from_link(abi.failure(first, errno.EDQUOT))
    ends.asks(abi.READ, abi.READ_IN.pack(HANDLE, 0, 10, 0, 0, 0, 0))
    assert [op for _, _, op in ends.sent()] == [abi.READ]


def test_who_may_not_see_an_error_is_not_the_only_one_that_is_told(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a write(2), whose first bytes were confirmed, and what is written of a mapping."""
    monkeypatch.setattr(abi, "MAX_WRITE", 8)
    unique = ends.writes(bytes(abi.MAX_WRITE))
    ends.told()
    ends.relay.from_link(abi.failure(unique, errno.EIO))
    ends.writes(b"de", how=abi.WRITE_CACHE)
    assert ends.errors() == []
    ends.writes(b"rest", abi.MAX_WRITE)
    ends.writes(b"another", abi.MAX_WRITE)
    assert ends.errors() == [errno.EIO, errno.EIO]
    assert ends.behind.untold() is None


def test_a_write_that_is_done_is_not_told_what_went_wrong_meanwhile(ends: Ends) -> None:
    first = ends.writes(b"abc")
    second = ends.writes(b"de", 3, flags=os.O_APPEND)
    ends.relay._asked[second] = (abi.WRITE, FILE, 1, 0, 0.0, bytes(100))
    ends.relay.from_link(abi.failure(first, errno.EIO))
    done(ends, second, 2)
    assert ends.errors() == [], "who hears of it writes again"
    assert ends.behind.untold() == (abi.WRITE, errno.EIO)


def test_a_write_cut_short_has_failed(ends: Ends) -> None:
    done(ends, ends.writes(b"abc"), 1)
    assert ends.behind.untold() == (abi.WRITE, errno.ENOSPC)


@pytest.mark.parametrize(("name", "most"), [("ROOM", 2), ("ROOM_SIZE", 200)])
def test_what_is_too_much_is_sent_and_its_answer_waits(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setattr(behind, name, most)
    uniques = [ends.writes(b"abc", k) for k in range(4)]
    assert len(ends.told()) == 2 and [each[0] for each in ends.sent()] == [1, 2, 3, 4]
    ends.asks(abi.LOOKUP, b"name\0", 1)
    assert ends.sent() == [(0, 2, abi.LOOKUP)], "the kernel does not know of the third yet"
    done(ends, uniques[0], 3)
    assert [abi.OUT_HEADER.unpack_from(told)[2] for _, told in ends.told()] == [uniques[2]]
    ends.relay._interrupt(uniques[3])
    assert [abi.OUT_HEADER.unpack_from(told)[2] for _, told in ends.told()] == [uniques[3]]
    for each in uniques[1:]:
        done(ends, each, 3)
    assert ends.told() == [] and ends.behind.untold() is None


def test_what_failed_before_the_kernel_was_answered_is_its_answer(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "ROOM", 1)
    ends.writes(b"abc")
    second = ends.writes(b"de", 3)
    ends.told()
    ends.relay.from_link(abi.failure(second, errno.EIO))
    assert errno.EIO in [error for error, _ in ends.told()]
    assert ends.behind.untold() is None


def test_what_was_asked_for_meanwhile_fails_by_what_failed_before_it(ends: Ends) -> None:
    """A write to a file that home could not make: there is no such open file."""
    unique = ends.writes(b"abc")
    ends.told()
    ends.relay._asked[99] = (abi.WRITE, FILE, 1, 0, 0.0, b"")
    ends.relay.from_link(abi.failure(unique, errno.EEXIST))
    ends.relay.from_link(abi.failure(99, errno.EBADF))
    assert ends.errors() == [errno.EEXIST]
    assert ends.behind.untold() is None


def test_what_a_directory_looks_like_meanwhile_is_forgotten_before_anybody_can_know_that_it_is_done(ends: Ends) -> None:
    looks = abi.ATTR.pack(OTHER, 0, 0, 1, 2, 3, 0, 0, 0, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 4096, 0)
    body, args = abi.ENTRY.pack(30, 0, 1, 1, 0, 0) + looks, abi.MKDIR_IN.pack(0o777, 0o22)
    known, now = ends.relay._known, time.monotonic()
    known.leases.heard = now
    known.leases.listed(OTHER, [])
    first = (abi.MKDIR, OTHER, 0, known.asked(abi.MKDIR, OTHER), now, abi.request(abi.MKDIR, OTHER, args + b"a\0", 1))
    known.granted(first, Granted(MORE, 1), abi.reply(1, body), looks, now)
    unique = ends.asks(abi.MKDIR, args + b"b\0", OTHER)
    ends.asks(abi.GETATTR, abi.GETATTR_IN.pack(0, 0, 0), OTHER)
    assert [error for error, _ in ends.told()] == [0, 0]
    ends.relay.from_link(abi.reply(unique, body))
    assert [told for _, told in ends.told()] == [abi.inval_inode(OTHER, -1)]
    ends.sent()
    ends.asks(abi.GETATTR, abi.GETATTR_IN.pack(0, 0, 0), OTHER)
    assert not ends.told() and [op for *_, op in ends.sent()] == [abi.GETATTR]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    """Over a link that sends what nobody waits for when it is pushed."""
    monkeypatch.setattr(later, "MOMENT", HANG)
    made = Ends(lasts=True)
    made.made()
    made.relay._known.making.owns(FILE)
    yield made
    made.close()


def test_what_is_set_of_a_file_is_one_change_as_long_as_it_has_not_gone(slow: Ends) -> None:
    times = slow.sets(abi.FATTR_MTIME, mtime=9)
    slow.sets(abi.FATTR_MODE, mode=0o600)
    slow.link.push()
    slow.sets(abi.FATTR_MODE, mode=0o640)
    slow.link.push()
    assert slow.errors() == [] and [number for number, _, _ in slow.sent()] == [1, 2]
    slow.relay.from_link(abi.reply(times, abi.ATTR_OUT.pack(0, 0, 0) + ATTR))
    assert slow.behind.done() == 1


def test_what_is_set_before_and_after_something_else_is_not_one(slow: Ends) -> None:
    slow.sets(abi.FATTR_MTIME, mtime=9)
    slow.writes(b"data")
    slow.sets(abi.FATTR_MTIME, mtime=9)
    slow.behind.send(abi.request(abi.RELEASE, FILE, abi.RELEASE_IN.pack(HANDLE, 0, 0, 0), 99), later=True)
    slow.sets(abi.FATTR_MODE, mode=0o600)
    slow.link.push()
    assert [(number, op) for number, _, op in slow.sent()] == [
        (1, abi.SETATTR), (2, abi.WRITE), (3, abi.SETATTR), (0, abi.RELEASE), (4, abi.SETATTR),
    ]  # fmt: skip


def test_what_fails_of_several_that_were_set_is_told_once(slow: Ends) -> None:
    times = slow.sets(abi.FATTR_MTIME, mtime=9)
    slow.sets(abi.FATTR_MODE, mode=0o600)
    slow.relay.from_link(abi.failure(times, errno.EIO))
    slow.told()
    slow.sets(abi.FATTR_MODE, mode=0o600)
    assert slow.errors() == [errno.EIO]
