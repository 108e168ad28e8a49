"""What a job's kernel knows of files is made anew by the process after one that was killed; what cannot be is told."""

from __future__ import annotations

import fcntl
import gc
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from remoteio.errors import ProtocolError
from remoteio.execute.handles import Handles
from remoteio.submit.export import node_log
from remoteio.submit.export.changes import Changes
from remoteio.submit.export.confine import Confinement
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.doings import SLOTS, Doings
from remoteio.submit.export.node_log import NodeLog
from remoteio.submit.export.once import Asked, Once, Opened, Unfit, check_asked
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.taken_up import take_up
from remoteio.submit.export.written_files import WrittenFiles
from remoteio.wire import frames
from remoteio.wire import fuse_abi as abi
from shim.execute.agent.counted_streams import CountedSource
from tests.hostile import Host, Refused

BOOT = b"b" * 36


class Home:
    """An export with a log, and who asks it; `again` is the one after it, once this one was killed."""

    def __init__(self, top: Path, log: Path, waits: bool = False) -> None:
        self.top, self.log = top, log
        self.noted = NodeLog(str(log), BOOT, waits)
        self.record = WrittenFiles(Changes(), None, self.noted)
        ids = ShownIds(os.geteuid(), os.getegid(), frozenset())
        self.export = Export(ids, str(top), self.record, Confinement())
        self.host = Host(self.export)

    def open(self, node: int, flags: int = os.O_RDWR) -> int:
        before = set(self.export.inodes.handles)
        self.host.ask(abi.OPEN, node, abi.OPEN_IN.pack(flags, 0))
        return (set(self.export.inodes.handles) - before).pop()

    def write(self, node: int, handle: int, data: bytes, flags: int = 0) -> None:
        self.host.ask(abi.WRITE, node, abi.WRITE_IN.pack(handle, 0, len(data), 0, 0, flags, 0) + data)

    def again(self, *opened: Opened, places: tuple[bytes, ...] = ()) -> Home:
        told = node_log.read(str(self.log), BOOT)
        home = Home(self.top, self.log, waits=True)
        highest = max((each.number for each in opened if each.number < abi.OWN), default=0)
        take_up(home.export, told, opened, places, highest)
        home.noted.begin()
        home.export.inodes._check()
        return home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    top = tmp_path / "top"
    (top / "below/deep").mkdir(parents=True)
    (top / "below/file").write_bytes(b"as it was")
    return Home(top, tmp_path / "log")


def test_nodes_and_handles_have_their_numbers_again(home: Home) -> None:
    below = home.host.lookup(abi.ROOT_ID, b"below")
    file, deep = home.host.lookup(below, b"file"), home.host.lookup(below, b"deep")
    handle = home.open(file)
    after = home.again(Opened(handle, file, os.O_RDWR))
    after.write(file, handle, b"anew")
    assert (home.top / "below/file").read_bytes() == b"anew" + b"as it was"[4:]
    assert after.host.lookup(below, b"deep") == deep and after.host.lookup(below, b"file") == file
    with pytest.raises(Refused):
        after.write(file, handle + 1, b"x")
    assert set(after.record._nodes) == {file}, "the next image tells of what was written before"


def test_numbers_are_not_given_twice(home: Home) -> None:
    below = home.host.lookup(abi.ROOT_ID, b"below")
    file = home.host.lookup(below, b"file")
    handle = home.open(file)
    home.host.ask(abi.RELEASE, file, abi.RELEASE_IN.pack(handle, 0, 0, 0))
    after = home.again()
    (home.top / "new").touch()
    assert after.host.lookup(abi.ROOT_ID, b"new") > handle < after.open(file)


def test_numbers_of_which_nothing_is_noted_are_not_given_twice(home: Home) -> None:
    (home.top / "other").touch()
    given = [home.host.lookup(abi.ROOT_ID, b"other")]
    for _ in range(3):
        home.export.inodes.next_number += 1 << 24  # as if it had listed so many files
        given.append(home.host.lookup(home.host.lookup(abi.ROOT_ID, b"below"), b"file"))
        home = home.again()
        given.append(home.host.lookup(abi.ROOT_ID, b"other"))
    assert given == sorted(set(given))


