"""`python -m tests.bench.checkpoint`: a job of 1 GiB saved and moved by rexec, in turns with raw criu and ssh."""

from __future__ import annotations

import base64
import json
import os
import shlex
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil

from checkpoint.execute import criu
from checkpoint.submit.store import Store
from tests import apart, desk, desk_root
from tests.bench.process import BenchError, execute, must
from tests.desk_root import DeskError
from tests.until import until

HERE = Path(__file__).parent
REMOTE = "/tmp/rexec-bench-raw"  # where rexec has its spool too: on the hosts of the desk /var/tmp is an overlay
LOOP = "i=0; while :; do i=$((i+1)); echo $i; sleep .02; done"
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True, slots=True)
class Figure:
    """One promise: the median of `ours` over that of `raw` (or itself, where raw is empty) is at most `wanted`."""

    name: str
    unit: str
    wanted: float
    ours: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)

    def line(self) -> str:
        ours = statistics.median(self.ours)
        raw = statistics.median(self.raw) if self.raw else None
        value = ours if raw is None else ours / raw
        spread = f"{ours:.2f} ({min(self.ours):.2f}-{max(self.ours):.2f}) {self.unit}"
        beside = "-" if raw is None else f"{raw:.2f} ({min(self.raw):.2f}-{max(self.raw):.2f})"
        ratio = "-" if raw is None else f"{value:.3f}"
        verdict = "ok" if value <= self.wanted else "NOT REACHED"
        return f"{self.name:44}{spread:>26}{beside:>24}{ratio:>8}{'<= ' + format(self.wanted, 'g'):>9}  {verdict}"


class Figures:
    """All of the issue's, as they fill."""

    def __init__(self) -> None:
        self.frozen = Figure("frozen by a checkpoint / criu's frozen_us", "s", 1.3)
        self.vacate = Figure("vacate to the commit / raw dump + cat", "s", 1.5)
        self.restart = Figure("restart to first action / cat + raw restore", "s", 1.5)
        self.whole = Figure("both, and its memory free / all of raw", "s", 1.5)
        self.link = Figure("1 % changed: bytes over the link / image", "MiB", 0.03)
        self.disk = Figure("1 % changed: bytes on disk / image", "MiB", 0.03)
        self.changed = Figure("1 % scattered changed: frozen / criu's of all", "s", 0.15)
        self.every = Figure("--every 1m, 1 % written a second: speed lost", "%", 2)
        self.ahead = Figure("vacate with an image before / without", "s", 0.5)
        self.beside = Figure("resident beside the job", "MiB", 100)
        self.move = Figure("a shell loop moves alpha -> beta", "s", 2)

    def text(self) -> str:
        moves = (self.vacate, self.restart, self.whole)
        changed = (self.link, self.disk, self.changed, self.every, self.ahead)
        all_ = (self.frozen, *moves, *changed, self.beside, self.move)
        head = f"{'median (min-max)':44}{'measured':>26}{'raw':>24}{'ratio':>8}{'wanted':>9}"
        return "\n".join([head, *(figure.line() for figure in all_ if figure.ours)])


class Raw:
    """criu by itself on both hosts, its images carried by `cat` over plain ssh."""

    def __init__(self, hosts: tuple[str, str], work: Path, stack: ExitStack) -> None:
        self.hosts, self.file = hosts, work / "raw.tar"
        found = desk_root.criu()
        for host in hosts:
            stack.callback(execute, ["ssh", host, f"rm -rf {REMOTE}"])
            script = f"rm -rf {REMOTE} && mkdir -p {REMOTE}/criu/none {REMOTE}/img && tar x -C {REMOTE}/criu"
            must(["ssh", host, script], f"criu could not be put on {host}", given=found.read())
            for ours, theirs in (("checkpoint_job.py", "job.py"), ("checkpoint_host.py", "host.py")):
                text = (HERE / ours).read_bytes()
                must(["ssh", host, f"cat >{REMOTE}/{theirs}"], f"{theirs} could not be put on {host}", given=text)

    def _criu(self, host: str, what: str) -> dict[str, object]:
        script = f"exec unshare -fpm --mount-proc python3 {REMOTE}/host.py {what} {REMOTE}"
        return dict(json.loads(must(["ssh", host, script], f"raw criu's {what} on {host}").out))

    def turn(self, figures: Figures) -> None:
        """Dump on the first host, carry the images home and on to the second, restore there."""
        first, second = self.hosts
        dumped = self._criu(first, "dump")
        times = criu.parse_stats(base64.b64decode(str(dumped["stats"])))
        figures.frozen.raw.append(times["frozen_us"] / 1e6)
        figures.changed.raw.append(figures.frozen.raw[-1])
        # One file of all of them, so that it is `cat` alone that is timed.
        pack = f"cd {REMOTE} && tar cf all.tar img out && rm -r img && mkdir img"
        must(["ssh", first, pack], f"tar on {first}")
        home = must(["ssh", first, f"cat {REMOTE}/all.tar"], f"cat on {first}", stdout=self.file)
        there = must(["ssh", second, f"cat >{REMOTE}/all.tar"], f"cat on {second}", stdin=self.file)
        must(["ssh", second, f"cd {REMOTE} && tar xf all.tar && rm all.tar"], f"tar on {second}")
        size = self.file.stat().st_size / (1 << 20)
        figures.link.raw.append(size)
        figures.disk.raw.append(size)
        restored = self._criu(second, "restore")
        figures.vacate.raw.append(float(str(dumped["seconds"])) + home.seconds)
        figures.restart.raw.append(there.seconds + float(str(restored["seconds"])))
        figures.whole.raw.append(figures.vacate.raw[-1] + figures.restart.raw[-1])
        self.file.unlink()
        must(["ssh", first, f"rm {REMOTE}/all.tar"], f"rm on {first}")


