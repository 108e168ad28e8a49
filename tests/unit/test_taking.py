"""What a host may tell of names that a job takes away before that is done: which, and what home grants and refuses."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio import syscalls
from remoteio.errors import ProtocolError
from remoteio.execute.known_ahead import KnownAhead
from remoteio.execute.leased_names import is_absent
from remoteio.submit.export import more_made, more_removed
from remoteio.submit.export.confine import Confinement
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.leases import Leases
from remoteio.submit.export.more_removed import MoreRemoved
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import makes
from remoteio.wire.frames import GRANTED, KNOWN, LEASED
from remoteio.wire.listed import TAKES, pack, parse, takings, walk
from remoteio.wire.makes import MADE, REMOVE, SHOWN, Granted

TOP, DIR, FILE, NOW = 7, 8, 9, 1000.0


def attr(mode: int, links: int = 1) -> bytes:
    return abi.ATTR.pack(3, 0, 0, 1, 2, 3, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)


def entries(**nodes: int) -> bytes:
    """A listing of these names, directories where the name ends with d."""
    found = b""
    for k, (name, node) in enumerate(nodes.items(), 1):
        kind = 4 if name.endswith("d") else 8
        told = abi.ENTRY.pack(node, 0, 1, 1, 0, 0) + attr(stat.S_IFREG)
        found += (told + abi.DIRENT.pack(node, k, len(name), kind) + name.encode()).ljust(160, b"\0")
    return found


class Host:
    """What a host knows of a directory that is leased, with a file and a directory in it, which are home's."""

    def __init__(self, words: tuple[bytes, ...] = (), granted: bool = True) -> None:
        self.known = KnownAhead()
        self.known.leases.heard = NOW
        for name, node in ((b"file", FILE), (b"dir", DIR), (b"kept", 30)):
            self.known.leases.name(TOP, name, node)
        if granted:
            self.grants(TOP, words)

    def grants(self, node: int, words: tuple[bytes, ...] = (), what: int = REMOVE | SHOWN) -> None:
        asked = abi.UNLINK, node, 0, self.known.asked(abi.UNLINK, node), NOW, b""
        self.known.making.may_take(asked, Granted(what, 5_000_000_000, words), attr(stat.S_IFDIR | 0o755, 3), NOW)

    def takes(self, name: bytes, op: int = abi.UNLINK, node: int = TOP) -> int:
        return sum(self.known.making.takes(op, abi.request(op, node, name + b"\0", 9), NOW))

    def removes(self, name: bytes, op: int, node: int = TOP) -> None:
        found = self.takes(name, op, node)
        assert found
        self.known.removes(node, found, names=(name,))
        self.known.making.took(op, abi.request(op, node, name + b"\0", 9), 1, NOW)


def test_any_name_is_taken_away_where_home_has_granted_it_but_for_those_that_it_keeps() -> None:
    host = Host((b"kept", b"hook*d"))
    assert host.takes(b"file") == FILE
    assert host.takes(b"none") == 0, "home may have it"
    for name in (b"kept", b"KEPT", b"hooks.d", "é".encode()):
        host.known.leases.name(TOP, name, 31)
        assert host.takes(name) == 0
    host.removes(b"file", abi.UNLINK)
    assert is_absent(host.known.leases, TOP, b"file") and host.takes(b"file") == 0
    assert Host(granted=False).takes(b"file") == 0
    host.known.leases.name(TOP, b"file", FILE)
    host.known.leases.heard = 0.0
    assert host.takes(b"file") == 0, "home may have taken it back"


def test_what_is_taken_back_is_asked_for_and_so_is_what_home_grants_no_more() -> None:
    for items in ([(TOP, b"")], [(0, b"")]):
        host = Host()
        host.known.broken(items)
        host.known.leases.name(TOP, b"file", FILE)
        assert host.takes(b"file") == 0
    host = Host()
    host.known.broken([(TOP, b"file"), (99, b"")])
    assert host.takes(b"file") == 0 and host.takes(b"kept") == 30, "that name alone"
    host.grants(TOP, what=0)
    assert host.takes(b"kept") == 0
    host = Host(granted=False)
    asked = abi.UNLINK, TOP, 0, host.known.asked(abi.UNLINK, TOP), NOW, b""
    host.known.broken([(TOP, b"")])
    host.known.leases.name(TOP, b"file", FILE)
    host.known.making.may_take(asked, Granted(REMOVE, 1), attr(stat.S_IFDIR), NOW)
    assert host.takes(b"file") == 0, "it was taken back since home was asked"


