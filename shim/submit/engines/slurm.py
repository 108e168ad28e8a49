"""Slurm: what it is told of a batch, what its queue says of each job, and a stream into a running one.

Versions 22.05 and later. Sources: sbatch(1), srun(1), squeue(1), scontrol(1); and what was seen on a real cluster
(docs/pools.md). Each job of a batch is a task of an array.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from remoteio.errors import RexecError
from remoteio.printable import printable
from remoteio.submit import programs
from remoteio.submit.transport.program import ProgramStream, open_program
from remoteio.submit.transport.stream import TransportError, last_line
from shim.submit.engines import allowed
from shim.submit.engines.told import GONE, HELD, LOST, RUNNING, SUSPENDED, WAITING

SCRIPT = "slurm.sh"

_STATES = {
    "PD": WAITING, "CF": WAITING, "RQ": WAITING, "R": RUNNING, "S": SUSPENDED, "ST": SUSPENDED, "CG": LOST, "SO": LOST,
    "SI": RUNNING, "RH": HELD, "SE": HELD,
    "NF": LOST, "PR": LOST, "BF": LOST, "RV": LOST,
    "CD": GONE, "F": GONE, "CA": GONE, "TO": GONE, "OOM": GONE, "DL": GONE,
}  # fmt: skip
_OVER = frozenset(("NF", "PR", "BF", "RV", "CD", "F", "CA", "TO", "OOM", "DL"))
_FIELDS = (
    "ArrayJobID", "ArrayTaskID", "JobID", "StateCompact", "RestartCnt", "exit_code", "NodeList", "ExcNodes",
    "PriorityLong", "Reason",
)  # fmt: skip
_WHY = {"TO": "it has run for as long as Slurm lets it (--time)", "OOM": "it had more memory than it asked for"}
_SECONDS = 60.0  # for a controller that is busy to answer
_START = 20  # seconds within which a pilot serves, once its job has begun

# What runs in a job's place. The pilot is a step: Slurm tells steps that they are to end, and not always the script.
# Its directory has a name of which nobody else can have made one before; what an earlier run has left there goes.
_BEGIN = """\
PATH=/usr/local/bin:/usr/bin:/bin:{tools}
export PATH
command -v python3 >/dev/null || exit 127
umask 077
trap : TERM
rm -rf "/tmp/rexec-slurm-$SLURM_JOB_ID".*
d=$(mktemp -d "/tmp/rexec-slurm-$SLURM_JOB_ID.XXXXXXXXXX") && cd "$d" || exit 1
cat >rexec-pilot <<'END-OF-PILOT'
{pilot}END-OF-PILOT
srun --overlap --nodes=1 --ntasks=1 --cpus-per-task={cpus} --export=ALL python3 -IS rexec-pilot hold </dev/null
status=$?
cd /
rm -rf "$d"
exit $status
"""
_INSIDE = """\
n=0
until for d in "/tmp/rexec-slurm-$SLURM_JOB_ID".*; do [ -O "$d" ] && [ -S "$d/rexec.socket" ] && break; done; do
n=$((n+1)); [ $n -le {tries} ] || {{ echo "no pilot serves in this job: it is none of rexec submit" >&2; exit 1; }}
sleep 0.1
done
cd "$d" && exec python3 -IS rexec-pilot {words}
"""


class Seen(NamedTuple):
    """A task of an array, as Slurm's queue has it: its array and number there, and what it is called by itself."""

    array: int
    task: int
    id: int
    state: str
    restarts: int = 0
    host: str = ""
    excluded: bool = False  # some host is not to be given to it
    over: bool = False  # it has ended, and Slurm runs it no more
    status: int | None = None
    why: str = ""

    @property
    def name(self) -> str:
        """What Slurm's programs call it: a task that waits shares its own number with others."""
        return f"{self.array}_{self.task}"


