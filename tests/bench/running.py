"""`python -m tests.bench.running`: what many jobs of a batch take at home while they run, with stand-in agents."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import click
import psutil

from tests.bench.document import Part, table, write
from tests.bench.ground import load
from tests.bench.many import Home, Took
from tests.bench.process import BenchError
from tests.bench.standins import StandIns

MIB = 1 << 20
PATIENCE = 0.6  # seconds for each job to begin, on a busy machine


def below(home: Home) -> list[psutil.Process]:
    """The batch's supervisor and all processes below it; its `ssh`, which are this bench's, come last."""
    supervisor = home.supervisor()
    found = [supervisor, *supervisor.children(recursive=True)]
    return sorted(found, key=lambda process: process.name() == "ssh")


def used(processes: Sequence[psutil.Process]) -> float:
    """The seconds of processor time that these have taken."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def one(count: int, seconds: float) -> tuple[dict[str, Took], dict[str, float]]:
    """Have so many jobs run; what commands took, and other numbers."""
    with tempfile.TemporaryDirectory(prefix="running-", dir="/var/tmp") as directory:
        home = Home(Path(directory))
        agents = StandIns(home.work)
        home.env["PATH"] = f"{agents.bin}:{home.env['PATH']}"
        (home.work / "config/rexec").mkdir(parents=True)
        hosts = home.work / "config/rexec/hosts.toml"
        hosts.write_text(f'[host.many]\nssh = "many"\nslots = {count}\nowner = "none"\n')
        began = time.monotonic()
        took = {"submit": home.run("submit", "-n", str(count), "--on", "many", "sleep", "infinity")}
        try:
            while len(agents.jobs) < count:
                if time.monotonic() > began + 30 + PATIENCE * count:
                    raise BenchError(f"of {count} jobs {len(agents.jobs)} have begun; see {home.batch}")
                time.sleep(0.2)
            all_run = time.monotonic() - began
            ours = [process for process in below(home) if process.name() != "ssh"]
            to_begin = used(ours)
            time.sleep(5)  # for what each does once it has begun
            before, cpu, answers = time.monotonic(), used(ours), sum(job.answers for job in agents.jobs.values())
            time.sleep(seconds)
            past = time.monotonic() - before
            busy = 100 * (used(ours) - cpu) / past
            answered = (sum(job.answers for job in agents.jobs.values()) - answers) / past
            memory = sum(process.memory_full_info().uss for process in ours)
            threads = sum(process.num_threads() for process in ours)
            took["jobs"] = home.best(3, "jobs")
            if len(agents.jobs) != count:
                raise BenchError(f"of {count} jobs that ran {len(agents.jobs)} do still; see {home.batch}")
        finally:
            took["kill"] = home.run("kill", "b1")
        return took, {
            "all run": all_run, "to begin": to_begin, "busy": busy, "answered": answered, "memory": memory / MIB,
            "processes": float(len(ours)), "threads": float(threads),
        }  # fmt: skip


def part(counts: Sequence[int], seconds: float) -> Part:
    """Measure each number of jobs; the document's part."""
    facts = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": f"{os.cpu_count()} x {os.uname().machine}", "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "descriptors that a process may have": resource.getrlimit(resource.RLIMIT_NOFILE)[1], "load": load(),
    }  # fmt: skip
    measured = {count: one(count, seconds) for count in counts}
    facts["load after"] = load()
    rows = [["jobs", "processes", "threads", "MiB each (USS)", "% of a processor each", "looks answered a second",
             "s of processor to begin each", "s until all run", "`jobs`", "`kill`"]]  # fmt: skip
    for n, (took, said) in measured.items():
        rows.append([
            f"{n:,}", f"{said['processes']:.0f}", f"{said['threads']:,.0f}", f"{said['memory'] / n:.2f}",
            f"{said['busy'] / n:.3f}", f"{said['answered']:,.0f}", f"{said['to begin'] / n:.2f}",
            f"{said['all run']:.0f}", *(f"{t.seconds:.2f} ({t.cpu:.2f})" for t in (took["jobs"], took["kill"])),
        ])  # fmt: skip
    command = " ".join(["python -m tests.bench.running", *sys.argv[1:]])
    text = [
        f"`{command}`, as root, wrote this: batches of `rexec submit -n N` that all run, on hosts whose agents are "
        "stand-ins (`tests/bench/standins.py`): each gives a sign of life and looks for a file once a second. Counted "
        "are the supervisor and the processes in which it serves the jobs, without the `ssh` of each.",
        "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".",
        table(rows),
    ]
    return Part("Jobs that run", "\n\n".join(text), {})


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--jobs", "counts", metavar="N,…", default="32,320,1000", help="how many jobs; 32 to 1000")
@click.option("--seconds", default=20.0, help="for which processor time is counted; 20")
@click.option("--write", "document", type=click.Path(path_type=Path), help="write the figures into this document")
def main(counts: str, seconds: float, document: Path | None) -> None:
    """Measure what many jobs that run at once take at home."""
    try:
        made = part([int(count) for count in counts.split(",")], seconds)
    except BenchError as failed:
        raise click.ClickException(str(failed)) from failed
    click.echo(made.text)
    if document:
        write(document, made)


if __name__ == "__main__":
    main()
