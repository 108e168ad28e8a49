"""The word of a machine's owner: what its file may say, and which jobs it lets begin, stay, and how low they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shim.cli.hosts import why
from shim.execute import probe
from shim.execute.owner import admission, places, sources, word
from shim.execute.owner.word import OwnerWord, WordError
from shim.submit.api.host_reports import report_of
from shim.submit.desk import place
from shim.submit.hosts import facts as host_facts
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host, Hosts
from shim.submit.hosts.ranking import Candidate, refusal
from shim.submit.hosts.survey import Report
from shim.submit.job import next_host
from shim.submit.job.next_host import AllowedHosts
from shim.submit.job.placement_actions import Choose
from shim.submit.shapes import ShapeError
from shim.wire.conditions import Surroundings
from shim.wire.owner_policy import NOBODY, OwnerPolicy

AROUND = Surroundings(0.0, 12 * 60, False, 4 << 30)
NEVER = 1e6  # seconds since the owner's last input
CALM = "keyboard = false\nbattery = true\n"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of this machine's owner, which is not there yet."""
    monkeypatch.setattr(places, "places", lambda: [str(tmp_path / "owner.toml"), str(tmp_path / "own.toml")])
    return tmp_path / "owner.toml"


def test_all_that_it_may_say() -> None:
    text = """
        start_idle = "5m"   # a note
        linger = "3s"
        max_load = 0.5
        hours = ["22:00-07:00", '12:00-13:00']
        battery = true
        min_free_memory = "2G"
        memory = "at once"
        users = ["ann", "bob"]
        slots = 2
        rank = ["ann", "bob  carl"]
        nice = 15
        io = "normal"
        keyboard = false
    """
    policy = OwnerPolicy(
        "f", watched=False, start_idle=300.0, linger=3.0, max_load=0.5, hours=((1320, 420), (720, 780)), battery=True,
        min_free_memory=2 << 30, memory="at once",
    )  # fmt: skip
    assert word.parse(text, "f") == OwnerWord("f", policy, ("ann", "bob"), 2, 15, 0, (("ann",), ("bob", "carl")))
    assert word.parse("", "f") == OwnerWord("f", OwnerPolicy("f"), None, None, 10, 3 << 13)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nise = 3", "the key nise is unknown; the keys are start_idle, "),
        ("nice = 20", "nice = 20 is no whole number from 0 to 19"),
        ("nice = true", "nice = True is no whole number"),
        ("slots = 0", "slots = 0 is no whole number from 1 "),
        ("users = 'ann'", "users = 'ann' is no list of logins"),
        ("users = [1]", "users = .* is no list of logins"),
        ('io = "fast"', "io = 'fast' is neither"),
        ("io = [1]", "io = .* is neither"),
        ("keyboard = 1", "keyboard = 1 is neither true nor false"),
        ('linger = "soon"', 'linger = "soon" is not a duration'),
        ("slots = 1\nrank = 'ann'", "rank = 'ann' is no list of logins, each named once"),
        ("slots = 1\nrank = []", "rank = .* is no list of logins"),
        ("slots = 1\nrank = [1]", "rank = .* is no list of logins"),
        ("slots = 1\nrank = ['ann', '']", "rank = .* is no list of logins"),
        ("slots = 1\nrank = ['ann', 'bob ann']", "rank = .* is no list of logins, each named once"),
        ("rank = ['ann']", "rank says whose job takes whose slot, and needs slots"),
        ("x", "line 1 is no `key = value`"),
    ],
)
def test_what_is_wrong_is_said_with_its_file(text: str, why: str) -> None:
    with pytest.raises(WordError, match=f"^its owner's /some/file cannot be used: {why}"):
        word.parse(text, "/some/file")


