"""`rexec watch`, `rexec report`, `rexec log --plot`: where jobs ran, for how long, and what was lost, by their logs."""

from __future__ import annotations

import io
import os
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from shim.cli import report, watch, watched
from shim.cli.watched import Group, Watched
from shim.submit import life_plot, lives
from shim.submit.batch import life as batch_life
from shim.submit.batch import record as batches
from shim.submit.batch.record import Batch
from shim.submit.desk.line import Member
from shim.submit.job import record
from shim.submit.job.events import Event, EventLog, Kind, parse_event
from shim.submit.job.life import life
from shim.submit.job.spent_so_far import Costs
from shim.submit.lives import Cost, Span
from shim.submit.spent import RoundTrips, Share, Spent
from tests.unit.test_job_record import empty_record

K = Kind
MOVED = [
    Event(1000, K.SUBMIT, host="vm", command="sh x"),
    Event(1010, K.EXECUTE, host="alpha"),
    Event(1040, K.SUSPEND, host="alpha", reason="keys"),
    Event(1050, K.RESUME, host="alpha"),
    Event(1060, K.CHECKPOINT, host="alpha", image="1", size=4096, cpu=20.5, waited=7.0, carried=100),
    Event(1062, K.EVICT, host="alpha", image="1", cpu=20.5, waited=7.0, carried=100),
    Event(1070, K.EXECUTE, host="beta"),
    Event(1100, K.CHECKPOINT, host="beta", image="2", size=1),
    Event(1130, K.DISCONNECT, host="beta"),
    Event(1170, K.LOST, host="beta"),
    Event(1180, K.HOLD),
    Event(1200, K.RELEASE),
    Event(1205, K.EXECUTE, host="alpha"),
    Event(1215, K.END, host="alpha", status=3, cpu=1.0, waited=2.0, carried=3),
]


def test_a_job_s_life_by_its_log() -> None:
    told = life("7", MOVED, 9999)
    assert (told.begin, told.end, told.over, told.how) == (1000, 1215, True, "status 3")
    assert told.spans == [
        Span("waiting", "", 1000, 1010),
        Span("running", "alpha", 1010, 1040),
        Span("frozen", "alpha", 1040, 1050),
        Span("running", "alpha", 1050, 1060),
        Span("moving", "", 1060, 1070),  # it stood still on alpha once its image was made
        Span("running", "beta", 1070, 1170),
        Span("moving", "", 1170, 1180),
        Span("held", "", 1180, 1200),
        Span("moving", "", 1200, 1205),
        Span("running", "alpha", 1205, 1215),
    ]
    assert [(each.ran, each.frozen, each.lost, each.taken) for each in told.stays] == [
        (40, 10, 0, True), (100, 0, 70, True), (10, 0, 0, False)
    ]  # fmt: skip
    assert [each.cost for each in told.stays] == [Cost(20.5, 7.0, 100), None, Cost(1.0, 2.0, 3)]
    rows = lives.by_host([told])
    assert (rows["alpha"].stays, rows["alpha"].jobs, rows["alpha"].taken) == (2, 1, 1)
    assert rows["alpha"].cost == Cost(21.5, 9.0, 103) and rows["beta"].told == 0
    assert (rows[""].ran, rows[""].lost, rows[""].taken, rows[""].jobs) == (150, 70, 2, 1)


def test_a_job_that_goes_on_is_told_up_to_now() -> None:
    told = life("7", MOVED[:4], 1080)
    assert not told.over and told.spans[-1] == Span("running", "alpha", 1050, 1080)
    assert lives.by_host([told])[""].taken == 0


def test_one_that_is_evicted_without_an_image_loses_what_it_did_there() -> None:
    told = life("7", [*MOVED[:2], Event(1025, K.EVICT, host="alpha")], 1030)
    assert told.stays[0].lost == 15


