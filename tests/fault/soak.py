"""Jobs with moves and cuts throughout, and at the end a judgement: has anything grown that does not shrink again?

    python -m tests.fault.soak --minutes 60 --jobs 10

Hosts are this machine, behind an `ssh` that carries bytes (many.py). Counted are the processes of these jobs, at home
and there, their descriptors and memory, what is mounted in their namespaces and not in this one, and files beneath the
run's own directory. All of that is to be as it was after a warm-up, in which each job is moved twice: by then it has
its images.
test_soak.py does the same in rounds, for two minutes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import psutil

from tests import desk_root
from tests.fault.many import CARRY, SSH
from tests.until import until

HOSTS = ("one", "two")
# Each number once, to its output and to a file, as long as the file `end` is not there.
WORK = """
import os, time
i, held = 0, open("numbers", "w")
while not os.path.exists("end"):
    i += 1
    for file in (held, None):
        print(i, file=file, flush=True)
    time.sleep(.1)
"""
_WARM = 2  # moves of each job
# How much more, as a share and beside it, what is counted may be at the end, by its median, than once it was warm. A
# Python process's memory is not given back evenly; a leak of a page a move is more than this in 60 minutes.
MAY_GROW = {
    "processes": (0.0, 2), "descriptors": (0.03, 10), "memory": (0.08, 8 << 20), "mounts": (0.0, 4),
    "files": (0.05, 20),
}  # fmt: skip


class Soak:
    """So many jobs, beneath `top`."""

    def __init__(self, top: Path, rexec: str, count: int, seed: int) -> None:
        self._top, self._rexec, self._chance = top, rexec, random.Random(seed)
        data = top / "data/rexec"
        data.mkdir(parents=True)
        (data / "criu").symlink_to(desk_root.criu().archive.parent)
        ssh = top / "bin/ssh"
        ssh.parent.mkdir()
        ssh.write_text(SSH.format(top=top, python=sys.executable))
        ssh.chmod(0o755)
        (top / "carry.py").write_text(CARRY)
        places = {f"XDG_{name}_HOME": str(top / name.lower()) for name in ("STATE", "DATA", "CONFIG", "CACHE")}
        self._environment = {**os.environ, **places, "PATH": f"{top}/bin:{os.environ['PATH']}", "REXEC_KEEP": "0"}
        self.jobs = [self._start(number) for number in range(count)]
        self.moves = self.cuts = 0

    def _run(self, *words: str, cwd: Path | None = None) -> str:
        argv = [self._rexec, *words]
        done = subprocess.run(
            argv, env=self._environment, cwd=cwd or self._top, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout.strip()

    def _start(self, number: int) -> str:
        home = self._top / f"job{number}"
        home.mkdir()
        words = [
            "--checkpoint",
            "--every",
            "never",
            "--keep",
            "1",
            "--detach",
            "--owner",
            "none",
            "--on",
            ",".join(HOSTS),
            "--",
        ]
        return self._run(*words, "python3", "-c", WORK, cwd=home)

    def _jobs(self) -> dict[str, dict[str, object]]:
        return {str(row["id"]): row for row in json.loads(self._run("jobs", "--json"))}

    def act(self) -> None:
        """Move one, or cut the connection of one."""
        if self._chance.random() < 0.6:
            self.move(self._chance.choice(self.jobs))
        else:
            self._chance.choice(sorted(self._carriers(), key=lambda each: each.pid)).kill()
            self.cuts += 1

    def round(self) -> None:
        """Cut the connections of all at once, then move each: what is there afterwards is the same after each round."""
        for carrier in self._carriers():
            carrier.kill()
            self.cuts += 1
        self.goes_on()
        for job in self.jobs:
            self.move(job)
        self.goes_on()

    def _carriers(self) -> list[psutil.Process]:
        return [each for each in self._processes() if str(self._top / "carry.py") in each.info["cmdline"]]

    def move(self, job: str) -> None:
        """Have it leave for the other host."""
        self._run("vacate", "--to", next(host for host in HOSTS if host != self._jobs()[job]["host"]), job)
        self.moves += 1

    def warm_up(self) -> None:
        """Move each of them, so that it has all that a job has for good."""
        for job in self.jobs * _WARM:
            self.move(job)

    def goes_on(self) -> None:
        """Wait until each job has said more."""
        for job in self.jobs:
            said = self._top / "state/rexec/jobs" / job / "stdout"
            so_far = said.stat().st_size
            until(lambda said=said, so_far=so_far: said.stat().st_size > so_far, f"job {job} goes on", within=120)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for each in psutil.process_iter(["cmdline"]):
            try:
                if each.environ().get("XDG_STATE_HOME") == self._environment["XDG_STATE_HOME"]:
                    found.append(each)
            except psutil.Error:
                continue  # it has just ended, or is none of ours
        return found

    def count(self) -> dict[str, int]:
        """Count it all. Packs are among the files, and how many hold what an image needs follows from its contents."""
        found = dict.fromkeys((*MAY_GROW, "packs"), 0)
        seen = set[str]()
        for each in self._processes():
            try:
                with each.oneshot():
                    found["descriptors"] += each.num_fds()
                    found["memory"] += each.memory_info().rss
                space = os.readlink(f"/proc/{each.pid}/ns/mnt")
                if space not in seen and space != os.readlink("/proc/self/ns/mnt"):
                    found["mounts"] += len(_mounted(each.pid) - _mounted(os.getpid()))
                seen.add(space)
            except (psutil.Error, OSError):
                continue  # it has just ended
            found["processes"] += 1
        for _, names, files in os.walk(self._top):
            found["files"] += len(files) + len(names)
            found["packs"] += sum(name.endswith(".pack") for name in files)
        return found

    def end(self) -> list[str]:
        """End the jobs; what is wrong with what they did, a line each."""
        wrong = []
        for number, job in enumerate(self.jobs):
            home = self._top / f"job{number}"
            (home / "end").touch()
            until(lambda job=job: self._jobs()[job]["state"] == "done", f"job {job} ends", within=120)
            said = (self._top / "state/rexec/jobs" / job / "stdout").read_text().split()
            if said != [str(each + 1) for each in range(len(said))] or said != (home / "numbers").read_text().split():
                wrong.append(f"job {job} has not said each number once, or its file is another")
        return wrong

    def kill(self) -> None:
        """End what is left."""
        for each in self._processes():
            each.send_signal(signal.SIGKILL)


def _mounted(process: int) -> set[str]:
    """The filesystems that are mounted in its namespace, by number, but for the names of networks that others make."""
    lines = [line.split() for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines()]
    return {words[2] for words in lines if words[words.index("-") + 1] != "nsfs"}


def judged(samples: list[dict[str, int]]) -> tuple[list[str], list[str]]:
    """The table, and what has grown: the median of the last third against that of the first."""
    third = max(len(samples) // 3, 1)
    rows, grown = [f"{'':12}{'first':>12}{'last':>12}{'most':>12}"], []
    for what, (share, more) in MAY_GROW.items():
        first, last = (
            sorted(each[what] for each in part)[len(part) // 2] for part in (samples[:third], samples[-third:])
        )
        rows.append(f"{what:12}{first:12}{last:12}{max(each[what] for each in samples):12}")
        if last > first * (1 + share) + more:
            grown.append(f"{what} grew from {first} to {last}")
    return rows, grown


@click.command()
@click.option("--minutes", type=float, default=60.0, show_default=True)
@click.option("--jobs", "count", type=click.IntRange(1), default=10, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--rexec", default=str(Path(sys.executable).with_name("rexec")), show_default=True)
def main(minutes: float, count: int, seed: int, rexec: str) -> None:
    """Move and cut jobs for so long; the status is 1 if anything has grown, or a job has not done its work."""
    top = Path(tempfile.mkdtemp(prefix="rexec-soak-", dir="/var/tmp"))
    soak = Soak(top, rexec, count, seed)
    samples = list[dict[str, int]]()
    try:
        soak.warm_up()
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            soak.act()
            soak.goes_on()
            samples.append(soak.count())
        wrong = soak.end()
    except BaseException:
        soak.kill()
        raise
    rows, grown = judged(samples)
    click.echo("\n".join(rows))
    click.echo(f"{soak.moves} moves, {soak.cuts} cuts, {count} jobs, {minutes:g} minutes")
    for line in (*wrong, *grown):
        click.echo(line)
    if wrong or grown:
        sys.exit(1)
    shutil.rmtree(top)


if __name__ == "__main__":
    main()
