"""How far hosts are, remembered: what was learned is known, as far as it is of use, and what else lies there is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.submit.hosts import trips
from shim.submit.hosts.config import Host

FAR, NEAR = Host("box", "box"), Host("box", "box", ("-p", "22"))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "rexec/trips"


def test_a_host_that_was_far_is_known_by_how_it_is_reached(file: Path) -> None:
    assert trips.known(FAR)[0] == 0
    trips.learn(FAR, 20_400)
    trips.learn(NEAR, 900)
    assert trips.known(FAR)[0] == 20_400
    assert trips.known(NEAR)[0] == 0, "what was near may be far today"
    trips.learn(FAR, 30_000)
    assert trips.known(FAR)[0] == 30_000
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.glob("trips*")) == [file]


def test_those_that_were_not_reached_for_longest_are_forgotten(file: Path) -> None:
    trips.learn(FAR, 20_000)
    others = [Host("box", f"user@{number:02d}-\n-{'x' * 500}") for number in range(trips.HOSTS)]
    for each in others:
        trips.learn(each, 5000)
    assert trips.known(FAR)[0] == 0
    assert {trips.known(each)[0] for each in others} == {5000}
    trips.learn(FAR, 20_000)
    assert trips.known(others[0])[0] == 0
    assert {trips.known(each)[0] for each in (FAR, *others[1:])} == {20_000, 5000}


def test_a_line_that_was_narrow_is_known(file: Path) -> None:
    trips.learn_line(FAR, 1_000_000)
    assert trips.known(FAR) == (0, 0), "it is not known how far it is"
    trips.learn(FAR, 20_000)
    trips.learn_line(FAR, 1_000_000)
    assert trips.known(FAR) == (20_000, 1_000_000)
    trips.learn(FAR, 21_000)
    trips.learn_line(FAR, 1_200_000)
    assert trips.known(FAR) == (21_000, 1_000_000), "as good as the same"
    trips.learn_line(FAR, trips.NARROW)
    assert trips.known(FAR) == (21_000, 0)


@pytest.mark.parametrize(
    "text", ["", "rexec trips 1\n20000 ('box', ())\n", "rexec trips 2\n-1 0 ('box', ())\n", "\xff"]
)
def test_what_is_none_of_its_own_says_nothing(text: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(text)
    assert trips.known(FAR)[0] == 0


def test_where_nothing_can_be_kept_nothing_is_known(file: Path) -> None:
    file.parent.write_text("no directory")
    trips.learn(FAR, 20_000)
    assert trips.known(FAR)[0] == 0
