"""What a person at a terminal sees while something takes long, and who reads a pipe does not."""

from __future__ import annotations

import os
import pty
import select
import termios
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import pytest

from remoteio.errors import RexecError
from shim.cli import main, run
from shim.submit.foreground import progress
from shim.submit.foreground.console import Console
from shim.submit.foreground.progress import Waiting
from shim.submit.job.phase import Phase
from shim.submit.job.placement_events import Place, Search, State
from shim.submit.scope import Scope
from shim.wire.job_spec import JobSpec
from tests.until import HANG

SPEC = JobSpec(
    argv=[b"true"], env=[], cwd=b"/", uid=0, gid=0, groups=[], umask=0o22, hostname=b"here", limits=[], scratch=[],
    stdio=[], tty=[],
)  # fmt: skip


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, TextIO]]:
    """Both ends of one."""
    monkeypatch.setattr(progress, "SOON", 0.01)
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as file:
        yield ours, file
    os.close(ours)


def shown(terminal: int, within: float = HANG) -> str:
    return os.read(terminal, 1000).decode() if select.select([terminal], [], [], within)[0] else ""


def test_what_is_waited_for_is_said_after_a_while_and_taken_away(terminal: tuple[int, TextIO]) -> None:
    ours, file = terminal
    with Waiting("connecting to alpha", file):
        assert shown(ours) == "rexec: connecting to alpha …"
    assert shown(ours) == "\r\033[K"


def test_what_is_soon_done_is_not_said(terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, file = terminal
    monkeypatch.setattr(progress, "SOON", 60.0)
    with Waiting("connecting to alpha", file):
        pass
    assert shown(ours, 0.05) == ""


def test_nothing_is_said_behind_a_question_for_a_password(terminal: tuple[int, TextIO]) -> None:
    ours, file = terminal
    attributes = termios.tcgetattr(ours)
    attributes[3] &= ~termios.ECHO  # as getpass(3) does
    termios.tcsetattr(ours, termios.TCSANOW, attributes)
    with Waiting("connecting to alpha", file) as waiting:
        waiting._timer.join()
    assert shown(ours, 0.0) == ""


def test_nothing_is_said_to_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SOON", 0.0)
    read, write = os.pipe()
    with open(write, "w", encoding="utf-8") as file, Waiting("connecting to alpha", file):
        assert shown(read, 0.1) == ""
    assert os.read(read, 1) == b""
    os.close(read)


def test_a_host_that_is_passed_over_is_said_when_the_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process is the tests'
    said: list[str] = []
    avoid = (("nohost", "cannot reach nohost: there is no such name"),)
    before = State(phase=Phase.STARTING, place=Place(2, "beta"), search=Search(avoid=avoid))
    Console(False, said.append).watch(before, State(phase=Phase.RUNNING, place=Place(2, "beta"), began=True))
    assert said == ["nohost: passed over: cannot reach nohost: there is no such name"]


def test_a_job_that_stands_still_until_another_host_is_ready_is_said_to_leave_and_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process is the tests'
    said: list[str] = []
    console, why = Console(False, said.append), "input seen by terminals: /dev/pts/0"
    runs = State(phase=Phase.RUNNING, place=Place(1, "alpha"), began=True)
    frozen = replace(runs, phase=Phase.FROZEN, why=why)
    chooses = replace(frozen, phase=Phase.CHOOSING, place=Place(), why="it leaves")
    starts = replace(chooses, phase=Phase.STARTING, place=Place(2, "beta"))
    for before, after in pairwise((runs, frozen, chooses, starts, replace(starts, phase=Phase.RUNNING, why=""))):
        console.watch(before, after)
    assert said[:2] == [f"the job stands still on alpha: {why}", f"the job leaves alpha: {why}"]
    assert len(said) == 3 and said[2].startswith("the job goes on on beta, ") and said[2].endswith(" s later")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["hosts"], "asking the hosts"),
        (["hosts", "--why", "x"], "connecting to x"),
        (["doctor"], "asking the hosts"),
        (["doctor", "x"], "connecting to x"),
        (["run", "x"], "connecting to x"),
    ],
)
def test_a_host_that_does_not_answer_is_waited_for_with_a_word(
    words: list[str], what: str, terminal: tuple[int, TextIO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, file = terminal
    seen: list[str] = []

    def connect(*_: object, **__: object) -> None:
        seen.append(shown(ours))
        raise RexecError("it is off")

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("sys.stderr", file)
    monkeypatch.setattr("shim.cli.run.raise_signals", lambda: None)  # this process is the tests'
    monkeypatch.setattr("shim.submit.hosts.survey.connect", connect)
    monkeypatch.setattr("shim.submit.hosts.connect.connect", connect)
    if words[0] == "run":
        with pytest.raises(RexecError, match="it is off"):
            run.run(SPEC, words[1], Scope(), 0, 0, sync=True, verbose=False, quiet=False, json_log=None)
    else:
        main.load(words[0]).main(words[1:], standalone_mode=False)
    assert seen == [f"rexec: {what} …"]
    assert shown(ours) == "\r\033[K"


def test_a_job_s_first_hosts_are_waited_for_until_it_may_act(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, file = terminal
    monkeypatch.setattr("sys.stderr", file)
    before, there = State(), State(phase=Phase.STARTING, place=Place(1, "beta"))
    console = Console(False, lambda text: None)
    console.watch(before, there)
    assert shown(ours) == "rexec: connecting to beta …"
    console.watch(there, State(phase=Phase.STARTING, place=Place(1, "beta", live=True)))
    assert shown(ours) == "\r\033[K"
    quiet = Console(False, lambda text: None, quiet=True)
    quiet.watch(before, there)
    assert shown(ours, 0.05) == ""
