"""What a session tells its host before it is asked."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.first_names import FirstNames, Uses
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import frames, pushed
from remoteio.wire import fuse_abi as abi
from shim.submit import told_ahead
from shim.submit.told_ahead import NAMES_DUE, PUSH_DUE, ToldAhead
from tests.until import HANG

INIT = abi.Request(abi.request(abi.INIT, 0, bytes(abi.INIT_IN.size)))


@pytest.fixture
def export(tmp_path: Path) -> Export:
    (tmp_path / "file").write_text("text")
    return Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))


@pytest.mark.parametrize("names", [{b"/file": None}, {}])
def test_the_kernel_is_answered_first_when_the_first_names_are_out(
    export: Export, names: dict[bytes, None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told_ahead, "SOON_S", HANG)
    ahead, order = ToldAhead(FirstNames({**names}, lambda uses: None)), list[str]()

    def init() -> None:
        ahead.saw(export, INIT)
        order.append("INIT")

    asks = threading.Thread(target=init, daemon=True)
    asks.start()
    for kind, _ in ahead.made(NAMES_DUE, export, threading.Event()):
        assert kind == frames.NAMES
        order.append("NAMES")
    asks.join(HANG)
    assert order == ["NAMES"] * len(names) + ["INIT"]


def test_a_disk_that_does_not_answer_keeps_no_start_waiting_for_long(export: Export) -> None:
    ToldAhead(FirstNames({b"/file": None}, lambda uses: None)).saw(export, INIT)


def test_where_nothing_is_told_nothing_is_waited_for(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told_ahead, "SOON_S", 10 * HANG)
    ahead = ToldAhead(None)
    ahead.saw(export, INIT)
    assert ahead.credited(bytes((frames.PUSHED,)) + (1000).to_bytes(4, "little"), export) == []
    assert not list(ahead.made(NAMES_DUE, export, threading.Event()))


def test_what_is_to_be_sent_is_sent_as_far_as_there_is_credit(export: Export) -> None:
    assert export.leases.begin()
    ahead, over = ToldAhead(FirstNames({b"/file": []}, lambda uses: None)), threading.Event()
    assert not list(ahead.made(PUSH_DUE, export, over)), "nobody has asked for it"
    assert ahead.credited(bytes((frames.PUSHED,)) + (1000).to_bytes(4, "little"), export) == [PUSH_DUE]
    assert {kind for kind, _ in ahead.made(PUSH_DUE, export, over)} == {frames.PUSHED}
    export.close()


def test_credit_is_counted_over_all_jobs_of_a_link(export: Export) -> None:
    """As the host counts it: what it takes a number for is what it knew when it gave that."""
    assert export.leases.begin()
    credit = bytes((frames.PUSHED,)) + (1 << 16).to_bytes(4, "little")
    jobs: list[Uses] = [{}, {b"/one": None}, {b"/two": None}]
    numbers = []
    for uses in jobs:
        ahead = ToldAhead(FirstNames(uses, lambda uses: None), True)
        for _ in range(2):
            due = ahead.credited(credit, export)
            made = [payload for each in due for _, payload in ahead.made(each, export, threading.Event())]
            numbers += [part[1] for payload in made for part in pushed.parse(payload) if part[0] == pushed.SINCE]
    assert numbers == [3, 5]
    export.close()
