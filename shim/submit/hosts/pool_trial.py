"""Looks what an engine's pool lacks: asks the engine here, and on each node, in a place that it gives, what it has."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

from remoteio.errors import RexecError
from remoteio.printable import printable
from shim.submit.engines import asked, condor, slurm
from shim.submit.engines.asked import Machine
from shim.submit.engines.told import GONE, HELD, RUNNING, WAITING, Told
from shim.submit.hosts import bootstrap, checks, pool_checks, survey
from shim.submit.hosts.checks import BAD, Check
from shim.submit.hosts.config import Host
from shim.submit.hosts.pool_checks import CONDOR
from shim.submit.hosts.survey import Report

TRIED = 8
"""Nodes that are tried where none is named: one of each kind, and then others."""

_SECONDS = 60.0  # for a node to give a place
_INSIDE = 30.0  # for what is asked there: HTCondor lets nobody in for the first eight seconds of a job
_GOES = 30.0  # for the engine to be done with a job that it was told to remove
_ENDS = 5.0  # for the engine to say that a place has ended into which no stream went
_PAUSE = 0.5
_MEMORY = 64  # MiB


class Looked(NamedTuple):
    """What was found: of the pool, and of each node that was tried; how many were not."""

    pool: list[Check]
    nodes: dict[str, list[Check]]
    untried: int


def look(engine: str, names: Sequence[str]) -> Looked:
    """Look what a pool lacks; on these nodes, or on some. Blocks for some two minutes at most. Raises RexecError."""
    condors = engine == CONDOR
    lacking = asked.missing(asked.CONDOR_TOOLS if condors else asked.SLURM_TOOLS)
    found = [pool_checks.tools(engine, lacking)]
    if lacking:
        return Looked(found, {}, 0)
    more, machines = _condor() if condors else _slurm()
    known = {each.name: each for each in machines}
    for name in names:
        if known and name not in known:
            see = "condor_status" if condors else "sinfo"
            raise RexecError(f"the pool has no machine {printable(name, 100)!r}: `{see}` names them")
    found += more
    if any(check.state == BAD for check in found):
        return Looked(found, {}, 0)
    chosen = [known[name] for name in names] or choose(machines)
    return Looked(found, _tried(engine, chosen), 0 if names else len(known) - len(chosen))


def choose(machines: Iterable[Machine]) -> list[Machine]:
    """Choose the machines to try: those of each kind come first, and of a kind those that are free. Pure."""
    free = sorted(machines, key=lambda each: (not each.state.lower().startswith(("unclaimed", "idle")), each.name))
    seen: dict[str, int] = {}
    order = []
    for each in free:
        order.append((seen.get(each.kind, 0), each))
        seen[each.kind] = seen.get(each.kind, 0) + 1
    return [each for _, each in sorted(order, key=lambda item: item[0])[:TRIED]]


def _condor() -> tuple[list[Check], list[Machine]]:
    def said(*words: str) -> tuple[str, str]:
        try:
            return condor.ask(words), ""
        except RexecError as e:
            return "", str(e)

    enters, _ = said("condor_config_val", "SCHEDD_ENABLE_SSH_TO_JOB")  # an error is that nobody has set it
    found = [
        pool_checks.release(CONDOR, asked.version(said("condor_config_val", "CONDOR_VERSION")[0])),
        pool_checks.queue(CONDOR, said("condor_q", "-totals")[1]),
        pool_checks.entering(enters.strip().lower() != "false"),
    ]
    try:
        machines = asked.condor_machines()
        return [*found, pool_checks.machines(CONDOR, machines)], machines
    except RexecError as e:
        return [*found, pool_checks.machines(CONDOR, [], str(e))], []


def _slurm() -> tuple[list[Check], list[Machine]]:
    engine = pool_checks.SLURM
    try:
        found = asked.slurm_cluster()
    except RexecError as e:
        return [pool_checks.queue(engine, str(e))], []
    return [
        pool_checks.release(engine, asked.version(found.settings.get("SLURM_VERSION", ""))),
        pool_checks.queue(engine, ""),
        *pool_checks.cluster(found),
        pool_checks.machines(engine, found.nodes),
    ], found.nodes


class _Places(Protocol):
    """Places on nodes, one on each."""

    def ask(self, node: str) -> None:
        """Ask for one. Raises RexecError."""

    def told(self) -> dict[str, Told]:
        """Return what has become of them so far. Raises RexecError."""

    def job(self, node: str) -> str:
        """Return what rexec calls the job that has the place."""

    def remove(self, node: str) -> None:
        """Give one back, whether it was got or not. Raises RexecError."""


class _Condor:
    """Places of an HTCondor pool, of which a log in `directory` tells."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._clusters: dict[str, str] = {}
        pilot = directory / condor.PILOT
        pilot.write_bytes(b"#!/usr/bin/env python3\n" + bootstrap.pilot_source())
        pilot.chmod(0o755)
        (directory / condor.LOG).touch()

    def ask(self, node: str) -> None:
        """See _Places."""
        machine = f'TARGET.Machine == "{node}"'
        (self._directory / "condor.sub").write_text(condor.description(1, "rexec-doctor", 1, _MEMORY, machine, "", 0))
        self._clusters[node] = condor.submit(str(self._directory))

    def told(self) -> dict[str, Told]:
        """See _Places."""
        log = (self._directory / condor.LOG).read_text("utf-8", "surrogateescape")
        newest = {}
        for node, cluster in self._clusters.items():
            for each in condor.events(log, cluster)[0]:
                newest[node] = each
        return newest

    def job(self, node: str) -> str:
        """See _Places."""
        return f"condor:{self._clusters[node]}.0"

    def remove(self, node: str) -> None:
        """See _Places."""
        condor.act("remove", self._clusters[node])


