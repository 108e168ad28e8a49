"""Runs of a desk as files: who is gone holds nothing, hosts are asked by one for all, what will not do is said."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from remoteio.errors import RexecError
from shim.submit.desk.line import Member
from shim.submit.desk.members import Members
from shim.submit.desk.place import NoPlace, Place, ordinal
from shim.submit.hosts.config import Host
from shim.submit.hosts.survey import Report

_JOINS = """
import sys
from shim.submit.desk.line import Member
from shim.submit.desk.members import Members
own = Members().join(Member(0, "g", 0, 1, ("alpha",)))
own.take(lambda members: {own.member.number: "alpha"})
print("in", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "rexec").mkdir(parents=True)
    (tmp_path / "config" / "rexec" / "hosts.toml").write_text(
        '[host.alpha]\nowner = "none"\nslots = 2\n[host.beta]\nowner = "none"\nslots = 1\n'
    )


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _JOINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        yield process
        process.kill()


class Asked:
    """Stands for the hosts: each is there, but for `gone`."""

    def __init__(self, *gone: str) -> None:
        self.gone, self.names = gone, list[str]()

    def __call__(self, hosts: Sequence[Host]) -> list[Report]:
        self.names += [host.name for host in hosts]
        return [
            Report(host, error="no route to it" if host.name in self.gone else "", facts={"cores": 8}) for host in hosts
        ]


def place(asked: Asked, hosts: tuple[str, ...] = ("any",), slots: int = 1) -> Place:
    return Place(hosts, slots, 0, ("true",), lambda line: nullcontext(), asked)


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
    with place(Asked(), slots=3) as wide, pytest.raises(NoPlace, match=r"no host has 3 slots \(alpha has 2\)"):
        wide.take()
    with place(Asked("gamma", "delta"), ("gamma", "delta")) as none, pytest.raises(NoPlace, match="gamma: no route"):
        none.take()


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
    members.set_priority(1, 1_000_000)
    members.set_priority(1, 5)
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
