"""Names that a command looks up as it starts are told ahead the next time, as they are then."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.errors import ProtocolError
from remoteio.execute.known_ahead import KnownAhead
from remoteio.submit.export import first_names
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.first_names import MOST_NAMES, MOST_RANGES, FirstNames, Ranges, Use, Uses, joined
from remoteio.submit.export.learned_walks import MOST_ALONE, NAMES, use_of
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import names_ahead
from remoteio.wire.coherence import TTL
from shim.submit import learned_starts
from shim.submit.learned_starts import MOST_BYTES, MOST_USES, LearnedStart
from shim.submit.scope import PROJECT, Scope
from tests.hostile import Host, Refused

NOW = 100.0


def export_of(top: Path) -> Export:
    return Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(top))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "lib/inner").mkdir(parents=True)
    (tmp_path / "lib/file").write_text("text")
    (tmp_path / "link").symlink_to("lib/file")
    return tmp_path


def learn(export: Export, *looked_up: str) -> list[bytes]:
    """What a job that looks these up, from the top on, has told ahead the next time."""
    kept: list[Uses] = []
    names = FirstNames({}, kept.append)
    assert list(names.begin(export)) == []
    host = Host(export)
    for each in looked_up:
        node = abi.ROOT_ID
        for name in os.fsencode(each).split(b"/"):
            names.saw(export, abi.Request(abi.request(abi.LOOKUP, node, name + b"\0")))
            try:
                node = host.lookup(node, name)
            except Refused:
                break
    names.end()
    return list(kept[0]) if kept else []


def told(export: Export, names: list[bytes]) -> list[tuple[int, int, bytes, bytes]]:
    payloads = FirstNames(dict.fromkeys(names), lambda uses: None).begin(export)
    return [part for payload in payloads for part in names_ahead.parse(payload)]


def facts_of(export: Export, names: list[bytes]) -> KnownAhead:
    facts = KnownAhead()
    facts.learn_names(told(export, names), NOW)
    return facts


def look_up(facts: KnownAhead, parent: int, name: bytes, now: float = NOW) -> int | None:
    """The node, 0 for one that is known not to be there, None where home must be asked."""
    answer = facts.answer(abi.LOOKUP, 1, parent, memoryview(bytes(abi.ARGS) + name + b"\0"), now)
    return None if answer is None else int(abi.ENTRY.unpack_from(answer, 16)[0])


def test_what_was_looked_up_is_known_the_next_time(top: Path) -> None:
    names = learn(export_of(top), "lib/file", "link", "lib/missing", "gone/too")
    assert names == [b"/lib", b"/lib/file", b"/link", b"/lib/missing", b"/gone"]
    export = export_of(top)
    facts = facts_of(export, names)
    lib = look_up(facts, abi.ROOT_ID, b"lib")
    assert lib and look_up(facts, lib, b"file") == Host(export).walk("lib/file")
    assert look_up(facts, lib, b"missing") == look_up(facts, lib, b"missing") == 0
    link = look_up(facts, abi.ROOT_ID, b"link")
    assert link and facts.answer(abi.READLINK, 2, link, memoryview(b""), NOW) == abi.reply(2, b"lib/file")
    assert look_up(facts, lib, b"inner") is None, "nobody asked for it"
    assert look_up(facts, abi.ROOT_ID, b"gone", NOW + 1.1 * TTL) is None


def test_it_is_told_as_it_is_now(top: Path) -> None:
    names = learn(export_of(top), "lib/file", "lib/missing")
    (top / "lib/file").unlink()
    (top / "lib/missing").write_text("now there")
    export = export_of(top)
    facts = facts_of(export, names)
    lib = look_up(facts, abi.ROOT_ID, b"lib")
    assert lib and look_up(facts, lib, b"file") == 0
    assert look_up(facts, lib, b"missing") == Host(export).walk("lib/missing")


def test_a_path_of_any_depth_is_told(top: Path) -> None:
    assert len(told(export_of(top), [b"/lib" + b"/x" * 2000])) == 2, "it ends where nothing is"


def test_a_directory_of_which_much_is_asked_is_told_whole(top: Path) -> None:
    names = learn(export_of(top), "lib/file", "lib/missing", "lib/more")
    facts = facts_of(export_of(top), names)
    lib = look_up(facts, abi.ROOT_ID, b"lib")
    assert lib and look_up(facts, lib, b"inner")


def test_what_the_job_changes_first_is_not_taken_from_what_is_told(top: Path) -> None:
    export = export_of(top)
    parts = told(export, [b"/lib", b"/lib/file", b"/lib/missing"])
    for op in (abi.CREATE, abi.UNLINK):
        facts = KnownAhead()
        facts.answered(op, abi.ROOT_ID, facts.asked(op, abi.ROOT_ID))
        facts.learn_names(parts, NOW)
        assert look_up(facts, abi.ROOT_ID, b"lib") is None
    for op in (abi.CREATE, abi.UNLINK):
        facts = KnownAhead()
        facts.learn_names(parts, NOW)
        facts.asked(op, abi.ROOT_ID)
        assert look_up(facts, abi.ROOT_ID, b"lib") is None


def test_lookups_that_were_counted_for_nobody_are_given_back(top: Path) -> None:
    export = export_of(top)
    facts = facts_of(export, [b"/lib", b"/lib/file", b"/lib/inner", b"/lib/x", b"/lib/y", b"/link"])
    taken = look_up(facts, abi.ROOT_ID, b"lib")
    facts.asked(abi.UNLINK, abi.ROOT_ID)
    for nodeid in (*facts.listings.unused, taken):
        assert nodeid is not None
        export.inodes.forget(nodeid, 1)
    assert list(export.inodes.nodes) == [abi.ROOT_ID]


def test_what_was_read_of_a_file_is_learned(top: Path) -> None:
    export, kept = export_of(top), list[Uses]()
    names, host = FirstNames({}, kept.append), Host(export)
    node = host.walk("lib/file")
    for op, args in (
        (abi.OPEN, abi.OPEN_IN.pack(os.O_WRONLY, 0)),
        (abi.OPEN, abi.OPEN_IN.pack(os.O_RDONLY, 0)),
        (abi.READ, abi.READ_IN.pack(1, 0, 4096, 0, 0, 0, 0)),
        (abi.READ, abi.READ_IN.pack(1, 1 << 20, 4096, 0, 0, 0, 0)),
        (abi.GETATTR, abi.GETATTR_IN.pack(0, 0, 0)),
    ):
        names.saw(export, abi.Request(abi.request(op, node, args)))
    names.saw(export, abi.Request(abi.request(abi.READ, abi.ROOT_ID, abi.READ_IN.pack(1, 0, 1, 0, 0, 0, 0))))
    names.end()
    assert kept == [{b"/lib/file": [(0, 4096), (1 << 20, (1 << 20) + 4096)]}]
    assert names.read == {b"/lib/file"}


def test_ranges_that_are_near_each_other_are_one() -> None:
    ranges: Ranges = []
    for begin, end in ((0, 4096), (1 << 20, 1 << 21), (4096, 8192), (60_000, 70_000), (0, 0), (1 << 19, 1 << 22)):
        ranges = joined(ranges, (begin, end))
    assert ranges == [(0, 70_000), (1 << 19, 1 << 22)]
    for k in range(100):
        ranges = joined(ranges, (k << 24, (k << 24) + 1))
    assert len(ranges) == MOST_RANGES and ranges[0][0] == 0


def test_no_more_is_learned_than_so_many_names_of_the_first_moments(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_names, "MOST_NAMES", 3)
    assert learn(export_of(top), "a", "b", "c", "d", "e") == [b"/a", b"/b", b"/c"]
    monkeypatch.setattr(first_names, "FIRST_S", -1.0)
    assert learn(export_of(top), "a", "b") == []


def test_what_is_guessed_is_learned_to_a_bound_so_that_what_is_asked_for_has_room(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_names, "MOST_GUESSED", 2)
    export, learned = export_of(top), list[Uses]()
    names = FirstNames({}, learned.append)
    guessed: list[Use] = [(b"/guess/%d" % k, [(0, 1)]) for k in range(4)]
    assert list(names._guessed(iter(guessed))) == guessed, "they are sent all the same"
    for name in (b"lib", b"link"):
        names.saw(export, abi.Request(abi.request(abi.LOOKUP, abi.ROOT_ID, name + b"\0")))
    names.end()
    assert list(learned[0]) == [b"/guess/0", b"/guess/1", b"/lib", b"/link"]


def test_nothing_is_learned_of_a_directory_that_the_job_removes(top: Path) -> None:
    """As of one for a while, whose next one has another name."""
    export, learned = export_of(top), list[Uses]()
    names, lib = FirstNames({b"/lib/inner/old": None}, learned.append), Host(export).walk("lib")
    for nodeid, op, name in (
        (abi.ROOT_ID, abi.LOOKUP, b"lib"),
        (lib, abi.LOOKUP, b"inner"),
        (lib, abi.RMDIR, b"inner"),
        (lib, abi.LOOKUP, b"innermost"),
    ):
        names.saw(export, abi.Request(abi.request(op, nodeid, name + b"\0")))
    names.end()
    assert learned == [{b"/lib": None, b"/lib/innermost": None}]


@pytest.mark.parametrize("cut", [1, 15, 17, 100])
def test_what_is_told_and_cut_short_is_refused(cut: int) -> None:
    whole = names_ahead.pack(names_ahead.NAME, 1, b"name", bytes(abi.ENTRY.size + abi.ATTR.size))
    assert names_ahead.parse(whole) == [(names_ahead.NAME, 1, b"name", bytes(abi.ENTRY.size + abi.ATTR.size))]
    with pytest.raises(ProtocolError):
        names_ahead.parse(whole[:cut])
    for wrong in (names_ahead.pack(7, 1, b"", b"x"), names_ahead.pack(names_ahead.NAME, 1, b"name", b"short")):
        with pytest.raises(ProtocolError):
            names_ahead.parse(wrong)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LearnedStart:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return LearnedStart([b"gcc", b"-O2", b"x.c"], b"/home/me", Scope())


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/rexec/starts").iterdir())


def test_names_are_kept_for_a_command_and_a_directory(start: LearnedStart, tmp_path: Path) -> None:
    assert start.uses() == {}
    uses: Uses = {b"/a": None, b"/b/\xff\n": [(0, 4096), (8192, 10000)], b"/1-2 /c": [], b"/b": None}
    start.keep(uses)
    assert start.uses() == uses and list(start.uses()) == list(uses)
    assert start.sure
    for like in ([b"gcc", b"-O2"], [b"gcc", b"-O2", b"y.c"]):
        assert (other := LearnedStart(like, b"/home/me", Scope())).uses() == uses and other.sure == (len(like) == 2)
    for argv, cwd, scope in (([b"gcc", b"-c"], b"/home/me", Scope()), ([b"gcc", b"-O2"], b"/", Scope())):
        assert LearnedStart(argv, cwd, scope).uses() == {}
    assert LearnedStart([b"gcc", b"-O2"], b"/home/me", Scope(PROJECT)).uses() == {}, "it may see less"
    for file in kept(tmp_path):
        assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700


def test_all_that_is_learned_of_a_command_is_read_again(start: LearnedStart) -> None:
    """With directories that are listed, and trees, beside as many names as are learned."""
    uses: Uses = {**{b"/%d" % k: None for k in range(MOST_NAMES)}, **{b"/alone/%d" % k: [] for k in range(MOST_ALONE)}}
    start.keep(uses)
    assert start.uses() == uses
    start.keep({b"/%d" % k: None for k in range(MOST_USES + 5)})
    assert len(start.uses()) == MOST_USES, "what is more is left out, rather than all of it"


def test_of_a_command_that_is_like_another_trees_are_not_known(start: LearnedStart) -> None:
    start.keep({b"/a": None, b"/tree": use_of(NAMES), b"/alone": [], b"/b": [(0, 4096)]})
    like = LearnedStart([b"gcc", b"-O2", b"y.c"], b"/home/me", Scope())
    assert like.uses() == {b"/a": None, b"/alone": [], b"/b": [(0, 4096)]} and not like.sure
    like.keep({b"/c": None})
    assert like.uses() == {b"/c": None} and like.sure and b"/tree" in start.uses() and start.sure


def test_what_is_known_of_another_command_is_told_with_guesses_and_kept_for_this_one(top: Path) -> None:
    host = Host.of(top)
    learned: list[Uses] = []

    class Guesses:
        def start(self, export: Export) -> list[Use]:
            return []

        def used(self, export: Export) -> Iterator[Use]:
            return iter([(b"/guessed", None)])

        def program(self, export: Export, path: bytes) -> Iterator[Use]:
            return iter(())

        def release(self) -> None:
            pass

    for sure, uses in ((True, [b"/known"]), (False, [b"/known", b"/guessed"])):
        names = FirstNames({b"/known": None}, learned.append, Guesses(), sure)
        assert [name for name, _ in names.used(host.export)] == uses
        names.end()
    assert learned == [{b"/known": None, b"/guessed": None}]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"rexec start 2", b"rexec names 1\0/a", b"rexec start 2\0/a\0b", b"rexec start 2\0/a/../b", b"\0\0",
        b"rexec start 2\0/", b"rexec start 2\0/a//b", b"rexec start 2" + b"\0/a" * (MOST_USES + 1),
        b"rexec start 2\0/" + b"a" * MOST_BYTES, b"rexec start 2" + b"\0" + b"/a" * 2049,
        b"rexec start 2\0" + b"1-2, /a", b"rexec start 2\0" + b"2-1 /a", b"rexec start 2\0" + b"1-2,3 /a",
        b"rexec start 2\0" + b"0-1," * 64 + b"2-3 /a", b"rexec start 2\0" + b"-1-2 /a",
        b"rexec start 2\0" + b"0-10-1 /a", b"rexec start 2\0" + b"1-2/a",
    ],
)  # fmt: skip
def test_what_is_not_as_it_was_written_is_ignored_and_written_anew(
    start: LearnedStart, tmp_path: Path, text: bytes
) -> None:
    start.keep({b"/a": None})
    for file in kept(tmp_path):
        file.write_bytes(text)
    assert start.uses() == {}
    start.keep({b"/b": None})
    assert start.uses() == {b"/b": None}


def test_what_is_old_is_learned_anew(start: LearnedStart, tmp_path: Path) -> None:
    start.keep({b"/a": None})
    old = time.time() - learned_starts.OLD_S - 10
    for file in kept(tmp_path):
        os.utime(file, (old, old))
    assert start.uses() == {}


def test_no_more_starts_are_kept_than_so_many(
    start: LearnedStart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_starts, "MOST_STARTS", 3)
    monkeypatch.setattr(learned_starts, "MOST_BYTES", 100)
    for k in range(6):
        LearnedStart([b"%d" % k], b"/", Scope()).keep({b"/a": None})
    assert len(kept(tmp_path)) == 3
    start.keep({b"/" + b"a" * 100: None})
    assert len(kept(tmp_path)) == 3 and start.uses() == {}


def test_who_has_no_home_has_nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr("checkpoint.submit.xdg.cache", none)
    start = LearnedStart([b"gcc"], b"/", Scope())
    start.keep({b"/a": None})
    assert start.uses() == {}


def test_where_nothing_can_be_kept_nothing_is(start: LearnedStart, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    start.keep({b"/a": None})
    assert start.uses() == {}
