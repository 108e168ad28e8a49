"""A file that the job has made is opened again on its host, as long as all that is in it is known there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from remoteio.execute.known_own import KnownOwn
from remoteio.execute.leases import Leases
from remoteio.execute.making import Made, Making
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import MAY_WRITE, SAME
from remoteio.wire.coherence import SILENCE, TTL
from remoteio.wire.makes import MADE, NUMBERS

FILE, NOW = MADE + 3, 1000.0
CUT = os.O_WRONLY | os.O_TRUNC | 0o100000
EXECUTE = 0x20


class Goes(Making):
    """Home has granted more."""

    may_go_on = True  # type: ignore[assignment]


class Host:
    """What a host knows that has made a file and written to it."""

    def __init__(self, mode: int = 0o644) -> None:
        self.known = KnownOwn()
        self.known.leases.heard = NOW
        self.known.making = Goes(self.known.leases)
        attr = abi.ATTR.pack(9, 0, 0, 1, 2, 3, 0, 0, 0, stat.S_IFREG | mode, 1, 0, 0, 0, 4096, 0)
        self.known.making.owns(FILE)
        self.known.written.stamp(abi.CREATE, 7, b"", Made(FILE, FILE, MAY_WRITE, attr, b""), NOW)
        self.known.written.made(FILE, attr, 1)
        raw = abi.request(abi.WRITE, FILE, abi.WRITE_IN.pack(1, 0, 4, 0, 0, 0, 0) + b"data")
        self.known.written.stamp(abi.WRITE, FILE, raw, None, NOW)

    def opens(self, flags: int, now: float = NOW) -> bool:
        raw = abi.request(abi.OPEN, FILE, abi.OPEN_IN.pack(flags, 0))
        return self.known.open_own(3, FILE, raw, now) is not None

    def cut(self, flags: int, now: float = NOW, number: int = 5) -> Made | None:
        raw = abi.request(abi.OPEN, FILE, abi.OPEN_IN.pack(flags, 0))
        return self.known.write_own(3, FILE, raw, number, now)

    def holds(self) -> bytes | None:
        raw = abi.request(abi.READ, FILE, abi.READ_IN.pack(1, 0, 100, 0, 0, 0, 0))
        answer = self.known.written.read(3, FILE, raw, NOW)
        return None if answer is None else answer[abi.OUT_HEADER.size :]


def test_it_is_opened_until_home_must_be_asked() -> None:
    host = Host()
    assert host.opens(os.O_RDONLY) and host.opens(os.O_RDONLY, NOW + TTL)
    assert not host.opens(os.O_RDONLY, NOW + 1.1 * TTL), "others may have changed it"
    assert not host.opens(os.O_RDWR) and not host.opens(os.O_WRONLY | os.O_APPEND)
    host.known.leases.heard = NOW - SILENCE / 2
    assert not host.opens(os.O_RDONLY), "home has not been heard of"


def test_it_is_empty_once_it_is_cut() -> None:
    host = Host()
    made = host.cut(CUT)
    assert made is not None and made.handle == MADE + 5
    assert host.holds() == b"data"
    host.known.wrote_own(made, CUT, NOW)
    assert host.holds() == b""
    assert abi.ATTR.unpack(host.known.written.attributes(FILE, NOW))[1] == 0


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND | os.O_CREAT])
def test_it_holds_what_it_held_where_it_is_opened_to_write_more(flags: int) -> None:
    host = Host()
    made = host.cut(flags)
    assert made is not None and abi.ATTR.unpack(made.attr)[1] == 4
    told = abi.OPEN_OUT.unpack_from(made.answer, abi.OUT_HEADER.size)[1]
    assert told == (abi.FOPEN_DIRECT_IO if flags & os.O_APPEND else 0)
    host.known.wrote_own(made, flags, NOW)
    assert host.holds() == b"data"
    raw = abi.request(abi.WRITE, FILE, abi.WRITE_IN.pack(made.handle, 4, 2, 0, 0, flags, 0) + b"+2")
    host.known.written.stamp(abi.WRITE, FILE, raw, None, NOW)
    assert host.holds() == b"data+2"


@pytest.mark.parametrize("more", [os.O_DSYNC, os.O_DIRECT, EXECUTE])
@pytest.mark.parametrize("flags", [CUT, os.O_WRONLY | os.O_APPEND])
def test_home_is_asked_to_open_it_in_another_way(more: int, flags: int) -> None:
    host = Host()
    assert host.cut(flags) and not host.cut(flags | more)


def test_home_is_asked_where_it_may_not_go_on() -> None:
    host = Host()
    assert not host.cut(os.O_RDONLY) and not host.cut(os.O_RDONLY | os.O_TRUNC)
    assert not host.cut(CUT, NOW + 1.1 * TTL) and not host.cut(CUT, number=NUMBERS)
    host.known.making = Making(host.known.leases)
    host.known.making.owns(FILE)
    assert host.opens(os.O_RDONLY) and not host.cut(CUT), "there may be no room"
    host.known.making = Goes(Leases())
    assert not host.opens(os.O_RDONLY) and not host.cut(CUT), "home has made it, and keeps it not"


@pytest.mark.parametrize(
    ("mode", "reads", "writes"),
    [(0o400, True, False), (0o200, False, True), (0o4755, False, False), (0o066, False, False)],
)
def test_whose_it_is_must_have_the_right(mode: int, reads: bool, writes: bool) -> None:
    host = Host(mode)
    assert (host.opens(os.O_RDONLY), host.cut(CUT) is not None) == (reads, writes)


@pytest.mark.parametrize(("mode", "may"), [(0o600, True), (0o000, False), (0o4755, False)])
def test_a_mode_that_is_being_set_counts(mode: int, may: bool) -> None:
    host = Host()
    args = abi.SETATTR_IN.pack(abi.FATTR_MODE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0, 0, 0)
    host.known.written.stamp(abi.SETATTR, FILE, abi.request(abi.SETATTR, FILE, args), None, NOW)
    assert (host.opens(os.O_RDONLY), host.cut(CUT) is not None) == (may, may)


def test_what_is_being_set_is_told_until_home_tells_what_came_of_it() -> None:
    """Also where what home says of a write before comes after; what it sets to a time of home's, home is asked for."""
    host = Host()
    written = host.known.written

    def sets(valid: int) -> int:
        args = abi.SETATTR_IN.pack(valid, 0, 0, 0, 0, 11, 22, 0, 33, 44, 0, 0o640, 0, 0, 0, 0)
        return written.stamp(abi.SETATTR, FILE, abi.request(abi.SETATTR, FILE, args), None, NOW)

    def told() -> tuple[int, ...]:
        raw = abi.request(abi.GETATTR, FILE, abi.GETATTR_IN.pack(0, 0, 0))
        answer = written.getattr(3, FILE, raw, NOW, 5 * 10**9 + 6)
        return abi.ATTR.unpack(answer[abi.OUT_HEADER.size + abi.ATTR_OUT.size :]) if answer else ()

    home = list(abi.ATTR.unpack(written.attributes(FILE, NOW)))
    last = sets(abi.FATTR_MODE | abi.FATTR_ATIME | abi.FATTR_MTIME)
    shown = [*home[:3], 11, 22, 5, 33, 44, 6, stat.S_IFREG | 0o640, *home[10:]]
    shown[2] = 8  # blocks of 512 bytes
    assert list(told()) == shown
    written.confirmed(FILE, SAME, abi.ATTR.pack(*home), last - 1, NOW)
    assert list(told()) == shown, "that was before"
    home[2:10] = 16, 11, 22, 7, 33, 44, 8, stat.S_IFREG | 0o640
    written.made(FILE, abi.ATTR.pack(*home), last)
    assert list(told()) == home
    sets(abi.FATTR_MTIME | abi.FATTR_MTIME_NOW)
    assert not told()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDONLY | os.O_APPEND, os.O_RDONLY | os.O_TRUNC])
def test_nothing_is_opened_before_it_is_done_here_but_to_write_to_it(tmp_path: Path, flags: int) -> None:
    (tmp_path / "file").write_bytes(b"data")
    export = Export(ShownIds(0, 0, frozenset()), str(tmp_path))
    looked = export.answer(abi.Request(abi.request(abi.LOOKUP, abi.ROOT_ID, b"file\0", 2)))
    assert looked is not None
    nodeid = abi.ENTRY.unpack_from(looked[1], abi.OUT_HEADER.size)[0]
    for how, number, refused in ((flags, 1, True), (CUT, NUMBERS, True), (os.O_WRONLY, 1, False), (CUT, 1, False)):
        request = abi.Request(abi.request(abi.OPEN, nodeid, abi.OPEN_IN.pack(how, 0), 3))
        request.number = number
        answer = export.answer(request)
        assert answer is not None
        assert bool(abi.OUT_HEADER.unpack_from(answer[1])[1]) == refused
    export.close()
