"""What goes along with a reply: the bytes are those they were, and what packs them and what reads them agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoteio import syscalls
from remoteio.errors import ProtocolError
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import known
from remoteio.wire.coherence import AHEAD
from remoteio.wire.frames import FUSE, KNOWN, LARGE
from remoteio.wire.known import Listing, Piggyback

ATTR = b"\xaa" * abi.ATTR.size
OTHERS = sorted(set(abi.OPERATIONS) - known.WITH_LISTING - {abi.RENAME2})


@given(
    st.sampled_from(sorted(known.WITH_LISTING)) | st.sampled_from(OTHERS),
    st.binary(max_size=200),
    st.binary(max_size=300),
    st.booleans(),
)
def test_what_is_packed_is_read(op: int, body: bytes, told: bytes, complete: bool) -> None:
    listing = Listing(told, complete) if op in known.WITH_LISTING else None
    sent = Piggyback(ATTR, b"" if listing else told, listing)
    reply = abi.reply(9, body)
    first, rest = known.split(known.pack(reply, sent))
    got = known.parse(op, rest)
    assert first == reply and (got.attr, got.contents) == (sent.attr, sent.contents)
    if listing is None:
        assert got.listing is None
    else:
        assert got.listing is not None and (got.listing.entries, got.listing.complete) == (told, complete)


def test_what_was_renamed_comes_with_its_attributes_or_nothing() -> None:
    for told in (b"", ATTR):
        _, rest = known.split(known.pack(abi.reply(9), Piggyback(ATTR, told)))
        assert known.parse(abi.RENAME2, rest).contents == told
    for told in (b"x", ATTR + b"x"):
        with pytest.raises(ProtocolError):
            known.parse(abi.RENAME2, ATTR + told)


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=300))
def test_where_a_link_points_is_packed_and_read(body: bytes, link: bytes) -> None:
    reply = abi.reply(9, body)
    first, rest = known.split(known.pack(reply, Piggyback(ATTR, link=link)))
    got = known.parse(abi.LOOKUP, rest)
    assert (first, got.attr, got.contents, got.listing, got.link) == (reply, ATTR, b"", None, link)


@given(st.binary(max_size=200), st.binary(min_size=known.VERSION, max_size=known.VERSION))
def test_a_version_is_packed_and_read(body: bytes, version: bytes) -> None:
    first, rest = known.split(known.pack(abi.reply(9, body), Piggyback(ATTR, version=version)))
    got = known.parse(abi.OPEN, rest, True)
    assert (first, got.attr, got.contents, got.version) == (abi.reply(9, body), ATTR, b"", version)


@given(st.sampled_from(sorted(abi.OPERATIONS)), st.binary(max_size=2 * known.VERSION))
def test_a_version_without_its_name_is_refused(op: int, told: bytes) -> None:
    if op == abi.OPEN and len(told) == known.VERSION:
        return
    with pytest.raises(ProtocolError):
        known.parse(op, ATTR + told, True)


@given(st.sampled_from(sorted(abi.OPERATIONS)), st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(op: int, payload: bytes) -> None:
    try:
        reply, rest = known.split(payload)
        got = known.parse(op, rest)
    except ProtocolError:
        return
    assert known.pack(bytes(reply), got) == payload


def test_what_goes_along_makes_no_frame_that_waits_behind_others() -> None:
    longest = abi.OUT_HEADER.size + abi.ENTRY.size + 2 * abi.ATTR.size + abi.OPEN_OUT.size + 1
    assert longest + AHEAD < LARGE


# As they were before there was one place that packs them, but for positions in directories; <attr>: struct fuse_attr.
_ONE = bytes.fromhex("0300000000000000 0000000000000000 0100000000000000 0100000000000000 0000000000000000")
_DIR = bytes.fromhex("0200000000000000 0000000000000000 0100000000000000 0100000000000000 0000000000000000")
_NEW = bytes.fromhex("0700000000000000 0000000000000000 0100000000000000 0100000000000000 0000000000000000")
_LISTED = (
    b"\1" + bytes(128) + bytes.fromhex("0700000000000000 0100000000000000 01000000 04000000 2e00000000000000")
    + bytes(128) + bytes.fromhex("0700000000000000 4000000000000000 02000000 04000000 2e2e000000000000")
    + _ONE + ATTR
)  # fmt: skip
_LISTED_ONE = bytes.fromhex("4500000000000000 03000000 08000000 6f6e650000000000")  # after its inode number


class Still(Export):
    """Its answers tell nothing that changes from run to run, but for the numbers of handles."""

    def attr(self, st: os.stat_result, taken: bool = False) -> bytes:
        return ATTR


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Export]:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/one").touch()
    made = Still(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    monkeypatch.setattr(made.inodes.numbers, "shown", lambda dev, ino: 7)
    yield made
    made.inodes.close_all()


def test_the_bytes_are_those_they_were(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = syscalls.getdents64
    monkeypatch.setattr(syscalls, "getdents64", lambda fd: [(ino, 5, *more) for ino, _, *more in read(fd)])
    listed = _LISTED + (tmp_path / "dir/one").stat().st_ino.to_bytes(8, "little") + _LISTED_ONE

    def ask(op: int, node: int, args: bytes) -> tuple[int, bytes]:
        answer = export.answer(abi.Request(abi.request(op, node, args, 9)))
        assert answer is not None
        return answer

    head = bytes.fromhex("90000000 00000000 0900000000000000")
    assert ask(abi.LOOKUP, 1, b"dir\0") == (FUSE, head + _DIR + ATTR)
    for _ in range(2):
        assert ask(abi.LOOKUP, 2, b"one\0") == (FUSE, head + _ONE + ATTR)
    assert ask(abi.LOOKUP, 2, b"one\0") == (KNOWN, head + _ONE + ATTR + ATTR + listed)
    ask(abi.LOOKUP, 1, b"file\0")
    kind, payload = ask(abi.OPEN, 4, abi.OPEN_IN.pack(os.O_RDWR, 0))
    handle, head = payload[16:24], bytes.fromhex("20000000 00000000 0900000000000000")
    assert (kind, payload) == (KNOWN, head + handle + bytes(8) + ATTR + b"text")
    args = abi.WRITE_IN.pack(int.from_bytes(handle, "little"), 1, 2, 0, 0, 0, 0) + b"ab"
    written = bytes.fromhex("18000000 00000000 0900000000000000 02000000 00000000")
    assert ask(abi.WRITE, 4, args) == (KNOWN, written + ATTR)
    kind, payload = ask(abi.OPENDIR, 2, abi.OPEN_IN.pack(0, 0))
    assert (kind, payload) == (KNOWN, head + payload[16:24] + bytes(8) + ATTR + listed)
    head = bytes.fromhex("90000000 00000000 0900000000000000")
    assert ask(abi.MKDIR, 1, abi.MKDIR_IN.pack(0o755, 0o22) + b"new\0") == (KNOWN, head + _NEW + ATTR + ATTR)
    removed = bytes.fromhex("10000000 00000000 0900000000000000")
    assert ask(abi.RMDIR, 1, b"new\0") == (KNOWN, removed + ATTR)
    os.symlink("file", tmp_path / "dir/link")
    kind, payload = ask(abi.LOOKUP, 2, b"link\0")
    assert (kind, payload[len(head) + abi.ENTRY.size :]) == (KNOWN, ATTR + ATTR + b"\2file")