def test_a_directory_goes_if_it_is_known_that_nothing_is_in_it() -> None:
    host = Host()
    assert host.takes(b"dir", abi.RMDIR) == 0, "what is in it is not known"
    host.known.leases.listed(DIR, [])
    assert host.takes(b"dir", abi.RMDIR) == 0, "something may be that is not shown"
    host.grants(DIR)
    assert host.takes(b"dir", abi.RMDIR) == DIR
    host.known.leases.listed(DIR, walk(entries(**{".": 0, "..": 0})))
    assert host.takes(b"dir", abi.RMDIR) == DIR
    host.known.leases.name(DIR, b"more", 40)
    assert host.takes(b"dir", abi.RMDIR) == 0
    host.removes(b"more", abi.UNLINK, DIR)
    assert host.takes(b"dir", abi.RMDIR) == DIR
    host.known.broken([(DIR, b"theirs")])
    assert host.takes(b"dir", abi.RMDIR) == 0, "somebody has made something there"
    host = Host()
    host.known.leases.listed(DIR, [])
    host.grants(DIR, what=REMOVE)
    assert host.takes(b"dir", abi.RMDIR) == 0, "what is there may be hidden"


def test_a_file_that_the_job_has_made_takes_the_name_of_one_that_may_be_removed() -> None:
    host = Host((b"kept",))
    own = MADE + 3
    host.known.leases.name(TOP, b"own", own)
    host.known.making.owns(own)

    def moves(new: bytes, flags: int = 0) -> tuple[int, ...]:
        args = abi.RENAME2_IN.pack(TOP, flags, 0) + b"own\0" + new + b"\0"
        return host.known.making.takes(abi.RENAME2, abi.request(abi.RENAME2, TOP, args, 9), NOW)

    assert moves(b"file") == (), "who has made nothing there may not be allowed to"
    host.known.making._granted[TOP].likes[abi.CREATE, 0, 0] = 0, ()
    assert moves(b"file") == (own, FILE)
    assert moves(b"kept") == moves(b"file", makes.NOREPLACE) == moves(b"none") == ()
    host.grants(TOP, what=0)
    assert moves(b"file") == ()


def test_a_directory_s_links_are_told_as_they_are_without_the_one_that_went() -> None:
    host = Host()
    host.known.leases.listed(DIR, [])
    host.grants(DIR)
    host.removes(b"dir", abi.RMDIR)
    told = host.known.making.getattr(1, TOP, 0)
    assert told is not None
    assert abi.ATTR.unpack_from(told, abi.OUT_HEADER.size + abi.ATTR_OUT.size)[10] == 3 - (3 - 1)
    assert is_absent(host.known.leases, TOP, b"dir") and not host.known.making.attributes(DIR)


def test_what_was_listed_beside_a_name_that_goes_is_told_still() -> None:
    host = Host()
    told = entries(file=FILE, other=41, thirdd=42)
    host.known.listings.learn(TOP, told, walk(told), NOW + 1)
    host.removes(b"file", abi.UNLINK)
    assert host.known.listings.lookup(1, TOP, b"file", NOW) is None, "the lease tells that it is gone"
    assert host.known.listings.lookup(1, TOP, b"other", NOW) is not None
    assert host.known.listings.unused == [FILE]
    host.known.asked(abi.CREATE, TOP, abi.request(abi.CREATE, TOP, abi.CREATE_IN.pack(0, 0, 0, 0) + b"new\0", 1))
    assert host.known.listings.lookup(1, TOP, b"new", NOW) is None, "it may be there by now"
    assert host.known.listings.lookup(1, TOP, b"thirdd", NOW) is not None
    host.known.listings.opened_ahead(abi.OWN + 1, told, walk(told), NOW, NOW + 1)
    first = host.known.listings.read(1, abi.OWN + 1, 0, 170, NOW)
    assert first is not None and len(first) == abi.OUT_HEADER.size + 160
    host.known.listings.changed(FILE)
    rest = host.known.listings.read(1, abi.OWN + 1, 1, 4000, NOW)
    assert rest is not None and abi.ENTRY.unpack_from(rest, abi.OUT_HEADER.size)[0] == 41, "it was read already"
    host.known.listings.opened_ahead(abi.OWN + 2, told, walk(told), NOW, NOW + 1)
    host.known.listings.changed(41)
    whole = host.known.listings.read(1, abi.OWN + 2, 0, 4000, NOW)
    assert whole is not None and abi.ENTRY.unpack_from(whole, abi.OUT_HEADER.size)[0] == 0, "the names alone"