class Ours:
    """rexec with a state of its own."""

    def __init__(self, hosts: tuple[str, str], work: Path, stack: ExitStack) -> None:
        self.hosts, self.work = hosts, work
        data = work / "data" / "rexec"
        data.mkdir(parents=True)
        (data / "criu").symlink_to(desk_root.criu().archive.parent)
        self.env = {
            **os.environ,
            **{f"XDG_{name}_HOME": str(work / name.lower()) for name in ("STATE", "DATA", "CONFIG")},
        }
        self.state = work / "state" / "rexec"
        stack.callback(self._kill_all)

    def rexec(self, *words: str) -> str:
        argv = [Path(sysconfig.get_path("scripts")) / "rexec", *words]
        return must(argv, shlex.join(["rexec", *words]), env=self.env, cwd=self.work).out.decode()

    def _kill_all(self) -> None:
        for job, state in self._states().items():
            if state in ("running", "parked", "choosing", "starting", "left", "lost"):
                self.kill(job)

    def submit(self, *argv: str) -> str:
        return self.rexec(
            "--checkpoint", "--every", "never", "--detach", "--on", ",".join(self.hosts), "--owner", "none", "--", *argv
        ).strip()

    def kill(self, job: str) -> None:
        """Returns when it is dead, by our signal."""
        self.rexec("kill", job)
        until(lambda: self._states()[job] == "signal 9", f"job {job} is killed", within=20)

    def _states(self) -> dict[str, str]:
        return {str(row["id"]): row["state"] for row in json.loads(self.rexec("jobs", "--json"))}

    def lines(self, job: str) -> list[list[str]]:
        """What the job said, in words."""
        path = self.state / "jobs" / job / "stdout"
        text = path.read_text() if path.exists() else ""
        return [line.split() for line in text.rpartition("\n")[0].splitlines()]

    def heard(self, job: str, word: str, times: int = 1) -> None:
        def enough() -> bool:
            return sum(line[0] == word for line in self.lines(job)) >= times

        until(enough, f"job {job} says {word!r}, as its stderr in {self.state} may explain", within=60)

    def committed(self, job: str, since: float) -> float:
        """When the image that was asked for at `since` was committed."""
        events = [json.loads(line) for line in self.rexec("log", "--json", job).splitlines()]
        return next(float(event["at"]) for event in events if event["kind"] == "checkpoint" and event["at"] > since)

    def _carried(self) -> float:
        """MiB that our ssh's have carried, both ways; what they read from one side they write to the other."""
        total = 0
        for process in psutil.process_iter():
            try:
                if process.name() == "ssh" and process.environ().get("XDG_STATE_HOME") == self.env["XDG_STATE_HOME"]:
                    counters = process.io_counters()
                    total += counters.read_chars + counters.write_chars
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it has just ended, or is none of ours
        return total / 2 / (1 << 20)

    def _stored(self) -> float:
        return sum(path.stat().st_size for path in (self.state / "images").rglob("*") if path.is_file()) / (1 << 20)

    def turn(self, figures: Figures) -> None:
        """A fresh job leaves the first host for the second; there 1 % of it changes and it is saved once more."""
        first, second = self.hosts
        job = self.submit(PYTHON, str(HERE / "checkpoint_job.py"))
        with subprocess.Popen(
            ["ssh", first, "exec python3 -"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as watcher:
            assert watcher.stdin is not None and watcher.stdout is not None
            watcher.stdin.write((HERE / "checkpoint_host.py").read_bytes())
            watcher.stdin.close()
            self.heard(job, "ready")
            if watcher.stdout.readline() != b"found\n":
                raise BenchError(f"the job could not be watched on {first}")
            ordered = time.time()
            self.rexec("vacate", "--to", second, job)
            seen = json.loads(watcher.stdout.readline())
        committed = self.committed(job, ordered)
        self.heard(job, "changed")
        acts = next(float(line[2]) for line in self.lines(job) if line[0] == "gap" and float(line[2]) > committed)
        figures.vacate.ours.append(committed - ordered)
        figures.ahead.raw.append(committed - ordered)
        figures.restart.ours.append(acts - committed)
        figures.whole.ours.append(max(acts, float(seen["free"])) - ordered)
        figures.beside.ours.append(seen["beside"] / (1 << 20))
        so_far = len(self.lines(job))
        carried, stored = self._carried(), self._stored()
        self.rexec("checkpoint", job)
        figures.link.ours.append(self._carried() - carried)
        figures.disk.ours.append(self._stored() - stored)
        self.heard(job, "changed", 2)
        gaps = [float(line[1]) for line in self.lines(job)[so_far:] if line[0] == "gap"]
        figures.frozen.ours.append(max(gaps))
        self.kill(job)
        self.rexec("images", "rm", job)

    def steady(self, figures: Figures) -> None:
        """A job that writes the same scattered 1 % each second is saved again and again, and then leaves."""
        job = self.submit(PYTHON, str(HERE / "checkpoint_job.py"), "steady")
        self.heard(job, "ready")
        before = 0
        for number in range(4):
            said = self.lines(job)
            self.rexec("checkpoint", job)
            with Store(self.state / "images").open(job) as image:
                stats = image.manifest.stats["criu"]
            assert isinstance(stats, dict)
            frozen = int(stats["frozen_us"]) / 1e6
            self.heard(job, "written", sum(line[0] == "written" for line in self.lines(job)) + 3)
            if number:  # the first is of all memory
                writes = [float(line[1]) for line in self.lines(job)[before:] if line[0] == "written"]
                figures.changed.ours.append(frozen)
                figures.every.ours.append(100 * (frozen + max(writes) - min(writes)) / 60)
            before = len(said)
        ordered = time.time()
        self.rexec("vacate", "--to", self.hosts[1], job)
        figures.ahead.ours.append(self.committed(job, ordered) - ordered)
        self.kill(job)
        self.rexec("images", "rm", job)

    def moves(self, figures: Figures, rounds: int) -> None:
        """A shell loop to the second host and back; the first round, which brings criu there, does not count."""
        job = self.submit("sh", "-c", LOOP)
        for number in range(rounds + 1):
            self.heard(job, str(number * 5 + 1))
            began = time.monotonic()
            self.rexec("vacate", "--to", self.hosts[1], job)
            if number:
                figures.move.ours.append(time.monotonic() - began)
            self.rexec("vacate", "--to", self.hosts[0], job)
        said = self.lines(job)
        if said != [[str(number)] for number in range(1, len(said) + 1)]:
            raise BenchError(f"job {job} did not say each line once in order: {said[-20:]}")
        self.kill(job)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=3, show_default=True, help="turns of raw criu and rexec")
@click.option(
    "--hosts", metavar="HOST,HOST", help="two Debian machines of yours that log in as root; default: the desk's"
)
def main(rounds: int, hosts: str | None) -> None:
    """Measure rexec's checkpoints and moves beside raw criu, in turns, and print medians and ratios."""
    figures = Figures()
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            if hosts is None:
                stack.enter_context(apart.entered())
                desk.up()
            first, second = (hosts or "alpha,beta").split(",")
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp")))
            raw, ours = Raw((first, second), work, stack), Ours((first, second), work, stack)
            ours.moves(figures, rounds)
            for number in range(rounds):
                click.echo(f"bench: round {number + 1} of {rounds}", err=True)
                raw.turn(figures)
                ours.turn(figures)
                ours.steady(figures)
            click.echo(f"kernel {os.uname().release}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
            click.echo(f"{rounds} rounds, {time.monotonic() - began:.0f} s")
            click.echo(figures.text())
    except (BenchError, DeskError) as failed:
        raise click.ClickException(str(failed)) from failed


if __name__ == "__main__":
    sys.exit(main())
