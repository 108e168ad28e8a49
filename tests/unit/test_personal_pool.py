"""What a personal HTCondor is told, and which host a place of its is on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from remoteio.errors import RexecError
from shim.cli import pool
from shim.submit import own_code
from shim.submit.batch import record
from shim.submit.batch.personal_places import OwnPool
from shim.submit.batch.record import CONDOR, Batch
from shim.submit.batch.story import VACATE
from shim.submit.engines import condor, personal
from shim.submit.engines.personal import Room
from shim.submit.engines.told import LEAVES, RUNNING, Told
from tests.until import until


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv(personal.VARIABLE, "")  # so that what is set here goes again, too
    monkeypatch.delenv(personal.VARIABLE)
    return tmp_path


def test_each_host_has_a_startd_here_with_its_slots_and_nobody_else_may_speak_to_it() -> None:
    text = personal.settings(Path("/d"), "/etc/c", 1234, "alice", {"alpha": Room(4, 8000), "beta": Room(2, 500)})
    lines = text.splitlines()
    assert lines[0] == "include : /etc/c"
    assert "DAEMON_LIST = MASTER SHARED_PORT COLLECTOR NEGOTIATOR SCHEDD HOST0 HOST1" in lines
    assert {"HOST0.NUM_CPUS = 4", "HOST0.MEMORY = 8000", "HOST1.STARTD_NAME = beta"} <= set(lines)
    assert "NETWORK_INTERFACE = 127.0.0.1" in lines and "SHARED_PORT_PORT = 1234" in lines
    allowed = {line for line in lines if line.startswith("ALLOW_") and "CLIENT" not in line}
    assert len(allowed) == 10 and {line.split(" = ")[1] for line in allowed} == {"alice@*"}
    assert sum(line.endswith("_AUTHENTICATION = REQUIRED") for line in lines) == 11


@pytest.mark.parametrize("name", ["alice@bigbox", "a b", "", "-x", "a\nALLOW_WRITE = *", "x" * 80, "$(A)"])
def test_a_host_s_name_that_is_none_for_a_machine_is_refused(name: str) -> None:
    with pytest.raises(RexecError, match=r"hosts\.toml"):
        personal.check(name)
    personal.check("alpha.example.org")


def test_the_pool_that_is_up_is_used_unless_the_user_names_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    personal.use()
    assert personal.VARIABLE not in os.environ
    personal.config().parent.mkdir(parents=True)
    personal.config().touch()
    personal.use()
    assert os.environ[personal.VARIABLE] == str(personal.config())
    monkeypatch.setenv(personal.VARIABLE, "/etc/mine")
    personal.use()
    assert os.environ[personal.VARIABLE] == "/etc/mine"


def test_a_job_goes_to_the_host_whose_startd_has_its_pilot(home: Path) -> None:
    scratch = personal.directory() / "execute/beta/dir_12"
    scratch.mkdir(parents=True)
    (scratch / ".job.ad").write_text("ProcId = 3\nClusterId = 7\n")
    (scratch / condor.PILOT).write_text("import sys; sys.stdin.read()\n")
    log = "001 (007.003.000) 2026-11-28 04:00:00 Job executing on host: <127.0.0.1:1>\n\tSlotName: slot1_1@here\n...\n"
    (home / condor.LOG).write_text(log)
    places = OwnPool(home, "7", saves=False)
    assert [told.job for told in places.changes()] == [3]
    assert places.on(3) == "beta" and places.host(3) == "beta"
    (home / condor.LOG).write_text(log + "004 (007.003.000) 2026-11-28 04:00:01 Job was evicted.\n...\n")
    assert [told.job for told in places.changes()] == [3]  # and what kept the place has ended with it


def test_a_place_that_htcondor_wants_back_is_kept_until_its_job_is_saved(home: Path) -> None:
    scratch = personal.directory() / "execute/beta/dir_12"
    scratch.mkdir(parents=True)
    (scratch / ".job.ad").write_text("ProcId = 3\nClusterId = 7\n")
    # what a pilot does: the command is a child of its, which it tells to end
    (scratch / condor.PILOT).write_text(
        "import subprocess, sys\n"
        "with subprocess.Popen(['sh', '-c', bytes.fromhex(sys.argv[2]).decode()]) as child:\n"
        "    open('child', 'w').write(str(child.pid))\n"
    )
    (home / condor.LOG).write_text("001 (007.003.000) 2026-11-28 04:00:00 Job executing on host: <127.0.0.1:1>\n...\n")
    places = OwnPool(home, "7", saves=True)
    assert places.changes() == [Told(3, RUNNING, "127.0.0.1", apart=True)]
    places.on(3)
    child = until(lambda: (path := scratch / "child").exists() and path.read_text(), "it is kept")
    until(lambda: [each.name() for each in psutil.Process(int(child)).children()] == ["cat"], "it is set up")
    os.kill(int(child), signal.SIGTERM)
    told = until(places.changes, "it is told")
    assert told == [Told(3, LEAVES)] and places.changes() == []
    assert Path(f"/proc/{child}").exists()
    places.act(VACATE, [3])  # there is no HTCondor here that could be told to
    until(lambda: not Path(f"/proc/{child}").exists(), "it is kept no more")


def test_a_place_that_was_never_given_back_has_gone_with_the_pool(home: Path) -> None:
    personal.directory().mkdir(parents=True)
    personal.config().touch()
    (home / condor.LOG).write_text("001 (007.000.000) 2026-11-28 04:00:00 Job executing on host: <127.0.0.1:1>\n...\n")
    places = OwnPool(home, "7", saves=False)
    places.changes()
    assert not places.settled()
    personal.down()
    assert places.settled()


def test_what_a_job_cannot_have_in_it_is_refused(home: Path) -> None:
    personal.directory().mkdir(parents=True)
    personal.config().touch()
    argv = [*own_code.command("shim.cli.program"), "submit", "--engine", "condor", "--gpus", "1", "--print", "true"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert said.returncode and said.stderr.startswith("rexec: --gpus is not for a personal pool")


def test_pool_down_is_refused_while_a_batch_has_jobs_left(home: Path) -> None:
    personal.directory().mkdir(parents=True)
    personal.config().touch()
    directory = record.create(_batch())
    with pytest.raises(RexecError, match=f"batch {directory.name} has jobs left in it: say `rexec pool up`"):
        pool.down_command.callback()  # type: ignore[misc]
    directory.add({"job": 0, "is": "done", "status": 0})
    pool.down_command.callback()  # type: ignore[misc]
    assert not personal.directory().exists()


def _batch() -> Batch:
    environ = (f"{personal.VARIABLE}={personal.config()}",)
    return Batch(("true",), 1, (), CONDOR, "", (), "o", "e", "/", environ, 0o22, 0.0)


def test_an_end_that_finds_no_place_is_one_that_failed(home: Path) -> None:
    with personal.end("9.0", 3) as teller:
        assert teller.wait() == 1
    with pytest.raises(RexecError, match="lost its place"):
        personal.hold("9.0")


def test_a_pilot_that_outlived_what_had_started_it_ends_with_the_pool(home: Path) -> None:
    pilot = personal.directory() / "execute/beta/dir_12" / condor.PILOT
    pilot.parent.mkdir(parents=True)
    argv = ["sh", "-c", "echo; read line", str(pilot), "hold"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout is not None and orphan.stdout.readline()  # before that /proc may not have its words
        personal.down()
        assert orphan.wait() == -signal.SIGKILL


def test_a_pool_that_is_down_is_taken_down_without_a_word(home: Path) -> None:
    personal.directory().mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        (personal.directory() / "pid").write_text(f"{other.pid}\n")
        personal.down()  # that process is none of its
        assert other.poll() is None and not personal.directory().exists()
        other.kill()