@pytest.mark.parametrize("meanwhile", ["nothing", "others"])
def test_what_home_is_asked_to_remove_is_a_change_of_that_alone_if_it_has_the_name_to_the_end(meanwhile: str) -> None:
    host = Host(granted=False)
    known, raw = host.known, abi.request(abi.UNLINK, TOP, b"file\0", 9)
    other, before = known.asked(abi.GETATTR, 77), known.asked(abi.GETATTR, FILE)
    stamp = known.asked(abi.UNLINK, TOP, raw)
    assert not known.holds(FILE, before) and not known.holds(TOP, before) and known.holds(77, other)
    during = known.asked(abi.GETATTR, FILE)
    if meanwhile == "others":
        known.broken([(TOP, b"file")])
    known.answered(abi.UNLINK, TOP, stamp)
    assert not known.holds(FILE, during) and not known.holds(TOP, during)
    assert known.holds(77, other) == (meanwhile == "nothing"), "it may have been a name of any file"


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Export]:
    monkeypatch.setattr(Leases, "_break_all", lambda leases: None)  # a mount of another test takes no lease back
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    made.behind = True
    assert made.leases.begin()
    yield made
    made.close()


def asks(export: Export, name: bytes, op: int = abi.UNLINK, node: int = 0) -> tuple[int, Granted]:
    """Have a name removed, or, by a change that was answered, that of the `node`. The error, and what is granted."""
    raw = abi.request(op, abi.ROOT_ID, name + b"\0", 1)
    request = abi.Request(makes.unlink(raw, node) if node else raw)
    request.number = 1 if node else 0
    answer = export.answer(request)
    assert answer is not None
    kind, payload = answer
    granted = Granted(0, 0)
    if kind == GRANTED:
        inner, granted, rest = makes.split(payload)
        assert inner == KNOWN and len(rest) == abi.OUT_HEADER.size + abi.ATTR.size
        payload = bytes(rest)
    return -abi.OUT_HEADER.unpack_from(payload)[1] if kind != LEASED else 0, granted


def some(top: Path) -> None:
    for k in range(4):
        (top / f"{k}").touch()
    (top / "dir").mkdir()


