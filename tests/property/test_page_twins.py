"""Two kernels with pages of one file: each byte is what was last stored in it, by whichever of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from remoteio.submit.export.page_twins import MOST, PAGE, PageTwins

SIZE = 2 * PAGE + 700
STORES = st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=300)), max_size=8)


@given(st.lists(st.tuples(STORES, STORES, STORES, st.integers(1, 3)), max_size=5), st.integers(0, 2))
def test_a_page_written_back_undoes_nothing(rounds: list[tuple[list[tuple[int, bytes]], ...]], first: int) -> None:
    """Bytes 0 modulo 2 are stored by the job, the others at home; a read() and a write() of the job's come between."""
    base = first * PAGE
    home, wanted = bytearray(SIZE), bytearray(SIZE)
    twins = PageTwins()
    for mapped, through, there, pages in rounds:
        twins.read(base, bytes(home))
        page = bytearray(home)
        for stores, target, side in ((mapped, (page,), 0), (there, (home,), 1), (through, (page, home), 0)):
            for at, data in stores:
                for k, byte in enumerate(data[: SIZE - at]):
                    if (at + k) % 2 == side:
                        for into in (*target, wanted):
                            into[at + k] = byte
                        if target == (page, home):
                            twins.written(base + at + k, bytes([byte]))
        for start in range(0, SIZE, pages * PAGE):
            for at, changed in twins.changed(base + start, bytes(page[start : start + pages * PAGE])):
                home[at - base : at - base + len(changed)] = changed
        assert home == wanted


def test_what_has_no_twin_is_written_whole() -> None:
    twins = PageTwins()
    assert twins.changed(PAGE, b"ab") == [(PAGE, b"ab")]
    assert twins.changed(PAGE, b"xb") == [(PAGE, b"x")]
    twins.read(MOST - PAGE, bytes(2 * PAGE))
    assert twins.changed(MOST - PAGE, bytes(2 * PAGE)) == [(MOST, bytes(PAGE))]
    assert twins.changed(MOST, b"a") == [(MOST, b"a")]
