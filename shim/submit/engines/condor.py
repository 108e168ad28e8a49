"""HTCondor: what it is told of a batch, what its event log says of each job, and a stream into a running one.

Versions 23.9 and later. Sources: condor_submit(1), condor_ssh_to_job(1), the manual's "Job Event Log Codes"; and what
was seen on a real pool (docs/pools.md).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence

from remoteio.errors import RexecError
from remoteio.printable import printable
from remoteio.submit import programs
from remoteio.submit.transport.program import ProgramStream, open_program
from remoteio.submit.transport.stream import Dropped, TransportError, last_line
from shim.submit.engines import allowed
from shim.submit.engines.told import GONE, HELD, LOST, RUNNING, SUSPENDED, WAITING, Told

PILOT = "rexec-pilot"
"""What the pilot is called in the job's directory: HTCondor keeps an executable's name."""

LOG = "condor.log"
MOST_IDLE = 200
"""Jobs of a batch that are in the queue without a place, at a time: the schedd makes the others as these go."""

_EVENTS = {
    "000": WAITING, "001": RUNNING, "004": LOST, "005": GONE, "009": GONE, "010": SUSPENDED, "011": RUNNING,
    "012": HELD, "013": WAITING, "024": LOST,
}  # fmt: skip
_HEAD = re.compile(r"(\d{3}) \((\d+)\.(\d+)\.\d+\) ")
_SLOT = re.compile(r"^\s+SlotName: (?:\S+@)?([^\s@]+)$", re.M)
_ADDRESS = re.compile(r"<([^>?:]+)")
_VALUE = re.compile(r"\(return value (-?\d+)\)")
_ELSEWHERE = 60  # seconds for which a job that has lost its place does not want it again
# All that it says before the job's starter has reported, seconds after its start (STARTER_INITIAL_UPDATE_INTERVAL).
_TOO_EARLY = "-auto-retry"
_SECONDS = 60.0  # for a schedd that is busy to answer


def stream(job: str, command: str) -> ProgramStream:
    """Run `command` in the running job ("CLUSTER.PROC") as a child of its pilot. Raises TransportError."""
    inside = f"exec python3 {PILOT} run {command.encode('utf-8', 'surrogateescape').hex()}"
    name = f"condor:{job}"

    def explain(said: str) -> TransportError:
        if _TOO_EARLY in said:
            return Dropped(
                f"cannot reach {name}: it does not run yet, or HTCondor has not heard that it does; try again"
            )
        words = last_line(said) or "it said nothing"
        return TransportError(f"cannot reach {name}: condor_ssh_to_job says {words!r}; see `condor_q {job}`")

    return open_program(name, _into(job, inside), 1, explain)


def end(job: str, status: int) -> subprocess.Popen[bytes]:
    """Have a running job end with `status`; not waited for: that it has, the log tells."""
    return subprocess.Popen(
        _into(job, f"exec python3 {PILOT} end {status}"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def _into(job: str, command: str) -> list[str]:
    # an RSA key, its default, takes longer to make than all the rest
    return [_tool("condor_ssh_to_job"), "-keygen-options", "-t ed25519", job, command]


def description(
    count: int, name: str, cpus: int, memory: int, requirements: str, rank: str, priority: int,
    gpus: int | None = None, time: str | None = None,
) -> str:  # fmt: skip
    """Write what condor_submit is given for `count` places, each with `memory` MiB. Pure. Raises RexecError.

    A pilot that ends by a signal has no status of the job's: it is run again. Not where it last was, for the first
    minute; not for ever, lest a pool of one machine never runs it again. A rank would not do: a claim that the schedd
    still has is used again without one.
    """
    elsewhere = f"(TARGET.Machine =!= MachineAttrMachine0 || time() > EnteredCurrentStatus + {_ELSEWHERE})"
    lines = {
        "universe": "vanilla",
        "executable": PILOT,
        "arguments": "hold",
        "should_transfer_files": "YES",
        "when_to_transfer_output": "ON_EXIT",
        "transfer_output_files": '""',
        "log": LOG,
        "error": "pilot.err",
        "on_exit_remove": "(ExitBySignal =!= True)",
        "job_machine_attrs": "Machine",
        "job_machine_attrs_history_length": "1",
        "request_cpus": str(cpus),
        "request_memory": f"{memory}M",
        "request_disk": "64M",
        "batch_name": name,
        "priority": str(priority),
        "requirements": elsewhere + (f" && ({requirements})" if requirements else ""),
    }
    lines |= _limits(gpus, time)
    if rank:
        lines["rank"] = rank
    if count > MOST_IDLE:
        lines["max_idle"] = str(MOST_IDLE)
    return "".join(f"{key} = {value}\n" for key, value in lines.items()) + f"queue {count}\n"


def _limits(gpus: int | None, time: str | None) -> dict[str, str]:
    """Write what is asked for: what has its place for longer than `time` is held, as HTCondor ends nothing for that."""
    lines = {} if gpus is None else {"request_gpus": str(gpus)}
    return lines if time is None else {**lines, "allowed_job_duration": str(allowed.seconds(time))}


def submit(directory: str, file: str = "condor.sub") -> str:
    """Submit what `description` wrote to that file of a directory. Returns the cluster. Raises RexecError."""
    said = ask(["condor_submit", "-terse", file], directory)
    found = re.match(r"(\d+)\.\d+ - \d+\.\d+", said)
    if found is None:
        raise RexecError(f"condor_submit answers {printable(said, 200)!r}, which names no cluster; see `condor_q`")
    return found[1]


def act(verb: str, job: str) -> None:
    """Have HTCondor `hold`, `release`, `remove` or `vacate` a job, or a whole cluster. Raises RexecError."""
    tools = {"hold": "condor_hold", "release": "condor_release", "remove": "condor_rm", "vacate": "condor_vacate_job"}
    ask([tools[verb], job])


def prioritize(priority: int, *jobs: str) -> None:
    """Have HTCondor give jobs, or whole clusters, that priority among their user's own. Raises RexecError."""
    ask(["condor_prio", "-p", str(priority), *jobs])


