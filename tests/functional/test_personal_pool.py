"""`rexec pool up`: a personal HTCondor, whose jobs with --checkpoint go on whatever becomes of places and hosts."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pool
from tests.desk_root import call
from tests.pool import PLACE, ROOT, Access
from tests.pool_jobs import MOVE, Counting
from tests.until import until

pytestmark = pytest.mark.longest
_HOST = '[host.{0}]\nssh = "{0}"\nowner = "none"\nslots = 10\n'
_NUG = ROOT / "docs/nug"
_LEAST = 1150  # what QAPLIB has of nug15
_WORKERS = 20
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


class Nug:
    """docs/nug.md on p1, with nug15; no gcc is there."""

    def __init__(self, alice: Access, directory: Path) -> None:
        self.alice = alice
        qap = directory / "qap"
        subprocess.run(["gcc", "-O2", "-static", "-o", qap, _NUG / "qap.c"], check=True)
        for name, content in (("qap", qap.read_bytes()), ("nug15.dat", (_NUG / "nug15.dat").read_bytes())):
            put = f"mkdir -p nug && base64 -d >nug/{name} && chmod 755 nug/{name}"
            call(alice.pool.argv("p1", ["sh", "-c", put], "alice"), stdin=base64.encodebytes(content).decode())
        self.sh("mkdir todo taken done best")

    def sh(self, script: str) -> str:
        return self.alice.sh(f"cd nug && {script}")

    def offer(self, parts: list[str]) -> None:
        self.sh(f"cd todo && touch {' '.join(parts)}")

    def searched(self) -> int:
        """How many parts are."""
        return len(self.sh("ls done").split())


@pytest.mark.timeout(1500)
def test_twenty_workers_solve_a_problem_while_hosts_come_go_and_die(alice: Access, tmp_path: Path) -> None:
    nug = Nug(alice, tmp_path)
    options = f"--engine condor --memory 100M --checkpoint --every 5s --lease 20s --name worker -n {_WORKERS}"
    batch = nug.sh(f"rexec submit {options} ./qap nug15.dat . '{{}}'").strip()

    def run() -> dict[str, list[int]]:
        """Which have run on which host."""
        found: dict[str, list[int]] = {}
        for row in alice.has(batch, **{"is": "running"})():
            found.setdefault(str(row["host"]), []).append(int(str(row["job"])))
        return found

    parts = [f"{i}-{j}" for i in range(15) for j in range(15) if i != j]
    nug.offer(parts[:60])
    hosts = until(
        lambda: found if len(found := run()) == 2 else {}, "there are workers on both hosts", within=5 * PLACE
    )
    alice("rexec", "vacate", f"{batch}.{hosts['p2'][0]}")
    until(lambda: nug.searched() == 60, "the first parts are searched", within=5 * PLACE)
    nug.offer(parts[60:])
    alice.pool.down("p3")
    try:
        # what those on p3 were at is searched when they go on
        until(lambda: nug.searched() >= len(parts) - _WORKERS, "the others go on", within=5 * PLACE)
    finally:
        _boot(alice, "p3")
    nug.sh("touch end")
    ended = until(
        lambda: each if (each := _batch(alice, batch))["state"] == "ended" else {}, "all end", within=10 * PLACE
    )
    assert (ended["done"], nug.searched()) == (_WORKERS, len(parts))
    assert nug.sh("ls todo taken").split() == ["taken:", "todo:"]
    assert min(map(int, nug.sh("ls best").split())) == _LEAST


def _batch(alice: Access, name: str) -> dict[str, object]:
    """What `rexec jobs` says of it."""
    return next(row for row in json.loads(alice("rexec", "jobs", "--json")) if row.get("batch") == name)
