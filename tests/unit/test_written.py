"""What the job reads back of what it has written: from the host, as long as that is all that the file holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.execute.known_ahead import KnownAhead
from remoteio.execute.making import Made
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import MAY_WRITE, OTHERS, SAME
from remoteio.wire.coherence import TTL, WRITTEN, WRITTEN_EACH, WRITTEN_FILES
from remoteio.wire.frames import KNOWN

NODE, OTHER, HANDLE, NOW = 5, 6, 17, 1000.0
HOME = 50_000_000_600  # what home's clock says then


def attr(size: int = 0, mtime: int = 7) -> bytes:
    return abi.ATTR.pack(NODE, size, 0, 1, mtime, 3, 0, 0, 0, stat.S_IFREG | 0o644, 1, 0, 0, 0, 4096, 0)


class Host:
    """What a host knows of a file that the job has just made."""

    def __init__(self) -> None:
        self.known = KnownAhead()
        self.written = self.known.written
        self.written.stamp(abi.CREATE, 1, b"", Made(NODE, HANDLE, MAY_WRITE, attr(), b""), NOW)

    def writes(self, data: bytes, at: int = 0, node: int = NODE) -> None:
        args = abi.WRITE_IN.pack(HANDLE, at, len(data), 0, 0, 0, 0) + data
        self.written.stamp(abi.WRITE, node, abi.request(abi.WRITE, node, args), None, NOW)

    def renames(self) -> None:
        self.written.renamed(NODE, lambda: self.known.removes(1, NODE, OTHER))

    def sets(self, valid: int, size: int = 0) -> None:
        args = abi.SETATTR_IN.pack(valid, 0, 0, size, *(0,) * 12)
        self.written.stamp(abi.SETATTR, NODE, abi.request(abi.SETATTR, NODE, args), None, NOW)

    def reads(self, at: int = 0, size: int = 100, flags: int = 0, now: float = NOW) -> bytes | None:
        args = abi.READ_IN.pack(HANDLE, at, size, 0, 0, flags, 0)
        reply = self.written.read(9, NODE, abi.request(abi.READ, NODE, args), now)
        return None if reply is None else reply[abi.OUT_HEADER.size :]

    def size(self, by_handle: bool = True) -> int | None:
        args = abi.GETATTR_IN.pack(abi.GETATTR_FH if by_handle else 0, 0, HANDLE)
        told = self.told(args)
        return int(told[1]) if told else None

    def told(self, args: bytes = abi.GETATTR_IN.pack(0, 0, 0)) -> tuple[int, ...]:
        """The attributes; nothing: home is to be asked."""
        reply = self.written.getattr(9, NODE, abi.request(abi.GETATTR, NODE, args), NOW, HOME)
        if reply is None:
            return ()
        assert abi.ATTR_OUT.unpack_from(reply, abi.OUT_HEADER.size)[:2] == (0, 0), "not to be used again"
        return abi.ATTR.unpack_from(reply, abi.OUT_HEADER.size + abi.ATTR_OUT.size)

    def opened(self, flags: int, words: int, told: bytes = b"", stamp: int = 0) -> None:
        """Home's reply to an OPEN; `told`: the attributes that come along."""
        stamp = stamp or self.known.asked(abi.OPEN, NODE)
        if told and self.known.holds(NODE, stamp):
            self.known.learn(NODE, told, b"", NOW)
        raw = abi.request(abi.OPEN, NODE, abi.OPEN_IN.pack(flags, 0))
        reply = abi.reply(1, abi.OPEN_OUT.pack(HANDLE, words, 0))
        self.known.told_of_file((abi.OPEN, NODE, 0, stamp, NOW, raw), reply, NOW)


def test_what_was_written_is_read_back() -> None:
    host = Host()
    assert (host.size(), host.reads()) == (0, b"")
    host.writes(b"abcdef")
    host.writes(b"XY", 2)
    host.writes(b"end", 8)
    assert (host.size(), host.reads()) == (11, b"abXYef\0\0end")
    assert (host.reads(3, 2), host.reads(11), host.reads(50)) == (b"Ye", b"", b"")


def test_what_is_read_past_all_that_is_kept_is_home_s_to_read() -> None:
    host = Host()
    host.writes(b"abc")
    assert host.reads(flags=os.O_DIRECT) is None