def test_the_lives_of_a_batch_by_its_journal() -> None:
    rows: list[dict[str, object]] = [
        {"at": 10.0, "job": 0, "is": "running", "host": "alpha"},
        {"at": 12.0, "job": 1, "is": "running", "host": "beta"},
        {"at": 15.0, "job": 1, "is": "waiting", "why": "its supervisor had ended"},
        {"at": 16.0, "ask": "kill", "job": 1},
        {"at": 17.0, "job": 1, "is": "killed"},
        {"at": 20.0, "job": 0, "is": "done", "host": "alpha", "status": 0, "cost": [8.5, 1.0, 77]},
        {"at": 21.0, "job": 2, "is": "held", "cost": ["nonsense", 1, 2]},
    ]
    told = batch_life.told("b7", 5.0, rows, 30.0)
    assert told[0].spans == [Span("waiting", "", 5, 10), Span("running", "alpha", 10, 20)]
    assert (told[0].how, told[0].stays[0].cost) == ("status 0", Cost(8.5, 1.0, 77))
    assert (told[1].how, told[1].stays[0].lost, told[1].stays[0].taken) == ("killed", 3.0, True)
    assert (told[2].spans[-1], told[2].over) == (Span("held", "", 21, 30), False)


@given(st.lists(st.tuples(st.sampled_from(sorted(Kind)), st.floats(-5, 50), st.sampled_from(["a", "b"])), max_size=30))
def test_whatever_a_log_says_its_spans_follow_each_other_and_no_more_is_lost_than_ran(
    said: list[tuple[Kind, float, str]],
) -> None:
    at = 1000.0
    events = []
    for kind, step, host in said:
        at += step
        events.append(Event(at, kind, host=host, image="1" if step > 20 else "", status=0))
    told = life("7", events, at)
    assert all(each.end > each.begin for each in told.spans)
    assert all(before.end <= after.begin for before, after in zip(told.spans, told.spans[1:], strict=False))
    assert all(-1e-6 <= each.lost <= each.ran + 1e-6 for each in told.stays)
    on = sum(each.end - each.begin for each in told.spans if each.state in lives.ON_HOST)
    assert on == pytest.approx(sum(each.ran + each.frozen for each in told.stays))
    ET.fromstring(life_plot.draw(told, "x"))


def test_the_picture_has_a_lane_for_each_host_and_says_what_was_lost() -> None:
    drawn = life_plot.draw(life("job 7", MOVED, 9999), "sh -c 'a < b' \x1b[2J")
    root = ET.fromstring(drawn)
    names = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert names[0] == "job 7: sh -c 'a < b' \\x1b[2J"
    assert {"no host", "alpha", "beta", "lost", "waited for files"} <= set(names)
    titles = [each.text for each in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "running on beta: 1:40 min" in titles and "lost: 1:10 min" in titles
    assert "waited for files: 7 s, 100 bytes" in titles


def test_what_a_stay_has_cost_stands_with_the_generation_that_it_is_of() -> None:
    costs = Costs()
    assert costs.fields(K.EXECUTE, 3) == {} == costs.fields(K.END, 3)
    costs.told(3, Spent(RoundTrips({"names": Share(3, 0.5, 60)}, 4, 40), 1.5))
    fields = {"cpu": 1.5, "waited": 0.5, "carried": 100}
    assert costs.fields(K.CHECKPOINT, 3) == costs.fields(K.EVICT, 4) == fields
    assert costs.fields(K.SUSPEND, 3) == {}
    costs.fields(K.EXECUTE, 4)
    assert costs.fields(K.LOST, 4) == {}  # the host of 3 has told, that of 4 has not
    event = Event(1.0, K.END, status=0, cpu=1.5, waited=0.5, carried=100)
    assert parse_event(event.to_json()) == event


def a_batch(count: int, command: tuple[str, ...] = ("./sim", "{}")) -> batches.Directory:
    return batches.create(Batch(command, count, (), "local", "any", (), "o", "e", "/", (), 0o22, time.time()))


def a_job(**fields: object) -> record.Job:
    job = record.create(replace(empty_record(), **fields))  # type: ignore[arg-type]
    log = EventLog(job.log)
    log.append(Event(time.time() - 20, K.SUBMIT, host="vm", command="x"))
    log.close()
    return job


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "state"))
    monkeypatch.setattr(watch, "_catch", lambda: None)