def ask(argv: Sequence[str], directory: str | None = None) -> str:
    """Run one of HTCondor's programs; what it prints. Raises RexecError."""
    try:
        done = subprocess.run(
            [_tool(argv[0]), *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, cwd=directory,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise RexecError(f"{argv[0]} has not answered for {_SECONDS:.0f} s: see whether `condor_q` does") from e
    words = (done.stderr + done.stdout).decode("utf-8", "replace")
    if done.returncode:
        raise RexecError(f"{argv[0]} failed: {last_line(words) or f'status {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")


def _tool(name: str) -> str:
    found = programs.find(name)
    if found is None:
        raise TransportError(f"there is no {name} here: rexec has to run on a machine that submits to an HTCondor pool")
    return found


def events(text: str, cluster: str) -> tuple[list[Told], int]:
    """Read what is whole of an event log; also how many characters that was. Pure: events of other clusters, and those
    that say nothing of a job's place, are passed over.
    """
    found, at = [], 0
    for event, stop in whole_events(text):
        at = stop
        head = headed(event)
        if head is not None and head[0] == int(cluster):
            found.append(head[1])
    return found, at


def whole_events(text: str) -> Iterator[tuple[str, int]]:
    """Split what is whole of an event log: each event, and where the next begins. Pure."""
    at = 0
    while (stop := text.find("\n...\n", at)) >= 0:
        event, at = text[at:stop], stop + 5
        yield event, at


def headed(event: str) -> tuple[int, Told] | None:
    """Read an event: its cluster, and what it says of a job's place; None: nothing. Pure."""
    head = _HEAD.match(event)
    if head is None or head[1] not in _EVENTS:
        return None
    return int(head[2]), _told(head[1], int(head[3]), event)


def _told(kind: str, job: int, event: str) -> Told:
    state = _EVENTS[kind]
    first, _, rest = event.partition("\n")
    if kind == "001":
        host = _SLOT.search(rest) or _ADDRESS.search(first)
        return Told(job, state, printable(host[1], 100) if host else "?")
    if kind == "005":
        value = _VALUE.search(rest)
        return Told(job, state, status=int(value[1]) if value else None)
    if kind in ("009", "012", "024"):
        return Told(job, state, why=printable(rest.strip().split("\n")[0], 300))
    return Told(job, state, seen=kind == "004")  # but where it is held: that is told before it has ended there