def test_the_machine_s_comes_before_the_login_s_own_and_none_says_nothing(said: Path) -> None:
    assert word.find() is None and admission.admit() is None
    said.with_name("own.toml").write_text("slots = 3")
    assert (found := word.find()) is not None and found.slots == 3
    said.write_text("slots = 4")
    assert (found := word.find()) is not None and found.slots == 4
    said.write_bytes(b"\xff")
    with pytest.raises(WordError, match="it is no UTF-8"):
        word.find()
    said.write_bytes(b"#" * (1 << 17))
    with pytest.raises(WordError, match="more than 65536 bytes"):
        word.find()
    said.unlink()
    os.mkfifo(said)
    with pytest.raises(WordError, match="it is no file"):
        word.find()


def test_where_it_may_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.places() == [places.ETC]
    (tmp_path / ".config/rexec").mkdir(parents=True)
    assert places.places() == [places.ETC, f"{tmp_path}/.config/rexec/owner.toml"]
    monkeypatch.setattr(places, "ETC", f"{tmp_path}/etc/owner.toml")
    assert not places.said()
    (tmp_path / ".config/rexec/owner.toml").symlink_to("nowhere")
    assert places.said(), "what cannot be read is found out by who reads it"


def test_who_and_when() -> None:
    def refuses(text: str, login: str = "ann", around: Surroundings = AROUND, idle: float | None = NEVER) -> str | None:
        return word.parse(text, "f").refuses(login, around, idle, "nothing tells")

    assert refuses("") is None
    assert refuses('users = ["bob"]') == "f does not let ann run jobs"
    assert refuses('users = ["bob"]', "bob") is None
    assert refuses("users = []", "bob") == "f does not let bob run jobs"
    assert refuses("", idle=3.0) == "its owner was there 3 s ago, and f waits 900 s"
    assert refuses("", idle=None) == "nothing tells: its owner says keyboard = false in f if nobody sits there"
    assert refuses("keyboard = false", idle=None) is None
    assert refuses('hours = "22:00-07:00"') == "it is 12:00 there, and f allows 22:00-07:00"
    assert refuses("", around=Surroundings(0.0, 0, True, 1 << 30)) == "it runs on battery"
    assert refuses("max_load = 0.5", around=Surroundings(2.0, 0, False, 1 << 30)) == (
        "others keep 2.0 cores busy there, and f allows 0.5"
    )
    assert refuses('min_free_memory = "8G"') == "4096 MiB of memory are free there, and f keeps 8192 MiB"


def test_whose_jobs_are_preferred() -> None:
    said = word.parse('slots = 1\nrank = ["ann", "bob carl"]', "f")
    assert [said.tier(login) for login in ("ann", "bob", "carl", "eve")] == [2, 1, 1, 0]
    assert word.parse("slots = 1", "f").tier("ann") == 0


def test_how_low_a_job_runs() -> None:
    low = word.parse("", "f")
    assert low.lowered([]) == [10, 3 << 13, 0, 0]
    assert low.lowered([15, 2 << 13, 3, 0, 4, 5]) == [15, 3 << 13, 3, 0, 4, 5]
    assert low.lowered([-5, 0, os.SCHED_FIFO, 30]) == [10, 3 << 13, 0, 0]
    assert low.lowered([0, 0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, 30]) == [10, 3 << 13, 0, 0]
    assert word.parse('nice = 0\nio = "normal"', "f").lowered([-5, 2 << 13, 0, 0]) == [0, 2 << 13, 0, 0]


def test_a_file_that_cannot_be_used_lets_no_job_begin(said: Path) -> None:
    said.write_text("nice = 99")
    with pytest.raises(places.NotNow, match=r"owner.toml cannot be used: nice = 99 is no whole number from 0 to 19"):
        admission.admit()
    told = probe.facts()["owner"]
    assert isinstance(told, dict) and told["word"]["refused"].startswith("its owner's ")


_NARROW = """
import sys
from shim.execute.owner import admission, places
places.places = lambda: [sys.argv[1]]
def tries():
    try:
        return admission.admit()
    except places.NotNow as e:
        print(e)
first, second = tries(), tries()
assert first.slot is not None and second.slot is not None
third = tries()
del first
fourth = tries()
assert third is None and fourth is not None
"""