def test_what_was_renamed_and_linked_is_found_again_and_after_that_once_more(home: Home) -> None:
    below = home.host.lookup(abi.ROOT_ID, b"below")
    file, deep = home.host.lookup(below, b"file"), home.host.lookup(below, b"deep")
    handle = home.open(file)
    home.host.ask(abi.RENAME, below, abi.RENAME_IN.pack(deep) + b"file\0other\0")
    home.host.ask(abi.RENAME, abi.ROOT_ID, abi.RENAME_IN.pack(abi.ROOT_ID) + b"below\0above\0")
    home.host.ask(abi.LINK, abi.ROOT_ID, abi.LINK_IN.pack(file) + b"second\0")
    opened = Opened(handle, file, os.O_RDWR)
    after = home.again(opened).again(opened)
    assert after.host.lookup(abi.ROOT_ID, b"above") == below and after.host.lookup(deep, b"other") == file
    os.unlink(home.top / "above/deep/other")
    once_more = after.again(opened)
    assert once_more.host.lookup(abi.ROOT_ID, b"second") == file


def test_what_is_open_and_gone_or_another_is_not_taken_up(home: Home) -> None:
    below = home.host.lookup(abi.ROOT_ID, b"below")
    file = home.host.lookup(below, b"file")
    opened = Opened(home.open(file), file, os.O_RDWR)
    os.rename(home.top / "below/file", home.top / "below/elsewhere")
    (home.top / "below/file").write_bytes(b"another's")
    with pytest.raises(Unfit, match="was removed or replaced"):
        home.again(opened)
    home.again()  # it was closed: whoever asks for it is told that it is stale


def test_what_the_job_has_removed_and_holds_open_is_not_taken_up(home: Home) -> None:
    below = home.host.lookup(abi.ROOT_ID, b"below")
    file = home.host.lookup(below, b"file")
    opened = Opened(home.open(file), file, os.O_RDWR)
    home.host.ask(abi.UNLINK, below, b"file\0")
    with pytest.raises(Unfit, match="was removed or replaced"):
        home.again(opened)


def test_a_directory_that_is_gone_matters_only_where_the_job_works_in_it(home: Home) -> None:
    below = home.host.lookup(abi.ROOT_ID, b"below")
    deep = home.host.lookup(below, b"deep")
    os.rename(home.top / "below/deep", home.top / "moved")
    for place in (b"/below/deep", b"/below/deep/er", b"/below/deep (deleted)"):
        with pytest.raises(Unfit, match="/below/deep, in which it works"):
            home.again(places=(place,))
    after = home.again(places=(b"/below", b"/below/deeper"))
    with pytest.raises(Refused):
        after.host.lookup(deep, b"file")


def test_a_host_may_not_open_what_the_job_could_not(home: Home) -> None:
    os.mknod(home.top / "socket", stat.S_IFSOCK | 0o600)
    socket = home.host.lookup(abi.ROOT_ID, b"socket")
    with pytest.raises(ProtocolError):
        home.again(Opened(1000, socket, os.O_RDWR))
    file = home.host.lookup(home.host.lookup(abi.ROOT_ID, b"below"), b"file")
    home.open(file)
    with pytest.raises(ProtocolError):
        home.again(Opened(1000, file, os.O_RDWR), Opened(1000, file, os.O_RDWR))
    below = home.host.lookup(abi.ROOT_ID, b"below")
    for number, node in ((abi.OWN + 1, file), (abi.OWN_FILES + 1, below), (abi.OWN_FILES + 1, socket)):
        with pytest.raises(ProtocolError):
            home.again(Opened(number, node, 0))