def test_a_line_for_each_change_until_all_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = a_batch(3)
    steps = iter(
        [
            [{"job": 0, "is": "running", "host": "alpha"}, {"job": 1, "is": "running", "host": "beta"}],
            [],
            [{"job": 0, "is": "done", "status": 0}, {"job": 1, "is": "done", "status": 2}],
            [{"job": 2, "is": "killed"}],
        ]
    )
    monkeypatch.setattr(batches.Directory, "supervised", lambda self: True)
    clock = SimpleNamespace(sleep=lambda _: batch.add(*rows) if (rows := next(steps)) else None, strftime=time.strftime)
    monkeypatch.setattr(watch, "time", clock)  # this module's alone: other threads of this process sleep as ever
    said = CliRunner().invoke(watch.watch_command, ["b1"])
    assert [line.split("  ", 1)[1] for line in said.output.splitlines()] == [
        "b1  ./sim '{}': 3 waiting",
        "b1  ./sim '{}': 1 waiting, 2 running",
        "b1  ./sim '{}': 1 waiting, 1 done, 1 failed",
        "b1  ./sim '{}': 1 done, 2 failed",
    ]
    assert said.exit_code == 0


def test_what_had_ended_before_is_not_shown_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    a_batch(1).add({"job": 0, "is": "done", "status": 0})
    assert Watched().look() == []
    assert Watched(["b1"]).look() == [Group("b1", ("./sim", "{}"), Counter(done=1))]
    assert "no job is under way" in CliRunner().invoke(watch.watch_command, []).stderr
    a_batch(2)
    found = Watched().look()
    assert [each.note for each in found] == ["its supervisor is gone: `rexec resume b2`"]


def test_jobs_of_one_program_have_a_line_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record.Job, "supervised", lambda self: self.id != 5)
    for fields in (
        {"phase": "running", "host": "alpha"}, {"phase": "frozen", "host": "beta"}, {"phase": "parked"},
        {"phase": "left", "ran": 3.0, "host": "alpha"}, {"phase": "running", "host": "alpha"}, {"phase": "starting"},
    ):  # fmt: skip
        a_job(command=("/bin/sim", "1"), **fields)
    watched_jobs = Watched()
    (group,) = watched_jobs.look()
    assert (group.name, group.states) == ("sim", Counter(running=1, frozen=1, waiting=2, moving=1, held=1))
    assert group.hosts == Counter(alpha=1, beta=1)
    job = record.find("1")
    job.write(replace(job.read(), phase="ended", status=0))
    (group,) = watched_jobs.look()
    assert group.states == Counter(done=1, frozen=1, waiting=2, moving=1, held=1)


def test_a_job_of_a_batch_is_counted_there_and_alone_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record.Job, "supervised", lambda self: True)
    a_batch(2).add({"job": 1, "is": "running", "host": "alpha"})
    for name in ("b1.1", "b9.0"):  # no batch is left that would count the second
        a_job(command=("./sim", "1"), phase="running", host="alpha", batch=name)
    assert [(each.name, each.states) for each in Watched().look()] == [
        ("b1", Counter(running=1, waiting=1)), ("sim", Counter(running=1))
    ]  # fmt: skip
    assert [(each.name, each.states) for each in Watched(["1"]).look()] == [("1", Counter(running=1))]