def test_stat_is_told_times_of_now_until_home_has_told_its_own() -> None:
    host = Host()
    made = host.known._count
    assert host.told()[3:9] == (1, 50, 50, 0, 600, 600), "it is being made"
    host.written.made(NODE, (99).to_bytes(8, "little") + attr(mtime=20)[8:], made)
    assert host.told()[3:9] == (1, 20, 3, 0, 0, 0), "home has made it"
    assert host.told()[0] == NODE, "and says no other inode number afterwards"
    host.writes(b"abc")
    size, blocks, *times = host.told()[1:9]
    assert (size, blocks, times) == (3, 8, [1, 50, 50, 0, 600, 600]), "and it takes room"
    wrote = host.known._count
    host.renames()
    host.written.confirmed(NODE, SAME, attr(3, mtime=30), wrote, NOW)
    assert host.told()[4:6] == (30, 50), "what a name changes is the change time"
    host.written.moved(NODE, attr(3, mtime=30), host.known._count, NOW)
    assert host.told()[3:9] == (1, 30, 3, 0, 0, 0)
    host.sets(abi.FATTR_MODE)
    assert host.told()[4:6] == (30, 50), "nor does a mode change more"
    host.sets(abi.FATTR_UID)
    assert (host.told(), host.size()) == ((), 3), "whose it is is home's to tell"


def test_what_is_renamed_holds_what_it_held_unless_others_changed_it() -> None:
    host = Host()
    host.writes(b"abc")
    host.renames()
    host.writes(b"d", 3)
    assert host.reads() == b"abcd"
    host.written.moved(NODE, b"", host.known._count, NOW)
    assert host.reads() is None


def test_it_is_known_as_long_as_home_says_that_it_is() -> None:
    host = Host()
    host.writes(b"abc")
    assert host.reads(now=NOW + TTL) == b"abc"
    assert host.reads(now=NOW + TTL + 0.1) is None
    host.written.confirmed(NODE, 0, attr(3), host.known._count, NOW + 0.5)
    assert host.reads(now=NOW + TTL + 0.1) is None, "home does not know"
    host.written.confirmed(NODE, SAME, attr(3), host.known._count, NOW + 0.5)
    assert host.reads(now=NOW + TTL + 0.1) == b"abc"
    host.opened(os.O_RDONLY, abi.FOPEN_KEEP_CACHE)
    assert host.reads(now=NOW + TTL) == b"abc"
    host.written.confirmed(NODE, OTHERS, attr(3), host.known._count, NOW)
    assert host.reads() is None, "others have changed it"


