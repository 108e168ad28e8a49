"""What HTCondor and Slurm are told of a batch, and what they say of it; what a batch's journal tells; the pilot."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.errors import RexecError
from shim.submit.batch import cluster, record, story
from shim.submit.batch.arrays import Arrays
from shim.submit.batch.cluster import CHUNK, Cluster
from shim.submit.batch.story import DONE, HELD, RUNNING, VACATE, WAITING, Item, Story
from shim.submit.engines import allowed, condor, names, slurm
from shim.submit.engines import told as engine
from shim.submit.engines.slurm import Seen
from shim.submit.engines.told import Told
from shim.submit.hosts import bootstrap
from tests.until import HANG, until

LOG = """\
000 (012.000.000) 2026-11-27 21:03:24 Job submitted from host: <10.80.1.1:9618?addrs=10.80.1.1-9618&alias=p1>
...
000 (012.001.000) 2026-11-27 21:03:24 Job submitted from host: <10.80.1.1:9618?addrs=10.80.1.1-9618&alias=p1>
...
001 (012.001.000) 2026-11-27 21:03:25 Job executing on host: <10.80.1.3:9618?addrs=10.80.1.3-9618&alias=p3>
\tSlotName: slot1_1@p3
\tCpus = 1
...
006 (012.001.000) 2026-11-27 21:03:25 Image size of job updated: 7
\t5  -  MemoryUsage of job (MB)
...
001 (012.000.000) 2026-11-27 21:03:26 Job executing on host: <10.80.1.2:9618?addrs=10.80.1.2-9618>
...
004 (012.000.000) 2026-11-27 21:03:30 Job was evicted.
\t(0) CPU times
...
012 (012.000.000) 2026-11-27 21:03:31 Job was held.
\tvia condor_hold (by user alice)
\tCode 1 Subcode 0
...
013 (012.000.000) 2026-11-27 21:03:32 Job was released.
\tvia condor_release (by user alice)
...
009 (012.000.000) 2026-11-27 21:03:33 Job was aborted.
\tvia condor_rm (by user alice)
...
005 (012.001.000) 2026-11-27 21:03:34 Job terminated.
\t(1) Normal termination (return value 7)
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Remote Usage
...
"""


def test_an_event_log_tells_of_each_place() -> None:
    found, size = condor.events(LOG, "12")
    assert size == len(LOG)
    assert found == [
        Told(0, engine.WAITING),
        Told(1, engine.WAITING),
        Told(1, engine.RUNNING, "p3"),
        Told(0, engine.RUNNING, "10.80.1.2"),
        Told(0, engine.LOST, seen=True),
        Told(0, engine.HELD, why="via condor_hold (by user alice)"),
        Told(0, engine.WAITING),
        Told(0, engine.GONE, why="via condor_rm (by user alice)"),
        Told(1, engine.GONE, status=7),
    ]
    assert condor.events(LOG, "13") == ([], len(LOG))


def test_an_event_that_is_not_whole_is_left_for_later() -> None:
    whole, _ = condor.events(LOG, "12")
    for cut in range(len(LOG)):
        first, size = condor.events(LOG[:cut], "12")
        rest, _ = condor.events(LOG[size:], "12")
        assert size <= cut and first + rest == whole


def test_a_batch_is_described_to_condor() -> None:
    told = condor.description(1000, "sim", 2, 1024, 'Arch == "X86_64"', "Mips", 5)
    lines = dict(line.split(" = ", 1) for line in told.splitlines()[:-1])
    assert told.splitlines()[-1] == "queue 1000"
    assert (lines["request_cpus"], lines["request_memory"], lines["priority"]) == ("2", "1024M", "5")
    assert lines["requirements"].endswith(' && (Arch == "X86_64")') and lines["rank"] == "Mips"
    assert lines["max_idle"] == str(condor.MOST_IDLE)
    assert "max_idle" not in condor.description(condor.MOST_IDLE, "sim", 1, 100, "", "", 0)
    assert not {"request_gpus", "allowed_job_duration"} & lines.keys()
    asked = condor.description(1, "sim", 1, 100, "", "", 0, 2, "1:30:00").splitlines()
    assert {"request_gpus = 2", "allowed_job_duration = 5400"} <= set(asked)
    # who ends by a signal has no status of the job's
    assert lines["on_exit_remove"] == "(ExitBySignal =!= True)"


def test_a_batch_is_described_to_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_tool", lambda name: [f"/opt/slurm/bin/{name}"])
    heads = (
        slurm.description("sim", 2, 1024, "1-12:00", -5, "PILOT\n", 2).partition("#SBATCH --requeue")[0].splitlines()
    )
    asked = {"cpus-per-task=2", "mem=1024M", "gres=gpu:2", "time=1-12:00", "nice=5"}
    assert {f"#SBATCH --{each}" for each in asked} <= set(heads)
    assert "gres" not in slurm.description("sim", 2, 1024, None, 0, "PILOT\n")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-6", 108_000),
        ("1-6:30", 109_800),
        ("1-00:00:01", 86_401),
        ("0", None),
        ("soon", None),
        ("1-", None),
        ("1:2:3:4", None),
        ("-5", None),
        ("5\n", None),
    ],
)
def test_times_are_read_as_slurm_reads_them(time: str, seconds: int | None) -> None:
    if seconds is not None:
        assert allowed.seconds(time) == seconds
        return
    with pytest.raises(RexecError, match="is no time as Slurm has it"):
        allowed.seconds(time)


@pytest.mark.parametrize(
    ("destination", "job"),
    [
        ("slurm:12", True),
        ("slurm:12_0", False),
        ("slurm:", False),
        ("condor:12.0", True),
        ("condor:12", False),
        ("condor:-a.0", False),
        ("alice@condor", False),
        ("condor", False),
    ],
)
def test_which_destination_is_an_engine_s_job(destination: str, job: bool) -> None:
    assert names.is_job(destination) == job


QUEUE = """\
5|0|6|R|1|0:0|p2||4294|None|
5|1|7|CG|1|0:0|p3|p2|4294|None|
5|2|5|PD|0|0:0||p2|4294|Resources|
5|3|8|PD|1|0:0|||0|job requeued in held state|
5|4|9|F|0|138:0|p2||1|NonZeroExitCode|
5|5|10|F|0|0:9|p2||1|RaisedSignal:9(Killed)|
5|6|11|F|0|7:0|p2||1|NonZeroExitCode|
5|7|12|CD|0|0:0|p2||1|None|
5|8|13|CA|0|0:0|p2||1|None|
5|9|14|TO|0|0:15|p2||1|TimeLimit|
5|10|15|NF|0|0:0|p2||1|NodeFail|
N/A|N/A|16|R|0|0:0|p2||1|None|
5|11|17|??|0|0:0|p2||1|None|
5|x|17|R|0|0:0|p2||1|None|
slurm_load_jobs error: |
"""


def test_a_queue_of_slurm_s_tells_of_each_task() -> None:
    assert slurm.parsed(QUEUE) == [
        Seen(5, 0, 6, engine.RUNNING, 1, "p2"),
        Seen(5, 1, 7, engine.LOST, 1, "p3", excluded=True),
        Seen(5, 2, 5, engine.WAITING, excluded=True),
        Seen(5, 3, 8, engine.HELD, 1, why="job requeued in held state"),
        Seen(5, 4, 9, engine.LOST, 0, "p2", over=True),  # what a pilot ends by that was told no status
        Seen(5, 5, 10, engine.LOST, 0, "p2", over=True),
        Seen(5, 6, 11, engine.GONE, 0, "p2", over=True, status=7),
        Seen(5, 7, 12, engine.GONE, 0, "p2", over=True, status=0),
        Seen(5, 8, 13, engine.GONE, 0, "p2", over=True, why="Slurm was told to cancel it"),
        Seen(5, 9, 14, engine.GONE, 0, "p2", over=True, status=143, why=slurm._WHY["TO"]),
        Seen(5, 10, 15, engine.LOST, 0, "p2", over=True),
    ]


def test_arrays_are_written_as_they_are_read() -> None:
    arrays = Arrays()
    arrays.add(12, range(200))
    arrays.add(15, [3, 7, 8, 9])
    assert str(arrays) == "12:0-199 15:3,7-9"
    read = Arrays(str(arrays))
    assert str(read) == str(arrays)
    assert [read.tasks()[job] for job in (0, 3, 8, 199)] == [(12, 0), (15, 0), (15, 2), (12, 199)]
    read.keep({9, 400})
    assert str(read) == "15:3,7-9"
    assert not Arrays("x:1 12: 13:9-x,,-").tasks()


class Controller:
    """What a cluster does with what it is told, to who sees no other."""

    def __init__(self) -> None:
        self.queue: dict[tuple[int, int], Seen] = {}
        self.asked: list[str] = []
        self._last = 10

    def submit(self, directory: str, count: int, environ: object, priority: int | None) -> int:
        self._last += 1
        if priority is not None:
            self.asked.append(f"nice {-priority} {self._last}")
        for task in range(count):
            self.queue[self._last, task] = Seen(self._last, task, self._last, engine.WAITING)
        return self._last

    def put(self, array: int, task: int, **values: object) -> None:
        self.queue[array, task] = self.queue[array, task]._replace(**values)  # type: ignore[arg-type]

    def act(self, verb: str, running: list[str], others: list[str]) -> None:
        self.asked.append(f"{verb} {','.join(running)} {','.join(others)}")

    def exclude(self, task: str, hosts: str) -> None:
        self.asked.append(f"exclude {task} {hosts}")

    def prioritize(self, priority: int, tasks: list[str]) -> None:
        self.asked.append(f"nice {-priority} {','.join(tasks)}")


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    made = Controller()
    monkeypatch.setattr(slurm, "queue", lambda: list(made.queue.values()))
    for name in ("submit", "act", "exclude", "prioritize"):
        monkeypatch.setattr(slurm, name, getattr(made, name))
    monkeypatch.setattr(cluster, "_SOON", 0.0)  # so each is a look
    return made


def test_no_more_of_a_batch_wait_in_slurm_s_queue_than_a_chunk(controller: Controller) -> None:
    told, places = Story(CHUNK + 50), Cluster(Path(), "", {})
    assert places.feed(told) == "" and places.changes() == []  # it has not looked yet what is there
    assert places.feed(told) == f"11:0-{CHUNK - 1}"
    places.changes()
    assert places.feed(told) == ""
    for task in range(CHUNK - 10):
        controller.put(11, task, state=engine.RUNNING, host="p2", id=1000 + task)
    assert [each.state for each in places.changes()].count(engine.RUNNING) == CHUNK - 10
    assert places.feed(told) == f"11:0-{CHUNK - 1} 12:{CHUNK}-{CHUNK + 49}"
    assert len(list(places.placed())) == CHUNK - 10
    assert places.on(5) == "slurm:1005"


def test_a_batch_s_priority_is_that_of_what_waits_at_slurm_and_of_what_comes_there_later(
    controller: Controller,
) -> None:
    told, places = Story(CHUNK + 1), Cluster(Path(), "", {})
    places.changes()
    places.feed(told)
    places.changes()
    controller.put(11, 0, state=engine.RUNNING, host="p2", id=1000)
    controller.put(11, 1, state=engine.RUNNING, host="p2", id=1001)
    controller.put(11, 3, state=engine.HELD)
    places.prioritize(-5, (0, 2, 3, CHUNK), ())
    assert controller.asked == ["nice 5 11_2,11_3"]
    told.take({"priority": -5, "job": None}, 1)
    for task in range(CHUNK):
        controller.put(11, task, state=engine.RUNNING, host="p2", id=1000 + task)
    places.changes()
    places.feed(told)
    assert controller.asked[1:] == ["nice 5 12"]


def test_what_has_lost_its_task_is_given_to_slurm_again(controller: Controller) -> None:
    told, places = Story(3), Cluster(Path(), "", {})
    places.changes()
    assert places.feed(told) == "11:0-2"
    for task in range(3):
        controller.put(11, task, state=engine.RUNNING, host="p2", id=100 + task)
    places.changes()
    controller.put(11, 0, state=engine.LOST, over=True)
    controller.put(11, 1, host="p3", restarts=1)  # between two looks it has lost its place and got another
    del controller.queue[11, 2]  # Slurm forgets what ended a while ago
    assert [(each.job, each.state, each.host) for each in places.changes()] == [
        (0, engine.LOST, ""), (1, engine.LOST, ""), (1, engine.RUNNING, "p3"), (2, engine.LOST, ""),
    ]  # fmt: skip
    assert places.feed(told) == "11:0-2 12:0,2"
    later = Cluster(Path(), "11:0-2 12:0,2", {})  # of a supervisor that has just begun
    found = later.changes()
    assert [(each.job, each.state) for each in found] == [
        (0, engine.WAITING), (1, engine.RUNNING), (2, engine.WAITING)
    ]  # fmt: skip
    assert later.feed(told) == ""


def test_a_job_that_is_told_to_leave_a_host_does_not_want_it_for_a_minute(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, places = Story(1), Cluster(Path(), "", {})
    places.changes()
    places.feed(told)
    controller.put(11, 0, state=engine.RUNNING, host="p2", id=100)
    places.changes()
    places.act(VACATE, [0])
    controller.put(11, 0, state=engine.WAITING, restarts=1)
    places.changes()
    places.changes()
    assert controller.asked == ["vacate 11_0 ", "exclude 11_0 p2"]
    controller.put(11, 0, excluded=True)
    places.changes()
    monkeypatch.setattr(cluster, "_ELSEWHERE", -1.0)
    places.changes()
    assert controller.asked[2:] == ["exclude 11_0 "]


def test_a_place_whose_job_has_ended_is_not_held(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    told, places = Story(2), Cluster(Path(), "", {})
    places.changes()
    places.feed(told)
    for task in range(2):
        controller.put(11, task, state=engine.RUNNING, host="p2", id=100 + task)
    places.changes()
    with subprocess.Popen(["true"], stdout=subprocess.DEVNULL) as teller:
        monkeypatch.setattr(slurm, "end", lambda job, status: teller)
        places.over(0, 7)
        places.act(story.HOLD, None)
        places.act(story.KILL, None)
    assert controller.asked == ["hold 11_1 ", "remove 11_0,11_1 "]


def test_no_job_is_to_be_saved_where_slurm_ends_each_of_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "ProctrackType           = {}\nPrologFlags             = (null)\n"
    monkeypatch.setattr(slurm, "ask", lambda argv: said.format("proctrack/cgroup"))
    slurm.check_saves()
    monkeypatch.setattr(slurm, "ask", lambda argv: said.format("proctrack/linuxproc"))
    with pytest.raises(RexecError, match="ask its administrator for proctrack/cgroup"):
        slurm.check_saves()


def _journal(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_a_journal_tells_what_has_become_of_each_job() -> None:
    data = _journal(
        {"engine": "12"}, {"job": 1, "is": RUNNING, "host": "p2"}, {"job": 0, "is": HELD, "why": "by hand"},
        {"job": 1, "is": DONE, "host": "p2", "status": 3}, {"job": 9, "is": DONE, "status": 0}, ["no row"],
        {"job": 2, "is": "of another version"},
    )  # fmt: skip
    told = story.told(3, data + b'{"job": 0, "is": "do')
    assert told.engine == "12" and not told.over()
    assert [told.item(job) for job in range(3)] == [Item(HELD, why="by hand"), Item(DONE, "p2", 3), Item()]
    assert dict(told.counts()) == {HELD: 1, DONE: 1, WAITING: 1}
    assert story.told(1, _journal({"job": 0, "is": DONE, "status": 0})).over()


def test_what_was_asked_is_asked_until_it_is_obeyed() -> None:
    asked = _journal({"ask": story.HOLD, "job": 0}, {"ask": story.KILL, "job": None}, {"ask": "dance", "job": 0})
    first = asked.index(b"\n") + 1
    assert [(order.verb, order.job) for order in story.told(2, asked).asked] == [("hold", 0), ("kill", None)]
    later = story.told(2, asked + _journal({"obeyed": first, "why": "it has ended"}))
    assert [(order.verb, order.job) for order in later.asked] == [("kill", None)]
    assert later.why == "it has ended"


def test_jobs_of_a_higher_priority_than_their_batch_go_first() -> None:
    rows = [{"ask": "priority", "job": 1, "priority": 3}, {"priority": 3, "job": 1}, {"priority": -1, "job": 2}]
    told = story.told(5, _journal(*rows, {"priority": 4, "job": 3}))
    assert [(order.verb, order.job, order.priority) for order in told.asked] == [("priority", 1, 3)]
    assert told.sooner() == [3, 1] and (told.priority, told.priorities[2]) == (None, -1)
    told = story.told(5, _journal(*rows, {"priority": 2, "job": None}))
    assert told.sooner() == [] and (told.priority, told.priorities) == (2, {})
    told = story.told(5, _journal({"priority": 2, "job": None}, {"priority": 3, "job": 4}, {"priority": 1, "job": 0}))
    assert told.sooner() == [4]


def test_a_line_that_a_power_cut_has_left_is_passed_over() -> None:
    row = {"job": 0, "is": DONE, "status": 0}
    assert story.told(1, b'{"job": 0, "is"\n' + _journal(row)).over()


def test_a_batch_that_is_being_made_is_none_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = record.create(record.Batch(("true",), 1, (), "local", "any", (), "o", "e", "/", (), 0o22, 0.0))
    (tmp_path / "rexec/batches/2").mkdir()
    assert [each.name for each in record.every()] == ["b1"]
    with pytest.raises(RexecError, match="there is no batch b2"):
        record.find("b2.0")
    assert record.create(made.batch()).name == "b3"


def test_batches_that_ended_long_ago_go_as_another_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = [
        record.create(record.Batch(("true",), 1, (), "local", "any", (), "o", "e", "/", (), 0o22, 0.0))
        for _ in range(3)
    ]
    for directory in made[:2]:
        directory.add({"job": 0, "is": DONE, "status": 0})
    for directory in made[1:]:
        os.utime(directory.path / "journal", (0.0, 0.0))
    assert [each.name for each in record.every()] == ["b1", "b2", "b3"]
    assert record.create(made[0].batch()).name == "b4"
    assert [each.name for each in record.every()] == ["b1", "b3", "b4"]  # b3 waits, since long


@pytest.fixture
def pilot(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "pilot").write_bytes(bootstrap.pilot_source())
    argv = [sys.executable, "-IS", str(tmp_path / "pilot"), "hold"]
    with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        until(lambda: (tmp_path / "rexec.socket").exists(), "the pilot listens")
        try:
            yield process
        finally:
            process.kill()


def _into(tmp_path: Path, *words: str, stdin: int | None = None, stdout: int | None = None) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-IS", str(tmp_path / "pilot"), *words]
    return subprocess.Popen(argv, cwd=tmp_path, stdin=stdin, stdout=stdout)


def _run(tmp_path: Path, command: str) -> subprocess.Popen[bytes]:
    return _into(tmp_path, "run", command.encode().hex(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_pilot_gives_a_stream_to_a_child_of_its_own(pilot: subprocess.Popen[bytes], tmp_path: Path) -> None:
    with _run(tmp_path, "echo $PPID; cat") as stream:
        said, _ = stream.communicate(bytes(range(256)))
        assert said == b"%d\n" % pilot.pid + bytes(range(256))
        assert stream.returncode == 0
    with _into(tmp_path, "end", "7") as end:
        assert end.wait() == 0
    assert pilot.wait() == 7


def test_what_a_pilot_has_started_outlives_its_stream_and_not_the_pilot(
    pilot: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    with _run(tmp_path, "echo $$; exec sleep 1000") as stream:
        assert stream.stdout is not None
        child = os.pidfd_open(int(stream.stdout.readline()))
        try:
            stream.kill()
            stream.wait()
            assert not _ended(child, 0)
            pilot.kill()
            assert _ended(child, HANG)
        finally:
            os.close(child)


def test_a_pilot_that_an_engine_ends_ends_all_and_has_no_status(pilot: subprocess.Popen[bytes], tmp_path: Path) -> None:
    with _run(tmp_path, "echo $$; exec sleep 1000") as stream:
        assert stream.stdout is not None
        child = os.pidfd_open(int(stream.stdout.readline()))
        try:
            pilot.terminate()
            assert _ended(child, HANG)
        finally:
            os.close(child)
    assert pilot.wait() == -signal.SIGUSR1


def test_what_can_be_saved_has_time_and_streams_for_that_where_an_engine_takes_the_place(
    pilot: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    saves = "trap 'echo told; cat; exit' TERM; echo begun; while :; do sleep .01; done"
    with _run(tmp_path, saves) as stream, _run(tmp_path, "echo $REXEC_TAKEN_BACK") as before:
        assert before.communicate()[0] == b"\n"
        assert stream.stdout is not None and stream.stdout.readline() == b"begun\n"
        pilot.terminate()
        assert stream.stdout.readline() == b"told\n"
        with _run(tmp_path, "echo $REXEC_TAKEN_BACK") as later:  # what begins then is to know
            assert later.communicate()[0] == b"1\n"
        assert pilot.poll() is None
        assert stream.communicate(b"saved")[0] == b"saved"
    assert pilot.wait() == -signal.SIGUSR1


def test_what_is_no_rexec_gets_nothing_of_a_pilot(pilot: subprocess.Popen[bytes], tmp_path: Path) -> None:
    for said in (b"", b"x", b"[]", b"{}", b'{"run": 1}', b'{"end": "x"}', b'{"run": "true"}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(tmp_path / "rexec.socket"))
            sock.send(said)
            assert sock.recv(1) == b""
    with _into(tmp_path, "end", "0") as end:
        assert end.wait() == 0
    assert pilot.wait() == 0


def _ended(pidfd: int, within: float) -> bool:
    return bool(select.select([pidfd], [], [], within)[0])
