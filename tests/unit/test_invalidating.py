"""What the kernel of a session's host keeps of leases, and when it is told to ask again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from remoteio.execute.leases import Leases
from remoteio.execute.relay import Relay
from remoteio.execute.told_lately import ToldLately
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases as wire
from remoteio.wire.coherence import KEPT_BY_KERNEL, LEASED_NODES, SILENCE, TTL
from remoteio.wire.link import Link

SOON = 60.0
DIRECTORY, FILE, OTHER = 5, 6, 7
ATTR = bytes(abi.ATTR.size)


class Session:
    """A relay of a host that has a session, and what it tells its kernel."""

    def __init__(self, flags: int = abi.HAS_EXPIRE_ONLY >> 32) -> None:
        self._kernel, self._to_kernel = os.pipe()
        self._home, self._to_home = os.pipe()
        os.set_blocking(self._kernel, False)
        self.relay = Relay(self._to_kernel, Link(self._home, self._to_home), lambda error: None)
        self.relay.lately = ToldLately()
        self.relay._special(
            abi.INIT, 2, 0, abi.request(abi.INIT, 0, abi.INIT_IN.pack(7, 38, 0, 0, flags) + bytes(44), 2)
        )
        self.leases: Leases = self.relay._known.leases
        self.leases.heard = self.relay.now()
        for name, nodeid in ((b"file", FILE), (b"other", OTHER)):
            self.leases.name(DIRECTORY, name, nodeid)
            self.leases.attributes(nodeid, ATTR)

    def told(self) -> list[bytes]:
        assert self.relay._aside.rest(SOON)
        try:
            raw = os.read(self._kernel, 1 << 20)
        except BlockingIOError:
            return []
        found = []
        while raw:
            size = abi.OUT_HEADER.unpack_from(raw)[0]
            found.append(raw[:size])
            raw = raw[size:]
        return found

    def holds_for(self, name: bytes = b"file") -> int:
        """For how many seconds the kernel is told of a name."""
        raw = abi.request(abi.LOOKUP, DIRECTORY, name + b"\0", 9)
        answer = self.relay._known.answer(abi.LOOKUP, 9, DIRECTORY, memoryview(raw), self.relay.now())
        assert answer is not None
        _, _, of_name, of_attributes, *_ = abi.ENTRY.unpack_from(answer, abi.OUT_HEADER.size)
        assert of_name == of_attributes
        return int(of_name)

    def close(self) -> None:
        for fd in (self._kernel, self._to_kernel, self._home, self._to_home):
            os.close(fd)


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session()
    yield made
    made.close()


def name(of: bytes = b"file", directory: int = DIRECTORY) -> bytes:
    return abi.inval_entry(directory, of, abi.EXPIRE_ONLY)


def attributes(nodeid: int) -> bytes:
    return abi.inval_inode(nodeid, -1)


def test_what_is_leased_the_kernel_keeps_until_home_takes_it_back(session: Session) -> None:
    assert session.holds_for() == KEPT_BY_KERNEL and session.told() == []
    session.relay.broken(wire.pack_break(DIRECTORY, b"file"))
    assert session.told() == [attributes(DIRECTORY), name()]
    session.relay.broken(wire.pack_break(OTHER, b""))
    assert session.told() == [attributes(OTHER)]


def test_it_is_told_again_as_an_answer_that_was_under_way_may_have_come_after_it(session: Session) -> None:
    session.relay.broken(wire.pack_break(OTHER, b""))
    assert session.told() == [attributes(OTHER)]
    session.relay.tick()
    assert session.told() == [], "within that second"
    session.relay.tick()
    assert session.told() == [attributes(OTHER)]
    session.relay.tick()
    assert session.told() == []


def test_with_a_directory_all_its_names_are_taken_back(session: Session) -> None:
    session.leases.name(DIRECTORY, b"absent", 0)
    session.relay.broken(wire.pack_break(DIRECTORY, b""))
    assert set(session.told()) == {attributes(DIRECTORY), name(), name(b"other")}


def test_with_everything_so_is_all_that_was_told(session: Session) -> None:
    session.relay.broken(wire.pack_break(wire.EVERYTHING, b""))
    assert sorted(session.told()) == sorted([name(), name(b"other"), attributes(FILE), attributes(OTHER)])


def test_what_is_forgotten_for_lack_of_room_the_kernel_keeps_no_longer(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remoteio.execute.leases.LEASED_NAMES", 2)
    session.leases.name(8, b"third", 9)
    session.relay._sent()
    assert set(session.told()) == {attributes(DIRECTORY), name(), name(b"other")}
    monkeypatch.setattr("remoteio.execute.leases.LEASED_NODES", 1)
    session.leases.name(8, b"fourth", 10)
    session.leases.attributes(9, ATTR)
    session.leases.attributes(10, ATTR)
    session.relay._sent()
    assert session.told() == [attributes(9)] and LEASED_NODES > 1


def test_who_hears_nothing_of_home_has_the_kernel_ask_for_everything_once(session: Session) -> None:
    session.relay.tick()
    assert session.told() == []
    session.leases.heard -= SILENCE
    session.relay.tick()
    everything = [name(), name(b"other"), attributes(FILE), attributes(OTHER)]
    assert session.told() == everything
    for _ in range(3):
        session.relay.tick()
    assert session.told() == everything, "told again, and not for a third time"
    session.relay.heard()
    session.relay.tick()
    assert session.told() == [] and session.holds_for() == KEPT_BY_KERNEL


@pytest.mark.parametrize(
    ("op", "words"), [(abi.RENAME, abi.HANDLE.pack(8)), (abi.RENAME2, abi.HANDLE.pack(8) + bytes(8))]
)
def test_a_name_to_which_the_job_renames_something_is_asked_for(session: Session, op: int, words: bytes) -> None:
    raw = abi.request(op, DIRECTORY, words + b"file\0new\0", 9)
    session.relay._asked[9] = (
        op,
        DIRECTORY,
        1,
        session.relay._known.asked(op, DIRECTORY, raw),
        session.relay.now(),
        raw,
    )
    session.relay.from_link(abi.reply(9))
    assert sorted(session.told()) == sorted([abi.reply(9), name(), name(b"new", 8)])


def test_from_a_lock_on_nothing_is_kept_until_the_next_job(session: Session) -> None:
    lock = abi.request(abi.SETLK, FILE, abi.LK_IN.pack(1, 1, 0, 0, 1, 1, 0, 0), 9)
    session.relay._special(abi.SETLK, 9, FILE, lock)
    assert session.holds_for() == TTL
    assert set(session.told()) == {name(), name(b"other"), attributes(FILE), attributes(OTHER)}
    session.relay.broken(wire.pack_break(OTHER, b""))
    assert session.told() == []
    session.relay.next_job()
    assert session.holds_for() == KEPT_BY_KERNEL


def test_a_kernel_that_knows_no_expiry_is_told_for_the_ttl() -> None:
    session = Session(flags=0)
    assert session.holds_for() == TTL
    session.relay.broken(wire.pack_break(OTHER, b""))
    session.relay.tick()
    assert session.told() == []
    session.close()


@pytest.mark.parametrize("meanwhile", ["nothing", "it has changed", "others have changed it", "not leased"])
def test_what_is_leased_and_has_not_changed_the_kernel_keeps_for_the_next_job(session: Session, meanwhile: str) -> None:
    assert session.relay.lately is not None
    session.relay.lately.note(
        abi.LOOKUP, DIRECTORY, abi.request(abi.LOOKUP, DIRECTORY, b"file\0", 9), session.relay.now()
    )
    if meanwhile == "it has changed":
        session.relay._known.asked(abi.SETATTR, FILE)
    elif meanwhile == "others have changed it":
        session.relay.broken(wire.pack_break(FILE, b""))
        session.leases.attributes(FILE, ATTR)
    elif meanwhile == "not leased":
        session.relay._known.leases.broken(DIRECTORY, b"file")
    if meanwhile in ("it has changed", "others have changed it"):
        session.leases.attributes(FILE, ATTR)  # as home tells of it anew
    session.told()
    assert session.relay.rests()
    assert session.told() == [attributes(abi.ROOT_ID), *([] if meanwhile == "nothing" else [name()])]
    session.relay.next_job()
    session.relay.lately.note(
        abi.LOOKUP, DIRECTORY, abi.request(abi.LOOKUP, DIRECTORY, b"other\0", 9), session.relay.now()
    )
    assert session.relay.rests() and session.told() == [attributes(abi.ROOT_ID)], "this job has changed nothing"
