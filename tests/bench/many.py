"""`python -m tests.bench.many`: what a batch of ten thousand jobs takes at home while they wait, and to be seen."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import click
import psutil

from tests.bench.contenders import CHECKOUT
from tests.bench.document import Part, table, write
from tests.bench.ground import load
from tests.bench.plot import Bar, bars
from tests.bench.process import BenchError

REXEC = CHECKOUT / ".venv/bin/rexec"
KIB = 1 << 10
JOB = ("sh", "-c", "until [ -e go ]; do sleep 1; done", "job", "{}")
PATIENCE = 120.0
SEEN = ("submit", "jobs", "watch", "report", "kill")


@dataclass(frozen=True, slots=True)
class Took:
    """What a command took: seconds, and seconds of processor time."""

    seconds: float
    cpu: float


class Home:
    """A state and a configuration of their own, in `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.env = {
            **os.environ, "XDG_CONFIG_HOME": str(work / "config"), "XDG_STATE_HOME": str(work / "state"),
            "REXEC_KEEP": "0",
        }  # fmt: skip

    def run(self, *words: str) -> Took:
        """Run rexec to its end, which has to be a good one."""
        began = time.monotonic()
        process = subprocess.Popen([REXEC, *words], cwd=self.work, env=self.env, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise BenchError(f"rexec {words[0]} ended with status {process.returncode}; what it said is above")
        return Took(time.monotonic() - began, used.ru_utime + used.ru_stime)

    def best(self, rounds: int, *words: str) -> Took:
        """Run it so often: the median of each."""
        took = [self.run(*words) for _ in range(rounds)]
        return Took(statistics.median(t.seconds for t in took), statistics.median(t.cpu for t in took))

    def journal(self) -> list[dict[str, object]]:
        """Read the journal of the one batch."""
        return [json.loads(line) for line in (self.batch / "journal").read_text().splitlines()]

    @property
    def batch(self) -> Path:
        """The directory of the one batch."""
        return self.work / "state/rexec/batches/1"

    def supervisor(self) -> psutil.Process:
        """Find the process that supervises the batch."""
        ours = f"XDG_STATE_HOME={self.work}/state"
        for process in psutil.process_iter(["cmdline"]):
            if any("batch.process" in word for word in process.info["cmdline"] or ()):
                name, value = ours.split("=")
                if process.environ().get(name) == value:
                    return process
        raise BenchError("the batch has no supervisor")

    def size(self) -> int:
        """The bytes that the batch takes on the disk."""
        return sum(each.stat().st_blocks * 512 for each in self.batch.iterdir())


def one(count: int, idle: float, rounds: int) -> tuple[dict[str, Took], dict[str, float]]:
    """Have so many jobs submitted, looked at, and killed; what commands took, and other numbers."""
    with tempfile.TemporaryDirectory(prefix="many-", dir="/var/tmp") as directory:
        home = Home(Path(directory))
        took = {"submit": home.run("submit", "-n", str(count), "--on", "local", *JOB)}
        try:
            until = time.monotonic() + PATIENCE
            while sum(row.get("is") == "running" for row in home.journal()) < min(count, os.cpu_count() or 1):
                if time.monotonic() > until:
                    raise BenchError(f"of {count} jobs none has begun; see {home.batch}")
                time.sleep(0.2)
            supervisor = home.supervisor()
            began, used = time.monotonic(), sum(supervisor.cpu_times()[:2])
            time.sleep(idle)
            busy = (sum(supervisor.cpu_times()[:2]) - used) / (time.monotonic() - began)
            said = {
                "memory": supervisor.memory_full_info().uss / KIB,
                "processes": float(len(supervisor.children())),
                "busy": 100 * busy,
                "waits": home.size() / KIB,
            }
            took["jobs"] = home.best(rounds, "jobs")
        finally:
            took["kill"] = home.run("kill", "b1")
        took["watch"] = home.best(rounds, "watch", "b1")  # all have ended: it looks once
        took["report"] = home.best(rounds, "report", "b1")
        return took, {**said, "ended": home.size() / KIB}


def part(counts: Sequence[int], idle: float, rounds: int) -> Part:
    """Measure each number of jobs; the document's part."""
    facts = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": f"{os.cpu_count()} x {os.uname().machine}", "kernel": os.uname().release,
        "python": sys.version.split()[0], "load": load(),
    }  # fmt: skip
    measured = {count: one(count, idle, rounds) for count in counts}
    facts["load after"] = load()
    least = measured[min(counts)][1]
    rows = [["jobs", *(f"`{name}`" for name in SEEN)]]
    rows += [[f"{n:,}", *(f"{took[name].seconds:.2f} ({took[name].cpu:.2f})" for name in SEEN)]
             for n, (took, _) in measured.items()]  # fmt: skip
    more = [["jobs", "supervisor, MiB", "KiB of that for each further job", "% of a processor", "processes below it",
             "KiB on disk each, waiting", "ended"]]  # fmt: skip
    for n, (_, said) in measured.items():
        each = f"{(said['memory'] - least['memory']) / (n - min(counts)):.2f}" if n > min(counts) else ""
        more.append([f"{n:,}", f"{said['memory'] / KIB:.1f}", each, f"{said['busy']:.1f}", f"{said['processes']:.0f}",
                     f"{said['waits'] / n:.2f}", f"{said['ended'] / n:.2f}"])  # fmt: skip
    drawn = bars(
        "seconds of processor time", SEEN,
        [(f"{n:,} jobs", [Bar(took[name].cpu) for name in SEEN]) for n, (took, _) in measured.items()],
    )  # fmt: skip
    command = " ".join(["python -m tests.bench.many", *sys.argv[1:]])
    text = [
        f"`{command}` wrote this: batches of `rexec submit -n N` on this machine itself, where as many run as it has "
        "processors, and the others wait. Seconds from a command's start to its end, of those that look the median of "
        f"{rounds}, and processor time in brackets; `watch` and `report` look once all have ended.",
        "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".",
        table(rows),
        "![seconds of processor time](scale.svg)",
        "The process that supervises the batch meanwhile (USS; its share of a processor over "
        f"{idle:.0f} s), and the batch's directory:",
        table(more),
    ]
    return Part("Jobs that wait", "\n\n".join(text), {"scale.svg": drawn})


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--jobs", "counts", metavar="N,…", default="10,1000,10000,100000", help="how many jobs; 10 to 100000")
@click.option("--idle", default=20.0, help="seconds for which the supervisor's processor time is counted; 20")
@click.option("--rounds", default=5, help="how often a look is measured; 5")
@click.option("--write", "document", type=click.Path(path_type=Path), help="write the figures into this document")
def main(counts: str, idle: float, rounds: int, document: Path | None) -> None:
    """Measure what many jobs of one batch take at home."""
    try:
        made = part([int(count) for count in counts.split(",")], idle, rounds)
    except BenchError as failed:
        raise click.ClickException(str(failed)) from failed
    click.echo(made.text)
    if document:
        write(document, made)


if __name__ == "__main__":
    main()
