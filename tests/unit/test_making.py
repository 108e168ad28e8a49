"""What a host may tell of what a job makes before it is made: which names, and what home grants and refuses."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.errors import ProtocolError
from remoteio.execute.known_ahead import KnownAhead
from remoteio.execute.leased_names import is_absent
from remoteio.execute.making import Made
from remoteio.submit.export import more_made
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.leases import Leases
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases, makes
from remoteio.wire.behind import MAY_WRITE
from remoteio.wire.coherence import LISTED_NAMES, TTL
from remoteio.wire.frames import GRANTED, KNOWN, LEASED
from remoteio.wire.listed import NAMES, pack_names, parse_names
from remoteio.wire.makes import EMPTY, INODES, ITSELF, MADE, MORE, NUMBERS, OWN, SET, Granted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked

TOP, NOW = 7, 1000.0
CREATE = abi.CREATE_IN.pack(os.O_CREAT | os.O_WRONLY, stat.S_IFREG | 0o666, 0o22, 0)
MKDIR = abi.MKDIR_IN.pack(0o777, 0o22)


def attr(ino: int, mode: int, links: int = 1) -> bytes:
    return abi.ATTR.pack(ino, 0, 0, 1, 2, 3, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)


class Host:
    """What a host knows of a directory, empty and leased, in which the job has made one of each kind."""

    def __init__(self, words: tuple[bytes, ...] = ()) -> None:
        self.known = KnownAhead()
        self.known.leases.heard = NOW
        self.known.leases.listed(TOP, [])
        self.number = 0
        of_file = attr(3, stat.S_IFREG | 0o644) + abi.OPEN_OUT.pack(5, 0, 0)
        self.grants(abi.CREATE, CREATE + b"a\0", MORE, words, of_file)
        self.grants(abi.MKDIR, MKDIR + b"b\0", MORE, words, attr(4, stat.S_IFDIR | 0o755, 2))
        self.grants(abi.SYMLINK, b"c\0there\0", MORE, words, attr(5, stat.S_IFLNK | 0o777))

    def grants(self, op: int, args: bytes, what: int, words: tuple[bytes, ...], body: bytes) -> Made | None:
        raw = abi.request(op, TOP, args, 1)
        asked = op, TOP, 0, self.known.asked(op, TOP), NOW, raw
        reply = abi.reply(1, abi.ENTRY.pack(20 + op, 0, 1, 1, 0, 0) + body)
        return self.known.granted(asked, Granted(what, 5_000_000_000, words), reply, b"", NOW)

    def makes(self, op: int, args: bytes, node: int = TOP) -> Made | None:
        self.number += 1
        return self.known.making.answer(op, 9, abi.request(op, node, args, 9), self.number, NOW)


def test_what_is_like_the_one_before_it_is_answered_with_numbers_of_the_change_s_own() -> None:
    host = Host()
    made = host.makes(abi.CREATE, CREATE + b"new\0")
    assert made is not None and (made.nodeid, made.handle) == (MADE + 1, MADE + 1)
    ino, size, _, seconds, _, _, _, _, _, mode, links, *_ = abi.ATTR.unpack(made.attr)
    assert (ino, size, seconds, mode, links) == (INODES + 1, 0, 5, stat.S_IFREG | 0o644, 1)
    made = host.makes(abi.SYMLINK, b"link\0" + b"x" * 30 + b"\0")
    assert made is not None and abi.ATTR.unpack(made.attr)[1] == 30
    made = host.makes(abi.MKDIR, MKDIR + b"dir\0")
    assert made is not None and made.handle == 0
    below = host.makes(abi.CREATE, CREATE + b"new\0", made.nodeid)
    assert below is not None and below.nodeid == MADE + 4, "a directory that was made so is empty, and granted, too"
    assert host.makes(abi.CREATE, CREATE + b"new\0", made.nodeid) is None, "but not twice"


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (abi.CREATE, CREATE + b"n" * 256 + b"\0"), (abi.SYMLINK, b"l\0" + b"x" * 1000 + b"\0"),
        (abi.CREATE, abi.CREATE_IN.pack(os.O_WRONLY | os.O_APPEND, 0o100666, 0o22, 0) + b"n\0"),
        (abi.CREATE, abi.CREATE_IN.pack(os.O_WRONLY, 0o104755, 0o22, 0) + b"n\0"),
        (abi.MKDIR, abi.MKDIR_IN.pack(0o1777, 0) + b"n\0"),
    ],
    ids=["a long name", "a long target", "append", "set-user-id", "sticky"],
)  # fmt: skip
def test_what_home_might_refuse_or_make_otherwise_is_asked_for(op: int, args: bytes) -> None:
    assert Host().makes(op, args) is None


@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_DSYNC, os.O_RDONLY])
def test_a_file_that_is_opened_to_be_appended_to_or_read_says_nothing_of_the_next(flags: int) -> None:
    """`git clone` appends to its log, and then makes all files."""
    host = Host()
    for words, asked in ((MAY_WRITE, os.O_WRONLY), (0, flags)):
        args = abi.CREATE_IN.pack(os.O_CREAT | asked, stat.S_IFREG | 0o666, 0o22, 0) + b"%d\0" % asked
        host.grants(abi.CREATE, args, MORE, (), attr(3, stat.S_IFREG | 0o644) + abi.OPEN_OUT.pack(5, words, 0))
    made = host.makes(abi.CREATE, CREATE + b"new\0")
    assert made is not None and made.words == MAY_WRITE


@pytest.mark.parametrize("name", [b".git", b".GIT. ", b"hooks.d", "é".encode()])
def test_a_name_of_which_a_rule_speaks_is_asked_for(name: bytes) -> None:
    host = Host((b".git", b"hook*d"))
    assert host.makes(abi.CREATE, CREATE + name + b"\0") is None
    assert host.makes(abi.CREATE, CREATE + b"other\0") is not None


def test_what_home_takes_back_is_asked_for() -> None:
    for items in ([(TOP, b"")], [(0, b"")]):
        host = Host()
        host.known.broken(items)
        host.known.leases.listed(TOP, [])
        assert host.makes(abi.CREATE, CREATE + b"new\0") is None
    host = Host()
    host.known.broken([(TOP, b"new")])
    assert host.makes(abi.CREATE, CREATE + b"new\0") is None, "it may be others' by now"
    assert host.makes(abi.CREATE, CREATE + b"other\0") is not None


def test_what_is_granted_after_it_was_taken_back_is_not_kept() -> None:
    host = Host()
    stamp = host.known.asked(abi.MKDIR, TOP)
    host.known.broken([(TOP, b"")])
    raw = abi.request(abi.MKDIR, TOP, MKDIR + b"d\0", 1)
    reply = abi.reply(1, abi.ENTRY.pack(50, 0, 1, 1, 0, 0) + attr(8, stat.S_IFDIR | 0o755, 2))
    host.known.granted((abi.MKDIR, TOP, 0, stamp, NOW, raw), Granted(MORE | EMPTY, 1), reply, b"", NOW)
    assert host.makes(abi.CREATE, CREATE + b"new\0", 50) is None


def test_home_s_reply_ends_what_was_granted() -> None:
    host = Host()
    made = host.makes(abi.MKDIR, MKDIR + b"dir\0")
    assert made is not None
    host.known.making.goes_on(abi.MKDIR, made.nodeid, Granted(MORE, 1), NOW)
    assert host.makes(abi.CREATE, CREATE + b"new\0", made.nodeid) is None, "it is not known to be empty"
    assert host.makes(abi.CREATE, CREATE + b"new\0") is not None
    host.known.making.goes_on(abi.CREATE, 1, Granted(0, 1), NOW)
    assert host.makes(abi.CREATE, CREATE + b"newer\0") is None


def test_a_directory_s_attributes_are_told_while_something_is_made_in_it() -> None:
    host = Host()
    made = host.makes(abi.MKDIR, MKDIR + b"dir\0")
    assert made is not None and host.known.making.getattr(1, made.nodeid, 0) is None
    host.makes(abi.MKDIR, MKDIR + b"below\0", made.nodeid)
    told = host.known.making.getattr(1, made.nodeid, 1)
    assert told is not None and abi.ATTR.unpack_from(told, abi.OUT_HEADER.size + abi.ATTR_OUT.size)[10] == 3
    assert abi.ATTR_OUT.unpack_from(told, abi.OUT_HEADER.size)[:2] == (TTL, 0), "a path leads on"
    assert host.known.making.getattr(1, made.nodeid, 2) is None, "it is done"


def test_what_a_directory_was_told_to_look_like_is_to_be_forgotten_once_when_the_last_change_in_it_is_done() -> None:
    host = Host()
    made = host.makes(abi.MKDIR, MKDIR + b"dir\0")
    assert made is not None
    making, node = host.known.making, made.nodeid
    host.makes(abi.MKDIR, MKDIR + b"first\0", node)
    host.makes(abi.MKDIR, MKDIR + b"second\0", node)
    assert making.getattr(1, node, 1) is not None
    assert not making.settles(node, 2), "another change of it is under way"
    assert making.settles(node, 3) and not making.settles(node, 3)
    assert making.getattr(1, node, 2) is None, "what is true is known from now on"
    host.makes(abi.MKDIR, MKDIR + b"third\0", node)
    assert not making.settles(node, 4), "the kernel was not told"


def test_a_directory_whose_attributes_are_set_is_told_as_they_are_then() -> None:
    host = Host()
    made = host.makes(abi.MKDIR, MKDIR + b"dir\0")
    assert made is not None
    making, told = host.known.making, attr(9, stat.S_IFDIR | 0o700, 2)
    making.sets(made.nodeid, told, 5, NOW)
    seen = making.getattr(1, made.nodeid, 4)
    assert seen is not None
    seconds, mode = abi.ATTR.unpack_from(seen, abi.OUT_HEADER.size + abi.ATTR_OUT.size)[4:10:5]
    assert (seconds, mode) == (2, stat.S_IFDIR | 0o700)
    assert making.getattr(1, made.nodeid, 5) is None, "it is done"
    assert host.makes(abi.CREATE, CREATE + b"new\0", made.nodeid) is not None
    for wrong in (attr(9, stat.S_IFDIR | 0o500, 2), attr(9, stat.S_IFDIR | 0o2755, 2), b""):
        host = Host()
        host.known.making.sets(TOP, wrong, 5, NOW)
        assert host.makes(abi.CREATE, CREATE + b"new\0") is None, "home might refuse it, or make it otherwise"


def test_what_home_tells_of_a_directory_after_the_last_change_is_what_is_told_next() -> None:
    host = Host()
    made = host.makes(abi.MKDIR, MKDIR + b"dir\0")
    assert made is not None
    making = host.known.making
    for name in (b"one\0", b"two\0"):
        host.makes(abi.CREATE, CREATE + name, made.nodeid)
    making.did(made.nodeid, 2, attr(77, stat.S_IFDIR | 0o755, 2))
    assert abi.ATTR.unpack(making.attributes(made.nodeid))[0] != 77, "there was another since"
    making.did(made.nodeid, 3, attr(77, stat.S_IFDIR | 0o755, 2))
    assert abi.ATTR.unpack(making.attributes(made.nodeid))[0] == 77


def test_what_the_job_changes_while_it_waits_is_not_known_by_what_was_leased_meanwhile() -> None:
    for op in (abi.UNLINK, abi.RMDIR, abi.RENAME, abi.MKDIR):
        known = KnownAhead()
        known.leases.heard = NOW
        known.leases.name(1, b"top", TOP)
        stamp = known.asked(op, TOP)
        known.leases.attributes(TOP, attr(7, stat.S_IFDIR | 0o755, 2))
        assert known.leases.getattr(1, TOP) is not None
        known.answered(op, TOP, stamp)
        assert known.leases.getattr(1, TOP) is None, "home does not break what its reply says"


def test_a_frame_says_what_it_must() -> None:
    granted = Granted(MORE | EMPTY, 7, (b"a", b"b*"))
    kind, found, rest = makes.split(makes.pack(KNOWN, granted, b"rest"))
    assert (kind, found.what, found.ns, found.words, bytes(rest)) == (KNOWN, 3, 7, (b"a", b"b*"), b"rest")
    for wrong in (b"", b"\x09" + bytes(15), b"\x01\x80" + bytes(14), b"\x01\0\1\0" + bytes(12)):
        with pytest.raises(ProtocolError):
            makes.split(wrong)


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Export]:
    monkeypatch.setattr(Leases, "_break_all", lambda leases: None)  # a mount of another test takes no lease back
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    made.behind = True
    assert made.leases.begin()
    yield made
    made.close()


def ask(export: Export, op: int, args: bytes, number: int, node: int = abi.ROOT_ID) -> tuple[int, Granted, bytes]:
    """The error, what is granted, and the reply's body."""
    request = abi.Request(abi.request(op, node, args, 1))
    request.number = number
    answer = export.answer(request)
    assert answer is not None
    kind, payload = answer
    granted = Granted(0, 0)
    if kind == GRANTED:
        _, granted, rest = makes.split(payload)
        payload = bytes(rest)
    elif kind == LEASED:
        payload = bytes(leases.split(payload)[3])
    return -abi.OUT_HEADER.unpack_from(payload)[1], granted, payload[abi.OUT_HEADER.size :]


