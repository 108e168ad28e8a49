"""A tree that a command walked is learned by its root, and listed ahead the next time, as it is then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.errors import ProtocolError
from remoteio.execute.known_ahead import KnownAhead
from remoteio.execute.leases import attributes_of
from remoteio.submit.export import begun_walks, learned_walks, pushed_walks
from remoteio.submit.export.first_names import FirstNames, Uses
from remoteio.submit.export.learned_walks import ATTRIBUTES, CONTENTS, NAMES, PASSED_BY, LearnedWalks, use_of, wanted_of
from remoteio.submit.export.pushed_walks import PushedWalk
from remoteio.submit.export.pushing import Pushing
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases, listed, pushed
from remoteio.wire.coherence import TTL
from remoteio.wire.frames import HEADER
from shim.submit.learned_starts import LearnedStart
from shim.submit.scope import Scope
from tests.hostile import Host, Refused, leasing

NOW = 100.0
DIRECTORIES = [f"top/{a}/{b}" for a in "abc" for b in "def"]


@pytest.fixture
def top(disk: Path) -> Path:
    for each in DIRECTORIES:
        (disk / each).mkdir(parents=True)
        (disk / each / "file").write_text(each)
    return disk


@pytest.fixture
def host(top: Path) -> Iterator[Host]:
    with leasing(top) as made:
        yield made


class Command:
    """What a command asks for, and what is kept of it: `known` is what was before."""

    def __init__(self, host: Host, known: Uses | None = None) -> None:
        self.host, self.kept = host, known or {}
        self.names = FirstNames(self.kept, self._keep)
        self.names.saw(host.export, abi.Request(abi.request(abi.GETATTR, abi.ROOT_ID, bytes(abi.GETATTR_IN.size))))

    def _keep(self, uses: Uses) -> None:
        self.kept = uses

    def ask(self, op: int, path: str, arguments: bytes = b"") -> None:
        node = self.host.walk(path)
        self.names.saw(self.host.export, abi.Request(abi.request(op, node, arguments)))
        self.host.ask(op, node, arguments)

    def opens(self, *paths: str) -> None:
        for path in paths:
            self.ask(abi.OPENDIR, path, abi.OPEN_IN.pack(0, 0))

    def lists(self, path: str, looks: bool = False, below: int = 1) -> None:
        self.ask(abi.LIST, path, abi.LIST_IN.pack(below, looks))

    def ends(self) -> dict[bytes, int | None]:
        """What is learned of directories: what is wanted there; None: they alone."""
        self.names.end()
        return {name: wanted_of(each) for name, each in self.kept.items() if each is not None}


def test_a_tree_that_was_walked_is_learned_by_its_root(host: Host) -> None:
    command = Command(host)
    command.opens("top")
    command.lists("top/a", below=8)
    command.opens("top/b")
    command.lists("top/b/d", below=8)
    command.opens("top/b/e", "top/b/f", "top/c", "top/c/d", "top/c/e", "top/c/f")
    assert command.ends() == {b"/top": NAMES}


def test_what_is_sent_still_as_the_job_ends_keeps_nothing_from_being_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = LearnedWalks()
    walks.walked = {b"/a": (NAMES, b""), b"/b": (NAMES, b"")}

    def is_in(name: bytes, wanted: int, known: Uses) -> bool:
        walks.walked.setdefault(name + b"/more", (NAMES, b""))  # as another thread does meanwhile
        return True

    monkeypatch.setattr(learned_walks, "is_in", is_in)
    assert walks.uses({}) == {}


def test_what_is_wanted_is_learned(host: Host) -> None:
    for what, wanted in ((False, NAMES), (True, ATTRIBUTES)):
        command = Command(host)
        for each in ("top", "top/a", "top/b", "top/c", *DIRECTORIES):
            command.lists(each, looks=what)
        assert command.ends() == {b"/top": wanted}
    command = Command(host, {b"/top": use_of(NAMES)})
    for each in ("top", "top/a", "top/b", "top/c", *DIRECTORIES):
        command.lists(each)
    command.ask(abi.FETCH, "top/a/d/file")
    assert command.ends() == {b"/top": CONTENTS}


def test_what_is_passed_by_is_learned(host: Host) -> None:
    command = Command(host)
    command.opens("top", "top/a", "top/a/d", "top/a/e", "top/b", "top/b/d", "top/b/e", "top/b/f")
    assert command.ends() == {b"/top": NAMES, b"/top/a/f": PASSED_BY, b"/top/c": PASSED_BY}
    command = Command(host)
    command.opens("top", "top/a", "top/a/d", "top/b", "top/b/d", "top/b/e", "top/b/f", "top/c", *DIRECTORIES[6:])
    learned = {b"/top": NAMES, b"/top/a": None, b"/top/a/d": None}
    assert command.ends() == learned, "of what is in it most was passed by"
    again = Command(host, command.kept)
    again.opens("top/a")
    assert again.ends() == learned


def test_what_was_passed_by_and_is_walked_now_is_so_no_more(host: Host) -> None:
    command = Command(host, {b"/top": use_of(NAMES), b"/top/c": use_of(PASSED_BY)})
    command.opens("top/c")
    assert command.ends() == {b"/top": NAMES}


def test_who_looks_into_few_directories_walks_no_tree(host: Host) -> None:
    command = Command(host)
    command.opens("top", "top/a", "top/a/d")
    assert set(command.ends().values()) == {None}
    command = Command(host)
    command.opens("top/a/d", "top/b/d", "top/c/d")
    assert command.ends() == {b"/top/a/d": None, b"/top/b/d": None, b"/top/c/d": None}, "they alone"


def test_of_directories_that_are_opened_alone_no_more_are_learned_than_so_many(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_walks, "MOST_ALONE", 2)
    command = Command(host)
    command.opens("top/a/d", "top/b/d", "top/c/d")
    assert command.ends() == {b"/top/a/d": None, b"/top/b/d": None}
    command = Command(host)
    command.lists("top/a/d")
    assert command.ends() == {}, "what was listed ahead alone is of no use"


def test_a_directory_is_learned_of_which_the_host_was_told_as_names_were_looked_up_there(host: Host, top: Path) -> None:
    command = Command(host)
    for name in "xyz":  # none of them is there; of the next ones the host need not ask
        command.ask(abi.LOOKUP, "top/a/d", f"{name}\0".encode())
    assert command.ends() == {b"/top/a/d": None}
    facts = facts_of(host, command.kept)
    directory = facts.leases.lookup(7, host.walk("top/a/d"), b"w")
    assert directory is not None, "so the next time names are known to be absent that nobody looked up before"


def test_a_directory_in_which_a_file_is_made_is_learned_and_no_name_that_is_removed(host: Host, top: Path) -> None:
    command = Command(host)
    for name in (b"kept", b"removed"):
        command.ask(abi.LOOKUP, "top/a", name + b"\0")
        command.ask(abi.CREATE, "top/a", abi.CREATE_IN.pack(os.O_WRONLY, 0o644, 0, 0) + name + b"\0")
    command.ask(abi.UNLINK, "top/a", b"removed\0")
    assert command.ends() == {b"/top/a": None}
    assert b"/top/a/kept" in command.kept and b"/top/a/removed" not in command.kept


def test_what_is_opened_below_what_is_listed_alone_or_passed_by_is_in_no_tree(host: Host) -> None:
    for aside in ([], use_of(PASSED_BY)):
        command = Command(host, {b"/top": use_of(ATTRIBUTES), b"/top/a": aside})
        command.opens("top/a/d", "top/b/d")
        learned = command.ends()
        assert b"/top/a/d" in learned and b"/top/b/d" not in learned
        assert told(host, command.kept)[0] in (b"/top/a", b"/top/a/d")
        assert set(told(host, command.kept)) >= {b"/top", b"/top/a/d", b"/top/b/d"}


def test_who_passes_many_by_walks_no_tree(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_walks, "MOST_PASSED_BY", 1)
    command = Command(host)
    command.opens("top", "top/a", "top/b", "top/b/d", "top/b/e", "top/b/f", "top/a/d", "top/a/e")
    assert set(command.ends().values()) == {None}
    command = Command(host)
    command.opens("top", "top/a", "top/b", "top/c", *DIRECTORIES[1:])
    assert command.ends() == {b"/top": NAMES, b"/top/a/d": PASSED_BY}


def test_no_more_is_listed_than_so_many_directories(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_walks, "MOST_WALKED", 5)
    monkeypatch.setattr(pushed_walks, "MOST_WALKED", 5)
    command = Command(host)
    command.opens("top", "top/a", "top/b", "top/c", *DIRECTORIES)
    assert len(command.names.walks.walked) == 5
    assert len(told(host, {b"/top": use_of(NAMES)})) == 5


def test_no_more_names_are_told_than_leave_room_for_what_the_host_needs(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushed_walks, "MOST_TOLD", 12)
    assert 1 < len(told(host, {b"/top": use_of(NAMES)})) < 5, "of directories with five names and three"
    walks = LearnedWalks()
    assert told(host, {b"/top/a": use_of(NAMES), b"/top/b": use_of(NAMES), b"/top/c": []}, walks)[-1] != b"/top/b/f"
    assert walks.names >= 12


def told(host: Host, uses: Uses, walks: LearnedWalks | None = None) -> list[bytes]:
    """The paths of the directories that are listed, in that order."""
    found = []
    sending = Pushing(uses.items(), walks=walks)
    assert sending.credited(1 << 30)
    for payload in sending.due(host.export):
        for what, _, _, _, rest in pushed.parse(payload):
            for nodeid, *_ in listed.parse(pushed.listed(rest)) if what == pushed.LISTED else ():
                node = host.export.inodes.nodes[nodeid]
                found.append(learned_walks.path(node, b""))
    return found


def facts_of(host: Host, uses: Uses) -> KnownAhead:
    facts = KnownAhead()
    facts.leases.heard = NOW
    sending = Pushing(uses.items())
    assert sending.credited(1 << 30)
    for payload in sending.due(host.export):
        facts.pushed(payload, NOW)
    return facts


def look_up(facts: KnownAhead, path: str, now: float = NOW) -> int | None:
    """The node that it leads to by what is known, 0: nothing; None: home must be asked."""
    node: int | None = abi.ROOT_ID
    for name in os.fsencode(path).split(b"/"):
        raw = memoryview(abi.request(abi.LOOKUP, node or 0, name + b"\0"))
        answer = facts.answer(abi.LOOKUP, 7, node or 0, raw, now)
        node = None if answer is None else abi.ENTRY.unpack_from(answer, 16)[0]
    return node


def names_in(facts: KnownAhead, path: str, now: float = NOW) -> dict[bytes, int] | None:
    """The names in a directory, and the nodes that are told with them; None: home must be asked."""
    node = look_up(facts, path, now)
    raw = memoryview(abi.request(abi.OPENDIR, node or 0, abi.OPEN_IN.pack(0, 0)))
    opened = facts.answer(abi.OPENDIR, 7, node or 0, raw, now)
    if opened is None:
        return None
    fh = abi.OPEN_OUT.unpack_from(opened, 16)[0]
    raw = memoryview(abi.request(abi.READDIRPLUS, node or 0, abi.READ_IN.pack(fh, 0, 1 << 16, 0, 0, 0, 0)))
    answer = facts.answer(abi.READDIRPLUS, 8, node or 0, raw, now)
    facts.listings.closed(fh)
    return None if answer is None else {name: each for _, _, each, name, *_ in listed.walk(bytes(answer[16:]))}


def test_a_tree_is_listed_in_the_order_of_a_walk_but_for_what_was_passed_by(host: Host, top: Path) -> None:
    walk = [b"/" + os.fsencode(os.path.relpath(at, top)) for at, *_ in os.walk(top / "top")]
    uses = {b"/top": use_of(NAMES), b"/top/b": use_of(PASSED_BY), b"/top/c": []}
    assert told(host, {b"/top": use_of(NAMES)}) == walk
    kept = [each for each in walk if not each.startswith((b"/top/b", b"/top/c"))]
    assert told(host, uses) == [b"/top/c", *kept]


def test_what_the_host_has_asked_for_is_not_sent(host: Host) -> None:
    command = Command(host)
    command.lists("top/b", below=8)
    sent = told(host, {b"/top": use_of(NAMES)}, command.names.walks)
    rest = [each for each in ("top", "top/a", "top/c", *DIRECTORIES) if "/b" not in each]
    assert sorted(sent) == sorted(os.fsencode(f"/{each}") for each in rest)


def test_a_tree_is_walked_without_asking_for_as_long_as_it_is_as_it_was(host: Host, top: Path) -> None:
    facts = facts_of(host, {b"/top": use_of(NAMES)})
    for now in (NOW, NOW + 5 * TTL):
        facts.leases.heard = now
        for each in ("top", "top/a", *DIRECTORIES):
            names = names_in(facts, each, now)
            assert names is not None and set(names) - {b".", b".."} == {
                os.fsencode(name) for name in os.listdir(top / each)
            }
            assert bool(names.get(b"d")) == (each in ("top/a",)), "of directories there are attributes, of files none"
            assert not names.get(b"file")
    assert facts.opened.pushed.guesses.came == 13 and facts.opened.pushed.guesses.right == 13
    host.export.leases.due()
    (top / "top/a/d/more").write_text("of others")
    facts.broken(leases.broken(host.export.leases.due()[HEADER.size :]))
    assert names_in(facts, "top/a/d") is None and names_in(facts, "top/a/e") is not None


def test_a_directory_is_listed_also_where_names_in_it_are_told_after_it(host: Host, top: Path) -> None:
    facts = facts_of(host, {b"/top/a/d": [], b"/top/a/d/file": [], b"/top/a/d/none": None})
    names = names_in(facts, "top/a/d")
    assert names is not None and names[b"file"] == host.walk("top/a/d/file"), "its attributes are known by now"
    assert look_up(facts, "top/a/d/none") == 0
    directory = host.walk("top/a/d")
    attr = attributes_of(facts.leases, directory)
    host.export.leases.due()
    (top / "top/a/d/file").rename(top / "top/a/d/none")
    facts.broken(leases.broken(host.export.leases.due()[HEADER.size :]))
    assert names_in(facts, "top/a/d") is None
    assert attr
    facts.leases.attributes(directory, attr)
    assert names_in(facts, "top/a/d") is None, "its attributes are known again, what is in it is not"
    assert look_up(facts, "top/a/d/file") is None and look_up(facts, "top/a/d/none") is None


def test_what_is_known_of_a_file_holds_also_where_its_directory_is_listed_by_names_alone(host: Host) -> None:
    facts = facts_of(host, {b"/top/a/d/file": [], b"/top/a/d": []})
    assert names_in(facts, "top/a/d") is not None
    node = look_up(facts, "top/a/d/file")
    assert node == host.walk("top/a/d/file")
    raw = memoryview(abi.request(abi.OPEN, node, abi.OPEN_IN.pack(os.O_RDONLY, 0)))
    assert facts.answer(abi.OPEN, 7, node, raw, NOW)


def test_attributes_of_files_hold_for_their_time(host: Host, top: Path) -> None:
    facts = facts_of(host, {b"/top": use_of(ATTRIBUTES)})
    assert look_up(facts, "top/a/d/file") == host.walk("top/a/d/file")
    assert look_up(facts, "top/a/d/none") == 0
    facts.leases.heard = late = NOW + 1.1 * TTL
    assert look_up(facts, "top/a/e/file", late) is None and look_up(facts, "top/a/e/none", late) == 0


def test_contents_of_files_are_sent_with_them(host: Host, top: Path) -> None:
    facts = facts_of(host, {b"/top": use_of(CONTENTS)})
    for each in DIRECTORIES:
        names = names_in(facts, each)
        node = host.walk(f"{each}/file")
        assert names and names[b"file"] == node
        raw = memoryview(abi.request(abi.OPEN, node, abi.OPEN_IN.pack(os.O_RDONLY, 0)))
        assert facts.answer(abi.OPEN, 7, node, raw, NOW)
        raw = memoryview(abi.request(abi.READ, node, abi.READ_IN.pack(1, 0, 4096, 0, 0, 0, 0)))
        assert bytes(facts.answer(abi.READ, 7, node, raw, NOW) or b"")[16:] == os.fsencode(each)


def test_what_the_job_has_changed_is_not_taken_from_what_is_sent(host: Host) -> None:
    for wanted in (NAMES, ATTRIBUTES, CONTENTS):
        for op, path in ((abi.CREATE, "top/a/d"), (abi.RENAME, "top")):
            facts = KnownAhead()
            facts.leases.heard = NOW
            node = host.walk(path)
            facts.answered(op, node, facts.asked(op, node))
            sending = Pushing({b"/top": use_of(wanted)}.items())
            assert sending.credited(1 << 30)
            for payload in sending.due(host.export):
                facts.pushed(payload, NOW)
            assert names_in(facts, "top/a/d") is None


def test_a_walk_that_the_command_did_not_go_on_is_forgotten(host: Host) -> None:
    command = Command(host, {b"/top": use_of(CONTENTS), b"/top/a/d/file": []})
    sending = Pushing(command.names.known.items(), walks=command.names.walks)
    assert command.ends()[b"/top"] == CONTENTS, "it has not begun"
    while not command.names.walks.left:
        assert sending.credited(1)
        list(sending.due(host.export))
    command.names.end()
    assert command.kept == {b"/top/a/d/file": []}
    while sending.credited(1 << 20) and list(sending.due(host.export)):
        pass
    assert not command.names.walks.left


def test_who_asks_for_files_where_names_alone_were_sent_is_sent_their_attributes_the_next_time(host: Host) -> None:
    command = Command(host, {b"/top": use_of(NAMES)})
    assert told(host, command.kept, command.names.walks)
    for each in DIRECTORIES[:2]:
        command.ask(abi.LOOKUP, each, b"file\0")
    assert command.ends() == {b"/top": NAMES}
    command.ask(abi.LOOKUP, DIRECTORIES[2], b"file\0")
    command.names.walks.saw(host.export.inodes.nodes[host.walk(DIRECTORIES[2])], abi.LOOKUP)
    assert command.ends() == {b"/top": ATTRIBUTES}


def test_a_tree_that_is_walked_is_sent_from_where_the_walk_has_come_to(host: Host, top: Path) -> None:
    first, second, third = (each for each in os.listdir(top / "top"))
    command = Command(host)
    command.opens("top", f"top/{second}")
    for each in "def":
        command.lists(f"top/{second}/{each}")
        assert command.names.begins() == {}
    command.lists(f"top/{third}")
    uses = command.names.begins()
    expected = {os.fsencode(f"/top/{first}"): PASSED_BY, b"/top": NAMES}
    assert {name: wanted_of(each) for name, each in uses.items()} == expected
    command.lists(f"top/{third}/d")
    assert command.names.begins() == {}, "it is sent"
    sent = told(host, uses, command.names.walks)
    left = [os.fsencode(f"/top/{third}/{each}") for each in "ef"]
    assert sorted(sent) == left, "what the host has asked for is not sent again"
    assert command.ends() == expected


def test_a_directory_too_large_for_a_reply_is_sent_whole_once_it_was_opened(host: Host, top: Path) -> None:
    for k in range(600):
        (top / f"top/c/{k:04d}").touch()
    command = Command(host)
    command.opens("top/b", "top/c")
    uses = command.names.begins()
    assert uses == {b"/top/c": []}
    facts = facts_of(host, uses)
    assert names_in(facts, "top/c") and look_up(facts, "top/c/d")
    assert facts.leases.lists(look_up(facts, "top/c") or 0), "in each run after it too"


def test_a_tree_that_the_host_could_not_be_sent_is_learned_by_what_it_asked_for(host: Host) -> None:
    command = Command(host)
    command.opens("top", "top/a", "top/b", "top/c")
    for each in DIRECTORIES[:8]:
        command.lists(each)
    assert command.names.begins()
    assert command.ends() == {b"/top": NAMES, b"/top/c/f": PASSED_BY}


def test_what_was_asked_for_and_has_another_name_since_is_sent(host: Host, top: Path) -> None:
    command = Command(host)
    command.lists("top/b", below=8)
    (top / "top/b").rename(top / "top/z")
    host.export.inodes.nodes[host.walk("top/z")].name = b"z"
    assert b"/top/z" in told(host, {b"/top": use_of(NAMES)}, command.names.walks)


def test_of_a_tree_whose_files_are_read_these_are_sent(host: Host) -> None:
    command = Command(host)
    command.opens("top", "top/a", "top/b", "top/c", "top/a/d", "top/a/e")
    command.ask(abi.OPEN, "top/a/d/file", abi.OPEN_IN.pack(os.O_RDONLY, 0))
    for each in DIRECTORIES[2:7]:
        command.lists(each)
        assert command.names.begins() == {}, "files are read: names are not enough"
    for each in DIRECTORIES[:3]:
        assert command.names.begins() == {}
        command.ask(abi.FETCH, f"{each}/file")
    uses = command.names.begins()
    assert {name: wanted_of(each) for name, each in uses.items()} == {b"/top": CONTENTS}
    sending = Pushing({}.items(), walks=command.names.walks)
    assert sending.more(uses.items()) is False and sending.credited(1 << 30)
    files = [
        host.export.inodes.nodes[nodeid]
        for payload in sending.due(host.export)
        for what, nodeid, *_ in pushed.parse(payload)
        if what == pushed.DATA
    ]
    sent = sorted(learned_walks.path(each.parent, b"") for each in files if each.parent)
    assert sent == [os.fsencode(f"/{each}") for each in DIRECTORIES[3:]], (
        "what the host has asked for is not sent again"
    )
    assert command.ends()[b"/top"] == CONTENTS


def test_no_more_trees_are_begun_with_than_so_many(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(begun_walks, "MOST_BEGUN", 1)
    command = Command(host)
    for top, begun in (("a", True), ("b", False)):
        command.opens(f"top/{top}")
        command.lists(f"top/{top}/d")
        command.lists(f"top/{top}/e")
        command.lists(f"top/{top}/f")
        command.lists(f"top/{top}/d")
        assert bool(command.names.begins()) == begun


def test_who_asks_for_files_while_names_are_sent_is_sent_attributes_from_then_on(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushed_walks, "_SOON", 1)
    monkeypatch.setattr(pushed_walks, "_PART", 1)
    walks, node = LearnedWalks(), host.export.inodes.nodes[host.walk("top")]
    bare = []
    for part in PushedWalk(host.export, walks, lambda _: iter(())).parts(node.id, b"/top", NAMES, set()):
        (told,) = pushed.parse(part)
        bare.append(told[3] == pushed.BARE)
        if len(bare) == 4:
            for _ in range(3):
                walks.saw(node, abi.LOOKUP)
    assert bare == [True] * 4 + [False] * 9


def test_who_has_looked_names_up_in_a_tree_and_lists_it_then_wants_attributes(host: Host) -> None:
    command = Command(host)
    for each in DIRECTORIES[:4]:
        for name in (b"file", b"none", b"neither"):
            command.ask(abi.LOOKUP, each, name + b"\0")
    command.opens("top", "top/a", "top/b", "top/c")
    for each in DIRECTORIES:
        command.lists(each)
    assert command.ends()[b"/top"] == ATTRIBUTES


def test_it_is_kept_for_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    uses: Uses = {
        b"/top": use_of(CONTENTS),
        b"/top/c": use_of(PASSED_BY),
        b"/top/d": [],
        b"/file": [(0, 10)],
        b"/x": None,
    }
    start = LearnedStart([b"git", b"-C", b"here", b"status"], b"/home", Scope())
    start.keep(uses)
    assert start.uses() == uses
    for words, known in (
        ([b"git", b"-C", b"here", b"log"], {b"/top/d": [], b"/file": [(0, 10)], b"/x": None}),
        ([b"git", b"-C", b"there"], {}),
        ([b"git"], {}),
    ):
        assert LearnedStart(words, b"/home", Scope()).uses() == known


def test_directories_that_are_cut_short_or_too_many_are_refused() -> None:
    part = listed.pack(2, bytes(abi.ATTR.size), bytes(200), True)
    (what, _, _, offset, rest), *_ = pushed.parse(pushed.pack_listed([part], True))
    assert (what, offset) == (pushed.LISTED, pushed.BARE) and pushed.listed(rest) == part
    large = pushed.pack_listed([bytes(pushed.LISTED_AT_ONCE + 1)], False)
    for wrong in (rest[:-1], b"", b"none", pushed.parse(large)[0][4]):
        with pytest.raises(ProtocolError):
            pushed.listed(wrong)


def test_a_directory_that_is_not_leased_is_not_sent(top: Path) -> None:
    host = Host.of(top)
    assert host.export.leases.begin()
    host.export.inodes.nodes[host.walk("top/b")].shared = True
    assert [each for each in told(host, {b"/top": use_of(NAMES)}) if b"/b" in each] == []
    host.export.close()
    with pytest.raises(Refused):
        host.walk("top/none")
