"""An HTCondor pool as it is: it gives rexec's jobs their places and takes them away, and nothing is installed there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests import pool, pool_jobs
from tests.desk_root import DeskError
from tests.pool import PLACE, WAITS, Access
from tests.pool_jobs import Counting
from tests.until import until

pytestmark = [pytest.mark.longest, pytest.mark.timeout(300)]  # some wait for the engine three times, PLACE each


@pytest.fixture(scope="module")
def alice() -> Iterator[Access]:
    with pool.submitting("condor") as access:
        yield access


def test_a_pool_runs_a_batch_and_knows_each_status(alice: Access) -> None:
    name = pool_jobs.gives_each_status(alice)
    cluster = alice.rows(name)[0]["engine"]
    # what its own queue says of them, and a DAG above would go by
    said = until(
        lambda: (
            lines
            if len(lines := alice("condor_history", cluster, "-af", "ProcId", "ExitCode").splitlines()) == 5
            else []
        ),
        "all have left the queue", within=PLACE,
    )  # fmt: skip
    assert sorted(said) == [f"{job} {job}" for job in range(5)]


@pytest.mark.timeout(600)
def test_a_job_runs_on_while_its_batch_has_no_supervisor_and_is_found_again(alice: Access) -> None:
    job = Counting(alice, "unseen")
    ends = "pkill -KILL -f 'batch[.]process import'"
    alice.sh(ends)
    job.says_more()
    assert alice("rexec", "resume") == f"batch {job.name} goes on\n"
    job.says_more()
    assert len(job.rows(**{"is": "running"})) == 1
    alice.sh(ends)
    alice("condor_vacate_job", f"{job.engines()}.0")
    again = ("condor_q", job.engines(), "-af", "NumJobStarts", "JobStatus")
    until(lambda: alice(*again).split() == ["2", "2"], "it has another place", within=PLACE)
    job.moves("rexec", "resume")
    job.end()


def test_hold_release_and_kill_are_the_pool_s_too(alice: Access) -> None:
    name = alice.submit("-n", "2", "--name", "held", "sh", "-c", WAITS.format(name="held{}"))
    cluster = alice.rows(name)[0]["engine"]
    until(lambda: alice.lines("held0.begun") and alice.lines("held1.begun"), "both have begun", within=PLACE)
    alice("rexec", "hold", f"{name}.0")
    until(alice.has(name, job=0, **{"is": "held"}), "it is held")
    until(lambda: alice("condor_q", cluster, "-af", "ProcId", "JobStatus").splitlines()[0] == "0 5", "there too")
    alice("rexec", "priority", name, "7")
    assert set(alice("condor_q", cluster, "-af", "JobPrio").split()) == {"7"}
    alice("rexec", "kill", f"{name}.1")
    until(alice.has(name, job=1, **{"is": "killed"}), "it is killed")
    alice("rexec", "release", f"{name}.0")
    until(lambda: len(alice.lines("held0.begun")) == 2, "it has begun again", within=PLACE)
    alice("condor_hold", f"{cluster}.0")  # by somebody else
    until(lambda: len(alice.has(name, job=0, **{"is": "held"})()) == 2, "it is held again", within=PLACE)
    alice("condor_release", f"{cluster}.0")
    until(lambda: len(alice.lines("held0.begun")) == 3, "it has begun once more", within=PLACE)
    alice.sh("touch held0.go")
    until(alice.has(name, job=0, status=0), "it has ended", within=PLACE)
    until(lambda: not alice("condor_q", cluster, "-af", "ProcId"), "the queue is empty", within=PLACE)


DAG = r"""
JOB A rexec
JOB B rexec
JOB C rexec
JOB D rexec
VARS ALL_NODES memory="64M"
VARS A cmd="echo \"$(pwd)\" >a"
VARS B cmd="cat a; [ -e again ] || { touch again; exit 3; }"
VARS C cmd="cat a; [ -e mended ] || exit 4"
VARS D cmd="cat a; echo end"
PARENT A CHILD B C
PARENT B C CHILD D
RETRY B 2
"""


def _ended(alice: Access, name: str) -> Callable[[], bool]:
    """Tell whether a batch has ended."""
    return lambda: any(
        row.get("batch") == name and row["state"] == "ended" for row in json.loads(alice("rexec", "jobs", "--json"))
    )


def _told(alice: Access, name: str, node: str) -> list[tuple[str, int | None]]:
    return [(row["is"], row.get("status")) for row in alice.rows(name) if row.get("node") == node and "is" in row]


def test_a_dag_is_dagman_s_with_its_retries_and_its_rescue_file(alice: Access) -> None:
    alice.sh(f"mkdir dag && cat >dag/w.dag <<'END'\n{DAG}END")
    name = alice("rexec", "dag", "dag/w.dag").strip()
    until(_ended(alice, name), "it has ended", within=3 * PLACE)
    assert _told(alice, name, "A")[-1] == ("done", 0)
    assert [each for each in _told(alice, name, "B") if each[0] == "done"] == [("done", 3), ("done", 0)]
    assert _told(alice, name, "C")[-1] == ("done", 4)
    assert _told(alice, name, "D") == [("killed", None)]
    assert alice.lines("dag/B.out") == ["/home/alice/dag"]
    assert "DONE B" in alice.lines("dag/w.dag.rexec.rescue001")
    alice.sh("rm dag/again; touch dag/mended")
    name = alice("rexec", "dag", "dag/w.dag").strip()
    until(_ended(alice, name), "the rest has ended", within=3 * PLACE)
    assert _told(alice, name, "B") == [("done", 0)] and alice.lines("dag/again") == []  # it was not run again
    assert _told(alice, name, "C")[-1] == _told(alice, name, "D")[-1] == ("done", 0)
    assert alice.lines("dag/D.out") == ["/home/alice/dag", "end"]


def test_a_dag_goes_on_when_its_supervisor_was_killed_and_is_killed_as_one(alice: Access) -> None:
    nodes = 'JOB one rexec\nJOB two rexec\nPARENT one CHILD two\nRETRY two 1\nVARS ALL_NODES memory="64M"\n'
    commands = "".join(f'VARS {each} cmd="{WAITS.format(name=each)}"\n' for each in ("one", "two"))
    alice.sh(f"cat >chain.dag <<'END'\n{nodes}{commands}END")
    name = alice("rexec", "dag", "chain.dag").strip()
    until(lambda: alice.lines("one.begun"), "the first has begun", within=2 * PLACE)
    alice.sh("pkill -KILL -f 'batch[.]process import'; touch one.go")
    until(lambda: '"stopped"' in alice("rexec", "jobs", "--json"), "it is stopped")
    assert alice("rexec", "resume") == f"batch {name} goes on\n"
    until(lambda: alice.lines("two.begun"), "the second has begun", within=3 * PLACE)
    assert _told(alice, name, "one")[-1] == ("done", 0)
    alice("rexec", "kill", name)
    until(_ended(alice, name), "it has ended", within=2 * PLACE)
    assert _told(alice, name, "two")[-1] == ("killed", None)
    assert alice.lines("two.0.out") == [] and not alice("condor_q", "-af", "ClusterId").split()


def test_a_job_that_no_machine_here_takes_runs_on_another_pool_s(alice: Access) -> None:
    alice.pool.boot("p4")
    alice.pool.on("p1", "sh", "-c", "echo 'FLOCK_TO = 10.80.1.4' >/etc/condor/config.d/60-flock && condor_reconfig")
    try:
        ready = "condor_status -pool p4 -af Machine 2>/dev/null || :"
        until(lambda: alice.sh(ready) == "p4\n", "the other pool's machine is known there", within=PLACE)
        name = alice.submit("--require", 'Machine == "p4"', "--name", "far", "sh", "-c", WAITS.format(name="far"))
        until(lambda: alice.lines("far.begun"), "the job has begun", within=2 * PLACE)
        alice.sh("pkill -KILL -x ssh && touch far.go")
        until(alice.has(name, status=0), "the job has ended", within=PLACE)
        assert alice.has(name, status=0)()[0]["host"] == "p4"
        assert len(alice.lines("far.begun")) == 1 and alice.lines("far.0.out") == ["end"]
    finally:
        alice.pool.on("p1", "sh", "-c", "rm /etc/condor/config.d/60-flock && condor_reconfig")
        alice.pool.down("p4")


def test_what_a_pool_cannot_do_is_said_in_a_sentence(alice: Access) -> None:
    said = alice.sh("rexec submit --engine condor --require 'Memory >' true 2>&1; echo $?").splitlines()
    assert said[-1] == "125" and said[-2].startswith("rexec: condor_submit failed: ")
    assert alice.sh("rexec --on condor:9999.0 true 2>&1; echo $?").splitlines()[-1] == "125"


def test_the_doctor_says_what_each_machine_lacks_and_leaves_no_job(alice: Access) -> None:
    alice.pool.on("p2", "mv", "/usr/bin/python3", "/usr/bin/python3.away")
    alice.pool.on("p3", "chmod", "600", "/dev/fuse")
    try:
        said = json.loads(alice.sh("rexec doctor --engine condor --json; echo $? >doctor.status"))
    finally:
        alice.pool.on("p2", "mv", "/usr/bin/python3.away", "/usr/bin/python3")
        alice.pool.on("p3", "chmod", "666", "/dev/fuse")
    assert alice.lines("doctor.status") == ["1"]
    assert {each["what"]: each["state"] for each in said["pool"]}.keys() >= {
        "tools",
        "schedd",
        "ssh_to_job",
        "machines",
    }
    assert {each["state"] for each in said["pool"]} == {"ok"}
    wrong = {node["name"]: [each for each in node["checks"] if each["state"] == "bad"] for node in said["nodes"]}
    assert [(each["what"], each["mend"]) for each in wrong["p2"]] == [
        ("python", "there, as root: apt-get install python3")
    ]
    assert [each["what"] for each in wrong["p3"]] == ["/dev/fuse", "namespaces"]
    assert not alice("condor_q", "-af", "ClusterId").split()
    assert alice.sh("ls -d /tmp/rexec-doctor-* 2>/dev/null || :") == ""


def test_the_doctor_says_that_no_schedd_answers(alice: Access) -> None:
    alice.pool.on("p1", "condor_off", "-schedd")
    try:
        until(lambda: "bad   schedd" in alice.sh("rexec doctor --engine condor || :"), "the schedd is said to be gone")
    finally:
        alice.pool.on("p1", "condor_on", "-schedd")
    until(lambda: alice.sh("condor_q >/dev/null && echo yes || :"), "the schedd is there again", within=PLACE)


def test_the_owner_s_idle_time_is_an_attribute_of_a_machine_on_which_rexec_is(alice: Access) -> None:
    pool = alice.pool
    ours = subprocess.run(
        pool.argv("p1", ["tar", "c", "-C", "/", "opt/rexec", "usr/local/bin/rexec"]), check=True, stdout=subprocess.PIPE
    ).stdout
    subprocess.run(pool.argv("p2", ["tar", "x", "-C", "/"]), check=True, input=ours)
    lines = """
