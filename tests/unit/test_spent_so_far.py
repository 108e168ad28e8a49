"""What a job has cost so far is asked of its host over its control socket, and shown as a table."""

from __future__ import annotations

import threading

import pytest

from remoteio.wire import frames
from shim.cli.stat import table
from shim.submit.job import control_server, control_socket
from shim.submit.spent import RoundTrips, Share, Spent, row
from tests.agents import Agent
from tests.supervised import Run
from tests.until import HANG, until


def asked(run: Run, agent: Agent) -> tuple[threading.Thread, list[dict[str, object]]]:
    """Ask, and wait until the host has heard so: who waits for the answer, and where that will be."""
    until(lambda: run.supervisor.generation() is not None, "home knows that it runs")
    found: list[dict[str, object]] = []
    asker = threading.Thread(target=lambda: found.extend(control_socket.ask(run.job.control, do="stat")))
    asker.start()
    agent.wait(lambda: (frames.SPENT, b"") in agent.heard)
    return asker, found


def test_its_host_is_asked(run: Run) -> None:
    agent = run.country.running(0)
    asker, found = asked(run, agent)
    rows = [b"1 3 4 500000 60"]  # LOOKUP
    agent.link.send(frames.SPENT, frames.pack_fields({"asked": rows, "ahead": [b"2 1"], "cpu": [b"1500000"]}))
    asker.join(HANG)
    cost = row(Spent(RoundTrips({"names": Share(3, 0.5, 60)}, 4, 0, 2, 1), 1.5))
    assert found == [{"done": True, "text": "", "host": "alpha", "cost": cost}]
    agent.end(0)
    run.end()


def test_one_that_says_nothing_of_it_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "_HEARD", 0.01)
    agent = run.country.running(0)
    asker, found = asked(run, agent)
    asker.join(HANG)
    assert found == [{"done": False, "text": "alpha does not answer"}]
    agent.end(0)
    run.end()


def test_one_that_counts_nonsense_misbehaves(run: Run) -> None:
    agent = run.country.running(0)
    agent.link.send(frames.SPENT, b"nonsense")
    assert "alpha misbehaves" in run.end().reason


def test_the_table_has_the_longest_wait_first() -> None:
    shares = {"names": Share(90, 0.5, 2048), "contents": Share(10, 2.0, 100)}
    shown = table(7, "alpha", row(Spent(RoundTrips(shares, 7, 1024, 9, 5), 0.25)))
    assert shown.splitlines() == [
        "job 7 on alpha: 0.2 s of processor time",
        "FOR       ROUND TRIPS  WAITED  BYTES",
        "contents  10           2.0 s   100 bytes",
        "names     90           0.5 s   2.0 KiB",
        "all       100          2.5 s   2.1 KiB",
        "saved: 7 round trips; came ahead: 1.0 KiB, 5 of 9 files and listings of it used",
    ]
    assert "\\x1b" in table(7, "\x1b[2J", row(Spent(RoundTrips({}, 0), 0.0)))
