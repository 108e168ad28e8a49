"""`python -m tests.bench`: rexec beside ssh, sshfs, outrun and a fusepy passthrough, in turns in one run."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import click

from tests import apart, desk
from tests.bench import process, report
from tests.bench.cases import Case, all_cases, furnish
from tests.bench.contenders import Contender, all_contenders, prepare
from tests.bench.document import section, write
from tests.bench.ground import Ground, load
from tests.bench.process import BenchError
from tests.desk_root import DeskError

LIMIT = 640.0
"""Seconds of the whole bench: no round begins that would end later, going by the longest so far."""
FAR_LIMIT = 780.0
"""Seconds of the whole bench over a delay: what peers may take is cut as it nears."""
CUT, LEAST_CUT = 60.0, 5.0
NEAR_CUT = 900.0
OURS_CUT = 60.0

Named = TypeVar("Named", Case, Contender)


def _say(text: str) -> None:
    click.echo(f"bench: {text}", err=True)


def _chosen(named: Sequence[Named], wish: str | None, option: str) -> list[Named]:
    if not wish:
        return list(named)
    wanted = wish.split(",")
    unknown = sorted(set(wanted) - {one.name for one in named})
    if unknown:
        known = ", ".join(one.name for one in named)
        raise BenchError(f"{option}: {', '.join(unknown)} is not one of {known}")
    return [one for one in named if one.name in wanted]


def _asked(cases: Sequence[Case], which: str | None, rtt: int, rate: int) -> list[Case]:
    """Choose the cases: those that are named, else what suits the way there."""
    if which:
        return _chosen(cases, which, "--cases")
    suits = {"", "far" if rtt else "near"} | ({"narrow"} if rate else set())
    return [case for case in cases if case.where in suits and not (rate and case.bulk and case.where != "narrow")]


class Cuts:
    """Bounds what a run may take: `most` seconds, and of peers so little that all have ended by `until`.

    Of what is left each may take three times its share: most take less.
    """

    def __init__(self, most: float, until: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._until, self._clock = most, until, clock
        self.left = 0  # runs of peers still to come

    def of(self, peer: bool) -> float:
        """Return how long the next run may take."""
        if not peer:
            return max(self._most, OURS_CUT)
        self.left -= 1
        share = 3 * (self._until - self._clock()) / max(self.left + 1, 3)
        return max(min(self._most, share), LEAST_CUT)


def _turn(case: Case, contender: Contender, cell: report.Cell, warm_up: bool, cut: float) -> None:
    """One run of one contender in one case; what is wrong with it goes into the cell, and ends its part."""
    case.clear(contender.ground.work)
    run = contender.run(case, cut)
    if run.code == process.CUT:
        cell.cut = run.seconds
        contender.clean()
        return
    cell.error = run.trouble() if run.code else case.fault(contender.ground.work, run)
    if cell.error:
        return
    if warm_up:
        cell.first = run.seconds
        return
    cell.total.append(run.seconds)
    inside = case.inside_seconds(run)
    if inside is not None:
        cell.inside.append(inside)
    if case.rates:
        cell.rates.append(json.loads(run.out))


def _due(case: Case, contender: Contender, number: int) -> bool:
    """Is it measured in that round? Bulk is not worth a warm-up; who is as he was the first time has no other."""
    if case.bulk:
        return number == 1 if contender.once else number > 0
    return number == 0 or not contender.once


def measure(
    cases: Sequence[Case],
    contenders: Sequence[Contender],
    absent: dict[str, str],
    rounds: int,
    until: float,
    cuts: Cuts,
    say: Callable[[str], None],
) -> tuple[report.Cells, int]:
    """One round to warm up, then `rounds` that count: in each, every case by every contender, another one first."""
    cells = {
        (case.name, one.name): report.Cell(error=absent.get(one.name))
        for case in cases
        for one in contenders
        if one.takes(case)
    }
    longest, done = 0.0, 0
    cuts.left = sum(
        _due(case, one, number) for number in range(rounds + 1) for case in cases for one in contenders
        if one.peer and not cells.get((case.name, one.name), report.Cell(error="")).over
    )  # fmt: skip
    for number in range(rounds + 1):
        began = time.monotonic()
        if began + longest > until:
            say(f"stopped after {done} of {rounds} rounds: the next would end after {LIMIT:.0f} s")
            break
        say(f"round {number} of {rounds}" if number else "warm-up")
        turned = [*contenders[number % len(contenders) :], *contenders[: number % len(contenders)]]
        for case in cases:
            for contender in turned:
                cell = cells.get((case.name, contender.name))
                if cell and _due(case, contender, number):
                    cut = cuts.of(contender.peer)
                    if not cell.over:
                        _turn(case, contender, cell, number == 0, cut)
        longest, done = max(longest, time.monotonic() - began), number
    return cells, done


def _in_memory(work: Path, stack: ExitStack) -> None:
    """Give `work` memory for a disk: an ext4 that saw many deletions makes files slowly, for anybody."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6g", "bench", str(work)], check=False).returncode:
        raise BenchError(f"cannot mount a tmpfs of 6 GiB on {work}; the bench needs root and that much memory")
    stack.callback(subprocess.run, ["umount", "-l", str(work)], check=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=int, help="measured rounds, after one to warm up; 4, with --rtt 1")