def test_there_are_no_more_jobs_than_its_slots_whoever_has_them(said: Path) -> None:
    said.write_text(CALM + "slots = 2")
    # its names of sockets are the machine's: in a network of its own no other is in the way
    argv = ["unshare", "--net", sys.executable, "-c", _NARROW, said]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        0, "there may be no more than 2 jobs at a time, by its owner, and so many there are\n", "",
    )  # fmt: skip


def test_a_machine_whose_owner_types_lets_none_begin(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said.write_text('start_idle = "10m"\nbattery = true')
    monkeypatch.setattr(sources, "owner_facts", lambda now: {"idle": 2.0, "unknown": None, "sources": []})
    with pytest.raises(places.NotNow, match=r"^its owner was there 2 s ago, and .*/owner.toml waits 600 s$"):
        admission.admit()
    monkeypatch.setattr(sources, "owner_facts", lambda now: {"idle": 700.0, "unknown": None, "sources": []})
    admitted = admission.admit()
    assert admitted is not None and admitted.slot is None


def told(**changed: Any) -> Report:
    facts: dict[str, Any] = json.loads(json.dumps(probe.facts()))
    word = {"file": "/etc/rexec/owner.toml", "refused": None, "slots": None, "rank": [], "full": None}
    facts["owner"]["word"] = {**word, **changed}
    host = Host("far", "far", owner="none", slots=8)
    return Report(host, "", Facts((3, 11, 2), "have", ""), 0.1, 0.01, 0.0, host_facts.facts(facts))


def test_at_home_it_holds_over_what_hosts_toml_says_and_who_named_the_host() -> None:
    report = report_of(told(refused="it is not the hour"), Hosts())
    assert (report.owner, report.left_out) == ("/etc/rexec/owner.toml", "it is not the hour")
    assert report_of(told(), Hosts()).left_out == ""
    for named in (True, False):
        typed = Candidate("far", OwnerPolicy(), named=named, idle=1.0, around=AROUND, word=True)
        assert refusal(typed) is None, "its own owner says who may come, not hosts.toml"
        barred = Candidate("far", NOBODY, named=named, around=AROUND, word=True, barred="it is not the hour")
        assert refusal(barred) == "it is not the hour"


def test_its_slots_are_all_that_a_desk_has_there() -> None:
    assert place.offer(told(slots=2), Hosts(), 0.0).has.slots == 2
    assert place.offer(told(slots=20), Hosts(), 0.0).has.slots == 8
    assert place.offer(told(refused="no"), Hosts(), 0.0).barred and not place.offer(told(), Hosts(), 0.0).barred


def test_a_job_that_looks_for_a_host_finds_room_there_and_a_desk_tries() -> None:
    """Who was sent away for another is not sent back to it; runs of a desk end there at any time."""
    choose = Choose(1, 1, "", (), frozenset(("far",)))
    full = told(slots=1, full="so many there are")
    candidate = next_host.candidate(full, AllowedHosts(("far",), ""), choose, Hosts(), None)
    assert refusal(candidate) == "so many there are" and not place.offer(full, Hosts(), 0.0).barred
    assert refusal(next_host.candidate(told(slots=1), AllowedHosts(("far",), ""), choose, Hosts(), None)) is None


def test_hosts_say_whose_jobs_are_preferred() -> None:
    said = why(report_of(told(slots=2, rank=["ann", "bob carl"], full="so many there are"), Hosts()))
    assert "  its 2 slots: jobs of ann, then of bob carl, then all others'; so many there are\n" in said


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"refused": 3}, {"file": None}, {"more": 1}])
def test_a_word_of_another_shape_is_a_host_that_misbehaves(wrong: dict[str, object]) -> None:
    with pytest.raises(ShapeError):
        told(**wrong)
