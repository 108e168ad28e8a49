"""What a command used the last time is sent before it asks: what of it is sent, when it may be used, and how fast."""

from __future__ import annotations

import gc
import os
import random
import struct
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from remoteio.errors import ProtocolError
from remoteio.execute import pace
from remoteio.execute import pushed as here
from remoteio.execute.known_ahead import KnownAhead
from remoteio.execute.pace import Pace
from remoteio.execute.pushed import UNUSED_S, Pushed
from remoteio.execute.since import Since
from remoteio.submit.export import pushed_files, pushing
from remoteio.submit.export.confine import HIDDEN, Confinement, Mark
from remoteio.submit.export.first_names import FirstNames, Uses
from remoteio.submit.export.pushing import Pushing
from remoteio.submit.export.seen import WHOLE
from remoteio.submit.export.version_names import VersionNames
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases, pushed
from remoteio.wire.coherence import TTL
from remoteio.wire.frames import HEADER, LARGE, NAMES, PUSHED
from shim.submit import host_frames
from shim.submit.told_ahead import NAMES_DUE, PUSH_DUE, ToldAhead
from tests.hostile import Host, leasing
from tests.named_versions import until_named

NOW = 100.0
LARGE_FILE = random.Random(1).randbytes(300_000)


def open_files() -> list[str]:
    """The last names of what this process has open."""
    return [os.path.basename(os.readlink(each)) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]


def frames_of(host: Host, uses: Uses, credit: int = 1 << 30, guessed: bool = False) -> list[bytes]:
    sending = Pushing(uses.items(), guessed=guessed)
    assert sending.credited(credit)
    return list(sending.due(host.export))


def parts_of(host: Host, uses: Uses) -> list[tuple[int, int, bytes, int, bytes]]:
    return [part for payload in frames_of(host, uses) for part in pushed.parse(payload)]


def facts_of(host: Host, uses: Uses, guessed: bool = False) -> KnownAhead:
    facts = KnownAhead()
    facts.leases.heard = NOW
    for payload in frames_of(host, uses, guessed=guessed):
        facts.pushed(payload, NOW)
    return facts


def asked(op: int, node: int, args: bytes) -> memoryview:
    return memoryview(abi.request(op, node, args, 7))


def look_up(facts: KnownAhead, *names: bytes) -> int | None:
    """The node that the path leads to by what is known, 0: nothing; None: home must be asked."""
    node: int | None = abi.ROOT_ID
    for name in names:
        answer = facts.answer(abi.LOOKUP, 7, node or 0, asked(abi.LOOKUP, node or 0, name + b"\0"), NOW)
        node = None if answer is None else abi.ENTRY.unpack_from(answer, 16)[0]
    return node


def opened(facts: KnownAhead, node: int | None, flags: int = os.O_RDONLY) -> tuple[int, int] | None:
    """The handle and what the kernel is told of its pages; None: home must be asked."""
    answer = facts.answer(abi.OPEN, 7, node or 0, asked(abi.OPEN, node or 0, abi.OPEN_IN.pack(flags, 0)), NOW)
    return None if answer is None else abi.OPEN_OUT.unpack_from(answer, 16)[:2]


def read(facts: KnownAhead, node: int | None, offset: int, size: int, flags: int = 0) -> bytes | None:
    args = abi.READ_IN.pack(1, offset, size, 0, 0, flags, 0)
    answer = facts.answer(abi.READ, 7, node or 0, asked(abi.READ, node or 0, args), NOW)
    return None if answer is None else bytes(answer[16:])


@pytest.fixture
def top(disk: Path) -> Path:
    (disk / "lib").mkdir()
    (disk / "lib/small").write_bytes(b"small")
    (disk / "lib/large").write_bytes(LARGE_FILE)
    (disk / "link").symlink_to("lib/small")
    return disk


@pytest.fixture
def host(top: Path) -> Iterator[Host]:
    with leasing(top) as made:
        yield made


USES: Uses = {b"/lib": None, b"/link": None, b"/lib/small": [], b"/lib/gone": None, b"/lib/large": [(0, 100_000)]}