class _Slurm:
    """Places of a Slurm cluster; what sbatch takes lies in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._arrays: dict[str, int] = {}
        self._jobs: dict[str, int] = {}

    def ask(self, node: str) -> None:
        """See _Places."""
        told = slurm.description("rexec-doctor", 1, _MEMORY, "5", 0, bootstrap.pilot_source().decode())
        head, _, rest = told.partition("\n")
        (self._directory / slurm.SCRIPT).write_text(f"{head}\n#SBATCH --nodelist={node}\n{rest}")
        self._arrays[node] = slurm.submit(str(self._directory), 1)

    def told(self) -> dict[str, Told]:
        """See _Places."""
        queue = {seen.array: seen for seen in slurm.queue()}
        found = {}
        for node, array in self._arrays.items():
            seen = queue.get(array)
            if seen is None or seen.over:
                found[node] = Told(0, GONE, status=seen and seen.status, why=seen.why if seen else "")
            else:
                self._jobs[node] = seen.id
                found[node] = Told(0, seen.state, why=seen.why)
        return found

    def job(self, node: str) -> str:
        """See _Places."""
        return f"slurm:{self._jobs[node]}"

    def remove(self, node: str) -> None:
        """See _Places."""
        slurm.act("remove", [], [f"{self._arrays[node]}_0"])


def _tried(engine: str, machines: Sequence[Machine]) -> dict[str, list[Check]]:
    """Look at each of the machines from within a place on it. Raises RexecError where the engine takes no job."""
    if not machines:
        return {}
    with tempfile.TemporaryDirectory(prefix="rexec-doctor-") as directory:
        places: _Places = (_Condor if engine == CONDOR else _Slurm)(Path(directory))
        with ExitStack() as after, ThreadPoolExecutor(len(machines)) as pool:
            after.callback(_await_gone, places)
            for each in machines:
                places.ask(each.name)
                after.callback(_remove, places, each.name)
            return _look_at(engine, places, machines, pool)


def _look_at(
    engine: str, places: _Places, machines: Sequence[Machine], pool: ThreadPoolExecutor
) -> dict[str, list[Check]]:
    began = time.monotonic()
    found = {each.name: pool_checks.machine(engine, each) for each in machines}
    waiting = {each.name: each for each in machines}
    asking: dict[str, Future[Report]] = {}
    why: dict[str, str] = {}
    while waiting and time.monotonic() < began + _SECONDS:
        for name, told in places.told().items():
            if name not in waiting:
                continue
            why[name] = told.why
            if told.state == RUNNING:
                found[name].append(pool_checks.place(time.monotonic() - began))
                host = Host(name, places.job(name))
                asking[name] = pool.submit(survey.ask, host, batch=True, deadline=_INSIDE)
            elif told.state in (GONE, HELD):
                found[name].append(pool_checks.place_ended(told.status, told.why))
            if told.state != WAITING:
                del waiting[name]
        time.sleep(_PAUSE)
    for name, machine in waiting.items():
        found[name].append(pool_checks.no_place(engine, machine, _SECONDS, why.get(name, "")))
    for name, answer in asking.items():
        report = answer.result()
        found[name] += _inside(engine, places, name, report.error) if report.error else checks.checks(report)
    return found


def _inside(engine: str, places: _Places, node: str, error: str) -> list[Check]:
    """Tell why nothing could be asked within a place: it has ended, as without python3, or it lets nobody in."""
    until = time.monotonic() + _ENDS
    while time.monotonic() < until:
        told = places.told().get(node)
        if told is not None and told.state == GONE:
            return [pool_checks.place_ended(told.status, told.why)]
        time.sleep(_PAUSE)
    return [pool_checks.refused(engine, error)]


def _remove(places: _Places, node: str) -> None:
    told = places.told().get(node)
    if told is None or told.state != GONE:
        places.remove(node)


def _await_gone(places: _Places) -> None:
    """Wait until the engine is done with all of them: it writes into their directory until then."""
    until = time.monotonic() + _GOES
    while any(told.state != GONE for told in places.told().values()) and time.monotonic() < until:
        time.sleep(_PAUSE)