def test_what_the_host_has_opened_by_itself_is_open_by_its_number_again(home: Home) -> None:
    below = home.host.lookup(abi.ROOT_ID, b"below")
    file = home.host.lookup(below, b"file")
    home.host.ask(abi.RELEASE, file, abi.RELEASE_IN.pack(home.open(file, os.O_RDONLY), 0, 0, 0))
    fh = abi.OWN_FILES + 7
    after = home.again(Opened(fh, file, os.O_RDWR | os.O_TRUNC))
    asked = abi.READ_IN.pack(fh, 0, 100, 0, 0, 0, 0)
    assert after.host.ask(abi.READ, file, asked) == b"as it was", "for reading, whatever the host says"
    with pytest.raises(Refused):
        after.write(file, fh, b"anew")
    assert after.open(file, os.O_RDONLY) < abi.OWN, "the numbers that are given here are none of the host's"
    assert not after.record._nodes


def test_a_log_that_is_closed_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """Also where something holds it still: its export's nodes do, in a cycle."""
    gc.collect()  # what other tests have left
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "top").mkdir()
    home = Home(tmp_path / "top", tmp_path / "log")
    home.export.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_log_that_does_not_tell_all_is_not_believed(home: Home, tmp_path: Path) -> None:
    home.host.lookup(abi.ROOT_ID, b"below")
    with pytest.raises(Unfit, match="started anew"):
        node_log.read(str(home.log), b"c" * 36)
    with pytest.raises(Unfit, match="not noted"):
        node_log.read(str(tmp_path / "none"), BOOT)
    whole = home.log.read_bytes()
    for size in range(len(whole)):  # cut anywhere, it tells less, or that it is damaged: nobody was told of the rest
        home.log.write_bytes(whole[:size])
        told = node_log.read(str(home.log), BOOT) if size else None
        assert told is None or len(told.nodes) <= 1
    home.log.write_bytes(whole + struct.pack("=IB", 8, node_log.GONE) + bytes(8))
    with pytest.raises(Unfit, match="damaged"):
        node_log.read(str(home.log), BOOT)


def test_what_may_have_been_done_and_not_twice_is_told(tmp_path: Path) -> None:
    def begun(op: int, flags: int) -> Doings:
        path = str(tmp_path / f"{op}-{flags}")
        Doings(path).begin(1)
        return Doings(path)

    harmless = [(abi.READ, 0), (abi.WRITE, os.O_WRONLY), (abi.OPEN, os.O_RDWR)]
    twice = [(op, 0) for op in (abi.MKDIR, abi.CREATE, abi.RENAME, abi.UNLINK, abi.SETATTR)]
    twice += [(abi.WRITE, os.O_APPEND), (abi.OPEN, os.O_TRUNC)]
    for op, flags in harmless:
        check_asked([Asked(1, op, flags)], begun(op, flags))
    for op, flags in twice:
        doings = begun(op, flags)
        check_asked([Asked(3, op, flags)], doings)  # it had not come here
        with pytest.raises(Unfit, match="not known whether it was made"):
            check_asked([Asked(1, op, flags)], doings)
    with pytest.raises(Unfit, match="not known whether it was made"):
        check_asked([Asked(1, abi.MKDIR, 0)], Doings(str(tmp_path / "no/such/place")))


def test_of_changes_so_old_that_they_are_not_noted_any_more_nothing_is_known(tmp_path: Path) -> None:
    path = str(tmp_path / "doings")
    doings = Doings(path)
    for unique in range(2, 2 * SLOTS + 6, 2):
        doings.done(doings.begin(unique), 0)
    read = Doings(path)
    assert len(read.before) == SLOTS and read.unknown == 4
    check_asked([Asked(2 * SLOTS + 6, abi.MKDIR, 0), Asked(6, abi.UNLINK, 0)], read)
    with pytest.raises(Unfit):
        check_asked([Asked(4, abi.UNLINK, 0)], read)


