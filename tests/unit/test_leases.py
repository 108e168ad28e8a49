"""What takes leases back, and what is not leased; and that a lease's frames say what they must."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.errors import ProtocolError
from remoteio.execute.kept_listings import keeps
from remoteio.execute.known import Known
from remoteio.execute.leases import Leases
from remoteio.inotify import IN_Q_OVERFLOW, Inotify
from remoteio.submit.export import between_jobs, watches
from remoteio.submit.export import leases as at_home
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import known
from remoteio.wire import leases as wire
from remoteio.wire.coherence import LEASED_LISTINGS, LEASED_NAMES, LEASED_NODES, SILENCE
from remoteio.wire.frames import FUSE, KNOWN, LEASED, FrameReader
from remoteio.wire.link import Link
from remoteio.wire.listed import Entries, walk

ATTR = bytes(abi.ATTR.size)


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Export]:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").touch()
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    assert made.leases.begin()
    assert made.leases._mounts is not None
    made.leases._mounts.poll.unregister(made.leases._mounts.fd)  # a mount of another test's would take all back
    yield made
    made.close()


def ask(export: Export, op: int, node: int, args: bytes) -> tuple[int, bytes]:
    """What of the answer is leased, and its body."""
    answer = export.answer(abi.Request(abi.request(op, node, args, 1)))
    assert answer is not None
    kind, what, _, payload = wire.split(answer[1]) if answer[0] == LEASED else (answer[0], 0, b"", answer[1])
    assert kind in (FUSE, KNOWN)
    return what, bytes(payload[abi.OUT_HEADER.size :])


def look(export: Export, node: int, name: bytes) -> int:
    """Look a name up; what is leased of it."""
    return ask(export, abi.LOOKUP, node, name + b"\0")[0]


def broken(export: Export) -> list[tuple[int, bytes]]:
    return [item for _, payload in FrameReader().feed(export.leases.due()) for item in wire.broken(payload)]


def directory(export: Export) -> int:
    what, body = ask(export, abi.LOOKUP, abi.ROOT_ID, b"dir\0")
    assert what == wire.NAME | wire.ATTR
    return int(abi.ENTRY.unpack_from(body)[0])


def test_who_looks_where_an_earlier_job_did_is_told_of_all_that_is_there_until_it_changes(
    export: Export, tmp_path: Path
) -> None:
    for k in range(5):
        (tmp_path / f"dir/{k}").touch()
    os.mkfifo(tmp_path / "dir/fifo")
    node = directory(export)
    assert [look(export, node, b"%d" % k) & (wire.LISTED | wire.ENTRIES) for k in range(3)] == [0, 0, wire.LISTED]
    export.listings.since = time.monotonic()
    answer = export.answer(abi.Request(abi.request(abi.LOOKUP, node, b"0\0", 1)))
    assert answer is not None
    _, what, _, payload = wire.split(answer[1])
    assert what == wire.NAME | wire.ATTR | wire.LISTED | wire.ENTRIES
    told = known.parse(abi.LOOKUP, known.split(payload)[1], False)
    assert told.listing is not None
    nodes = {name: nodeid for _, _, nodeid, name, *_ in walk(told.listing.entries) if nodeid}
    assert nodes.keys() == {b"file", *(b"%d" % k for k in range(5))}, "what changes without an event is a name alone"
    (tmp_path / "dir/3").write_text("more")
    os.utime(tmp_path / "dir/4")
    assert broken(export) == [(nodes[b"3"], b""), (nodes[b"4"], b"")]
    assert not look(export, node, b"1") & wire.LISTED, "it was told just now"


@pytest.mark.parametrize("what", [wire.LISTED, wire.LISTED | wire.ENTRIES])
def test_the_attributes_of_what_is_listed_hold_if_that_is_said_but_of_what_the_job_has_changed(what: int) -> None:
    facts = Known()
    told = [abi.ENTRY.pack(k, 0, 1, 1, 0, 0) + ATTR + abi.DIRENT.pack(k, k, 8, 8) + b"%08d" % k for k in (0, 6, 7)]
    stamp = facts.asked(abi.LOOKUP, 5)
    facts.asked(abi.SETATTR, 7)
    listing = known.Piggyback(ATTR, b"", known.Listing(b"".join(told), True))
    facts.lease(5, stamp, wire.NAME | wire.ATTR | what, b"%08d" % 6, (6, ATTR, listing, False))
    assert facts.leases.getattr(1, 6) is not None
    assert facts.leases.lookup(1, 5, b"%08d" % 7) is None
    facts.leases.changed(6)
    facts.lease(5, stamp, wire.NAME | what, b"%08d" % 9, (0, b"", listing, False))
    assert (facts.leases.lookup(1, 5, b"%08d" % 6) is not None) is bool(what & wire.ENTRIES)


def test_one_break_for_all_changes_until_it_is_told_again(export: Export, tmp_path: Path) -> None:
    node = directory(export)
    look(export, node, b"new")
    for _ in range(3):
        (tmp_path / "dir/new").touch()
        assert broken(export) == [(node, b"new")]
        (tmp_path / "dir/new").unlink()
        assert broken(export) == []
        look(export, node, b"new")
        ask(export, abi.GETATTR, node, abi.GETATTR_IN.pack(0, 0, 0))


def test_an_overflow_takes_everything_back(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    node = directory(export)
    assert look(export, node, b"file")
    real = Inotify.read
    said = [[(-1, IN_Q_OVERFLOW, "")]]
    monkeypatch.setattr(Inotify, "read", lambda self: said.pop() if said else real(self))
    os.utime(f"/proc/self/fd/{int(export.inodes.top.fd)}")
    assert broken(export) == [(wire.EVERYTHING, b"")]
    assert broken(export) == []


def test_what_changes_all_the_time_is_left_alone_for_a_while(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "_BUSY", 8)
    monkeypatch.setattr(at_home, "_REST", 1e9)
    node = directory(export)
    for k in range(watches._BUSY + 1):
        (tmp_path / f"dir/{k}").touch()
    assert (node, b"") in broken(export)
    assert not look(export, node, b"file")
    export.leases.resting[node] = time.monotonic()
    assert look(export, node, b"file") & wire.NAME


def test_watches_are_bounded_and_those_set_first_go(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = directory(export)
    export.leases.most = 4
    for k in range(8):
        (tmp_path / f"{k}").mkdir()
        look(export, abi.ROOT_ID, b"%d" % k)
    assert len(export.leases._nodes) == len(export.leases.numbers) == 4
    assert (node, b"") in broken(export)


def test_names_that_are_hidden_are_not_told_of(export: Export, tmp_path: Path) -> None:
    node = directory(export)
    assert look(export, node, b"file")
    export.leases._nodes[node].hides = True
    (tmp_path / "dir/secret").touch()
    assert broken(export) == [(node, b"")]


def test_who_holds_what_watches_may_close_it_later(export: Export, tmp_path: Path) -> None:
    ask(export, abi.LOOKUP, abi.ROOT_ID, b"name\0")
    held: list[int] = []
    export.leases.close(lambda fd: held.append(os.dup(fd)))
    (tmp_path / "name").write_text("made")
    assert os.read(held[0], 1 << 16), "it watches on"
    os.close(held[0])
    export.leases.close(held.append)
    assert len(held) == 1 and not export.leases.begin()


def test_nothing_is_leased_where_inotify_sees_too_little(export: Export) -> None:
    export.leases._local._known[export.inodes.top.dev] = False
    assert look(export, abi.ROOT_ID, b"dir") == 0
    assert look(export, abi.ROOT_ID, b"nothing") == 0


def test_a_place_for_the_jobs_own_kernel_filesystem_is_leased_for_good() -> None:
    """Nothing that is shown of it changes, and each path through the job's own /proc begins with it."""
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), "/")
    assert made.leases.begin()
    try:
        look(made, abi.ROOT_ID, b"proc")
        assert look(made, abi.ROOT_ID, b"proc") & (wire.NAME | wire.ATTR) == wire.NAME | wire.ATTR
    finally:
        made.close()


