"""What the doctor concludes from what a pool says of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from remoteio.errors import RexecError
from shim.submit.engines import asked
from shim.submit.engines.asked import Machine, Slurm
from shim.submit.hosts import pool_checks
from shim.submit.hosts.checks import BAD, NOTE, OK, Check
from shim.submit.hosts.pool_checks import CONDOR, SLURM
from shim.submit.hosts.pool_trial import TRIED, choose

AD: dict[str, Any] = {
    "Machine": "p2", "CondorVersion": "$CondorVersion: 23.9.6 2026-07-12 $", "OpSysAndVer": "Debian13",
    "Arch": "X86_64", "State": "Claimed", "Activity": "Busy", "Start": True, "HasSshd": True,
    "MachineMaxVacateTime": 600,
}  # fmt: skip
PARTITIONS = """\
PartitionName=low Default=YES PreemptMode=REQUEUE GraceTime=30 State=UP Nodes=p[2-3]
PartitionName=high Default=NO PreemptMode=SUSPEND State=DOWN Nodes=p[2-3]
"""


def states(found: list[Check]) -> dict[str, str]:
    return {each.what: each.state for each in found}


def test_a_machine_is_read_of_its_slots_and_is_free_if_one_of_them_is() -> None:
    free = {**AD, "State": "Unclaimed", "Activity": "Idle"}
    (found,) = asked.read_ads(json.dumps([AD, free, AD]))
    assert found == Machine("p2", "Debian13 X86_64, HTCondor 23.9.6", "23.9.6", "Unclaimed Idle", (), 600)
    assert states(pool_checks.machine(CONDOR, found)) == {"version": OK, "leaving": OK}


@pytest.mark.parametrize("name", ['p2" || TRUE || "', "p2\nnodelist", "", "x" * 300])
def test_a_machine_with_a_name_that_is_none_is_passed_over(name: str) -> None:
    assert asked.read_ads(json.dumps([{**AD, "Machine": name}])) == []


@pytest.mark.parametrize("said", ["{", "[1]", '[{"Machine": []}]', '[{"Machine": {"a": 1}}]'])
def test_what_the_collector_says_is_read_as_declared(said: str) -> None:
    with pytest.raises(RexecError, match="cannot be read"):
        asked.read_ads(said)


def test_no_machine_is_said() -> None:
    assert asked.read_ads("") == []
    assert pool_checks.machines(CONDOR, []).state == BAD


@pytest.mark.parametrize(
    ("changed", "what", "state"),
    [
        ({"HasSshd": False}, "place", BAD),
        ({"HasFileTransfer": False}, "place", BAD),
        ({"Start": False}, "place", NOTE),
        ({"Start": "/Expr(KeyboardIdle > 900)/"}, "version", OK),
        ({"MachineMaxVacateTime": 20}, "leaving", NOTE),
        ({"CondorVersion": "$CondorVersion: 10.0.9 2024-01-01 $"}, "version", BAD),
    ],
)
def test_what_a_machine_lacks_is_said_with_the_mend(changed: dict[str, Any], what: str, state: str) -> None:
    (machine,) = asked.read_ads(json.dumps([{**AD, **changed}]))
    (found,) = [each for each in pool_checks.machine(CONDOR, machine) if each.what == what]
    assert found.state == state and bool(found.mend) == (state != OK)


def test_programs_that_are_missing_and_old_versions_are_named() -> None:
    found = pool_checks.tools(SLURM, ["srun"])
    assert found.state == BAD and "srun" in found.text and "slurm-client" in found.mend
    assert pool_checks.release(SLURM, "22.05.3").state == OK
    assert pool_checks.release(SLURM, "21.08.8").state == BAD
    assert pool_checks.release(CONDOR, "25.0.1").state == OK


def test_a_cluster_is_judged_by_the_partition_that_a_batch_goes_to() -> None:
    settings = asked.read_settings("KillWait                = 90 sec\nPreemptType = preempt/partition_prio\n")
    low = Slurm(settings, asked.read_partition(PARTITIONS, None), [])
    assert states(pool_checks.cluster(low)) == {"partition": OK, "preemption": OK, "leaving": OK}
    high = Slurm({**settings, "KillWait": "5 sec"}, asked.read_partition(PARTITIONS, "high"), [])
    assert states(pool_checks.cluster(high)) == {"partition": BAD, "preemption": NOTE, "leaving": NOTE}
    with pytest.raises(RexecError, match="no partition 'mid'"):
        asked.read_partition(PARTITIONS, "mid")
    with pytest.raises(RexecError, match="set SBATCH_PARTITION"):
        asked.read_partition(PARTITIONS.replace("YES", "NO"), None)


def test_one_of_each_kind_is_tried_first_and_the_free_ones_of_a_kind() -> None:
    many = [Machine(f"a{k}", "old", "23.9", "Claimed Busy") for k in range(20)]
    few = [Machine("new", "new", "25.0", "Claimed Busy"), Machine("z", "old", "23.9", "Unclaimed Idle")]
    found = choose([*many, *few])
    assert {each.name for each in found[:2]} == {"new", "z"} and len(found) == TRIED
    assert asked.read_nodes("p2|idle|24.11.5\nbad name|idle|1.2\n") == [
        Machine("p2", "Slurm 24.11.5", "24.11.5", "idle")
    ]


def test_a_place_that_ends_at_once_tells_why() -> None:
    assert pool_checks.place_ended(127, "").text == "there is no python3"
    assert pool_checks.place_ended(None, "held by its owner").text == "held by its owner"
    assert pool_checks.no_place(CONDOR, asked.read_ads(json.dumps([AD]))[0], 60, "").state == NOTE
