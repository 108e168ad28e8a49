"""Files that the host opens by itself: when home is told of them, and how it opens them late."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.execute.opened import AGE, Opened
from remoteio.execute.relay import Relay
from remoteio.submit.export import opened_on_host
from remoteio.submit.export.leases import leasable
from remoteio.submit.export.written_files import opened
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import OPENED_HERE
from remoteio.wire.frames import FUSE
from remoteio.wire.link import Link
from tests.hostile import Host, Refused

FH = abi.OWN_FILES + 1


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "file").write_bytes(b"contents")
    made = Host.of(tmp_path)
    yield made
    made.export.close()


@pytest.fixture
def node(host: Host) -> int:
    return host.lookup(abi.ROOT_ID, b"file")


def told(node: int, fh: int = FH, flags: int = os.O_RDONLY) -> bytes:
    return abi.request(abi.OPENED, 0, abi.OPENED_ONE.pack(fh, node, flags, 0))


def read(host: Host, node: int, fh: int = FH) -> bytes:
    return host.ask(abi.READ, node, abi.READ_IN.pack(fh, 0, 100, 0, 0, 0, 0))


def release(host: Host, fh: int = FH) -> None:
    host.ask(abi.RELEASE, 0, abi.RELEASE_IN.pack(fh, 0, 0, 0))


def test_what_comes_ahead_of_what_was_told_finds_the_file(host: Host, node: int) -> None:
    host.export.late.expect(told(node))
    assert read(host, node) == b"contents"
    handles = dict(host.export.inodes.handles)
    host.export.answer(abi.Request(told(node)))
    assert dict(host.export.inodes.handles) == handles, "it is opened once"
    release(host)
    with pytest.raises(Refused) as raised:
        read(host, node)
    assert raised.value.errno == errno.EBADF
    assert host.open(node, os.O_RDONLY) < abi.OWN, "the numbers that are given here are none of the host's"


def test_what_was_closed_before_it_was_opened_is_not_opened(host: Host, node: int) -> None:
    host.export.late.expect(told(node))
    release(host)
    with pytest.raises(Refused) as raised:
        read(host, node)
    assert raised.value.errno == errno.EBADF
    assert not host.export.inodes.handles


@pytest.mark.parametrize("op", [abi.UNLINK, abi.RENAME, abi.RENAME2])
def test_what_is_expected_outlives_its_name(host: Host, node: int, op: int, tmp_path: Path) -> None:
    host.export.late.expect(told(node))
    names = {abi.UNLINK: b"file\0", abi.RENAME: abi.RENAME_IN.pack(abi.ROOT_ID) + b"file\0new\0"}
    host.ask(op, abi.ROOT_ID, names.get(op, abi.RENAME2_IN.pack(abi.ROOT_ID, 0, 0) + b"file\0new\0"))
    (tmp_path / "new").unlink(missing_ok=True)
    assert read(host, node) == b"contents"


def test_who_asks_is_told_why_it_cannot_be_opened(host: Host, node: int, tmp_path: Path) -> None:
    (tmp_path / "file").unlink()
    host.export.answer(abi.Request(told(node)))
    with pytest.raises(Refused) as raised:
        read(host, node)
    assert raised.value.errno == errno.ESTALE
    host.export.late.expect(told(abi.ROOT_ID, FH + 1))
    with pytest.raises(Refused) as raised:
        read(host, abi.ROOT_ID, FH + 1)
    assert raised.value.errno == errno.EINVAL, "a directory"


@pytest.mark.parametrize("replaced", [False, True])
def test_what_others_took_away_is_the_old_file_still_if_it_was_leased(
    host: Host, tmp_path: Path, replaced: bool
) -> None:
    assert host.export.leases.begin()
    node = host.lookup(abi.ROOT_ID, b"file")
    release(host, host.open(node, os.O_RDONLY))
    (tmp_path / "new").write_bytes(b"other")
    (tmp_path / "new").rename(tmp_path / "file") if replaced else (tmp_path / "file").unlink()
    host.export.late.expect(told(node))
    assert read(host, node) == b"contents"
    release(host)
    with pytest.raises(Refused) as raised:
        host.open(node, os.O_RDONLY)
    assert raised.value.errno == errno.ESTALE, "who opens it by its name looks it up again"


def test_it_is_opened_for_reading_whatever_the_host_says(host: Host, node: int, tmp_path: Path) -> None:
    host.export.answer(abi.Request(told(node, flags=os.O_RDWR | os.O_TRUNC)))
    assert read(host, node) == b"contents"
    with pytest.raises(Refused) as raised:
        host.ask(abi.WRITE, node, abi.WRITE_IN.pack(FH, 0, 4, 0, 0, 0, 0) + b"EVIL")
    assert raised.value.errno == errno.EBADF
    assert (tmp_path / "file").read_bytes() == b"contents"


def test_what_is_told_of_is_bounded_and_has_numbers_of_the_host_s_own(
    host: Host, node: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert opened_on_host.MOST_EXPECTED > OPENED_HERE
    monkeypatch.setattr(opened_on_host, "MOST_EXPECTED", 4)
    for k in range(4):
        host.export.late.expect(told(node, FH + k))
    host.export.late.expect(told(node, FH))
    for wrong in (told(node, FH + 4), told(node, abi.OWN_FILES - 1), told(node)[:-1]):
        with pytest.raises(abi.FuseError):
            host.export.late.expect(wrong)


def test_what_somebody_may_have_mapped_is_not_leased(host: Host, tmp_path: Path) -> None:
    leases = host.export.leases
    assert leases.begin()
    with (tmp_path / "file").open("rb") as file:
        st = os.fstat(file.fileno())
        assert leasable(leases, file.fileno(), st)
        assert fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.F_UNLCK, "it was for a moment"
        with (tmp_path / "file").open("r+b"):
            assert not leasable(leases, file.fileno(), st)
        assert leasable(leases, file.fileno(), st)


def test_home_is_told_before_it_is_asked() -> None:
    table = Opened()
    first, second = (table.open(node, os.O_RDONLY, 10.0) for node in (5, 6))
    for op, args in (
        (abi.READ, abi.READ_IN.pack(second, 0, 1, 0, 0, 0, 0)),
        (abi.SETLKW, abi.LK_IN.pack(second, 0, 0, 0, 0, 0, 0, 0)),
        (abi.COPY_FILE_RANGE, abi.COPY_IN.pack(second, 0, 9, 9, 0, 9, 0)),
        (abi.GETATTR, abi.GETATTR_IN.pack(abi.GETATTR_FH, 0, second)),
    ):
        assert table.needed(op, abi.request(op, 6, args)) == [second]
    for op, args in (
        (abi.READ, abi.READ_IN.pack(3, 0, 1, 0, 0, 0, 0)),
        (abi.GETATTR, abi.GETATTR_IN.pack(0, 0, second)),
        (abi.LOOKUP, b"name\0"),
    ):
        assert table.needed(op, abi.request(op, 6, args)) == []
    assert table.needed(abi.UNLINK, abi.request(abi.UNLINK, 1, b"name\0")) == [first, second]
    assert table.request([second])[abi.ARGS :] == abi.OPENED_ONE.pack(second, 6, 0, 0)
    assert table.tell([second]) == []
    assert table.needed(abi.UNLINK, abi.request(abi.UNLINK, 1, b"name\0")) == [first]
    assert not table.close(first), "home has heard nothing of it"
    assert table.close(second)


def test_home_is_told_of_what_stays_open() -> None:
    table = Opened()
    first, _ = (table.open(5, os.O_RDONLY, since) for since in (10.0, 10.1))
    assert table.old(10.0) == []
    assert table.old(10.05 + AGE) == [first]


def test_what_is_closed_while_home_is_told_of_it_is_closed_there() -> None:
    table = Opened()
    fh = table.open(5, os.O_RDONLY, 10.0)
    assert not table.close(fh)
    assert table.tell([fh]) == [fh]


def test_no_more_are_open_on_the_host_than_may_be() -> None:
    table = Opened()
    opened = [table.open(5, os.O_RDONLY, 10.0) for _ in range(OPENED_HERE)]
    assert all(opened) and table.open(5, os.O_RDONLY, 10.0) == 0
    table.tell(opened)
    assert table.open(5, os.O_RDONLY, 10.0) == 0
    table.close(opened[0])
    assert table.open(5, os.O_RDONLY, 10.0)


def test_while_criu_looks_nothing_is_opened_on_the_host_and_home_knows_all() -> None:
    near, far = socket.socketpair()
    home, link = (Link(os.dup(end.fileno()), os.dup(end.fileno())) for end in (near, far))
    asking = Relay(-1, link, lambda e: None)
    table = asking._known.opened
    fh = table.open(5, os.O_RDONLY, 10.0)
    asking.criu(True)
    ((kind, request),) = home.receive()
    assert kind == FUSE and bytes(request[abi.ARGS :]) == abi.OPENED_ONE.pack(fh, 5, 0, 0)
    assert not table.untold and table.open(5, os.O_RDONLY, 10.0) == 0
    asking.criu(False)
    assert table.open(5, os.O_RDONLY, 10.0) > fh
    for each in (home, link, near, far):
        each.close()


def test_a_home_that_knows_nothing_is_told_of_all_that_is_open() -> None:
    table = Opened()
    first, second, third = (table.open(node, os.O_RDONLY, 10.0) for node in (5, 6, 7))
    table.tell([first])
    table.close(third)
    assert sorted(table.told_anew()) == [(first, 5, 0), (second, 6, 0)]
    assert not table.untold and table.tell([second]) == [], "who was telling of it meanwhile need not close it"
    assert table.close(first) and table.close(second)


def test_what_was_told_before_is_expected_before_what_comes_next_is_done(host: Host, node: int) -> None:
    requests: list[bytes | memoryview] = [told(node), abi.request(abi.GETATTR, node, abi.GETATTR_IN.pack(0, 0, 0), 2)]
    assert host.export.late.noted(requests) == requests
    assert list(host.export.late._expected) == [FH] and not host.export.inodes.handles


def test_an_image_has_what_the_host_alone_had_open_and_none_is_made_of_what_is_gone(
    host: Host, node: int, tmp_path: Path
) -> None:
    (tmp_path / "other").write_bytes(b"other's")
    other = host.lookup(abi.ROOT_ID, b"other")
    host.export.late.expect(told(node))
    assert not host.export.late.lost()
    rows = opened(host.export.inodes).rows
    assert [(path, writable) for path, _, writable in rows] == [(b"/file", False)]
    host.export.late.expect(told(other, FH + 1))
    (tmp_path / "other").unlink()
    lost = host.export.late.lost()
    assert lost == [b"/other"] and opened(host.export.inodes, None, lost).moved == [(b"/other", False)]