def test_names_alone_are_leased_where_a_file_is_locked_and_for_no_time(export: Export, tmp_path: Path) -> None:
    top = export.inodes.top.id
    look(export, top, b"elsewhere")
    node = directory(export)
    what, body = ask(export, abi.LOOKUP, node, b"file\0")
    file = abi.ENTRY.unpack_from(body)[0]
    assert what & wire.NAME
    what, body = ask(export, abi.OPEN, file, abi.OPEN_IN.pack(os.O_RDWR, 0))
    fh = abi.OPEN_OUT.unpack_from(body)[0]
    export.answer(abi.Request(abi.request(abi.SETLK, file, abi.LK_IN.pack(fh, 1, 0, 0, 1, 1, 0, 0), 2)))
    assert broken(export) == [(node, b"")], "what is elsewhere is leased on"
    for name in (b"file", b"none"):
        what, body = ask(export, abi.LOOKUP, node, name + b"\0")
        assert what == wire.NAME and not any(abi.ENTRY.unpack_from(body)[2:])
    (tmp_path / "dir/none").touch()
    assert broken(export) == [(node, b"none")]
    assert ask(export, abi.GETATTR, file, abi.GETATTR_IN.pack(0, 0, 0))[0] == 0
    assert ask(export, abi.OPENDIR, node, abi.OPEN_IN.pack(0, 0))[0] == 0