def test_what_is_done_is_answered_again_and_what_was_not_begun_is_done(home: Home) -> None:
    """As often as it is asked of one process after another."""
    below = home.host.lookup(abi.ROOT_ID, b"below")
    node = home.host.lookup(below, b"file")
    handle = home.open(node, os.O_WRONLY | os.O_APPEND)
    cut = abi.SETATTR_IN.pack(abi.FATTR_SIZE, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    said = b"more"
    more = abi.WRITE_IN.pack(handle, 0, len(said), 0, 0, os.O_APPEND, 0) + said
    changes = [
        (abi.SETATTR, node, cut),
        (abi.WRITE, node, more),
        (abi.RENAME, below, abi.RENAME_IN.pack(below) + b"deep\0there\0"),
        (abi.UNLINK, below, b"none\0"),
        (abi.RMDIR, below, b"there\0"),
    ]
    asked = [Asked(100 + 2 * k, op, os.O_APPEND if op == abi.WRITE else 0) for k, (op, _, _) in enumerate(changes)]
    requests = [abi.Request(abi.request(*change, each.unique)) for change, each in zip(changes, asked, strict=True)]
    first = [home.export.answer(request) for request in requests]
    lost = abi.Request(abi.request(abi.WRITE, node, more, 200))
    for again in (1, 2):
        home = home.again(Opened(handle, node, os.O_WRONLY | os.O_APPEND))
        check_asked([*asked, Asked(200 if again == 1 else 300, abi.WRITE, os.O_APPEND)], home.noted.doings)
        answers = [home.export.answer(request) for request in requests]
        heads = [abi.OUT_HEADER.unpack_from(told(answer)) for answer in answers]
        assert heads == [abi.OUT_HEADER.unpack_from(told(answer)) for answer in first]
        assert abi.WRITE_OUT.unpack_from(told(answers[1]), abi.OUT_HEADER.size)[0] == len(said)
        assert abi.ATTR.unpack_from(told(answers[0]), abi.OUT_HEADER.size + 16)[1] == 2 + len(said) * again
        home.export.answer(lost)
        assert (home.top / "below/file").read_bytes() == b"as" + said * 2
    with pytest.raises(Unfit, match="not known any more what it made"):
        home.export.answer(abi.Request(abi.request(abi.MKDIR, below, abi.MKDIR_IN.pack(0o755, 0) + b"new\0", 400)))
        check_asked([Asked(400, abi.MKDIR, 0)], Doings(node_log.doings_of(str(home.log))))


def told(answer: tuple[int, bytes] | None) -> bytes:
    """What of a frame the kernel is told."""
    assert answer is not None
    return answer[1][: abi.OUT_HEADER.unpack_from(answer[1])[0]]


def test_a_request_that_comes_twice_is_done_once() -> None:
    once, late = Once([4, 6]), [abi.request(abi.LOOKUP, 1, b"x\0", unique) for unique in (4, 8, 4, 6, 8, 4)]
    assert [once.again(raw) for raw in late] == [False, False, True, False, False, True]


def test_the_handles_that_a_kernel_has_are_known() -> None:
    handles = Handles()
    entry = bytes(abi.ENTRY.size + abi.ATTR.size)
    entry = abi.ENTRY.pack(7, 0, 0, 0, 0, 0) + entry[abi.ENTRY.size :]
    made = abi.reply(2, entry + abi.OPEN_OUT.pack(11, 0, 0))
    asked = abi.request(abi.CREATE, 1, abi.CREATE_IN.pack(os.O_WRONLY, 0, 0, 0) + b"x\0", 2)
    handles.opened(abi.CREATE, 1, asked, made)
    handles.opened(
        abi.OPEN, 5, abi.request(abi.OPEN, 5, abi.OPEN_IN.pack(0, 0), 4), abi.reply(4, abi.OPEN_OUT.pack(9, 0, 0))
    )
    handles.closed(9)
    append = abi.request(abi.WRITE, 7, abi.WRITE_IN.pack(11, 0, 1, 0, 0, os.O_APPEND, 0) + b"x", 6)
    told = handles.state([(6, abi.WRITE, append)], True)
    assert told["files"] == [b"11 7 %d" % os.O_WRONLY] and told["asked"] == [b"6 %d %d" % (abi.WRITE, os.O_APPEND)]
    assert not told["why"] and handles.state([], False)["why"]
    assert handles.state([], True, [(abi.OWN_FILES + 1, 5, 0)])["files"][1:] == [b"%d 5 0" % (abi.OWN_FILES + 1)]
    assert told["highest"] == [b"11"], "though 9 was noted later"


LOCK, WHOLE = abi.SETLKW, (1 << 63) - 1
READ, WRITE, UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK


def locked(kind: int, first: int = 0, last: int = WHOLE, *, fh: int = 9, owner: int = 3, flock: bool = False) -> bytes:
    """A request for a lock."""
    return abi.request(abi.SETLKW, 7, abi.LK_IN.pack(fh, owner, first, last, kind, 1, int(flock), 0), 2)


@pytest.mark.parametrize(
    ("asked", "holds"),
    [
        ([locked(WRITE)], True),
        ([locked(WRITE), locked(UNLOCK)], False),
        ([locked(WRITE), locked(READ), locked(UNLOCK)], False),
        ([locked(READ, 10, 19), locked(UNLOCK, 0, 14)], True),
        ([locked(READ, 10, 19), locked(UNLOCK, 0, 14), locked(UNLOCK, 15, 19)], False),
        ([locked(READ, 10, 19), locked(UNLOCK, 12, 14), locked(UNLOCK, 10, 11)], True),
        ([locked(WRITE), locked(UNLOCK, owner=4)], True),
        ([locked(WRITE, flock=True), locked(UNLOCK)], True),
        ([locked(WRITE, flock=True), locked(UNLOCK, flock=True)], False),
        ([locked(WRITE, flock=True), locked(READ, flock=True)], True),
    ],
)
def test_whether_a_lock_is_held_is_known(asked: list[bytes], holds: bool) -> None:
    handles = Handles()
    handles.locked.add(7)
    handles.coherent.add(7)
    for at, each in enumerate(asked):
        handles.locks.answered(abi.SETLKW, 7, each, at, at + 0.5)
    assert bool(handles.locks) == holds == bool(handles.state([], True)["why"])


def test_a_lock_is_given_back_by_closing_and_by_no_unlock_from_before() -> None:
    handles = Handles()
    handles.locks.answered(abi.SETLKW, 7, locked(WRITE), 1.0, 2.0)
    handles.locks.answered(abi.SETLK, 7, locked(UNLOCK), 1.5, 3.0)
    assert handles.locks, "two threads: which of the two was done first is not known"
    flush = abi.request(abi.FLUSH, 7, abi.FLUSH_IN.pack(9, 0, 0, 3), 4)
    handles.locks.answered(abi.FLUSH, 7, flush, 4.0, 5.0)
    assert not handles.locks
    handles.locks.answered(abi.SETLK, 7, locked(WRITE, flock=True), 6.0, 7.0)
    handles.closed(9)
    assert not handles.locks


def test_who_waits_for_a_lock_is_not_taken_up() -> None:
    handles = Handles()
    assert handles.state([(2, LOCK, locked(WRITE))], True)["why"] == [b"it was asking for a file lock"]
    handles.locked.add(7)
    assert handles.state([], True)["why"] == [b"it has locked a file with pages that may not be written"]


def test_what_home_has_not_written_of_a_stream_is_said_again() -> None:
    sent: list[bytes] = []

    class Link:
        def send(self, kind: int, payload: bytes) -> None:
            sent.append(payload)

    link: Any = Link()
    reading, writing = os.pipe()
    source = CountedSource(link, frames.STDOUT, reading)
    for text in (b"first ", b"second ", b"third"):
        os.write(writing, text)
        source._pass_on(1 << 16)
    source.credit(3)
    del sent[:]
    source.say_again(len(b"first sec"))
    assert b"".join(sent) == b"ond third"
    os.close(writing)
    source._pass_on(1 << 16)
    del sent[:]
    source.say_again(len(b"first second third"))
    assert sent == [b""], "its end too"
    with pytest.raises(ProtocolError):
        source.say_again(3)
    with pytest.raises(ProtocolError):
        source.say_again(100)
    os.close(reading)