def test_what_was_used_is_opened_and_read_without_asking(host: Host) -> None:
    facts = facts_of(host, USES)
    small = look_up(facts, b"lib", b"small")
    assert small and look_up(facts, b"lib", b"gone") == 0
    link = look_up(facts, b"link")
    assert facts.answer(abi.READLINK, 7, link or 0, asked(abi.READLINK, link or 0, b""), NOW) == abi.reply(
        7, b"lib/small"
    )
    first = opened(facts, small)
    assert first and first[0] >= abi.OWN_FILES and not first[1], "the kernel drops what it may have had of it"
    assert read(facts, small, 0, 4096) == b"small"
    again = opened(facts, small)
    assert again and again[1] == abi.FOPEN_KEEP_CACHE
    assert read(facts, small, 0, 4096) == b"small", "the kernel may have dropped it as the first open came to its end"
    large = look_up(facts, b"lib", b"large")
    assert opened(facts, large)
    for offset, size in ((0, 4096), (90_000, 10_000), (5000, 80_000)):
        assert read(facts, large, offset, size) == LARGE_FILE[offset : offset + size]
    assert read(facts, large, 99_999, 2) is None, "that was not used the last time"
    capability = abi.GETXATTR_IN.pack(100, 0) + b"security.capability\0"
    assert facts.answer(abi.GETXATTR, 7, large or 0, asked(abi.GETXATTR, large or 0, capability), NOW)


def test_of_what_was_given_no_more_is_kept_than_so_much_and_nothing_that_others_have_changed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(host, USES)
    small = look_up(facts, b"lib", b"small")
    assert opened(facts, small) and read(facts, small, 0, 4096) and read(facts, small, 0, 4096)
    facts.broken([(small or 0, b"")])
    assert read(facts, small, 0, 4096) is None
    large = look_up(facts, b"lib", b"large")
    monkeypatch.setattr(here, "GIVEN_KEPT", 99_999)
    assert opened(facts, large) and read(facts, large, 0, 100_000)
    assert read(facts, large, 0, 100_000) is None


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_APPEND])
def test_who_does_not_read_it_alone_asks_home(host: Host, flags: int) -> None:
    facts = facts_of(host, USES)
    small = look_up(facts, b"lib", b"small")
    assert opened(facts, small, flags) is None
    assert opened(facts, small) and read(facts, small, 0, 4096, os.O_DIRECT) is None


def test_what_others_have_changed_is_not_used(host: Host, top: Path) -> None:
    for late in (False, True):  # the break comes ahead of what was sent, or behind it
        facts, payloads = KnownAhead(), frames_of(host, USES)
        facts.leases.heard = NOW
        host.export.leases.due()
        (top / "lib/small").write_text(f"changed {late}")
        broken = leases.broken(host.export.leases.due()[HEADER.size :])
        for step in (0, 1):
            if step == late:
                facts.broken(broken)
            else:
                for payload in payloads:
                    facts.pushed(payload, NOW)
        small = look_up(facts, b"lib", b"small")
        assert not small or opened(facts, small) is None


def test_what_the_job_has_changed_is_not_used(host: Host) -> None:
    payloads = frames_of(host, USES)
    small = host.walk("lib/small")
    for op, node in ((abi.WRITE, small), (abi.SETATTR, small), (abi.UNLINK, abi.ROOT_ID)):
        facts = KnownAhead()
        facts.leases.heard = NOW
        facts.asked(op, node)
        for payload in payloads:
            facts.pushed(payload, NOW)
        assert look_up(facts, b"lib", b"small") is None or opened(facts, small) is None
    for op in (abi.WRITE, abi.SETATTR):
        facts = facts_of(host, USES)
        found = look_up(facts, b"lib", b"small")
        assert opened(facts, found)
        facts.asked(op, found or 0)
        assert read(facts, found, 0, 4096) is None and opened(facts, found) is None


def test_of_one_job_nothing_is_sent_once_it_is_over(host: Host) -> None:
    sending = Pushing({b"/lib/large": [(0, len(LARGE_FILE))]}.items())
    assert sending.credited(1 << 20)
    due = sending.due(host.export)
    assert next(due) and not sending.stop(), "what was made is on its way"
    assert not list(due) and sending.stop()
    assert not sending.credited(1 << 20) and not sending.more({b"/lib": None}.items())
    sending.close()


def test_a_host_that_has_not_heard_of_home_for_long_asks(host: Host) -> None:
    facts = facts_of(host, USES)
    small = look_up(facts, b"lib", b"small")
    assert opened(facts, small)
    facts.leases.heard = NOW - 10
    assert read(facts, small, 0, 4096) is None and opened(facts, small) is None


