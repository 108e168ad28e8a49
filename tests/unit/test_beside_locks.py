"""What a host knows of files beside one that is locked: until a lock may tell of others, and never its kernel."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.execute.known_ahead import KnownAhead
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.locks import MAPPED
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases as wire
from remoteio.wire import makes
from remoteio.wire.behind import SAME_FILE, SAME_LARGE, WHOLE
from remoteio.wire.coherence import BESIDE, TTL
from remoteio.wire.frames import GRANTED, KNOWN, LEASED, ORDERED, FrameReader

DIRECTORY, FILE, NOW = 5, 6, 1000.0


def attr(size: int = 0) -> bytes:
    return abi.ATTR.pack(FILE, size, 0, 1, 7, 3, 0, 0, 0, stat.S_IFREG | 0o644, 1, 0, 0, 0, 4096, 0)


class Host:
    """What it knows; home tells of one file, in a directory in which another may be locked."""

    def __init__(self) -> None:
        self.known = KnownAhead()
        self.known.leases.heard = NOW

    def told(self, size: int = 3, stamp: int = -1, flags: bytes = BESIDE) -> None:
        """Have home tell the file's attributes."""
        stamp = self.known.asked(abi.GETATTR, FILE) if stamp < 0 else stamp
        reply = abi.reply(9, abi.ATTR_OUT.pack(0, 0, 0) + attr(size)[:-4] + flags)
        self.known.replied((abi.GETATTR, FILE, 0, stamp, NOW, b""), 0, reply, NOW)

    def granted(self, stamp: int = -1, sole: bool = False) -> None:
        stamp = self.known.asked(abi.SETLK, DIRECTORY) if stamp < 0 else stamp
        self.known.replied((abi.SETLK, DIRECTORY, 0, stamp, NOW, b""), 0, abi.reply(9), NOW, sole)

    def size(self, now: float = NOW) -> int | None:
        """The file's size, if it is known; the kernel is to ask again."""
        raw = memoryview(abi.request(abi.GETATTR, FILE, abi.GETATTR_IN.pack(0, 0, 0)))
        reply = self.known.answer(abi.GETATTR, 9, FILE, raw, now)
        if reply is None:
            return None
        assert abi.ATTR_OUT.unpack_from(reply, abi.OUT_HEADER.size)[:2] == (0, 0)
        return int(abi.ATTR.unpack_from(reply, abi.OUT_HEADER.size + abi.ATTR_OUT.size)[1])

    def finds(self, name: bytes) -> tuple[int, ...] | None:
        raw = memoryview(abi.request(abi.LOOKUP, DIRECTORY, name + b"\0"))
        reply = self.known.answer(abi.LOOKUP, 9, DIRECTORY, raw, NOW)
        return None if reply is None else abi.ENTRY.unpack_from(reply, abi.OUT_HEADER.size)


def test_what_home_told_for_no_time_is_told_on_for_no_time_until_a_lock_is_granted() -> None:
    host = Host()
    host.told(3)
    assert (host.size(), host.size(NOW + TTL), host.size(NOW + TTL + 0.1)) == (3, 3, None)
    host.granted(sole=True)
    assert host.size() == 3, "nobody else can have had that lock"
    host.granted()
    assert host.size() is None


def test_what_was_told_while_a_lock_was_waited_for_is_not_known_once_it_is_granted() -> None:
    host = Host()
    lock = host.known.asked(abi.SETLKW, DIRECTORY)
    host.told(3)
    late = host.known.asked(abi.GETATTR, FILE)
    assert host.size() == 3
    host.granted(lock)
    assert host.size() is None
    host.told(3, stamp=late)
    assert host.size() is None, "it may be as old as that"


def test_what_home_does_not_take_back_is_asked_for() -> None:
    host = Host()
    host.told(3, flags=bytes(4))
    assert host.size() is None


def test_what_others_change_is_taken_back() -> None:
    host = Host()
    host.told(3)
    host.known.broken([(FILE, b"")])
    assert host.size() is None


def test_what_the_job_changes_is_asked_for() -> None:
    host = Host()
    host.told(3)
    host.known.asked(abi.WRITE, FILE)
    assert host.size() is None


def test_names_are_known_until_a_break_and_told_on_for_no_time() -> None:
    host = Host()
    for name, found in ((b"log", FILE), (b"none", 0)):
        stamp = host.known.asked(abi.LOOKUP, DIRECTORY)
        host.known.lease(DIRECTORY, stamp, wire.NAME, name, (found, attr(), None, True))
    assert host.finds(b"log") is None, "nothing is known of the file itself"
    host.told(3)
    assert host.finds(b"log") == (FILE, 0, 0, 0, 0, 0)
    host.granted()
    assert host.finds(b"none") == (0, 0, 0, 0, 0, 0)
    host.known.broken([(DIRECTORY, b"none")])
    assert host.finds(b"none") is None


# at home


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Export]:
    (tmp_path / "db").write_bytes(bytes(100))
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    made.behind = True
    made.leases.runs()
    assert made.leases.begin()
    assert made.leases._mounts is not None
    made.leases._mounts.poll.unregister(made.leases._mounts.fd)  # a mount of another test's would take all back
    yield made
    made.close()