def test_runs_of_the_desk_have_a_line_too_but_for_those_that_are_counted_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = [
        Member(1, "0", 0, 1, ("alpha",), host="alpha", command=("/bin/sim", "1")),
        Member(2, "0", 0, 1, ("alpha",), command=("sim", "2")),
        Member(3, "0", 0, 1, ("alpha",), command=("sim", "3"), job=7),
        Member(4, "9", 0, 1, ("alpha",), command=("sim", "4")),
    ]
    monkeypatch.setattr(watched, "Members", lambda: SimpleNamespace(all=lambda: members))
    monkeypatch.setattr(watched, "_supervises", lambda session: session == "9")
    assert Watched().look() == [Group("sim", ("/bin/sim", "1"), Counter(running=1, waiting=1), Counter(alpha=1))]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=7), st.integers(7, 300))
def test_a_bar_is_as_wide_as_its_column_and_leaves_nothing_out(counts: list[int], width: int) -> None:
    found = watch.parts(counts, width)
    assert sum(found) == (width if any(counts) else 0)
    assert all((cells > 0) == (count > 0) for cells, count in zip(found, counts, strict=True))


@pytest.mark.parametrize("width", [70, 120])
def test_the_picture_of_the_terminal(width: int) -> None:
    groups = [
        Group("b7", ("./sim", "\x1b[2J"), Counter(done=187, failed=3, running=12, waiting=98), Counter(alpha=12)),
        Group("b9", ("./x",), Counter(held=2), Counter(), "its supervisor is gone: `rexec resume b9`"),
        *(Group(f"p{number}", (f"p{number}",), Counter(running=1)) for number in range(30)),
    ]
    console = Console(width=width, height=20, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(watch.picture(groups, 0.0, width, 20))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert "190 of 332 have ended" in lines[0] and "190/300" in lines[2] and "━" in lines[2]
    assert len(lines) <= 20 and all(len(line) <= width for line in lines)
    assert any("more lines" in line for line in lines) and any("alpha 12" in line for line in lines)
    assert "\x1b[2J" not in console.file.getvalue()


def test_a_report_by_host() -> None:
    batch = a_batch(4)
    begun = time.time()
    batch.add({"job": 0, "is": "running", "host": "alpha"}, {"job": 1, "is": "running", "host": "beta"})
    batch.add({"job": 0, "is": "done", "host": "alpha", "status": 0, "cost": [7200.0, 0.0, 2048]})
    batch.add({"job": 1, "is": "held"})
    said = CliRunner().invoke(report.report_command, ["b1"]).output.splitlines()
    assert said[0] == "b1  ./sim '{}': 1 done, 1 held, 2 waiting"
    table = {line.split()[0]: line.split()[1:] for line in said[3:-1]}
    assert table["alpha"][:2] == ["1", "0"] and table["alpha"][-4:] == ["2.00", "0", "2.0", "KiB"]
    assert table["beta"][:2] == ["1", "1"] and table["beta"][-3:] == ["-", "-", "-"]
    assert table["all"][:2] == ["2", "1"]
    assert said[-1] == "CPU, FILES and BYTES of 1 of 2 stays on a host"
    data = report.as_data([report.find("b1.0", begun)])
    assert (data["all"]["bytes"], data["reported"][0]["jobs"]) == (2048, {"done": 1})


def test_reported_without_a_name_and_drawn_with_one(tmp_path: Path) -> None:
    assert "no jobs" in CliRunner().invoke(report.report_command, []).stderr
    job = a_job(command=("x",), phase="running")
    said = CliRunner().invoke(report.report_command, []).output
    assert said == f"{job.id}  x: 1 running\nnone has run on a host yet\n"
    report.plot(str(job.id), os.fspath(tmp_path / "life.svg"))
    assert "no host" in (tmp_path / "life.svg").read_text()
    a_batch(2)
    for word, why in (("b1", "--plot draws one job"), ("b1.0", "nothing has happened")):
        with pytest.raises(watched.RexecError, match=why):
            report.plot(word, os.fspath(tmp_path / "life.svg"))