@click.option("--cases", "which", metavar="NAME,…", help="only these cases")
@click.option("--only", metavar="NAME,…", help="only these contenders")
@click.option("--cut", type=click.FloatRange(1), help="end a peer's run after so many seconds; 60, near by 900")
@click.option("--write", "document", type=click.Path(path_type=Path), help="write the figures into this document")
@click.option("--json", "record", type=click.Path(path_type=Path), help="write every sample to this file as well")
@click.option("--host", help="a Debian machine of yours, an ssh name that logs in as root; default: the desk's alpha")
@click.option("--rtt", metavar="MS", type=click.IntRange(0), default=0, help="let the desk's host be so far away")
@click.option("--rate", metavar="MBIT/S", type=click.IntRange(0), default=0, help="let the line there carry so much")
def main(
    rounds: int | None, which: str | None, only: str | None, record: Path | None, host: str | None, rtt: int, rate: int,
    cut: float | None, document: Path | None,
) -> None:  # fmt: skip
    """Measure rexec beside its peers, in turns, and print medians and ratios."""
    started = time.monotonic()
    if (rtt or rate) and host:
        raise click.UsageError("--rtt and --rate are for the desk's host, as its delay is made here: leave --host out")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cache = Path("/var/cache/rexec-tests/bench")
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            if host is None:
                stack.enter_context(apart.entered())
                desk.up()
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp")))
            _in_memory(work, stack)
            furnish(work)
            cases = _asked(all_cases(work), which, rtt, rate)
            for case in cases:
                if case.wants is not None:
                    case.wants(work, cache)
            ground = Ground(host or "alpha", work, cache, stack, rtt, rate)
            contenders = _chosen(all_contenders(ground), only, "--only")
            facts = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **ground.facts()}
            absent = prepare(contenders, _say)
            far = rtt or rate
            cuts = Cuts(cut or (CUT if far else NEAR_CUT), started + FAR_LIMIT if far else math.inf)
            cells, done = measure(
                cases, contenders, absent, rounds or (1 if far else 4), math.inf if far else started + LIMIT, cuts, _say
            )
            facts["load after"] = load()
            facts["rounds"] = f"{done}, {time.monotonic() - started:.0f} s"
            names = {one.name: one.what for one in contenders}
            click.echo(report.text(cells, cases, names, facts), nl=False)
            if record:
                record.write_text(json.dumps(report.record(cells, cases, facts), indent=1) + "\n")
            if document:
                command = f'make bench BENCH="{" ".join(sys.argv[1:])}"'
                write(document, section(cells, cases, names, facts, rtt, rate, command))
    except (BenchError, DeskError) as failed:
        raise click.ClickException(str(failed)) from failed


if __name__ == "__main__":
    main()
