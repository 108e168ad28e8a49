"""`rexec pool up`: a personal HTCondor, whose jobs with --checkpoint go on whatever becomes of places and hosts."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pool
from tests.pool import PLACE, Access
from tests.pool_jobs import MOVE, Counting
from tests.until import until

pytestmark = pytest.mark.long(lambda **_: True)
NUG = Path(__file__).resolve().parents[2] / "docs/nug"
LEAST = 578  # what QAPLIB has of nug12
WORKERS = 20
_HOST = '[host.{0}]\nssh = "{0}"\nowner = "none"\nslots = 10\n'
_SSHD = "mkdir -p /run/sshd && ssh-keygen -A && exec /usr/sbin/sshd"


def _boot(alice: Access, name: str) -> None:
    """Have a host up, as it was or anew, with sshd."""
    alice.pool.boot(name)
    alice.pool.on(name, "sh", "-c", _SSHD)


def _left(alice: Access) -> str:
    """What there is of HTCondor on p1: processes of alice's, and files."""
    processes = alice.sh("ps -u alice -o args= | grep -e '[c]ondor_' -e '[r]exec-pilot' || :")
    return processes + alice.sh("ls -A .local/state/rexec | grep pool || :")


@pytest.fixture(scope="module")
def alice() -> Iterator[Access]:
    with pool.up("condor") as made:
        access = Access(made, "condor")
        access.sh("mkdir -p -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519 </dev/null")
        access.sh("echo StrictHostKeyChecking accept-new >.ssh/config; mkdir -p .config/rexec")
        access.sh(f"cat >.config/rexec/hosts.toml <<'END'\n{_HOST.format('p2')}{_HOST.format('p3')}END")
        key = access.sh("cat .ssh/id_ed25519.pub").strip()
        for host in ("p2", "p3"):
            made.on(host, "sh", "-c", _SSHD)
            made.on(host, "sh", "-c", f"mkdir -p -m 700 .ssh && echo '{key}' >.ssh/authorized_keys", user="alice")
        access("rexec", "doctor", "p2", "p3")
        access("rexec", "pool", "up", "--on", "p2,p3")
        try:
            yield access
        finally:
            left = "rexec jobs | sed -n 's/^\\(b[0-9]*\\) .*supervised.*/\\1/p'"
            access.sh(f"for b in $({left}); do rexec kill $b; done || :")
            access("rexec", "pool", "down")
        assert _left(access) == ""


def _htcondor(*words: str) -> list[str]:
    return ["env", "CONDOR_CONFIG=/home/alice/.local/state/rexec/pool/condor_config", *words]


@pytest.mark.timeout(900)
def test_a_job_is_saved_where_its_place_is_taken_and_goes_on_in_another(alice: Access) -> None:
    job = Counting(alice, "counter", "--every", "5s", "--lease", "20s")
    job.moves(*_htcondor("condor_vacate_job", f"{job.engines()}.0"))
    job.moves("rexec", "vacate", f"{job.name}.0")
    first, second, third = job.hosts()
    assert first != second != third
    job.moves(*_htcondor("condor_vacate_job", "-fast", f"{job.engines()}.0"))
    alice(*_htcondor("condor_hold", f"{job.engines()}.0"))
    until(lambda: job.rows(**{"is": "held"}), "HTCondor holds it", within=PLACE)
    said = len(job.said())
    alice(*_htcondor("condor_release", f"{job.engines()}.0"))
    until(lambda: len(job.said()) > said, "it goes on", within=MOVE)
    # each time all of it was saved: what is behind it on record came from no image that was made before
    assert not any("before it could be saved" in str(row.get("why")) for row in job.rows())
    alice.sh("pkill -KILL -f 'batch[.]process import'")
    job.says_more()
    alice("rexec", "jobs")
    alice("rexec", "resume", job.name)
    job.says_more()
    host = job.hosts()[-1]
    alice.pool.down(host)
    try:
        until(lambda: job.hosts()[-1] != host, "it runs again", within=5 * PLACE)
        job.end()
    finally:
        _boot(alice, host)


@pytest.mark.timeout(900)
def test_a_problem_is_solved_by_twenty_workers_while_hosts_come_go_and_die(alice: Access, tmp_path: Path) -> None:
    subprocess.run(["gcc", "-O2", "-static", "-o", tmp_path / "qap", NUG / "qap.c"], check=True)
    for path in (tmp_path / "qap", NUG / "nug12.dat"):
        alice.sh(f"base64 -d >{path.name} <<'END'\n{base64.encodebytes(path.read_bytes()).decode()}END")
    alice.sh("chmod +x qap; mkdir todo taken done best")
    parts = [f"{i}-{j}" for i in range(12) for j in range(12) if i != j]

    def offer(some: list[str]) -> None:
        alice.sh(f"cd todo; touch {' '.join(some)}")

    def searched() -> int:
        return int(alice.sh("ls done | wc -l"))

    def run(host: str) -> int:
        last = {row["job"]: row for row in alice.rows(batch) if "is" in row}
        return sum(row["is"] == "running" and row["host"] == host for row in last.values())

    options = ["--checkpoint", "--every", "5s", "--lease", "20s", "-n", str(WORKERS)]
    batch = alice.submit(*options, "./qap", "nug12.dat", ".", "{}")
    offer(parts[:50])
    until(lambda: run("p2") + run("p3") == WORKERS, "all run", within=5 * PLACE)
    until(lambda: searched() == 50, "the first parts are searched", within=MOVE)
    alice.pool.down("p2")
    offer(parts[50:90])
    until(lambda: run("p2") == 0, "its workers are given up", within=5 * PLACE)
    alice(*_htcondor("condor_vacate_job", f"{alice.rows(batch)[0]['engine']}.{WORKERS - 1}"))
    _boot(alice, "p2")
    until(lambda: run("p2") + run("p3") == WORKERS, "all run again", within=5 * PLACE)
    offer(parts[90:])
    alice.sh("touch end")
    until(lambda: len(alice.has(batch, **{"is": "done", "status": 0})()) == WORKERS, "all have ended", within=5 * PLACE)
    assert sorted(alice.sh("ls done").split()) == sorted(parts) and alice.sh("ls todo taken -A | grep - || :") == ""
    assert min(map(int, alice.sh("ls best").split())) == LEAST