def test_what_the_host_has_made_has_the_numbers_that_it_told(export: Export) -> None:
    error, granted, body = ask(export, abi.MKDIR, MKDIR + b"d\0", 3)
    assert (error, granted.what & ~OWN) == (0, MORE | EMPTY | SET | ITSELF)
    assert (abi.ENTRY.unpack_from(body)[0], abi.ATTR.unpack_from(body, abi.ENTRY.size)[9]) == (MADE + 3, 0o40755)
    error, _, body = ask(export, abi.CREATE, CREATE + b"f\0", 4, MADE + 3)
    assert (error, abi.OPEN_OUT.unpack_from(body, abi.ENTRY.size + abi.ATTR.size)[0]) == (0, MADE + 4)
    _, _, body = ask(export, abi.LOOKUP, b"f\0", 0, MADE + 3)
    assert abi.ENTRY.unpack_from(body)[0] == MADE + 4
    assert abi.ATTR.unpack_from(body, abi.ENTRY.size)[0] == INODES + 4
    error, _, body = ask(export, abi.CREATE, CREATE + b"g\0", 0)
    assert error == 0 and abi.ENTRY.unpack_from(body)[0] < MADE, "others have numbers of home's"
    export.inodes._check()


def test_a_name_that_is_there_is_not_opened_for_who_takes_it_for_his_own(export: Export, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"theirs")
    truncating = abi.CREATE_IN.pack(os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o100666, 0o22, 0)
    assert ask(export, abi.CREATE, truncating + b"f\0", 3)[0] == errno.EEXIST
    assert (tmp_path / "f").read_bytes() == b"theirs"