CHANGES: dict[str, Callable[[Host], object]] = {
    "a write that is waited for": lambda host: host.known.asked(abi.WRITE, NODE),
    "one that was": lambda host: host.known.answered(abi.WRITE, NODE, 0),
    "size": lambda host: host.known.asked(abi.SETATTR, NODE),
    "fallocate": lambda host: host.known.asked(abi.FALLOCATE, NODE),
    "a copy": lambda host: host.known.asked(abi.COPY_FILE_RANGE, OTHER),
    "a lock": lambda host: host.known.answered(abi.SETLK, OTHER, host.known.asked(abi.SETLK, OTHER)),
    "a break": lambda host: host.known.broken([(NODE, b"")]),
    "a break of all": lambda host: host.known.broken([(0, b"")]),
    "an open of what others changed": lambda host: host.opened(os.O_RDONLY, 0, attr(3)),
    "an open that cut it": lambda host: host.opened(os.O_WRONLY | os.O_TRUNC, 0),
    "home tells of another size": lambda host: host.written.told(NODE, attr(9)),
    "or time": lambda host: host.written.told(NODE, attr(3, mtime=8)),
    "it failed": lambda host: host.written.lose(NODE),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_changed_otherwise_is_asked_for(what: str) -> None:
    host = Host()
    host.writes(b"abc")
    host.written.confirmed(NODE, SAME, attr(3), host.known._count, NOW)
    host.written.told(NODE, attr(3))
    assert host.reads() == b"abc"
    CHANGES[what](host)
    assert (host.reads(), host.size()) == (None, None)
    host.writes(b"more", 3)
    assert host.reads() is None, "nor is it known with a later write"


def test_mode_and_times_leave_what_is_in_it() -> None:
    host = Host()
    host.writes(b"abc")
    host.sets(abi.FATTR_MODE)
    assert host.reads() == b"abc"


def test_what_is_cut_or_made_longer_is_so_when_it_is_read() -> None:
    host = Host()
    host.writes(b"abcdef")
    host.sets(abi.FATTR_SIZE, 2)
    assert (host.size(), host.reads()) == (2, b"ab")
    host.sets(abi.FATTR_SIZE, 4)
    assert (host.size(), host.reads()) == (4, b"ab\0\0")
    host.written.made(NODE, attr(4, mtime=8), host.known._count)
    host.written.told(NODE, attr(4, mtime=8))
    assert host.reads() == b"ab\0\0", "home has told of what the job did"
    host.sets(abi.FATTR_SIZE, WRITTEN_EACH + 1)
    assert host.reads() is None


def test_a_lock_that_nobody_else_can_have_had_leaves_it_known() -> None:
    host = Host()
    host.writes(b"abc")
    host.known.answered(abi.SETLK, NODE, host.known.asked(abi.SETLK, NODE), sole=True)
    host.written.is_left(NODE, NOW + 1)
    assert host.reads(now=NOW + 1 + TTL) == b"abc"


def test_a_file_that_the_job_has_cut_is_empty_unless_it_was_changed_since() -> None:
    trunc = os.O_RDWR | os.O_TRUNC
    for told, words, known in ((attr(), MAY_WRITE, True), (attr(1), MAY_WRITE, False), (attr(), 0, False)):
        host = Host()
        host.writes(b"abc")
        host.opened(trunc, words, told)
        host.writes(b"x", 1)
        assert host.reads() == (b"\0x" if known else None)
    host = Host()
    stamp = host.known.asked(abi.OPEN, NODE)
    host.writes(b"abc")
    host.opened(trunc, MAY_WRITE, attr(), stamp)
    assert host.reads() is None, "who knows which came first"
    host.opened(os.O_RDWR, MAY_WRITE, attr())
    assert host.reads() is None, "it was not cut"


def test_no_more_is_kept_than_may_be() -> None:
    host = Host()
    host.writes(bytes(WRITTEN_EACH))
    assert host.size() == WRITTEN_EACH
    host.writes(b"x", WRITTEN_EACH)
    assert host.size() is None
    host = Host()
    for k in range(WRITTEN // WRITTEN_EACH + 1):
        host.written.stamp(abi.CREATE, 1, b"", Made(100 + k, HANDLE, MAY_WRITE, attr(), b""), NOW)
        host.writes(bytes(WRITTEN_EACH), node=100 + k)
        assert host.written._bytes <= WRITTEN
    assert host.size() is None
    for k in range(WRITTEN_FILES + 1):
        host.written.stamp(abi.CREATE, 1, b"", Made(1000 + k, HANDLE, MAY_WRITE, attr(), b""), NOW)
    assert len(host.written._files) == WRITTEN_FILES
    assert host.written._bytes == 0


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Export]:
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    made.behind = True
    yield made
    made.close()


def ask(export: Export, op: int, node: int, args: bytes, number: int) -> bytes:
    """The body of the reply."""
    request = abi.Request(abi.request(op, node, args, 1))
    request.number = number
    answer = export.answer(request)
    assert answer is not None and not abi.OUT_HEADER.unpack_from(answer[1])[1]
    assert op != abi.WRITE or answer[0] == KNOWN
    return answer[1][abi.OUT_HEADER.size :]


def test_home_says_whether_others_have_changed_it(export: Export, tmp_path: Path) -> None:
    body = ask(export, abi.CREATE, abi.ROOT_ID, abi.CREATE_IN.pack(os.O_RDWR, 0o100644, 0, 0) + b"f\0", 0)
    node, handle = abi.ENTRY.unpack_from(body)[0], abi.OPEN_OUT.unpack_from(body, abi.ENTRY.size + abi.ATTR.size)[0]

    def word(number: int) -> int:
        args = abi.WRITE_IN.pack(handle, 0, 1, 0, 0, 0, 0) + b"x"
        return int(abi.WRITE_OUT.unpack_from(ask(export, abi.WRITE, node, args, number))[1])

    assert [word(1), word(2)] == [SAME, SAME] or os.uname().release < "6.13"
    assert word(0) == 0, "the kernel is told nothing of it"
    os.utime(tmp_path / "f", (5, 5))
    assert [word(3), word(4)] == [OTHERS, 0]