STARTD_CRON_JOBLIST = $(STARTD_CRON_JOBLIST) OWNER
STARTD_CRON_OWNER_EXECUTABLE = /usr/local/bin/rexec
STARTD_CRON_OWNER_ARGS = owner --condor --every 5s
STARTD_CRON_OWNER_MODE = WaitForExit
STARTD_CRON_OWNER_PERIOD = 10s
"""
    pool.on("p2", "sh", "-c", f"echo '{lines}' >/etc/condor/config.d/60-owner && condor_reconfig")

    def idle() -> int:
        said = alice("condor_status", "-constraint", 'Machine == "p2"', "-af", "RexecOwnerIdle").split()
        return int(said[0]) if said and said[0].isdigit() else -1

    types = ["python3", "-c", "import os, time; fds = os.openpty(); os.write(fds[0], b'key\\n'); time.sleep(999)"]
    try:
        until(lambda: idle() > 20, "its owner has been away for a while", within=PLACE)
        with subprocess.Popen(pool.argv("p2", types)) as typing:
            try:
                until(lambda: 0 <= idle() < 20, "its owner is back", within=PLACE)
            finally:
                typing.kill()
                pool.on("p2", "pkill", "-f", "openpty")
    finally:
        pool.on(
            "p2", "sh", "-c", "rm -r /etc/condor/config.d/60-owner /opt/rexec /usr/local/bin/rexec; condor_reconfig"
        )


def _reachable(alice: Access) -> None:
    """Have ssh on p2 and p3, into which alice may log in."""
    alice.sh("mkdir -p -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519 </dev/null")
    alice.sh("echo StrictHostKeyChecking accept-new >.ssh/config")
    key = alice.sh("cat .ssh/id_ed25519.pub").strip()
    for host in ("p2", "p3"):
        alice.pool.on(host, "sh", "-c", "mkdir -p /run/sshd && ssh-keygen -A && exec /usr/sbin/sshd")
        alice.pool.on(host, "sh", "-c", f"mkdir -p -m 700 .ssh && echo '{key}' >.ssh/authorized_keys", user="alice")


@pytest.mark.timeout(600)  # it makes a pool of its own
def test_a_pool_that_wants_tokens_is_as_any_other() -> None:
    with pool.submitting("condor", tokens=True) as alice:
        shown = alice("condor_status", "-af", "AuthenticationMethod").split()
        assert set(shown) == {"IDTOKENS"}
        pool_jobs.gives_each_status(alice)
        job = Counting(alice, "counter", "--every", "5s", "--lease", "20s")
        job.moves("rexec", "vacate", f"{job.name}.0")
        job.moves("condor_vacate_job", f"{job.engines()}.0")
        job.end()
        said = json.loads(alice("rexec", "doctor", "--engine", "condor", "--json"))
        assert {each["state"] for each in said["pool"]} == {"ok"}


@pytest.mark.timeout(600)  # a host dies, and HTCondor takes its time
def test_a_personal_pool_of_one_s_own_hosts_and_nothing_of_it_is_left(alice: Access) -> None:
    _reachable(alice)
    alice("rexec", "pool", "up", "--on", "p2,p3")
    try:
        name = alice.submit("-n", "8", "--name", "own", "sh", "-c", "echo {}; exit {}")
        until(lambda: len(alice.has(name, **{"is": "done"})()) == 8, "all have ended", within=4 * PLACE)
        ended = alice.has(name, **{"is": "done"})()
        assert {each["job"]: each["status"] for each in ended} == {job: job for job in range(8)}
        assert {each["host"] for each in ended} == {"p2", "p3"}
        assert all(alice.lines(f"own.{job}.out") == [str(job)] for job in range(8))
        config = alice.sh("echo ~/.local/state/rexec/pool/condor_config").strip()
        alice.pool.on("p1", "sh", "-c", f"cat {config} >/tmp/seen && chmod 644 /tmp/seen")
        another = ["env", "CONDOR_CONFIG=/tmp/seen", "setpriv", "--reuid", "65534", "--clear-groups", "condor_status"]
        with pytest.raises(DeskError, match="DENIED"):
            alice.pool.on("p1", *another)
        name = alice.submit("--require", 'Machine == "p2"', "--name", "fixed", "sh", "-c", WAITS.format(name="fixed"))
        until(lambda: alice.lines("fixed.begun"), "it has begun", within=PLACE)
        said = alice.sh("rexec pool down 2>&1 || :")
        assert said == f"rexec: batch {name} has jobs left in it: say `rexec kill {name}`, or wait for them\n"
        alice("rexec", "kill", name)
        lone = alice.submit("--name", "lone", "--rank", 'Machine == "p3"', "sh", "-c", WAITS.format(name="lone"))
        until(lambda: alice.lines("lone.begun"), "it has begun", within=PLACE)
        host = until(alice.has(lone, **{"is": "running"}), "it is said where")[0]["host"]
        alice.pool.down(host)
        until(lambda: len(alice.lines("lone.begun")) == 2, "it has begun again elsewhere", within=5 * PLACE)
        alice.sh("touch lone.go")
        until(alice.has(lone, status=0), "it has ended", within=PLACE)
        assert alice.has(lone, status=0)()[0]["host"] == ({"p2", "p3"} - {host}).pop()
    finally:
        alice.sh("for b in $(rexec jobs | sed -n 's/^\\(b[0-9]*\\) .*supervised.*/\\1/p'); do rexec kill $b; done || :")
        alice("rexec", "pool", "down")
    assert (
        alice.sh("pgrep -u alice -l condor || :") == "" and alice.sh("ls ~/.local/state/rexec | grep pool || :") == ""
    )
