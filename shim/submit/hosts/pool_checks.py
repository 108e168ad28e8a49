"""What rexec needs of an HTCondor pool or a Slurm cluster, held against what it says of itself. Pure.

A verdict a line, as those on a host (checks.py). What a node has is looked at from within a job there (pool_trial.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shim.submit.engines.asked import Machine, Slurm
from shim.submit.hosts.checks import BAD, NOTE, OK, Check

CONDOR, SLURM = "condor", "slurm"
NAMES = {CONDOR: "HTCondor", SLURM: "Slurm"}
OLDEST = {CONDOR: (23, 9), SLURM: (22, 5)}
"""The oldest versions that rexec is for."""

_INSTALL = {CONDOR: "apt-get install condor openssh-client", SLURM: "apt-get install slurm-client"}
_SHORT = 60  # seconds: what has less to leave in may lose what it did since its last image
_LACKS = {
    "HasSshd": ("condor_ssh_to_job is refused there: it has no sshd", "apt-get install openssh-server"),
    "HasFileTransfer": ("it takes no files of jobs", "set STARTER_ALLOW_FILE_TRANSFER, and condor_reconfig"),
    "Start": ("its START policy takes no job now", "see condor_config_val START, or wait until its owner has left"),
}


def tools(engine: str, missing: Sequence[str]) -> Check:
    """Judge whether this machine has the engine's programs."""
    if not missing:
        return Check(OK, "tools", "all that are needed are here")
    mend = f"here, as root: {_INSTALL[engine]}; or run rexec on a machine that submits to the pool"
    return Check(BAD, "tools", f"not here: {', '.join(missing)}", mend)


def release(engine: str, version: str) -> Check:
    """Judge a version; "" is one that nobody could read."""
    if version and _numbers(version) < OLDEST[engine]:
        oldest = ".".join(map(str, OLDEST[engine])) if engine == CONDOR else "22.05"
        return Check(BAD, "version", f"{version} is older than {oldest}", f"upgrade {NAMES[engine]}")
    return Check(OK if version else NOTE, "version", version or "it does not say")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def queue(engine: str, error: str) -> Check:
    """Judge whether who keeps the queue answers."""
    if engine == CONDOR:
        mend = "here, as root: systemctl start condor; or set CONDOR_CONFIG; see `condor_q`"
        return Check(BAD, "schedd", error, mend) if error else Check(OK, "schedd", "answers")
    mend = "there, as root: systemctl start slurmctld; or set SLURM_CONF; see `scontrol ping`"
    return Check(BAD, "controller", error, mend) if error else Check(OK, "controller", "answers")


def entering(allowed: bool) -> Check:
    """Judge whether the schedd here lets a user into the user's own jobs, as far as its settings tell."""
    if allowed:
        return Check(OK, "ssh_to_job", "is not switched off here")
    mend = "here, as root: set SCHEDD_ENABLE_SSH_TO_JOB = True, and condor_reconfig"
    return Check(BAD, "ssh_to_job", "SCHEDD_ENABLE_SSH_TO_JOB is False: no stream goes into a job", mend)


def machines(engine: str, found: Sequence[Machine], error: str = "") -> Check:
    """Judge which machines there are."""
    see = {CONDOR: "condor_status", SLURM: "sinfo"}[engine]
    if error or not found:
        return Check(BAD, "machines", error or "there are none", f"see `{see}`")
    kinds = sorted({each.kind for each in found})
    more = f" and {len(kinds) - 3} other kinds" if len(kinds) > 3 else ""
    return Check(OK, "machines", f"{len(found)}: {'; '.join(kinds[:3])}{more}")


def cluster(found: Slurm) -> list[Check]:
    """Judge the settings of a Slurm cluster, and of the partition that a batch goes to."""
    settings, partition = found.settings, found.partition
    wait = settings.get("KillWait", "?").split(" ")[0]
    checks = [Check(OK, "partition", f"{partition['PartitionName']}: {partition.get('State', '?')}")]
    if partition.get("State") != "UP":
        mend = "set SBATCH_PARTITION to one that is UP; `sinfo` names them"
        checks = [Check(BAD, "partition", f"{partition['PartitionName']} is {partition.get('State', '?')}", mend)]
    checks.append(_preemption(settings, partition))
    checks.append(_leaves(int(wait) if wait.isdigit() else None, "there, as root: raise KillWait in slurm.conf"))
    if settings.get("JobContainerType", "(null)") not in ("(null)", "", "job_container/none"):
        text = f"{settings['JobContainerType']}: a job has a /tmp of its own, with which nobody has tried rexec"
        checks.append(Check(NOTE, "containers", text))
    return checks


def _preemption(settings: Mapping[str, str], partition: Mapping[str, str]) -> Check:
    mode = partition.get("PreemptMode", "OFF")
    if settings.get("PreemptType", "(null)") in ("(null)", "preempt/none") or mode == "OFF":
        return Check(OK, "preemption", "there is none")
    if mode in ("SUSPEND", "GANG"):
        text = f"{mode}: a job that is preempted stands still, and so does what waits for it here"
        return Check(NOTE, "preemption", text, "there, as root: PreemptMode=REQUEUE for the partition")
    return Check(OK, "preemption", f"{mode}, within {partition.get('GraceTime', '?')} s: such a job gets another place")


def _leaves(seconds: int | None, mend: str) -> Check:
    if seconds is None:
        return Check(NOTE, "leaving", "it does not say how long a job that is told to leave has")
    text = f"a job that is told to leave has {seconds} s"
    return Check(NOTE, "leaving", text, mend) if seconds < _SHORT else Check(OK, "leaving", text)


def machine(engine: str, found: Machine) -> list[Check]:
    """Judge what a machine says of itself."""
    checks = [release(engine, found.version)]
    for lack in found.lacks:
        text, mend = _LACKS[lack]
        checks.append(Check(BAD if lack != "Start" else NOTE, "place", text, f"there, as root: {mend}"))
    if found.leaves is not None:
        checks.append(_leaves(found.leaves, "there, as root: raise MachineMaxVacateTime"))
    return checks


def no_place(engine: str, found: Machine, seconds: float, why: str) -> Check:
    """Say that a machine gave no place in which one could have looked."""
    ask = f"rexec doctor --engine {engine} {found.name}"
    text = f"none within {seconds:.0f} s: it is {found.state}{f' ({why})' if why else ''}; nothing else could be tried"
    return Check(NOTE, "place", text, f"when it is free: {ask}")


def place(seconds: float) -> Check:
    """Say when a machine gave a place."""
    return Check(OK, "place", f"after {seconds:.1f} s")


def place_ended(status: int | None, why: str) -> Check:
    """Judge a place that ended by itself, at once: its pilot needs python3."""
    if status in (126, 127):
        return Check(BAD, "python", "there is no python3", "there, as root: apt-get install python3")
    text = why or f"it ended by itself{'' if status is None else f' with status {status}'}"
    return Check(BAD, "place", text, "see the engine's log of that job")


def refused(engine: str, error: str) -> Check:
    """Judge a place into which no stream goes, or in which nothing of rexec's starts."""
    mend = "see `rexec --on` such a job by hand"
    if engine == CONDOR and "python" not in error:
        mend = "there, as root: apt-get install openssh-server; ENABLE_SSH_TO_JOB = True; a real shell for your login"
    elif engine == SLURM:
        mend = "let its nodes connect to this machine (SrunPortRange), and see `srun --overlap` into a job of yours"
    return Check(BAD, "stream", error, mend)
