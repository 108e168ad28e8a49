"""A Slurm cluster as it is: it gives rexec's jobs their places and takes them away, and nothing is installed there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests import pool, pool_jobs
from tests.pool import PLACE, WAITS, Access
from tests.until import until

pytestmark = [pytest.mark.longest, pytest.mark.timeout(300)]  # some wait for the engine three times, PLACE each


@pytest.fixture(scope="module")
def alice() -> Iterator[Access]:
    with pool.submitting("slurm") as access:
        yield access


def test_a_cluster_runs_a_batch_and_knows_each_status(alice: Access) -> None:
    pool_jobs.gives_each_status(alice)
    # what its own queue says of them, and a dependency there would go by
    said = "squeue --me -h -r -t CD,F -n each -O 'ArrayTaskID:|,exit_code:|' | sort"
    until(lambda: alice.sh(said).split() == [f"{job}|{job}:0|" for job in range(5)], "Slurm knows", within=PLACE)
    for host in ("p2", "p3"):
        until(lambda host=host: not alice.pool.on(host, "sh", "-c", "ls -d /tmp/rexec-* 2>/dev/null || :"), "no file")


def test_hold_release_and_kill_are_slurm_s_too(alice: Access) -> None:
    name = alice.submit("-n", "2", "--name", "held", "sh", "-c", WAITS.format(name="held{}"))
    until(lambda: alice.lines("held0.begun") and alice.lines("held1.begun"), "both have begun", within=PLACE)
    alice("scontrol", "requeuehold", alice.task(name, 1))  # by somebody else
    alice("rexec", "hold", f"{name}.0")
    until(alice.has(name, job=0, **{"is": "held"}), "it is held")
    assert alice("squeue", "-h", "-j", alice.task(name), "-O", "PriorityLong").strip() == "0"
    alice("rexec", "priority", name, "-7")
    assert alice("squeue", "-h", "-j", alice.task(name), "-O", "Nice").strip() == "7"
    assert alice("squeue", "-h", "-j", alice.task(name), "-O", "PriorityLong").strip() == "0", "it is held still"
    alice("rexec", "release", f"{name}.0")
    until(alice.has(name, job=1, **{"is": "held"}), "the other is held too", within=PLACE)
    alice("rexec", "kill", f"{name}.1")
    until(alice.has(name, job=1, **{"is": "killed"}), "it is killed")
    until(lambda: len(alice.lines("held0.begun")) == 2, "it has begun again", within=PLACE)
    alice.sh("touch held0.go")
    until(alice.has(name, job=0, status=0), "it has ended", within=PLACE)
    assert len(alice.lines("held1.begun")) == 1


def test_what_slurm_gives_to_others_is_run_again(alice: Access) -> None:
    name = alice.submit("--name", "preempted", "sh", "-c", WAITS.format(name="preempted"))
    until(lambda: alice.lines("preempted.begun"), "the job has begun", within=PLACE)
    others = alice(
        "sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o/dev/null", "--wrap=sleep 1000"
    ).strip()
    until(lambda: alice("squeue", "-h", "-j", others, "-o", "%t").strip() == "R", "the others run", within=PLACE)
    until(alice.has(name, **{"is": "waiting"}), "the job waits", within=PLACE)
    alice("scancel", others)
    until(lambda: len(alice.lines("preempted.begun")) == 2, "it has begun again", within=PLACE)
    alice.sh("touch preempted.go")
    until(alice.has(name, status=0), "it has ended", within=PLACE)
    assert alice.lines("preempted.0.out") == ["end"]


def test_a_job_whose_link_is_lost_takes_no_node_out_when_it_is_cancelled(alice: Access) -> None:
    """It reads a file of home's, from which nothing comes any more: Slurm takes out a node that cannot kill a job."""
    name = alice.submit("--name", "lost", "sh", "-c", "echo >>lost.begun; while cat lost.begun; do :; done")
    until(lambda: alice.lines("lost.begun"), "the job has begun", within=PLACE)
    alice.sh("pkill -STOP -f -- '[-]-on slurm:'")
    alice("scancel", alice.task(name))
    alice.settled()
    until(alice.has(name, **{"is": "killed"}), "it is killed", within=PLACE)


def test_what_slurm_cannot_do_is_said_in_a_sentence(alice: Access) -> None:
    def said(*words: str) -> str:
        *_, sentence, status = alice.sh(f"rexec {' '.join(words)} 2>&1; echo $?").splitlines()
        assert status == "125"
        return sentence

    assert said("submit --engine slurm --memory 900G true").startswith("rexec: sbatch failed: ")
    assert said("--on slurm:9999 true").startswith("rexec: cannot reach slurm:9999: srun says ")
    assert said("submit --engine slurm --require X true").endswith("set SBATCH_CONSTRAINT")
    assert said("submit --engine slurm --time soon true").startswith("rexec: --time 'soon' is no time as Slurm has it")


def test_the_jobs_of_a_node_that_dies_run_on_another(alice: Access) -> None:
    name = alice.submit("--name", "dead", "sh", "-c", WAITS.format(name="dead"))
    until(alice.has(name, **{"is": "running"}), "the job runs", within=PLACE)
    until(lambda: len(alice.lines("dead.begun")) == 1, "the job has begun", within=PLACE)
    host = alice.has(name, **{"is": "running"})()[0]["host"]
    alice.dies(host)
    try:
        until(lambda: len(alice.lines("dead.begun")) == 2, "the job has begun again", within=PLACE)
        alice.sh("touch dead.go")
        until(alice.has(name, status=0), "the job has ended", within=PLACE)
        assert alice.has(name, status=0)()[0]["host"] != host
        assert alice.lines("dead.0.out") == ["end"]
    finally:
        alice.pool.boot(host)
    alice.settled()


def test_the_doctor_says_what_each_node_lacks_and_leaves_no_job(alice: Access) -> None:
    alice.pool.on("p2", "mv", "/usr/bin/python3", "/usr/bin/python3.away")
    alice.pool.on("p3", "chmod", "600", "/dev/fuse")
    try:
        said = json.loads(alice.sh("rexec doctor --engine slurm --json; echo $? >doctor.status"))
    finally:
        alice.pool.on("p2", "mv", "/usr/bin/python3.away", "/usr/bin/python3")
        alice.pool.on("p3", "chmod", "666", "/dev/fuse")
    assert alice.lines("doctor.status") == ["1"]
    found = {each["what"]: each for each in said["pool"]}
    assert found["preemption"]["text"].startswith("REQUEUE")
    assert found["leaving"]["state"] == "note" and "has 20 s" in found["leaving"]["text"]
    wrong = {node["name"]: [each for each in node["checks"] if each["state"] == "bad"] for node in said["nodes"]}
    assert [(each["what"], each["mend"]) for each in wrong["p2"]] == [
        ("python", "there, as root: apt-get install python3")
    ]
    assert [each["what"] for each in wrong["p3"]] == ["/dev/fuse", "namespaces"]
    assert not alice("squeue", "--me", "-h", "-t", "PD,R,CG")
    assert alice.sh("ls -d /tmp/rexec-doctor-* 2>/dev/null || :") == ""