def test_what_may_not_be_seen_is_not_sent(top: Path) -> None:
    host = Host.of(top, Confinement([Mark(b"/lib", HIDDEN, None)]))
    assert host.export.leases.begin()
    assert {part[0] for part in parts_of(host, USES)} == {pushed.NAME, pushed.TARGET}
    assert look_up(facts_of(host, USES), b"lib") == 0
    host.export.close()


def test_what_is_open_for_writing_is_not_sent(host: Host, top: Path) -> None:
    with open(top / "lib/small", "ab"):
        facts = facts_of(host, USES)
        assert opened(facts, look_up(facts, b"lib", b"small")) is None
    facts = facts_of(host, USES)
    assert opened(facts, look_up(facts, b"lib", b"small"))


def test_no_more_is_sent_than_there_is_credit_for(host: Host) -> None:
    sending = Pushing({b"/lib/large": [(0, len(LARGE_FILE))]}.items())
    sent: list[bytes] = []
    while len(sent) < 20 and sum(map(len, sent)) < len(LARGE_FILE):
        assert sending.credited(10_000)
        sent += list(sending.due(host.export))
    assert sum(map(len, sent)) >= len(LARGE_FILE)
    assert all(len(payload) + HEADER.size < LARGE for payload in sent)
    one = pushed.PIECE + len(pushed.pack(pushed.SINCE, 1) + pushed.pack(pushed.DATA, 1))
    assert all(len(a) <= one for a, _ in pairwise(sent)), "several are to be under way"
    assert sending.credited(1 << 20) and not list(sending.due(host.export)), "all was sent"
    assert not sending.credited(10_000), "and nobody is to look again"


def test_what_is_open_to_be_sent_is_closed_with_the_session(host: Host) -> None:
    told = ToldAhead(FirstNames({b"/lib/large": [(0, len(LARGE_FILE))]}, lambda uses: None))
    due = told.credited(struct.pack("=BI", PUSHED, 1), host.export)
    gc.disable()  # which would close it by and by
    try:
        assert list(told.made(due[0], host.export, threading.Event()))
        assert open_files().count("large") == 2
        told.release()
        assert open_files().count("large") == 1, "which the export keeps until it is closed"
    finally:
        gc.enable()


def test_a_host_that_asks_for_it_is_far(host: Host) -> None:
    told = ToldAhead(FirstNames({}, lambda uses: None))
    due = told.credited(struct.pack("=BI", PUSHED, 1000), host.export)
    assert due == [PUSH_DUE] and not host.export.asks
    assert not list(told.made(due[0], host.export, threading.Event()))
    assert host.export.asks


def test_of_one_start_no_more_is_sent_than_so_much(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "MOST_BYTES", 100_001)
    facts = facts_of(host, {**USES, b"/lib/small": None})
    assert opened(facts, look_up(facts, b"lib", b"large"))
    monkeypatch.setattr(pushing, "MOST_BYTES", 100_000)
    facts = facts_of(host, USES)
    assert opened(facts, look_up(facts, b"lib", b"large")) is None, "what is left is for those that fit"
    assert opened(facts, look_up(facts, b"lib", b"small"))


