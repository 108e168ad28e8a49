"""The bench's arithmetic: medians, ratios, and that a failure is shown as one."""

from __future__ import annotations

import pytest

from tests.bench.cases import Case
from tests.bench.report import Cell, ratios, record, text


def _case(name: str) -> Case:
    return Case(name, f"the {name} case", ("true",), lambda work, run: None, inside=name == "find")


def test_start_cases_compare_what_each_adds_to_ssh_and_the_run_at_home() -> None:
    cells = {
        ("true", "ssh"): Cell(total=[0.2, 0.3, 9.0]),
        ("gcc", "local"): Cell(total=[0.1]),
        ("gcc", "outrun"): Cell(total=[2.4, 2.4]),
        ("gcc", "rexec"): Cell(total=[0.9]),
    }
    (ratio,) = ratios(cells, ["gcc"])
    assert ratio.value == pytest.approx(0.5 / 2.0)
    assert ratio.wanted == pytest.approx(1 / 3)


def test_file_cases_compare_with_sshfs_both_ways() -> None:
    cells = {
        ("find", "sshfs"): Cell(total=[2.0, 2.0], inside=[1.0, 1.0]),
        ("find", "rexec"): Cell(total=[1.0, 3.0], inside=[0.5, 0.5]),
    }
    assert {ratio.name: ratio.value for ratio in ratios(cells, ["find"])} == {
        "find: rexec / sshfs, total": 1.0,
        "find: rexec / sshfs, inside": 0.5,
    }


def test_what_computes_is_compared_with_the_run_at_home() -> None:
    cells = {("cpu", "local"): Cell(total=[9.0], inside=[8.0]), ("cpu", "rexec"): Cell(total=[12.0], inside=[8.04])}
    (ratio,) = ratios(cells, ["cpu"])
    assert (ratio.value, ratio.wanted) == (pytest.approx(1.005), 1.01)


def test_a_failed_contender_shows_its_error_and_enters_no_ratio() -> None:
    cells = {
        ("find", "sshfs"): Cell(total=[2.0], inside=[1.0]),
        ("find", "rexec"): Cell(total=[1.0], inside=[0.5], error="exit 125: no such host"),
    }
    assert [ratio.value for ratio in ratios(cells, ["find"])] == [None, None]
    shown = text(cells, [_case("find")], {"sshfs": "", "rexec": ""}, {})
    (line,) = [line for line in shown.splitlines() if line.startswith("  rexec")]
    assert line.split(maxsplit=1) == ["rexec", "exit 125: no such host"]


def test_the_record_has_every_sample() -> None:
    cells = {("true", "ssh"): Cell(total=[0.2, 0.3], first=0.4)}
    assert record(cells, [_case("true")], {"kernel": "6"}) == {
        "facts": {"kernel": "6"},
        "cases": {
            "true": {
                "ssh": {"total": [0.2, 0.3], "inside": [], "rates": [], "first": 0.4, "error": None, "cut": None},
            }
        },
        "ratios": [
            {"name": "true: (rexec - ssh - local) / (outrun - ssh - local)", "value": None, "wanted": 1 / 3},
        ],
    }
