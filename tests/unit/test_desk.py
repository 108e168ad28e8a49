"""Runs of a desk as files: who is gone holds nothing, hosts are asked by one for all, what will not do is said."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from remoteio.errors import RexecError
from shim.execute import probe
from shim.submit.desk.line import Member, ordinal
from shim.submit.desk.members import Members
from shim.submit.desk.place import NoPlace, Place
from shim.submit.desk.wanted import Wanted
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host
from shim.submit.hosts.survey import Report

FACTS = json.loads(json.dumps(probe.facts()))
MEMORY = {"alpha": 4 << 30, "beta": 16 << 30, "gamma": 1 << 30}
_JOINS = """
import sys
from shim.submit.desk.line import Member
from shim.submit.desk.members import Members
own = Members().join(Member(0, "g", 0, 1, ("alpha",)))
own.take({"alpha": 0}, lambda members: {own.member.number: "alpha"})
print("in", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "rexec").mkdir(parents=True)
    (tmp_path / "config" / "rexec" / "hosts.toml").write_text(
        '[host.alpha]\nowner = "none"\nslots = 2\n[host.beta]\nowner = "none"\nslots = 1\ntags = {site = "home"}\n'
    )


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _JOINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        yield process
        process.kill()


class Waits(Exception):
    """The run has said what it waits for."""


class Asked:
    """Stands for the hosts: each is there, but for `gone`."""

    def __init__(self, *gone: str) -> None:
        self.gone, self.names = gone, list[str]()

    def __call__(self, hosts: Sequence[Host]) -> list[Report]:
        self.names += [host.name for host in hosts]
        return [self.told(host) for host in hosts]

    def told(self, host: Host) -> Report:
        if host.name in self.gone:
            return Report(host, error="no route to it")
        facts = {**FACTS, "memory_total": MEMORY[host.name], "load": 0.0}
        return Report(host, "", Facts((3, 11, 2), "have", ""), facts=facts)


def place(asked: Asked, hosts: tuple[str, ...] = ("any",), waits: list[str] | None = None, **wanted: Any) -> Place:
    def says(line: str) -> AbstractContextManager[None]:
        if waits is None:
            return nullcontext()
        waits.append(line)
        raise Waits

    return Place(hosts, Wanted(**wanted), ("true",), says, asked)


def test_who_was_killed_holds_nothing(other: subprocess.Popen[bytes]) -> None:
    members = Members()
    assert [(each.host, each.slots) for each in members.all()] == [("alpha", 1)]
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert members.all() == []
    assert members.join(Member(0, "g", 0, 1, ("alpha",))).member.number == 2, "a number is given once"


def test_what_is_taken_is_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked()
    with place(asked) as first, place(asked) as second, place(asked) as third:
        assert sorted(each.take().name for each in (first, second, third)) == ["alpha", "alpha", "beta"]
        assert asked.names == ["alpha", "beta"], "what one was told holds for all"
        assert len(Members().all()) == 3
    assert Members().all() == []


def test_a_host_that_cannot_be_reached_after_all_is_left_to_others() -> None:
    with place(Asked()) as mine:
        first = mine.take()
        mine.failed(first, "it hung up")
        second = mine.take()
        assert {first.name, second.name} == {"alpha", "beta"}
        mine.failed(second, "it hung up too")
        with pytest.raises(NoPlace, match=r"no host will do: .*it hung up too"):
            mine.take()


def test_what_can_never_be_is_said() -> None:
    with place(Asked(), cpus=3) as wide, pytest.raises(NoPlace, match=r"no host has 3 slots \(alpha has 2\)"):
        wide.take()
    with place(Asked("gamma", "delta"), ("gamma", "delta")) as none, pytest.raises(NoPlace, match="gamma: no route"):
        none.take()


def test_memory_that_no_host_has_is_said_and_what_one_has_is_counted() -> None:
    with (
        place(Asked(), memory=17 << 30) as large,
        pytest.raises(NoPlace, match=r"has 17.0 GiB .*\(beta has 16.0 GiB\)"),
    ):
        large.take()
    with place(Asked(), memory=3 << 30, cpus=2) as first, place(Asked(), memory=8 << 30, cpus=2) as second:
        assert first.take().name == "alpha"
        with pytest.raises(NoPlace, match=r"no host has 2 slots and 8.0 GiB of memory at once"):
            second.take()


def test_a_run_goes_only_where_its_requirement_holds_and_says_where_it_does_not() -> None:
    waits = list[str]()
    asks = {"require": 'Memory >= 2000 && TARGET.site == "home"'}
    with place(Asked(), **asks) as first, place(Asked(), waits=waits, **asks) as second:
        assert first.take().name == "beta"
        with pytest.raises(Waits):
            second.take()
        assert waits == ["waiting for a slot: 1st in line"]
    with place(Asked(), waits=waits, require="Memory > 20000 && Slots > 1") as third, pytest.raises(Waits):
        third.take()
    assert waits[1:] == [
        "waiting for a host: alpha: Memory > 20000 does not hold (Memory = 4096); "
        "beta: Memory > 20000 does not hold (Memory = 16384); Slots > 1 does not hold (Slots = 1)"
    ]


def test_a_run_goes_where_its_rank_is_largest() -> None:
    for rank, expected in (
        ("Memory", "beta"),
        ("-Memory", "alpha"),
        ('site == "home"', "beta"),
        ("Slots * 0", "alpha"),
    ):
        with place(Asked(), rank=rank) as ranked:
            assert ranked.take().name == expected, rank


def test_an_attribute_of_no_host_is_said_before_anything_is_waited_for() -> None:
    asked = Asked()
    with pytest.raises(RexecError, match=r"^Memroy, place: attributes of no host; `rexec hosts --ad HOST` shows"):
        place(asked, require="Memroy > 5 && Memory > 2", rank='TARGET.place == "home"')
    assert asked.names == [] and Members().all() == []


def test_a_file_of_hosts_that_cannot_be_read_is_written_anew() -> None:
    asked = Asked()
    directory = Members().directory
    (directory / "hosts").write_text("{")
    with place(asked) as mine:
        mine.take()
    assert len(json.loads((directory / "hosts").read_text())) == 2


def test_what_another_version_wrote_is_refused_by_name(other: subprocess.Popen[bytes]) -> None:
    path = Members().path(1)
    path.write_text('{"number": 1, "slot": 2}\n')
    with pytest.raises(RexecError, match="desk/1 cannot be read: its run is of another version of rexec"):
        Members().all()


def test_a_shorter_state_is_read_where_a_longer_one_was(other: subprocess.Popen[bytes]) -> None:
    members = Members()
    members.set_priority(lambda member: member.number == 1, 1_000_000)
    assert members.set_priority(lambda member: member.number == 2, 7) == []
    members.set_priority(lambda member: member.number == 1, 5)
    assert [each.priority for each in members.all()] == [5]


def test_a_disk_that_is_full_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RexecError, match="desk cannot be used: No space left on device; make room there, or name one"):
        place(Asked())


def test_numbers_of_order() -> None:
    assert [ordinal(k) for k in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th",
    ]  # fmt: skip
