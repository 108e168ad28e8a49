"""What the bench writes into its document: its own part and its plot, and nothing else of it changes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.bench.__main__ import LEAST_CUT, OURS_CUT, Cuts
from tests.bench.cases import Bound, Case, Goal
from tests.bench.document import Part, merged, section, write
from tests.bench.report import Cell

NAMES = {"local": "", "ssh": "", "sshfs": "", "outrun": "", "rexec": ""}
FACTS = {"date": "2026-11-27", "cpu": "2 x a processor", "load": "0.1", "load after": "1.2"}


def _case(name: str, goal: Goal | None = None, rates: tuple[str, ...] = ()) -> Case:
    return Case(name, f"`{name}`", ("true",), lambda work, run: None, goal=goal, rates=rates)


def _part(rtt: int, rate: int = 0) -> Part:
    cases = [
        _case("true", Goal(Bound(0.25, "ssh"), Bound(0.15))),
        _case("untar", Goal(Bound(1.0), Bound(1.0))),
        _case("make", Goal(None, Bound(0.0, "local", 1.5))),
        _case("probe", rates=("read",)),
    ]
    cells = {
        ("true", "local"): Cell(total=[0.0], first=0.0),
        ("true", "ssh"): Cell(total=[0.3], first=0.31),
        ("true", "sshfs"): Cell(first=6.2),
        ("true", "rexec"): Cell(total=[0.1, 0.2, 0.1], first=0.6),
        ("untar", "sshfs"): Cell(cut=30.0),
        ("untar", "outrun"): Cell(first=12.0, cut=30.0),
        ("untar", "rexec"): Cell(total=[1.01], first=0.9),
        ("make", "local"): Cell(total=[2.0], first=9.0),
        ("make", "outrun"): Cell(error="no libfuse"),
        ("make", "rexec"): Cell(total=[3.0], first=20.0),
        ("probe", "rexec"): Cell(rates=[{"read": 1234.0}]),
    }
    return section(cells, cases, NAMES, FACTS, rtt, rate, "make bench")


def test_the_table_says_first_and_again_what_was_cut_and_what_is_reached() -> None:
    text = _part(20).text
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| work, first / again | local | ssh | sshfs | outrun | rexec | to reach |",
        "|---|---|---|---|---|---|---|",
        "| `true` | 0.00 / 0.00 | 0.31 / 0.30 | 6.20 |  | 0.60 / 0.10 | ssh + 0.25 / 0.15 ✓ |",
        "| `untar` |  |  | > 30 | 12.0 / > 30 | 0.90 / 1.01 | 1 ✓ / 1 |",
        "| `make` | 9.00 / 2.00 |  |  | - | 20.0 / 3.00 | 1.5 of local ✓ |",
        "| `probe` | read |",
        "|---|---|",
        "| rexec | 1,234 |",
    ]
    assert "date: 2026-11-27; cpu: 2 x a processor; load: 0.1; load after: 1.2." in text
    assert "![Over 20 ms, seconds of the next run](benchmarks-20ms.svg)" in text


def test_goals_are_those_of_20_ms_alone() -> None:
    for rtt, rate in ((100, 0), (20, 10), (0, 0)):
        part = _part(rtt, rate)
        assert "to reach" not in part.text
        assert list(part.plots) == (["benchmarks-100ms.svg"] if rtt == 100 else [])


def test_the_plot_has_a_bar_for_each_figure() -> None:
    drawn = ElementTree.fromstring(_part(20).plots["benchmarks-20ms.svg"])
    said = ["".join(each.itertext()) for each in drawn if each.tag.endswith("text")]
    assert {"> 30", "0.3", "6.2", "local", "untar"} <= set(said)
    bars = [
        each for each in drawn if each.tag.endswith("rect") and each.get("x") == "260" and each.get("height") == "10"
    ]
    assert len(bars) == 4 + 3 + 2 + 1, "and one of the legend"
    widths = [float(each.get("width", "")) for each in bars]
    assert min(widths) > 0 and max(widths) < 640


def test_a_part_takes_its_place_and_all_else_stays() -> None:
    old = "before\n\n# Over 20 ms\n\nold\n\n## more of it\n\nold\n\n# Images and moves\n\nkept\n\n# Other\n\nkept too\n"
    new = Part("Over 20 ms", "new", {})
    assert merged(old, new) == ("before\n\n# Over 20 ms\n\nnew\n\n# Images and moves\n\nkept\n\n# Other\n\nkept too\n")
    assert merged(merged(old, new), new) == merged(old, new)
    far = merged(old, Part("Over 100 ms", "far", {}))
    assert far.index("# Over 20 ms") < far.index("# Over 100 ms\n\nfar\n\n# Images and moves") < far.index("kept too")
    assert merged("", new) == "# Over 20 ms\n\nnew\n"
    assert merged("# Over 20 ms\n\na", Part("Near by", "b", {})) == "# Over 20 ms\n\na\n\n# Near by\n\nb\n"


def test_the_document_that_there_is_keeps_what_is_not_measured(tmp_path: Path) -> None:
    ours = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text()
    document = tmp_path / "benchmarks.md"
    document.write_text(ours)
    part = _part(20)
    write(document, part)
    assert document.read_text().endswith(ours[ours.index("# Images and moves") :])
    assert (tmp_path / "benchmarks-20ms.svg").read_text() == part.plots["benchmarks-20ms.svg"]


def test_peers_are_cut_so_that_all_have_ended_in_time() -> None:
    now = [0.0]
    cuts = Cuts(60.0, 700.0, lambda: now[0])
    cuts.left = 40
    assert cuts.of(peer=False) == OURS_CUT
    taken = []
    for _ in range(40):
        taken.append(cuts.of(peer=True))
        now[0] += taken[-1]
    assert taken[0] == 3 * 700 / 40 and max(taken) <= 60.0 and min(taken) >= LEAST_CUT
    assert now[0] < 700 + 60
    assert Cuts(60.0, 700.0, lambda: 800.0).of(peer=True) == LEAST_CUT
