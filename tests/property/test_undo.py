"""Whatever a job and another program do to a tree: the job is undone to any moment, and nothing else is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from remoteio.submit.undo.ranges import Ranges
from tests.undo_play import Play, tree

step = st.tuples(st.integers(0, 40), st.integers(0, 12), st.integers(0, 12), st.integers(0, 99))
steps = st.lists(st.tuples(st.sampled_from("jjjjjom"), step), max_size=25)


@settings(deadline=None, max_examples=40)
@given(steps, st.integers(0, 5))
def test_the_tree_is_as_at_the_moment_and_as_others_left_it(
    steps: list[tuple[str, tuple[int, int, int, int]]], to: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        play = Play(Path(directory))
        play.moment()
        for who, each in steps:
            if who == "j":
                play.job.do(each)
            elif who == "o":
                play.other(each)
            else:
                play.moment()
        image = 1 + to % play.moments
        said = play.undo(image).said
        assert tree(play.top) == tree(play.models / str(image)), said
        play.journal.close()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20), st.integers(0, 60), st.integers(0, 60))
def test_ranges_are_a_set(added: list[tuple[int, int]], start: int, end: int) -> None:
    ranges, model = Ranges(), set[int]()
    for a, b in added:
        ranges.add(a, b)
        model |= set(range(a, b))
    assert [each for a, b in ranges for each in range(a, b)] == sorted(model)
    assert [each for a, b in ranges.missing(start, end) for each in range(a, b)] == sorted(
        set(range(start, end)) - model
    )
