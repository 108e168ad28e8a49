"""What an engine says of itself and of its machines, for those who look what a pool lacks (rexec doctor --engine)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from remoteio.errors import RexecError
from remoteio.printable import printable
from remoteio.submit import programs
from shim.submit.engines import condor, slurm
from shim.submit.shapes import ShapeError, any_of, flag, listed, mapping, number, string, text

CONDOR_TOOLS = (
    "condor_submit", "condor_q", "condor_status", "condor_ssh_to_job", "condor_hold", "condor_release", "condor_rm",
    "condor_vacate_job", "condor_prio", "condor_config_val", "ssh", "ssh-keygen",
)  # fmt: skip
SLURM_TOOLS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "env")
_ATTRIBUTES = (
    "Machine", "CondorVersion", "OpSysAndVer", "Arch", "State", "Activity", "Start", "HasSshd", "HasFileTransfer",
    "MachineMaxVacateTime", "PartitionableSlot",
)  # fmt: skip
_SLOTS = 100_000  # of a pool
_ADS = listed(mapping(text(64), any_of(flag, number(-1e18, 1e18), string), len(_ATTRIBUTES)), _SLOTS)
_SETTING = re.compile(r"^(\w+)\s*= (.*?)\s*$", re.M)
_FIELD = re.compile(r"(\w+)=(\S*)")
_NAME = re.compile(r"[\w.:-]{1,255}")  # what may stand in an expression, or a script, as it is


class Machine(NamedTuple):
    """A machine of a pool: of what `kind` (system, version), in which state; what of it rexec cannot use, and the time
    in seconds that it gives a job to leave, if it says so.
    """

    name: str
    kind: str
    version: str
    state: str
    lacks: tuple[str, ...] = ()
    leaves: int | None = None


def missing(tools: tuple[str, ...]) -> list[str]:
    """List those of the programs that are not here."""
    return [each for each in tools if programs.find(each) is None]


def version(said: str) -> str:
    """Read the version in what a program says of itself; "" if there is none. Pure."""
    found = re.search(r"\b(\d{1,4}(?:\.\d{1,4}){1,3})\b", said)
    return found[1] if found else ""


def condor_machines() -> list[Machine]:
    """Ask HTCondor's collector for the pool's machines. Raises RexecError."""
    said = condor.ask(["condor_status", "-json", "-attributes", ",".join(_ATTRIBUTES)])
    return read_ads(said)


def read_ads(said: str) -> list[Machine]:
    """Read what condor_status says of slots: a machine is as its first is, but free if one is. Raises RexecError."""
    try:
        ads: list[Mapping[str, Any]] = _ADS(json.loads(said or "[]"), "what condor_status says")
    except (ValueError, ShapeError) as e:
        raise RexecError(f"what condor_status says cannot be read: {printable(str(e), 200)}; see it by hand") from e
    found: dict[str, Machine] = {}
    for ad in ads:
        machine = _machine(ad)
        if _NAME.fullmatch(machine.name) and (machine.name not in found or machine.state.startswith("Unclaimed")):
            found[machine.name] = machine
    return list(found.values())


def _machine(ad: Mapping[str, Any]) -> Machine:
    words = {key: printable(str(ad.get(key, "?")), 100) for key in _ATTRIBUTES}
    lacks = [key for key in ("HasSshd", "HasFileTransfer", "Start") if ad.get(key) is False]
    leaves = ad.get("MachineMaxVacateTime")
    release = version(words["CondorVersion"])
    kind = f"{words['OpSysAndVer']} {words['Arch']}, HTCondor {release or '?'}"
    name = words["Machine"] if "Machine" in ad else ""
    state = f"{words['State']} {words['Activity']}"
    return Machine(name, kind, release, state, tuple(lacks), leaves if type(leaves) is int else None)


class Slurm(NamedTuple):
    """A cluster: its settings, those of the partition that a batch goes to, and that one's nodes."""

    settings: Mapping[str, str]
    partition: Mapping[str, str]
    nodes: list[Machine]


def slurm_cluster() -> Slurm:
    """Ask Slurm's controller. Raises RexecError."""
    partitions = slurm.ask(["scontrol", "show", "partition", "--oneliner"])
    partition = read_partition(partitions, os.environ.get("SBATCH_PARTITION"))
    nodes = slurm.ask(["sinfo", "-h", "-N", "-p", partition["PartitionName"], "-o", "%N|%T|%v"])
    return Slurm(read_settings(slurm.ask(["scontrol", "show", "config"])), partition, read_nodes(nodes))


def read_settings(said: str) -> dict[str, str]:
    """Read what `scontrol show config` says. Pure."""
    return {key: printable(value, 200) for key, value in _SETTING.findall(said)}


def read_partition(said: str, wanted: str | None) -> dict[str, str]:
    """Find the partition that a batch goes to, of those that `scontrol show partition` tells of. Raises RexecError."""
    found = [{key: printable(value, 200) for key, value in _FIELD.findall(line)} for line in said.splitlines()]
    for each in found:
        if "PartitionName" in each and (each["PartitionName"] == wanted if wanted else each.get("Default") == "YES"):
            return each
    if wanted:
        raise RexecError(f"Slurm has no partition {printable(wanted, 100)!r} (SBATCH_PARTITION): see `sinfo`")
    raise RexecError("Slurm has no partition that is its default: set SBATCH_PARTITION; `sinfo` names them")


def read_nodes(said: str) -> list[Machine]:
    """Read what sinfo says of nodes. Pure."""
    found = []
    for line in said.splitlines():
        name, _, rest = line.partition("|")
        state, _, release = rest.partition("|")
        if _NAME.fullmatch(name):
            found.append(Machine(name, f"Slurm {printable(release, 40)}", version(release), printable(state, 40)))
    return found