def test_much_of_a_file_that_the_host_keeps_by_itself_is_not_sent(
    host: Host, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = VersionNames(b"a key")
    name = until_named(top / "lib/large", key)
    monkeypatch.setattr(pushed_files, "_KEPT_THERE", 50_000)
    facts = facts_of(host, USES)
    assert opened(facts, look_up(facts, b"lib", b"large")), "there is no key"
    host.export.versions = key
    for guessed in (False, True):
        facts = facts_of(host, USES, guessed)
        large = look_up(facts, b"lib", b"large") or 0
        assert facts.leases.version(large)[0] == b"", "it was not opened"
        assert opened(facts, large) == (abi.OWN_FILES + 1, 0), "it is opened there all the same"
        assert facts.leases.version(large) == (name, len(LARGE_FILE))
        assert read(facts, large, 0, 4096) == (LARGE_FILE[:4096] if guessed else None), "the host has read it before"
        kept = facts.opened.pushed.to_keep
        assert {each[:2] for each in kept} == ({facts.leases.version(large)} if guessed else set())
        assert b"".join(each[3] for each in kept) == (LARGE_FILE[:100_000] if guessed else b"")
        assert opened(facts, look_up(facts, b"lib", b"small"))


def test_all_of_a_file_that_is_sent_may_be_kept(host: Host, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host keeps pages: one that came in two parts it would not."""
    (top / "lib/odd").write_bytes(LARGE_FILE[: 64 * 4096 + 100])
    key = VersionNames(b"a key")
    until_named(top / "lib/odd", key)
    host.export.versions = key
    monkeypatch.setattr(pushed_files, "_FIRST", 10_000)
    size = 64 * 4096 + 100
    facts = facts_of(host, {b"/lib": None, b"/lib/odd": [(200_704, size), (0, 200_704)]}, guessed=True)
    kept = {offset: data for _, _, offset, data in facts.opened.pushed.to_keep}
    assert len(kept) > 2 and all(offset % 4096 == 0 for offset in kept)
    assert b"".join(kept[offset] for offset in sorted(kept)) == LARGE_FILE[:size]


def test_what_is_looked_up_alone_is_told_before_what_is_read_later(
    host: Host, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "_SOONEST", 1)
    monkeypatch.setattr(pushing, "_AT_ONCE", 1)
    for name in ("more", "guessed"):
        (top / "lib" / name).write_bytes(b"more")
    uses: Uses = {b"/lib": None, b"/lib/small": [], b"/lib/guessed": WHOLE, b"/lib/more": [], b"/lib/large": [(0, 9)]}
    uses[b"/lib/gone"] = None
    names = [name for what, _, name, *_ in parts_of(host, uses) if what == pushed.NAME]
    assert names == [b"lib", b"small", b"gone", b"more", b"large", b"guessed"]


def test_what_is_under_no_lease_is_told_for_a_while_where_it_is_told_in_no_other_way(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.export.leases, "attributes", lambda *_: -1)
    monkeypatch.setattr(host.export.leases, "name", lambda *_, **__: False)
    assert not parts_of(host, USES)
    sending = Pushing(USES.items(), alone=True)
    assert sending.credited(1 << 30)
    payloads = list(sending.due(host.export))
    assert {part[0] for payload in payloads for part in pushed.parse(payload)} == {pushed.TOLD, pushed.TARGET}
    facts = KnownAhead()
    for payload in payloads:
        facts.pushed(payload, NOW)
    lib = look_up(facts, b"lib") or 0
    gone = facts.answer(abi.LOOKUP, 7, lib, asked(abi.LOOKUP, lib, b"gone\0"), NOW)
    assert gone and abi.ENTRY.unpack_from(gone, 16)[0] == 0
    found = facts.answer(abi.LOOKUP, 7, lib, asked(abi.LOOKUP, lib, b"small\0"), NOW)
    small = abi.ENTRY.unpack_from(found or b"", 16)[0]
    assert small and opened(facts, small) is None
    link = asked(abi.LOOKUP, abi.ROOT_ID, b"link\0")
    assert facts.answer(abi.LOOKUP, 7, abi.ROOT_ID, link, NOW + TTL + 0.1) is None
    facts = KnownAhead()
    facts.asked(abi.UNLINK, abi.ROOT_ID)
    for payload in payloads:
        facts.pushed(payload, NOW)
    assert look_up(facts, b"lib") is None and small in facts.listings.unused, "the job has changed something since"


@pytest.mark.parametrize("under_way", [False, True])
def test_what_is_looked_up_after_a_change_is_used(host: Host, under_way: bool) -> None:
    """Unless the change is answered and not done: home may have looked before it did it."""
    sending, facts = Pushing({b"/none%d" % each: None for each in range(100)}.items()), KnownAhead()
    facts.leases.heard = NOW
    facts.credits(0)
    assert sending.credited(1)
    for payload in sending.due(host.export):
        facts.pushed(payload, NOW)
    stamp = facts.asked(abi.UNLINK, abi.ROOT_ID)
    facts.answered(abi.UNLINK, abi.ROOT_ID, stamp)
    facts.credits(stamp if under_way else 0)
    assert look_up(facts, b"none0") == 0 and sending.credited(1 << 20)
    for payload in sending.due(host.export):
        facts.pushed(payload, NOW)
    assert look_up(facts, b"none99") == (None if under_way else 0)


def test_what_was_looked_up_before_a_change_is_not_used_after_it(host: Host) -> None:
    sending, facts = Pushing({b"/none%d" % each: None for each in range(100)}.items()), KnownAhead()
    facts.leases.heard = NOW
    for _ in range(2):
        facts.credits(0)
        sending.credited(1 << 19)
    payloads = list(sending.due(host.export))
    facts.asked(abi.UNLINK, abi.ROOT_ID)
    facts.credits(0)
    for payload in payloads:
        facts.pushed(payload, NOW)
    assert look_up(facts, b"none99") is None


def test_home_says_after_which_credit_it_has_looked() -> None:
    since = Since()
    for stamp in (3, 8, 9):
        since.asks(stamp)
    assert [since.of(number) for number in (2, 2, 3, 1)] == [8, 8, 9, 0]
    with pytest.raises(ProtocolError, match="never given"):
        since.of(4)


def test_who_may_search_the_directory_that_he_begins_in_does_not_ask(host: Host, top: Path) -> None:
    def facts() -> KnownAhead:
        sending, made = Pushing({}, directory=b"/lib"), KnownAhead()
        made.leases.heard = NOW
        assert sending.credited(1 << 20)
        for payload in sending.due(host.export):
            made.pushed(payload, NOW)
        return made

    def may(here: KnownAhead, node: int, mask: int = os.X_OK) -> bool:
        answer = here.answer(abi.ACCESS, 7, node, asked(abi.ACCESS, node, abi.ACCESS_IN.pack(mask, 0)), NOW)
        assert answer in (None, abi.reply(7))
        return answer is not None

    here, lib = facts(), host.walk("lib")
    assert may(here, abi.ROOT_ID) and may(here, lib)
    assert not may(here, lib, os.R_OK) and not may(here, lib, os.W_OK | os.X_OK) and not may(here, 99)
    attr = bytes(bytearray(here.leases._attr[lib]))
    here.leases.attributes(lib, attr)
    assert may(here, lib), "it was told again"
    here.leases.changed(lib)
    here.leases.attributes(lib, attr)
    assert not may(here, lib), "it was changed meanwhile"
    here = facts()
    here.leases.heard = NOW - 10
    assert not may(here, lib), "home has not been heard of"
    here = facts()
    host.export.leases.due()
    (top / "lib").chmod(0o700)
    here.broken(leases.broken(host.export.leases.due()[HEADER.size :]))
    assert may(here, abi.ROOT_ID) and not may(here, lib), "somebody has changed who may"
    here = facts()
    here.asked(abi.SETATTR, lib)
    assert may(here, abi.ROOT_ID) and not may(here, lib), "the job has"
    here = facts()
    here.broken([(leases.EVERYTHING, b"")])
    assert not may(here, abi.ROOT_ID)


def test_what_may_not_be_searched_is_not_said_to(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    sending = Pushing({}, directory=b"/lib")
    assert sending.credited(1 << 20)
    assert {part[0] for payload in sending.due(host.export) for part in pushed.parse(payload)} == {pushed.NAME}


def test_a_host_that_knows_that_it_is_far_is_told_names_with_what_they_lead_to(host: Host) -> None:
    for uses, kinds in ((USES, []), ({}, [])):
        told = ToldAhead(FirstNames(uses, lambda uses: None), far=True)
        assert [kind for kind, _ in told.made(NAMES_DUE, host.export, threading.Event())] == kinds
        assert told._soon.is_set() == (not uses), "INIT is not answered ahead of the first names"
    told = ToldAhead(FirstNames(USES, lambda uses: None), far=True)
    due = told.credited(struct.pack("=BI", PUSHED, 1 << 20), host.export)
    sent = list(told.made(due[0], host.export, threading.Event()))
    assert {kind for kind, _ in sent} == {PUSHED} and len(sent[0][1]) <= 1 << 10 and told._soon.is_set()


def test_names_go_by_themselves_where_nothing_is_leased(host: Host) -> None:
    host.export.leases.close()
    told = ToldAhead(FirstNames(USES, lambda uses: None), far=True)
    assert {kind for kind, _ in told.made(NAMES_DUE, host.export, threading.Event())} == {NAMES}


def test_what_the_job_reads_before_it_is_sent_is_not_sent(host: Host) -> None:
    sending = Pushing(USES.items(), {b"/lib/small"})
    assert sending.credited(1 << 20)
    files = [
        part[1] for payload in sending.due(host.export) for part in pushed.parse(payload) if part[0] == pushed.FILE
    ]
    assert files == [host.walk("lib/large")]


def test_who_waits_is_told_of_what_does_not_come(host: Host, top: Path) -> None:
    sending = Pushing(USES.items())
    assert sending.credited(1)
    facts = KnownAhead()
    facts.leases.heard = NOW
    payloads = sending.due(host.export)
    facts.pushed(next(payloads), NOW)
    large = look_up(facts, b"lib", b"large")
    assert opened(facts, large)
    raw = bytes(asked(abi.READ, large or 0, abi.READ_IN.pack(1, 90_000, 4096, 0, 0, 0, 0)))
    assert facts.waits(abi.READ, large or 0, (7, raw), NOW)
    os.truncate(top / "lib/large", 50_000)
    sending.credited(1 << 20)
    facts.credits(0)
    facts.credits(0)
    for payload in payloads:
        facts.pushed(payload, NOW)
    assert facts.opened.pushed.released == [(7, raw)] and facts.unused()


# what has come


def request(offset: int, size: int, unique: int = 7) -> tuple[int, bytes]:
    return unique, bytes(asked(abi.READ, 5, abi.READ_IN.pack(1, offset, size, 0, 0, 0, 0)))


def test_who_reads_what_is_on_its_way_waits_for_it() -> None:
    table, data = Pushed(), LARGE_FILE[:100]
    table.file(5, 200, [(10, 60), (70, 100)], NOW)
    assert (
        not table.waits(5, request(0, 20))
        and not table.waits(5, request(50, 20))
        and not table.waits(6, request(10, 1))
    )
    assert (
        table.waits(5, request(10, 30, 1)) and table.waits(5, request(55, 5, 2)) and table.waits(5, request(75, 5, 3))
    )
    assert table.data(5, 10, data[10:30]) == []
    assert table.data(5, 30, data[30:60]) == [(1, abi.reply(1, data[10:40])), (2, abi.reply(2, data[55:60]))]
    assert table.data(5, 70, data[70:100]) == [(3, abi.reply(3, data[75:80]))]
    assert table.used == 40 and not table.released


@pytest.mark.parametrize("how", ["changed", "cleared", "late", "pushed out"])
def test_who_waits_asks_home_when_it_holds_no_more(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Pushed()
    table.file(5, 200, [(0, 200)], NOW)
    assert table.waits(5, request(0, 200))
    if how == "changed":
        table.changed(5)
    elif how == "cleared":
        table.clear()
    elif how == "late":
        table.expire(NOW + UNUSED_S + 0.1)
    else:
        monkeypatch.setattr(here, "PUSHED_KEPT", 100)
        assert table.data(5, 0, bytes(101)) == []
    assert table.released == [request(0, 200)]
    assert not table.may_open(5) and table.data(5, 101, bytes(10)) == [] and table.read(5, 0, 10) is None


def test_nobody_waits_for_what_home_had_still_to_send_to_the_job_before() -> None:
    table = Pushed()
    for node in (5, 6):
        table.file(node, 200, [(0, 200)], NOW)
        table.data(node, 0, bytes(100))
    assert table.waits(6, request(50, 100))
    table.next_job()
    assert not table.waits(5, request(100, 50, 8)), "it does not come"
    assert table.read(5, 0, 100) == bytes(100) and table.released == [request(50, 100)]


def test_what_comes_slowly_is_waited_for() -> None:
    table, slowly = Pushed(), UNUSED_S - 1
    table.file(5, 300, [(0, 300)], NOW)
    assert table.waits(5, request(0, 300))
    for number in range(3):  # over a narrow line, with what else there is in between
        now = NOW + (number + 1) * slowly
        table.came(100, now)
        if number != 1:
            assert table.data(5, 50 * number, bytes(100)) == []
        table.expire(now)
        assert table.may_open(5) and not table.released
    table.came(100, now)
    assert [unique for unique, _ in table.data(5, 200, bytes(100))] == [7]
    table.expire(now + slowly)
    assert table.may_open(5)
    table.expire(now + UNUSED_S + 0.1)
    assert not table.may_open(5), "all of it has come since long, and nobody wants it"


def test_no_more_is_kept_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "PUSHED_KEPT", 1000)
    table = Pushed()
    for node in range(1, 101):
        table.file(node, 100, [(0, 100)], NOW)
        table.data(node, 0, bytes(100))
    assert [node for node in range(1, 101) if table.may_open(node)] == list(range(91, 101))
    assert all(table.read(node, 0, 100) for node in range(91, 101))
    table.file(200, 1000, [(0, 1000)], NOW)
    table.data(200, 0, bytes(1000))
    assert table.may_open(91), "what the kernel has been given is not kept"


def test_what_was_not_promised_is_not_kept() -> None:
    table = Pushed()
    for due in ([(0, 300)], [(5, 5)], [(9, 5)]):
        table.file(5, 200, due, NOW)
        assert not table.may_open(5)
    table.file(5, 200, [(0, 100)], NOW)
    for offset, size in ((100, 10), (0, 101), (50, 10)):
        assert table.data(5, offset, bytes(size)) == [] and table.read(5, offset, 1) is None


def test_any_piece_of_it_is_what_the_file_holds() -> None:
    rng = random.Random(2)
    for _ in range(200):
        table = Pushed()
        ranges = sorted(rng.sample(range(2000), 4))
        due = [(ranges[0], ranges[1]), (ranges[2], ranges[3])]
        table.file(5, 2000, due, NOW)
        for begin, end in due:
            while begin < end:
                size = rng.randint(1, end - begin)
                table.data(5, begin, LARGE_FILE[begin : begin + size])
                begin += size
        for _ in range(10):
            offset, size = rng.randrange(2000), rng.randint(1, 500)
            found = table.read(5, offset, size)
            assert found in (None, LARGE_FILE[offset : min(offset + size, 2000)])
            inside = any(begin <= offset and min(offset + size, 2000) <= end for begin, end in due)
            assert inside or found is None


# how fast it comes


def far() -> Pace:
    """Of a home that has something to send."""
    made = Pace()
    made.wanted = True
    return made


def test_nothing_is_asked_for_before_it_is_known_how_far_home_is() -> None:
    steps = far()
    assert steps.answered(0.010, NOW, 0) == 0, "home may have been busy"
    assert steps.answered(0.011, NOW, 0) == pace.FIRST
    assert far().answered(0.020, NOW, 0) == pace.FIRST
    steps = Pace()
    assert steps.answered(0.020, NOW, 0) == steps.answered(0.020, NOW, 0) == 0, "home has nothing to send"
    steps.wanted = True
    assert steps.grant(NOW, 0) == pace.FIRST
    assert far().grant(NOW, 0) == far().came(1000, NOW, 0) == 0, "it is not known yet how far it is"
    assert Pace().told(0.005, 0, NOW) == pace.FIRST, "home has found out, and sends what there is"


def test_of_a_line_that_was_narrow_no_more_is_granted_first_than_it_carries() -> None:
    rate, trip, now = 1.25e6, 0.020, NOW
    steps = Pace()
    granted = steps.told(trip, 0, now)
    assert granted == pace.FIRST and steps.line() == 0
    while not steps.line():
        now += trip + granted / rate
        granted = steps.came(granted, now, 0)
    assert 0.4 * rate < steps.line() <= rate
    first = Pace().told(trip, steps.line(), NOW)
    assert pace.LEAST < first <= rate * trip + pace.FRAMES < pace.FIRST / 3
    assert Pace().told(trip, 100_000_000, NOW) == pace.FIRST


def test_no_more_is_granted_at_once_than_home_takes() -> None:
    steps, now = far(), NOW
    grant = steps.answered(0.020, now, 0)
    widest = grant
    for _ in range(100):
        now += 0.020
        grant = steps.came(grant + 12_609, now, 0)  # the last frame is larger than what was left
        assert grant <= pushed.WIDEST
        widest = max(widest, grant)
    assert widest == pushed.WIDEST
    host_frames.credit(struct.pack("=BI", PUSHED, widest))


def under_way(rate: float, trip: float, seconds: float, frame: int = 0) -> list[tuple[float, int, int]]:
    """When how many bytes are under way, and have come, over a link of so many bytes a second, as long as all of it is
    used: home sends frames of that size, 0: as large as what it was granted last, and begins one while it may send
    anything."""
    steps, now, free, come = far(), NOW, NOW, 0
    flying: list[tuple[float, int]] = []  # when it arrives, size
    granted = credit = steps.answered(trip, now, 0)
    found = []
    while now < NOW + seconds:
        each = frame or min(max(granted, pushed.PIECE), pushed.FRAME)
        while credit > 0:  # home sends it half a round trip later, one frame after the other
            free = max(free, now + trip / 2) + each / rate
            flying.append((free + trip / 2, each))
            credit -= each
        found.append((now - NOW, sum(size for _, size in flying), come))
        if not flying:
            break
        now, size = flying.pop(0)
        come += size
        if more := steps.came(size, now, 0):
            credit, granted = credit + more, more
    return found


def test_over_a_narrow_link_little_more_is_under_way_than_it_carries() -> None:
    for rate in (1.25e6, 12.5e6):
        later = [size for when, size, _ in under_way(rate, 0.02, 3.0) if when > 1.0]
        assert later and max(later) <= 1.4 * rate * 0.02 + pace.FRAMES + pushed.PIECE


@pytest.mark.parametrize(("rate", "trip"), [(1.25e6, 0.02), (1.25e6, 0.1), (12.5e6, 0.02)])
def test_what_a_link_carries_is_used(rate: float, trip: float) -> None:
    when, _, come = under_way(rate, trip, 3.0)[-1]
    assert when > 2.9 and come > 0.95 * rate * (when - trip)


def test_frames_that_are_larger_than_what_home_may_send_stop_nothing() -> None:
    for frame in (pace.LEAST + 1, pushed.FRAME, 2 * pushed.FRAME):
        assert under_way(1.25e6, 0.02, 3.0, frame)[-1][0] > 2.5


def test_over_a_wide_link_it_is_as_much_as_that_carries_soon() -> None:
    found = under_way(1e9, 0.02, 0.3)
    assert max(size for when, size, _ in found if when < 0.2) >= 2 << 20


def test_what_is_not_used_is_not_sent_on() -> None:
    steps, unused = far(), 0
    grant = steps.answered(0.02, NOW, 0)
    for k in range(1, 1000):
        unused += grant
        grant = steps.came(grant, NOW + 0.02 * k, unused) if grant else 0
    assert not grant and unused < 1.1 * pace.UNUSED_S * pushed.WIDEST / 0.02
    assert steps.grant(NOW + 30, 0), "until some of it is"


def test_of_what_is_not_used_names_are_no_part() -> None:
    """Nobody says whether one was, and they are small."""
    table, size = Pushed(), 4 * pace.FIRST
    table.came(size, NOW)
    assert table._unused() == 0, "but names have come"
    for nodeid in (2, 3):
        table.file(nodeid, size, [(0, size)], NOW)
        table.data(nodeid, 0, bytes(size))
        table.came(size, NOW + 4)
    assert table._unused() == 2 * size
    table.listing(4, 10)
    assert table._unused() == 2 * size + 10
    assert table.read(2, 0, size) and table._unused() == size + 10
    table.looked(4)
    assert table._unused() == size


# on the wire


@pytest.mark.parametrize("cut", [1, 15, 23, 27, 60])
def test_what_is_sent_and_cut_short_is_refused(cut: int) -> None:
    entry = bytes(abi.ENTRY.size + abi.ATTR.size)
    whole = pushed.pack(pushed.NAME, 1, b"name", entry) + pushed.pack(pushed.DATA, 2, b"", b"data", 3)
    assert pushed.parse(whole) == [(pushed.NAME, 1, b"name", 0, entry), (pushed.DATA, 2, b"", 3, b"data")]
    with pytest.raises(ProtocolError):
        pushed.parse(whole[:cut])
    for wrong in (
        pushed.pack(9, 1, b"", b"x"), pushed.pack(pushed.NAME, 1, b"name", b"short"),
        pushed.pack(pushed.TOLD, 1, b"name", b"short"), pushed.pack(pushed.SEARCHED, 1, b"", b"short"),
        pushed.pack_file(1, [], False, b"no version"),
    ):  # fmt: skip
        with pytest.raises(ProtocolError):
            pushed.parse(wrong)
    with pytest.raises(ProtocolError):
        pushed.promised(struct.pack("=QQQ", 0, 1, 2))
