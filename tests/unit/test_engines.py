"""What HTCondor is told of a batch, and what its event log says; what a batch's journal tells; the pilot."""

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
from shim.submit.batch import record, story
from shim.submit.batch.story import DONE, HELD, RUNNING, WAITING, Item
from shim.submit.engines import condor, names
from shim.submit.engines.condor import Told
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
        Told(0, condor.WAITING),
        Told(1, condor.WAITING),
        Told(1, condor.RUNNING, "p3"),
        Told(0, condor.RUNNING, "10.80.1.2"),
        Told(0, condor.LOST),
        Told(0, condor.HELD, why="via condor_hold (by user alice)"),
        Told(0, condor.WAITING),
        Told(0, condor.GONE, why="via condor_rm (by user alice)"),
        Told(1, condor.GONE, status=7),
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
    # who ends by a signal has no status of the job's
    assert lines["on_exit_remove"] == "(ExitBySignal =!= True)"


@pytest.mark.parametrize(
    ("destination", "job"),
    [("condor:12.0", True), ("condor:12", False), ("condor:-a.0", False), ("alice@condor", False), ("condor", False)],
)
def test_which_destination_is_an_engine_s_job(destination: str, job: bool) -> None:
    assert names.is_job(destination) == job


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