def ask(export: Export, op: int, node: int, args: bytes) -> bytes:
    """The body of the answer."""
    answer = export.answer(abi.Request(abi.request(op, node, args, 9)))
    assert answer is not None
    kind, payload = answer
    while kind == ORDERED and not abi.OUT_HEADER.unpack_from(payload)[2]:  # the kernel is told something before
        payload = payload[abi.OUT_HEADER.unpack_from(payload)[0] :]
    if kind == LEASED:
        kind, _, _, payload = wire.split(payload)
    elif kind == GRANTED:
        kind, _, payload = makes.split(payload)
    size, error, _ = abi.OUT_HEADER.unpack_from(payload)
    assert not error
    return bytes(payload[abi.OUT_HEADER.size : size if kind in (KNOWN, ORDERED) else len(payload)])


def broken(export: Export) -> list[tuple[int, bytes]]:
    return [item for _, payload in FrameReader().feed(export.leases.due()) for item in wire.broken(payload)]


def told(export: Export, node: int) -> bool:
    """Ask for a file's attributes; whether the host may tell them on."""
    body = ask(export, abi.GETATTR, node, abi.GETATTR_IN.pack(0, 0, 0))
    assert abi.ATTR_OUT.unpack_from(body)[:2] == (0, 0), "the kernel asks each time"
    return body.endswith(BESIDE)


CHANGES_BESIDE: list[Callable[[Path], object]] = [
    lambda log: log.write_text("more"),
    lambda log: os.truncate(log, 1),
    lambda log: log.chmod(0o600),
    lambda log: log.with_name("db").rename(log),
]


def test_what_others_do_to_a_file_beside_a_locked_one_is_told_once(export: Export, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("log")
    os.link(tmp_path / "log", tmp_path / "linked")
    db, (log, fh) = opened(export, b"db"), opened(export, b"log")
    lock(export, db)
    broken(export)
    assert not told(export, log), "it has another name, by which nobody sees what is done to it"
    (tmp_path / "linked").unlink()
    ask(export, abi.OPEN, log, abi.OPEN_IN.pack(os.O_RDWR, 0))
    for change in CHANGES_BESIDE:
        assert told(export, log) and told(export, log)
        broken(export)
        ask(export, abi.WRITE, log, abi.WRITE_IN.pack(fh, 0, 3, 0, 0, 0, 0) + b"job")
        assert broken(export) == [], "the job has done that"
        change(tmp_path / "log")
        (tmp_path / "log").touch()
        assert (log, b"") in broken(export)
        (tmp_path / "log").touch()
        assert (log, b"") not in broken(export), "nothing was told since"
        if change is not CHANGES_BESIDE[-1]:
            ask(export, abi.OPEN, log, abi.OPEN_IN.pack(os.O_RDWR, 0))


def opened(export: Export, name: bytes) -> tuple[int, int]:
    node = abi.ENTRY.unpack_from(ask(export, abi.LOOKUP, abi.ROOT_ID, name + b"\0"))[0]
    return node, abi.OPEN_OUT.unpack_from(ask(export, abi.OPEN, node, abi.OPEN_IN.pack(os.O_RDWR, 0)))[0]


def lock(export: Export, file: tuple[int, int], kind: int = fcntl.F_WRLCK) -> bytes:
    node, fh = file
    return ask(export, abi.SETLK, node, abi.LK_IN.pack(fh, 1, 0, 0, kind, 1, 0, 0))


def test_a_lock_tells_nothing_if_nobody_else_has_had_the_file_open_since(export: Export, tmp_path: Path) -> None:
    db = opened(export, b"db")
    assert lock(export, db) == WHOLE, "who has had it before is not known"
    assert lock(export, db) == SAME_FILE
    ask(export, abi.WRITE, db[0], abi.WRITE_IN.pack(db[1], 0, 3, 0, 0, 0, 0) + b"abc")
    ask(export, abi.SETATTR, db[0], abi.SETATTR_IN.pack(abi.FATTR_SIZE, 0, 0, 50, *(0,) * 12))
    assert lock(export, db) == SAME_FILE, "the job's own changes tell it nothing"
    ask(export, abi.SETATTR, db[0], abi.SETATTR_IN.pack(abi.FATTR_SIZE, 0, 0, MAPPED + 1, *(0,) * 12))
    assert lock(export, db) == SAME_LARGE
    os.truncate(tmp_path / "db", 60)
    assert lock(export, db) == WHOLE
    assert lock(export, db) == SAME_FILE
    (tmp_path / "db").read_bytes()
    assert lock(export, db) == b"", "somebody has had it open"


def test_who_opens_a_file_before_the_job_that_made_it_locks_it_is_seen(export: Export, tmp_path: Path) -> None:
    db = opened(export, b"db")
    lock(export, db)
    made = []
    for name in (b"shm", b"log"):
        body = ask(export, abi.CREATE, abi.ROOT_ID, abi.CREATE_IN.pack(os.O_RDWR, 0o100600, 0, 0) + name + b"\0")
        at = abi.ENTRY.size + abi.ATTR.size
        assert body[abi.ENTRY.size : at].endswith(BESIDE)
        assert (abi.ENTRY.unpack_from(body)[0], b"") not in broken(export), "nobody else has done that"
        made.append((abi.ENTRY.unpack_from(body)[0], abi.OPEN_OUT.unpack_from(body, at)[0]))
    (tmp_path / "log").read_bytes()
    assert [lock(export, each) for each in made] == [SAME_FILE, b""]
