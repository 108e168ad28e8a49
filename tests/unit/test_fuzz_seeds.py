"""What the fuzzer ever found, and what it begins with, brings out of a parser nothing but the errors it declares."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.target import SEEDS, Target
from tests.fuzz.targets import BY_NAME, TARGETS

_SLOW = ("requests", "bundle", "pack_file", "image_files", "bus", "x11_display")  # they make files, or threads
_ROOM = 32 << 20  # bytes that the inputs of a target may take, none of which is longer than 64 KiB


def test_each_target_has_seeds_and_no_seeds_are_nobodys() -> None:
    assert len(BY_NAME) == len(TARGETS)
    assert {path.name for path in SEEDS.iterdir()} == set(BY_NAME)
    assert all(target.seeds() for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_seeds_bring_out_only_declared_errors_and_take_little_memory(target: Target) -> None:
    tracemalloc.start()
    try:
        for seed in target.seeds():
            target.one_input(seed.read_bytes())
        assert tracemalloc.get_traced_memory()[1] < _ROOM
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_seeds_cut_joined_and_changed_bring_out_only_declared_errors(target: Target) -> None:
    seeds = [path.read_bytes() for path in target.seeds()]

    @settings(max_examples=3 if target.name in _SLOW else 10, derandomize=True, database=None)
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        first, second = data.draw(st.sampled_from(seeds)), data.draw(st.sampled_from(seeds))
        at = data.draw(st.integers(0, len(first)))
        tail = data.draw(st.sampled_from([first[at:], first[at + 1 :], second[at:], b""]))
        target.one_input(first[:at] + data.draw(st.binary(max_size=4)) + tail)

    attempt()