def test_home_grants_it_with_the_first_name_that_is_removed(export: Export, tmp_path: Path) -> None:
    some(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound:
        (tmp_path / "Channel").unlink(missing_ok=True)
        at = os.getcwd()
        os.chdir(tmp_path)  # a longer path than a socket's name may have
        bound.bind("Channel")
        os.chdir(at)
        error, granted = asks(export, b"0")
        assert (error, granted.what) == (0, REMOVE | SHOWN)
        assert b"channel" in granted.words, "who has bound it is home's to know"
    assert asks(export, b"dir", abi.RMDIR)[1].what == REMOVE | SHOWN
    assert asks(export, b"none")[0] == errno.ENOENT
    assert export.leases.due() == b"", "the host hears by the reply"
    tmp_path.chmod(0o700)
    assert export.leases.due() != b"", "and of who changes its rights"


@pytest.mark.parametrize("why", ["sticky", "a lock", "--disk", "append only", "no room", "a large one"])
def test_where_it_may_be_refused_nothing_is_granted(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    some(tmp_path)
    if why == "sticky":
        monkeypatch.setattr(more_removed.os, "geteuid", lambda: 12345)
        tmp_path.chmod(0o1777)
    elif why == "a lock":
        export.inodes.top.shared = True
    elif why == "--disk":
        export.room.counts = True
    elif why == "append only":
        marks = syscalls.marks
        monkeypatch.setattr(syscalls, "marks", lambda at, name=b"": marks(at, name) | (0 if name else syscalls.APPEND))
    elif why == "no room":
        monkeypatch.setattr(more_made, "LEAST_FREE", 1 << 62)
    else:
        monkeypatch.setattr(more_removed, "_LARGE", 1)
    assert asks(export, b"0")[1].what == 0
    assert not (tmp_path / "0").exists()


def test_home_grants_it_with_a_rename_within_the_directory(export: Export, tmp_path: Path) -> None:
    some(tmp_path)
    assert export.answer(abi.Request(abi.request(abi.LOOKUP, abi.ROOT_ID, b"dir\0", 1))) is not None
    within = export.inodes.known((tmp_path / "dir").stat())
    assert within is not None
    for to, expected in ((within.id, KNOWN), (abi.ROOT_ID, GRANTED)):
        args = abi.RENAME_IN.pack(to) + b"%d\0" % (to == abi.ROOT_ID) + b"new\0"
        answer = export.answer(abi.Request(abi.request(abi.RENAME, abi.ROOT_ID, args, 1)))
        assert answer is not None and (answer[0] == GRANTED) == (expected == GRANTED)
    assert makes.split(answer[1])[1].what == REMOVE | SHOWN


def test_what_may_not_be_changed_at_all_or_has_something_mounted_on_it_is_named(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(tmp_path)
    marks, marked = syscalls.marks, {b"1": syscalls.IMMUTABLE, b"2": syscalls.APPEND, b"dir": syscalls.MOUNTED}
    monkeypatch.setattr(syscalls, "marks", lambda at, name=b"": marks(at, name) | marked.get(name, 0))
    assert sorted(asks(export, b"0")[1].words) == [b"1", b"2", b"dir"]
    monkeypatch.setattr(more_removed, "_FEW", 2)
    export.more.removed = MoreRemoved(())
    assert asks(export, b"3")[1].what == 0


def test_what_is_hidden_from_the_job_is_not_taken_for_nothing(tmp_path: Path) -> None:
    some(tmp_path)
    (tmp_path / "hidden").touch()
    st = (tmp_path / "hidden").stat()
    fd = os.open(tmp_path, os.O_PATH)
    node = Node(1, os.fstat(fd), None, b"", Confinement().top)
    assert MoreRemoved(()).kept(node, fd) == ((), True)
    assert MoreRemoved({(st.st_dev, st.st_ino)}).kept(node, fd) == ((), False)
    os.close(fd)


def test_home_removes_the_directory_that_the_host_means_and_leaves_it_alone(export: Export, tmp_path: Path) -> None:
    some(tmp_path)
    assert export.answer(abi.Request(abi.request(abi.LOOKUP, abi.ROOT_ID, b"dir\0", 1))) is not None
    node = export.inodes.known((tmp_path / "dir").stat())
    assert node is not None
    assert export.leases.listing(node, export.inodes.descriptors.directory(node))
    assert asks(export, b"dir", abi.RMDIR, node.id + 1)[0] == errno.ESTALE
    (tmp_path / "dir/theirs").touch()
    assert b"theirs" in export.leases.due()
    assert asks(export, b"dir", abi.RMDIR, node.id)[0] == errno.ENOTEMPTY
    (tmp_path / "dir/theirs").unlink()
    export.leases.due()
    assert asks(export, b"dir", abi.RMDIR, node.id)[0] == 0
    assert not (tmp_path / "dir").exists()
    assert export.leases.due() == b"" and node.id not in export.leases._nodes


def test_directories_that_are_listed_ahead_of_who_removes_things_are_granted_with_that(
    export: Export, tmp_path: Path
) -> None:
    some(tmp_path)
    (tmp_path / "dir/file").touch()

    def lists(looks: int) -> bytes:
        answer = export.answer(abi.Request(abi.request(abi.LIST, abi.ROOT_ID, abi.LIST_IN.pack(8, looks), 1)))
        assert answer is not None
        return answer[1][abi.OUT_HEADER.size :]

    assert takings(lists(0)) == []
    body = lists(TAKES)
    within = export.inodes.known((tmp_path / "dir").stat())
    assert within is not None
    found = takings(body)
    assert [(node, granted.what) for node, _, granted in found] == [
        (each, REMOVE | SHOWN) for each in (abi.ROOT_ID, within.id)
    ]
    assert [each[0] for each in parse(body)] == [abi.ROOT_ID, within.id] and parse(body)[0][3]
    (tmp_path / "dir").chmod(0o500)
    assert export.leases.due() != b"", "who changes its rights takes it back"
    with pytest.raises(ProtocolError):
        takings(body[:-1])
    host = Host(granted=False)
    stamp = host.known.asked(abi.LIST, TOP)
    told = [(TOP, attr(stat.S_IFDIR), Granted(REMOVE, 0))]
    host.known.making.may_take_ahead(stamp, told, NOW)
    assert host.takes(b"file") == 0, "it is not known what time it is there"
    host.grants(DIR)
    host.known.making.may_take_ahead(stamp, told, NOW)
    assert host.takes(b"file") == FILE
    host = Host()
    host.known.broken([(TOP, b"")])
    host.known.leases.name(TOP, b"file", FILE)
    host.known.making.may_take_ahead(stamp, told, NOW)
    assert host.takes(b"file") == 0, "it was taken back since"
    packed = pack(7, attr(0), b"entries", True, Granted(REMOVE, 0, (b"a", b"b*")))
    assert takings(packed)[0][2].words == (b"a", b"b*") and parse(packed) == [(7, attr(0), b"entries", True)]
    assert takings(pack(7, attr(0), b"entries", False, Granted(REMOVE, 0))) == []


def test_who_has_just_removed_something_has_directories_listed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(granted=False)
    monkeypatch.setattr(host.known.ahead, "next", lambda now, leases: ([DIR], [], 1))

    def looks(now: float) -> int:
        (request,) = host.known.ask_ahead(now, {})
        return int(abi.LIST_IN.unpack_from(request, abi.ARGS)[1])

    assert looks(NOW) == 0
    host.grants(TOP)
    assert looks(NOW) == TAKES and looks(NOW + 2) == 0
    host.takes(b"file")
    assert looks(NOW) == TAKES