def test_no_more_is_told_of_than_may_be(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(more_made, "MOST_TOLD", 2)
    monkeypatch.setattr(more_made, "ROOM", 2)
    assert [bool(ask(export, abi.CREATE, CREATE + b"%d\0" % k, k)[1].what & MORE) for k in (1, 2, 3)] == [True] + [
        False
    ] * 2
    assert ask(export, abi.CREATE, CREATE + b"4\0", 4)[0] == 0
    assert ask(export, abi.CREATE, CREATE + b"5\0", 5)[0] == errno.ENFILE
    assert ask(export, abi.MKDIR, MKDIR + b"6\0", NUMBERS)[0] == errno.ENFILE
    assert ask(export, abi.MKDIR, MKDIR + b"7\0", 0)[1].what & MORE == 0


@pytest.mark.parametrize("why", ["set-group-id", "default ACL", "a lock", "--disk"])
def test_where_it_would_look_otherwise_nothing_is_granted(export: Export, tmp_path: Path, why: str) -> None:
    assert ask(export, abi.MKDIR, MKDIR + b"a\0", 0)[1].what & MORE
    if why == "set-group-id":
        tmp_path.chmod(0o2755)
    elif why == "default ACL":
        acl = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000500ffffffff")
        os.setxattr(tmp_path, "system.posix_acl_default", acl)
    elif why == "a lock":
        export.inodes.top.shared = True
    else:
        export.room.counts = True
    assert not ask(export, abi.MKDIR, MKDIR + b"b\0", 0)[1].what & MORE


def test_a_directory_s_attributes_come_with_what_is_made_or_removed_there_until_others_change_it(
    export: Export, tmp_path: Path
) -> None:
    def itself(raw: bytes, number: int) -> bool:
        """Whether they are leased, as they are then."""
        request = abi.Request(raw)
        request.number = number
        answer = export.answer(request)
        assert answer is not None
        kind, payload = answer
        if kind == GRANTED:
            _, granted, rest = makes.split(payload)
            assert bytes(rest).endswith(told())
            return bool(granted.what & ITSELF)
        assert kind == LEASED and told() in payload
        return bool(leases.split(payload)[1] & leases.ATTR)

    def told() -> bytes:
        return export.attr((tmp_path / "dir").stat())

    def makes_one(name: bytes) -> bytes:
        return abi.request(abi.CREATE, node, CREATE + name, 1)

    ask(export, abi.MKDIR, MKDIR + b"dir\0", 1)
    node = MADE + 1
    assert itself(makes_one(b"one\0"), 2)
    assert itself(makes_one(b"two\0"), 3)
    renames = abi.request(abi.RENAME, node, abi.RENAME_IN.pack(node) + b"one\0other\0", 1)
    assert itself(makes.rename(renames, MADE + 2, 0), 4)
    assert itself(makes.unlink(abi.request(abi.UNLINK, node, b"two\0", 1), MADE + 3), 5)
    assert export.leases.due() == b""
    (tmp_path / "dir").chmod(0o700)
    assert export.leases.due() != b"", "others have changed it"
    (tmp_path / "dir/theirs").touch()
    assert export.leases.due() == b"", "the host knows that already"
    assert itself(makes_one(b"three\0"), 6)
    (tmp_path / "dir/theirs").unlink()
    assert export.leases.due() != b""
    export.inodes.get(node).shared = True
    assert not itself(makes_one(b"four\0"), 7), "a file was locked there"


def test_what_the_host_makes_breaks_nothing_but_what_others_make_does(export: Export, tmp_path: Path) -> None:
    ask(export, abi.MKDIR, MKDIR + b"a\0", 0)
    export.leases.due()
    for k in range(100):  # more than others may make in a second
        ask(export, abi.CREATE, CREATE + b"%d\0" % k, 1 + k)
    assert export.leases.due() == b""
    (tmp_path / "theirs").touch()
    assert b"theirs" in export.leases.due()
    (tmp_path / "n").touch()
    assert ask(export, abi.CREATE, CREATE + b"n\0", 101)[0] == errno.EEXIST
    assert b"n" in export.leases.due()


def unlinks(host: Host, name: bytes, node: int = TOP, uid: int = 0) -> int:
    raw = bytearray(abi.request(abi.UNLINK, node, name + b"\0", 9))
    raw[24:28] = uid.to_bytes(4, "little")
    return sum(host.known.making.takes(abi.UNLINK, bytes(raw), NOW))


def test_the_name_of_a_file_that_was_made_here_is_removed_here_and_free_again() -> None:
    host = Host()
    made = host.makes(abi.CREATE, CREATE + b"new\0")
    assert made is not None and unlinks(host, b"new") == made.nodeid
    stamp = host.known.asked(abi.GETATTR, made.nodeid)
    host.known.removes(TOP, made.nodeid)
    assert not host.known.holds(made.nodeid, stamp) and not host.known.holds(TOP, stamp)
    host.known.making.took(abi.UNLINK, abi.request(abi.UNLINK, TOP, b"new\0", 9), 2, NOW)
    assert unlinks(host, b"new") == 0
    again = host.makes(abi.CREATE, CREATE + b"new\0")
    assert again is not None and again.nodeid != made.nodeid
    assert host.known.leases.unused == [], "the kernel has the first one still"


def moves(host: Host, old: bytes, new: bytes, flags: int = -1, to: int = TOP) -> tuple[int, ...]:
    """Ask for RENAME, or with `flags` for RENAME2, of a name in TOP."""
    args = abi.RENAME_IN.pack(to) if flags < 0 else abi.RENAME2_IN.pack(to, flags, 0)
    op = abi.RENAME if flags < 0 else abi.RENAME2
    raw = abi.request(op, TOP, args + old + b"\0" + new + b"\0", 9)
    return host.known.making.takes(op, raw, NOW)


def test_a_file_that_was_made_here_is_renamed_here() -> None:
    host = Host()
    one, two = (host.makes(abi.CREATE, CREATE + name + b"\0") for name in (b"one", b"two"))
    assert one is not None and two is not None
    assert moves(host, b"one", b"new") == moves(host, b"one", b"new", makes.NOREPLACE) == (one.nodeid, 0)
    assert moves(host, b"one", b"two") == (one.nodeid, two.nodeid)
    assert moves(host, b"one", b"a") == (one.nodeid, 20 + abi.CREATE), "the job has made that by asking"
    raw = abi.request(abi.RENAME, TOP, abi.RENAME_IN.pack(TOP) + b"one\0two\0", 9)
    stamp = host.known.asked(abi.GETATTR, two.nodeid)
    host.known.removes(TOP, one.nodeid, two.nodeid)
    assert not any(host.known.holds(node, stamp) for node in (TOP, one.nodeid, two.nodeid))
    host.known.making.took(abi.RENAME, raw, 2, NOW)
    assert is_absent(host.known.leases, TOP, b"one")
    assert moves(host, b"two", b"one") == (one.nodeid, 0)
    assert host.known.leases.unused == [], "the kernel has both still"


@pytest.mark.parametrize(
    ("old", "new", "flags", "to"),
    [
        (b"b", b"new", -1, TOP),  # a directory
        (b"d", b"new", -1, TOP),
        (b"c", b"new", -1, TOP),  # a symbolic link
        (b"none", b"new", -1, TOP),
        (b"one", b"b", -1, TOP),
        (b"one", b"theirs", -1, TOP),
        (b"one", b"one", -1, TOP),
        (b"one", b"new", -1, TOP + 1),
        (b"one", b"two", makes.NOREPLACE, TOP),
        (b"one", b"two", 2, TOP),  # RENAME_EXCHANGE
        (b"one", b".git", -1, TOP),
        (b".git", b"new", -1, TOP),
        (b"one", 256 * b"x", -1, TOP),
    ],
)
def test_a_rename_that_is_not_known_to_succeed_is_asked_for(old: bytes, new: bytes, flags: int, to: int) -> None:
    host = Host((b".git",))
    one = host.makes(abi.CREATE, CREATE + b"one\0")
    assert one is not None and host.makes(abi.CREATE, CREATE + b"two\0") and host.makes(abi.MKDIR, MKDIR + b"d\0")
    host.known.leases.name(TOP, b"theirs", 99)
    host.known.leases.name(TOP, b".git", one.nodeid)
    assert moves(host, b"one", b"fine") and moves(host, b"one", b"two")
    assert moves(host, old, new, flags, to) == ()
    host.known.leases.heard = 0.0
    assert moves(host, b"one", b"fine") == (), "home may have taken it back"


def test_what_home_has_made_or_taken_back_is_removed_by_home() -> None:
    for items in ([(TOP, b"new")], [(TOP, b"")], [(0, b"")]):
        host = Host()
        host.makes(abi.CREATE, CREATE + b"new\0")
        host.known.broken(items)
        assert unlinks(host, b"new") == 0
    host = Host((b".git",))
    host.makes(abi.CREATE, CREATE + b"new\0")
    assert unlinks(host, b"new", uid=7) == 0, "who has made nothing there may not be allowed to remove"
    assert unlinks(host, b"b") == 0
    assert unlinks(host, b"none") == 0
    host.known.leases.name(TOP, b".git", MADE + 1)
    assert unlinks(host, b".git") == 0, "a rule speaks of it"
    host.known.leases.heard = 0.0
    assert unlinks(host, b"new") == 0, "home may have taken it back"


def test_what_home_makes_for_the_host_is_known_by_its_reply() -> None:
    host = Host()
    assert host.known.leases.lookup(1, TOP, b"a") is None, "what it is like is home's to tell"
    assert unlinks(host, b"a") == 20 + abi.CREATE, "and so may be removed"
    assert host.makes(abi.CREATE, CREATE + b"a\0") is None
    host = Host()
    host.known.broken([(TOP, b"d")])
    host.grants(abi.CREATE, CREATE + b"d\0", MORE, (), attr(9, stat.S_IFREG | 0o644) + abi.OPEN_OUT.pack(5, 0, 0))
    assert unlinks(host, b"d") == 0, "it may have been there"


def test_a_name_that_leads_to_what_is_known_is_looked_up_here() -> None:
    host = Host()
    made = host.makes(abi.CREATE, CREATE + b"new\0")
    assert made is not None
    looked = abi.LOOKUP, 9, TOP, memoryview(abi.request(abi.LOOKUP, TOP, b"new\0", 9)), NOW
    assert host.known.answer(*looked) is None
    made.words = MAY_WRITE
    host.known.written.stamp(abi.CREATE, TOP, b"", made, NOW)
    told = host.known.answer(*looked)
    assert told is not None
    nodeid, _, name, attributes, *_ = abi.ENTRY.unpack_from(told, abi.OUT_HEADER.size)
    assert (nodeid, name, attributes) == (made.nodeid, 1, 0), "its attributes are asked for again"
    assert host.known.leases.forgotten(made.nodeid, 2) == 0, "home has counted one, and the name is known still"
    host.known.broken([(TOP, b"new")])
    assert host.known.leases.unused == [(made.nodeid, 1)]


def test_home_removes_what_the_host_means_and_nothing_else(export: Export, tmp_path: Path) -> None:
    ask(export, abi.MKDIR, MKDIR + b"a\0", 0)
    for k, name in enumerate((b"f\0", b"g\0", b"h\0"), 1):
        ask(export, abi.CREATE, CREATE + name, k)
    export.leases.due()
    assert remove(export, b"f", 1, 4) == 0
    assert not (tmp_path / "f").exists()
    assert export.leases.due() == b"", "the host knows"
    (tmp_path / "f").touch()
    assert b"f" in export.leases.due(), "this it does not"
    (tmp_path / "theirs").touch()
    (tmp_path / "theirs").rename(tmp_path / "g")
    export.leases.due()
    assert remove(export, b"g", 2, 5) == errno.ESTALE
    assert remove(export, b"h", 2, 6) == errno.ESTALE, "it is that of another"
    assert remove(export, b"h", 9, 7) == errno.ESTALE, "which was never made"
    assert (tmp_path / "g").exists() and (tmp_path / "h").exists()
    (tmp_path / "h").unlink()
    assert remove(export, b"h", 3, 8) == errno.ENOENT


def move(export: Export, old: bytes, new: bytes, nodes: tuple[int, int], number: int) -> int:
    raw = abi.request(abi.RENAME, abi.ROOT_ID, abi.RENAME_IN.pack(abi.ROOT_ID) + old + b"\0" + new + b"\0", 9)
    request = abi.Request(makes.rename(raw, *nodes))
    request.number = number
    answer = export.answer(request)
    assert answer is not None
    reply = bytes(leases.split(answer[1])[3]) if answer[0] == LEASED else answer[1]
    error, told = abi.OUT_HEADER.unpack_from(reply)[1], reply[abi.OUT_HEADER.size :]
    assert error or len(told) == 2 * abi.ATTR.size, "of the directory, and of the file: nobody else has changed it"
    return -int(error)


def test_home_renames_what_the_host_means_and_nothing_else(export: Export, tmp_path: Path) -> None:
    ask(export, abi.MKDIR, MKDIR + b"a\0", 0)
    f, g, h = MADE + 1, MADE + 2, MADE + 3
    for k, name in enumerate((b"f\0", b"g\0", b"h\0"), 1):
        ask(export, abi.CREATE, CREATE + name, k)
    export.leases.due()
    assert move(export, b"f", b"new", (f, 0), 4) == 0
    assert move(export, b"new", b"g", (f, g), 5) == 0
    assert sorted(os.listdir(tmp_path)) == ["a", "g", "h"]
    assert export.leases.due() == b"", "the host knows"
    (tmp_path / "h").rename(tmp_path / "new")
    assert b"new" in export.leases.due(), "this it does not"
    assert move(export, b"g", b"new", (f, 0), 6) == errno.EEXIST
    assert move(export, b"g", b"new", (f, g), 7) == errno.ESTALE, "it would take that of another"
    assert move(export, b"g", b"other", (h, 0), 8) == errno.ESTALE, "it is that of another"
    assert move(export, b"none", b"other", (f, 0), 9) == errno.ENOENT
    assert sorted(os.listdir(tmp_path)) == ["a", "g", "new"]
    (tmp_path / "g").rename(tmp_path / "theirs")
    assert b"theirs" in export.leases.due(), "what failed was not done, nor is anything taken for it"


def test_home_removes_what_it_has_made_itself_for_the_host_and_nothing_else(export: Export, tmp_path: Path) -> None:
    for name in (b"f\0", b"g\0"):
        ask(export, abi.CREATE, CREATE + name, 0)
    nodes = [abi.ENTRY.unpack_from(ask(export, abi.LOOKUP, name, 0)[2])[0] for name in (b"f\0", b"g\0")]
    assert max(nodes) < makes.HOMES
    assert remove(export, b"f", nodes[1] - MADE, 1) == errno.ESTALE, "it is that of another"
    assert remove(export, b"f", makes.HOMES - 1 - MADE, 2) == errno.ESTALE, "there is no such"
    assert remove(export, b"f", nodes[0] - MADE, 3) == 0
    assert os.listdir(tmp_path) == ["g"]


@pytest.mark.parametrize(("op", "event"), [(abi.UNLINK, "file"), (abi.RMDIR, "dir")])
def test_what_the_job_removes_and_waits_for_breaks_nothing_but_what_others_do(
    export: Export, tmp_path: Path, op: int, event: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    top = export.inodes.top
    export.leases.listing(top, export.inodes.descriptors.directory(top))
    export.leases.due()
    assert ask(export, op, event.encode() + b"\0", 0)[0] == 0
    assert export.leases.due() == b"", "the host hears by the reply"
    assert ask(export, op, event.encode() + b"\0", 0)[0] == errno.ENOENT
    (tmp_path / event).touch()
    assert event.encode() in export.leases.due()
    export.leases.listing(top, export.inodes.descriptors.directory(top))
    (tmp_path / event).unlink()
    assert event.encode() in export.leases.due(), "this the job has not asked for"


def test_a_name_that_home_has_removed_is_free_at_the_host() -> None:
    host = Host()
    host.known.removed(TOP, b"a")
    assert is_absent(host.known.leases, TOP, b"a") and unlinks(host, b"a") == 0
    host.known.broken([(TOP, b"b")])
    host.known.removed(TOP, b"b")
    assert not is_absent(host.known.leases, TOP, b"b"), "others may have made it anew"


def wanted(host: Host, now: float = NOW) -> list[tuple[int, int]]:
    """Of which directories the host asks for the names alone, each with the stamp of that."""
    asked: dict[int, Asked] = {}
    host.known.ask_ahead(now, asked)
    return [
        (each[1], each[3])
        for each in asked.values()
        if each[0] == abi.LIST and each[5].endswith(bytes((NAMES, 0, 0, 0)))
    ]


def told_some(now: float = NOW) -> Host:
    """A host that knows some names of the directory in which it has made something, and asks for the others."""
    host = Host()
    assert wanted(host) == [], "it knows them all"
    host.known.broken([(TOP, b"")])
    host.known.leases.name(TOP, b"d", 0)
    host.grants(abi.CREATE, CREATE + b"d\0", MORE, (), attr(9, stat.S_IFREG | 0o644) + abi.OPEN_OUT.pack(5, 0, 0))
    assert host.known.ahead.moved
    return host


def test_the_names_in_a_directory_in_which_something_is_made_are_asked_for_once() -> None:
    host = told_some()
    ((node, stamp),) = wanted(host)
    assert node == TOP and wanted(host) == []
    host.known.names_listed(TOP, stamp, pack_names([b".", b"d", b"theirs"]))
    assert unlinks(host, b"d"), "what was known is known still"
    assert is_absent(host.known.leases, TOP, b"other") and not is_absent(host.known.leases, TOP, b"theirs")
    assert host.makes(abi.CREATE, CREATE + b"other\0") is not None
    assert host.makes(abi.CREATE, CREATE + b"theirs\0") is None


@pytest.mark.parametrize("meanwhile", ["the job", "others"])
def test_names_that_were_told_before_something_was_made_there_are_not_kept(meanwhile: str) -> None:
    host = told_some()
    ((_, stamp),) = wanted(host)
    if meanwhile == "others":
        host.known.broken([(TOP, b"theirs")])
    else:
        host.known.asked(abi.MKDIR, TOP)
    host.known.names_listed(TOP, stamp, pack_names([b"d"]))
    assert not is_absent(host.known.leases, TOP, b"theirs")


def test_names_that_home_does_not_tell_are_not_asked_for_again_soon() -> None:
    host = told_some()
    ((_, stamp),) = wanted(host)
    host.known.names_listed(TOP, stamp, b"")
    host.grants(abi.CREATE, CREATE + b"e\0", MORE, (), attr(8, stat.S_IFREG | 0o644) + abi.OPEN_OUT.pack(6, 0, 0))
    assert wanted(host) == []


def test_home_tells_the_names_alone_until_somebody_changes_them(export: Export, tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    args = abi.LIST_IN.pack(1, NAMES)
    names = parse_names(ask(export, abi.LIST, args, 0)[2])
    assert {*names} == {b".", b"..", b"theirs"}
    export.leases.due()
    (tmp_path / "more").touch()
    assert b"more" in export.leases.due()
    for k in range(LISTED_NAMES // 100):
        (tmp_path / f"{k:0100d}").touch()
    assert ask(export, abi.LIST, args, 0)[0] == errno.EAGAIN, "there are too many"
    for wrong in (b"", b"a", b"/a//b", b"/"):
        with pytest.raises(ProtocolError):
            parse_names(wrong)


def remove(export: Export, name: bytes, made: int, number: int) -> int:
    """Have the host remove what the change `made` has made, or, below 0, a node of home's; the error."""
    request = abi.Request(makes.unlink(abi.request(abi.UNLINK, abi.ROOT_ID, name + b"\0", 1), MADE + made))
    request.number = number
    answer = export.answer(request)
    assert answer is not None
    return -int(abi.OUT_HEADER.unpack_from(answer[1])[1])


def test_what_is_made_for_the_host_breaks_nothing_unless_it_was_there(export: Export, tmp_path: Path) -> None:
    export.leases.listing(export.inodes.top, export.inodes.descriptors.directory(export.inodes.top))
    export.leases.due()
    ask(export, abi.CREATE, CREATE + b"f\0", 0)
    assert export.leases.due() == b""
    (tmp_path / "theirs").touch()
    export.leases.due()
    ask(export, abi.CREATE, CREATE + b"theirs\0", 0)
    (tmp_path / "theirs").unlink()
    export.leases.due()
    export.leases.listing(export.inodes.top, export.inodes.descriptors.directory(export.inodes.top))
    (tmp_path / "theirs").touch()
    assert b"theirs" in export.leases.due(), "that is not what the job has asked for"
