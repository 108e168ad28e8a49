"""The rights of a directory and a name give the child's."""

from __future__ import annotations

import errno
import itertools

from hypothesis import given
from hypothesis import strategies as st

from remoteio.submit.export import confine
from remoteio.submit.export.confine import EMPTY, FIXED, FREE, HIDDEN, KEPT, READ, Confinement, Mark

NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: b"/" + b"/".join(names))
LEVELS = st.sampled_from([HIDDEN, EMPTY, READ, FIXED])
MARKS = st.lists(st.builds(lambda path, level: Mark(path, level, None), PATHS, LEVELS), max_size=5)


def expected(marks: list[Mark], path: bytes) -> int:
    """As the words of the levels have it, with no tree."""
    level = FREE
    for mark in marks:
        if mark.path == path:
            level = min(level, mark.level)
        elif mark.path.startswith(path + b"/"):
            level = min(level, FIXED)
        elif path.startswith(mark.path + b"/") and mark.level < FIXED:
            level = min(level, HIDDEN if mark.level == EMPTY else mark.level)
    return level


@given(MARKS, PATHS)
def test_a_path_has_the_least_of_what_is_said_of_it_and_of_what_it_is_in(marks: list[Mark], path: bytes) -> None:
    confinement = Confinement(marks)
    wanted = expected(marks, path)
    # beneath what is hidden, or empty, there is nothing to be on the way to
    assert confinement.at(path).level == wanted
    assert confinement.at(path + b"/elsewhere").level in (wanted, HIDDEN if wanted == EMPTY else FREE)


@given(MARKS, PATHS, st.integers(1, 9))
def test_what_is_known_by_number_has_the_rights_of_its_path(marks: list[Mark], path: bytes, number: int) -> None:
    confinement = Confinement([*marks, Mark(path, READ, (7, number))])
    assert confinement.known[7, number] is confinement.at(path)
    assert ((7, number) in confinement.hidden) == (confinement.at(path).level == HIDDEN)


def test_what_may_be_done_with_a_name() -> None:
    said = {
        (level, there, directory): confine.refused_name(level, there, directory)
        for level, there, directory in itertools.product(
            (HIDDEN, EMPTY, READ, FIXED, KEPT, FREE), (False, True), (False, True)
        )
    }
    allowed = {key for key, e in said.items() if not e}
    assert allowed == {(FREE, there, directory) for there in (False, True) for directory in (False, True)} | {
        (KEPT, True, False),
        (KEPT, True, True),
        (FIXED, False, True),  # the way to what is to be hidden may be made, and only of directories
    }
    assert said[HIDDEN, False, True] == said[HIDDEN, True, False] == said[FIXED, False, False] == errno.EACCES
    assert said[READ, False, False] == said[READ, True, False] == errno.EROFS
    assert said[FIXED, True, False] == said[EMPTY, True, False] == errno.EBUSY


def test_what_may_be_done_with_a_file() -> None:
    levels = (HIDDEN, EMPTY, READ, FIXED, KEPT, FREE)
    assert [confine.refused_change(level) for level in levels] == [errno.EROFS] * 3 + [0] * 3
    assert [confine.refused_link(level) for level in levels] == [errno.EROFS] * 4 + [0] * 2


def test_a_file_with_several_names_that_is_only_seen_is_no_reason_to_look_through_what_is_kept() -> None:
    asked: list[int] = []

    def linked(level: int) -> list[tuple[int, int]]:
        asked.append(level)
        return [(7, 1 + level)]

    confinement = Confinement(linked=linked)
    assert confinement.of_linked((7, 1 + READ)) is confine.ALL
    assert confinement.of_linked((7, 1 + HIDDEN)) is confine.NOT_THERE
    assert asked == [HIDDEN]
    assert [confinement.keeps((7, number)) for number in (1 + READ, 9)] == [True, False]
    assert asked == [HIDDEN, READ], "each once"