def stream(job: str, command: str) -> ProgramStream:
    """Run `command` in the running job of that number as a child of its pilot. Raises TransportError."""
    # srun without -u keeps what is written until there is a line of it
    words = f"run {command.encode('utf-8', 'surrogateescape').hex()}"

    def explain(said: str) -> TransportError:
        last = last_line(said) or "it said nothing"
        return TransportError(f"cannot reach slurm:{job}: srun says {last!r}; see `squeue -j {job}`")

    return open_program(f"slurm:{job}", _into(job, words), 1, explain)


def end(job: str, status: int) -> subprocess.Popen[bytes]:
    """Have a running job end with `status`; not waited for: that it has, the queue tells."""
    return subprocess.Popen(
        _into(job, f"end {status}"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def _into(job: str, words: str) -> list[str]:
    return [
        *_tool("srun"), f"--jobid={job}", "--overlap", "--unbuffered", "--quiet", "--nodes=1", "--ntasks=1",
        "--chdir=/tmp", "--export=NIL", "/bin/sh", "-c",
        f"PATH=/usr/local/bin:/usr/bin:/bin\n{_INSIDE.format(tries=_START * 10, words=words)}",
    ]  # fmt: skip


def description(
    name: str, cpus: int, memory: int, time: str | None, priority: int, pilot: str, gpus: int | None = None
) -> str:
    """Write the script that sbatch is given for the places of a batch, each with `memory` MiB.

    It is said nowhere how many: sbatch's command line does. Raises RexecError.
    """
    _check_priority(priority)
    if time is not None:
        allowed.seconds(time)  # for what it raises
    options = {
        "job-name": shlex.quote(printable(name, 100)),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(cpus),
        "mem": f"{memory}M",
        **({"gres": f"gpu:{gpus}"} if gpus is not None else {}),
        **({"time": time} if time is not None else {}),
        **({"nice": str(-priority)} if priority else {}),
        "export": "NIL",
        "chdir": "/tmp",
        "input": "/dev/null",
        "output": "/dev/null",
        "error": "/dev/null",
    }
    tools = os.path.dirname(_tool("srun")[-1])
    heads = "".join(f"#SBATCH --{key}={value}\n" for key, value in options.items())
    begin = _BEGIN.format(tools=tools, pilot=pilot, cpus=cpus)
    return f"#!/bin/sh\n{heads}#SBATCH --requeue\n{begin}"


def check_saves() -> None:
    """Raise RexecError where Slurm, as it takes a job's place, ends each of its processes before it could be saved."""
    found = re.search(r"^ProctrackType\s*=\s*(\S+)", ask(["scontrol", "show", "config"]), re.M)
    if found is not None and found[1] == "proctrack/linuxproc":
        raise RexecError(
            "--checkpoint does not go with this cluster's ProctrackType=proctrack/linuxproc, by which Slurm's SIGTERM "
            "goes to each process of a job and not to its first one alone: ask its administrator for proctrack/cgroup"
        )


def submit(directory: str, count: int, environ: Mapping[str, str] | None = None, priority: int | None = None) -> int:
    """Submit what `description` wrote, for `count` jobs; `priority`: another than it has.

    Returns the number of the array. Raises RexecError.
    """
    nice = [] if priority is None else [f"--nice={-priority}"]
    said = ask(["sbatch", "--parsable", *nice, f"--array=0-{count - 1}", os.path.join(directory, SCRIPT)], environ)
    found = re.match(r"(\d{1,10})(;|$)", said.strip())
    if found is None:
        raise RexecError(f"sbatch answers {printable(said, 200)!r}, which is no number of a job; see `squeue --me`")
    return int(found[1])


def queue() -> list[Seen]:
    """Return what Slurm knows of this user's arrays, those that have just ended among them. Raises RexecError."""
    said = ask(["squeue", "--me", "-h", "-r", "-t", "all", "-O", ",".join(f"{each}:|" for each in _FIELDS)])
    return parsed(said)


def parsed(text: str) -> list[Seen]:
    """Read what squeue prints. Pure: what is no task of an array is passed over."""
    found = []
    for line in text.splitlines():
        values = line.split("|", len(_FIELDS) - 1)
        if len(values) < len(_FIELDS) or values[3] not in _STATES:
            continue
        array, task, job, state, restarts, code, host, excluded, priority, why = values
        if all(re.fullmatch(r"\d{1,10}", each) for each in (array, task, job, restarts)):
            seen = Seen(int(array), int(task), int(job), _STATES[state], int(restarts), printable(host, 100))
            seen = seen._replace(excluded=excluded not in ("", "(null)", "N/A"), over=state in _OVER)
            found.append(_ended(seen, state, code) if seen.state == GONE else _waits(seen, priority, why.rstrip("|")))
    return found


def _waits(seen: Seen, priority: str, why: str) -> Seen:
    if seen.state == WAITING and priority.strip() == "0":
        return seen._replace(state=HELD, why=printable(why, 200))
    return seen


def _ended(seen: Seen, state: str, code: str) -> Seen:
    """Tell how a task has ended: by a signal it has no status, and its place was lost."""
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", code)
    status, signal = (int(found[1]), int(found[2])) if found else (0, 0)
    if state == "CA":
        return seen._replace(why="Slurm was told to cancel it")
    if state == "F" and (signal or status > 128):
        return seen._replace(state=LOST)
    return seen._replace(status=status or 128 + signal if state != "CD" else 0, why=_WHY.get(state, ""))


def act(verb: str, running: Collection[str], others: Collection[str]) -> None:
    """Have Slurm `hold`, `release`, `remove` or `vacate` tasks, by name. A hold takes the places of those that run.

    Raises RexecError.
    """
    both = [*running, *others]
    if verb == "remove":
        _each(["scancel"], both)
    elif verb == "release":
        _each(["scontrol", "release"], both)
    elif verb == "hold":
        _each(["scontrol", "requeuehold"], running)
        _each(["scontrol", "hold"], others)
    elif running:
        _each(["scontrol", "requeue"], running)
    else:
        raise RexecError("it has no place yet")


def _check_priority(priority: int) -> None:
    if priority > 0:
        raise RexecError("Slurm lets nobody raise a job's priority: say 0, or a lower number")


def prioritize(priority: int, tasks: Collection[str]) -> None:
    """Have Slurm give tasks that wait another priority, by name. Raises RexecError."""
    _check_priority(priority)
    for task in tasks:
        ask(["scontrol", "update", f"JobId={task}", f"Nice={-priority}"])


def _each(argv: list[str], tasks: Collection[str]) -> None:
    if tasks:
        ask([*argv, *tasks] if argv[0] == "scancel" else [*argv, ",".join(tasks)])


def exclude(task: str, hosts: str) -> None:
    """Have a task that waits get a place on another host than these, and begin now; "" takes that back.

    Raises RexecError where Slurm does not do so, or not yet.
    """
    ask(["scontrol", "update", f"JobId={task}", f"ExcNodeList={hosts}", *(["StartTime=now"] if hosts else [])])


def ask(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
    """Run one of Slurm's programs; what it prints. Raises RexecError."""
    try:
        done = subprocess.run(
            [*_tool(argv[0]), *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, env=environ,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise RexecError(f"{argv[0]} has not answered for {_SECONDS:.0f} s: see whether `scontrol ping` does") from e
    if done.returncode:
        words = (done.stderr + done.stdout).decode("utf-8", "replace")
        raise RexecError(f"{argv[0]} failed: {last_line(words) or f'status {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")


def _tool(name: str) -> list[str]:
    """Return what runs one of Slurm's programs, as if not within a job of Slurm's: that one's size is its own."""
    found, env = programs.find(name), programs.find("env")
    if found is None or env is None:
        raise TransportError(f"there is no {name} here: rexec has to run on a machine that submits to Slurm")
    within = [key for key in os.environ if key.startswith(("SLURM_", "SRUN_")) and key != "SLURM_CONF"]
    return [env, *(word for key in within for word in ("-u", key)), found]