def test_what_lies_beside_a_lock_is_leased_as_before_to_the_next_job(export: Export, tmp_path: Path) -> None:
    node = directory(export)
    file = abi.ENTRY.unpack_from(ask(export, abi.LOOKUP, node, b"file\0")[1])[0]
    for lock in (1, 2):
        fh = abi.OPEN_OUT.unpack_from(ask(export, abi.OPEN, file, abi.OPEN_IN.pack(os.O_RDWR, 0))[1])[0]
        export.answer(abi.Request(abi.request(abi.SETLK, file, abi.LK_IN.pack(fh, lock, 0, 0, 1, 1, 0, 0), 2)))
        assert broken(export), "each job's first lock takes back what is beside it"
        assert ask(export, abi.GETATTR, file, abi.GETATTR_IN.pack(0, 0, 0))[0] == 0
        export.answer(abi.Request(abi.request(abi.RELEASE, file, abi.RELEASE_IN.pack(fh, 0, 0, 0), 3)))
        between_jobs.take_back(export.inodes, export.leases)
        what, body = ask(export, abi.LOOKUP, node, b"file\0")
        assert what == wire.NAME | wire.ATTR and any(abi.ENTRY.unpack_from(body)[2:])
        (tmp_path / "dir/file").write_text("changed here")
        assert broken(export) == [(file, b"")]
        look(export, node, b"file")


def test_what_others_have_changed_of_what_the_host_was_told_is_told_to_the_next_job(
    export: Export, tmp_path: Path
) -> None:
    node = directory(export)
    told = {b"/dir", b"/dir/file", b"/dir/new", b"/dir/new/below", b"/other"}

    def unchanged() -> set[bytes]:
        return between_jobs.unchanged(told, export.inodes, export.leases)

    look(export, node, b"file")
    assert look(export, node, b"new") == wire.NAME and unchanged() == told
    (tmp_path / "dir/new").mkdir()
    assert unchanged() == told - {b"/dir/new", b"/dir/new/below"}
    look(export, node, b"new")
    assert unchanged() == told
    (tmp_path / "dir").rename(tmp_path / "elsewhere")
    assert unchanged() == {b"/other"}


def test_a_host_that_has_not_heard_of_home_answers_from_no_lease() -> None:
    table = Leases()
    table.heard = 10.0
    assert table.holds(10.0 + SILENCE - 0.1)
    assert not table.holds(10.0 + SILENCE)


def test_the_kernel_reads_what_it_has_kept_of_a_directory_only_while_it_is_that_very_listing() -> None:
    table, names, alone = Leases(), [b"a", b"b"], abi.FOPEN_CACHE_DIR
    entries = b"".join(
        bytes(abi.ENTRY.size + abi.ATTR.size) + abi.DIRENT.pack(k, k, 1, 8) + name + bytes(7)
        for k, name in enumerate(names)
    )

    def lists(*kept: int) -> None:
        table.listed(abi.ROOT_ID, walk(entries), entries)
        table.attributes(abi.ROOT_ID, ATTR)
        assert [keeps(table, abi.ROOT_ID)[0] for _ in kept] == [*kept]

    lists(alone, alone | abi.FOPEN_KEEP_CACHE)
    table.listed(abi.ROOT_ID, [(0, 0, 0, name, 0, 0) for name in names])
    flags, told, found = keeps(table, abi.ROOT_ID)
    assert flags == alone | abi.FOPEN_KEEP_CACHE and told == entries and [each[3] for each in found] in ([], names)
    lists(alone)
    table.broken(abi.ROOT_ID, b"a")
    assert not table.lists(abi.ROOT_ID)
    lists(alone, alone | abi.FOPEN_KEEP_CACHE)
    table.broken(abi.ROOT_ID, b"")
    lists(alone)


def test_a_directory_is_listed_as_before_when_its_names_are_told_again_in_no_order() -> None:
    """As with the reply to a LOOKUP in it, or as names alone."""
    table, attr = Leases(), bytes(abi.ATTR.size)
    names: Entries = [(0, 0, 5, b"b", 0, 4), (0, 0, 6, b"a", 0, 8)]
    alone: Entries = [(0, 0, 0, b"a", 0, 0), (0, 0, 0, b"b", 0, 0)]
    for again, kept in ((names[::-1], True), (alone, True), (names[:1], False)):
        table.listed(abi.ROOT_ID, names, b"as it is listed")
        for nodeid in (abi.ROOT_ID, 5):
            table.attributes(nodeid, attr)
        assert table.lists(abi.ROOT_ID)
        table.listed(abi.ROOT_ID, again)
        assert table.lists(abi.ROOT_ID) == kept
        table.changed(5)
        assert not table.lists(abi.ROOT_ID), "a directory in it may be asked for at once"


