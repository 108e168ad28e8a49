"""Ranges of addresses behave as the sets of pages that they stand for."""

from hypothesis import given
from hypothesis import strategies as st

from checkpoint.execute.page_ranges import Ranges, add, joined, shared, unchanged, windows, within, without
from checkpoint.wire.manifest import PAGE, WINDOW

IN_WINDOW = WINDOW // PAGE
pages = st.sets(st.integers(0, 70))


def ranges(numbers: set[int]) -> Ranges:
    return joined((number * PAGE, (number + 1) * PAGE) for number in numbers)


def numbers(found: Ranges) -> set[int]:
    assert found == joined(found)
    return {page for start, end in found for page in range(start // PAGE, end // PAGE)}


@given(pages, pages)
def test_as_sets(one: set[int], other: set[int]) -> None:
    assert numbers(joined(ranges(one) + ranges(other))) == one | other
    assert numbers(without(ranges(one), ranges(other))) == one - other
    assert numbers(shared(ranges(one), ranges(other))) == one & other
    around = {page // IN_WINDOW * IN_WINDOW + i for page in one for i in range(IN_WINDOW)}
    assert numbers(windows(ranges(one))) == around


@given(pages, pages, st.integers(0, 70), st.integers(0, 70))
def test_what_is_within_and_what_is_added(one: set[int], other: set[int], start: int, end: int) -> None:
    found = within(ranges(one), start * PAGE, end * PAGE)
    assert numbers(found) >= {page for page in one if start <= page < end}
    assert all(first < end * PAGE and last > start * PAGE for first, last in found)
    added = ranges(one)
    add(added, ranges(other))
    assert {page for first, last in added for page in range(first // PAGE, last // PAGE)} == one | other
    assert all(before[1] <= after[0] for before, after in zip(added, added[1:]))


@given(pages, pages, pages, st.integers(0, 70), st.integers(0, 70))
def test_unchanged_is_by_whole_windows(now: set[int], clean: set[int], then: set[int], start: int, end: int) -> None:
    found = numbers(unchanged(ranges(now), ranges(clean), ranges(then), start * PAGE, end * PAGE))
    for window in range(6):
        inside = set(range(window * IN_WINDOW, (window + 1) * IN_WINDOW))
        same = now & inside == then & inside and now & inside <= clean
        whole = start <= min(inside) and max(inside) < end
        assert found & inside == (now & inside if same and whole else set())