def test_what_a_host_keeps_is_bounded_and_given_back() -> None:
    table = Leases()
    each = 1 << 10
    kept = LEASED_NAMES // each
    for k in range(kept + 5):
        names: Entries = [(0, 0, 10 + k * each + n, b"%d" % n, 0, 8) for n in range(each)]
        table.listed(1 << 30 | k, names)
        for _, _, nodeid, *_ in names:
            assert table.forgotten(nodeid, 1) == 0, "it is kept at home while a name leads there"
    assert table._names <= LEASED_NAMES
    assert sorted(nodeid for nodeid, _ in table.unused) == list(range(10, 10 + 5 * each))
    table = Leases()
    for k in range(2, 10):
        table.listed(k, [], bytes(LEASED_LISTINGS // 4))
    assert table._bytes == LEASED_LISTINGS and list(table._directories) == [6, 7, 8, 9]
    table.clear()
    assert not table._bytes
    for nodeid in range(2, LEASED_NODES + 100):
        table.name(abi.ROOT_ID, b"%d" % nodeid, nodeid)
        table.attributes(nodeid, ATTR)
        table.lacks(nodeid)
    assert len(table._attr) == len(table._bare) == LEASED_NODES


def test_frames_of_leases_are_what_they_were_and_no_others_are_taken() -> None:
    packed = wire.pack(KNOWN, wire.NAME | wire.ATTR, b"name", b"reply")
    assert packed == b"\3\3\4\0\0\0\0\0namereply"
    assert wire.split(packed) == (KNOWN, 3, b"name", b"reply")
    items = [(7, b"name"), (0, b""), (1 << 40, b"12345678")]
    data = b"".join(wire.pack_break(*item) for item in items)
    assert data[:24] == b"\7\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0name\0\0\0\0"
    assert wire.broken(data) == items
    for wrong in (b"", b"\1\3\0\0", b"\2\3\4\0\0\0\0\0name", b"\1\0\0\0\0\0\0\0", b"\1\3\5\0\0\0\0\0name"):
        with pytest.raises(ProtocolError):
            wire.split(wrong)
    for cut in (data[:7], data[:18], (1).to_bytes(8, "little") + (256).to_bytes(8, "little") + bytes(256)):
        with pytest.raises(ProtocolError):
            wire.broken(cut)
    dice = random.Random(5)
    for _ in range(500):
        try:
            wire.broken(dice.randbytes(dice.randrange(64)))
            wire.split(dice.randbytes(dice.randrange(64)))
        except ProtocolError:
            pass


@pytest.mark.parametrize("free", [0, at_home._LEFT, at_home._LEFT + 1])
def test_the_last_inotify_instances_are_left_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """As criu needs one."""
    there: set[Inotify] = set()

    class OneOfFew(Inotify):
        def __init__(self) -> None:
            if len(there) >= free:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            super().__init__()
            there.add(self)

        def close(self) -> None:
            there.remove(self)
            super().close()

    monkeypatch.setattr(at_home.ino, "Inotify", OneOfFew)
    told: list[str] = []
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    made.leases.start(NoLink(), told.append)
    assert made.leases.begin() == (free > at_home._LEFT) == bool(there) == (not told)
    assert all("sysctl fs.inotify.max_user_instances" in why for why in told)
    made.close()
    assert not there


class NoLink(Link):
    """One that nothing is sent over."""

    def __init__(self) -> None:
        pass

    def go_ahead(self, due: Callable[[], bytes]) -> None:
        pass


def test_a_lack_of_watches_is_told_once_and_nothing_is_leased(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Inotify, path: bytes, mask: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told: list[str] = []
    export.leases.start(NoLink(), told.append)
    with monkeypatch.context() as patched:
        patched.setattr(Inotify, "add", full)
        what, body = ask(export, abi.LOOKUP, abi.ROOT_ID, b"dir\0")
        node = int(abi.ENTRY.unpack_from(body)[0])
        assert not what and not look(export, node, b"file")
    (why,) = told
    assert "sysctl fs.inotify.max_user_watches" in why
    assert look(export, node, b"file") & wire.NAME, "there are some again"
