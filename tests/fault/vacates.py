"""Vacates of a job that changes its files, in each of which something is killed, or a restore fails.

    python -m tests.fault.vacates --seed 1 --count 100 [--restores]

The seed says what is struck, and at which point (tests/strike.py). Supervisor, agents and criu are real; the hosts are
this machine. What came of it is compared with an undisturbed run: each line once, and the same files.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

from checkpoint.submit import obtain_criu
from shim.submit.job.control_socket import ControlError
from tests import desk_root
from tests.fault.supervised_here import Supervised
from tests.undo_play import tree
from tests.until import until

# Each round changes files as its number says, then says and notes that number. Of a number of rounds it is the same.
WORK = """
import os, random, sys, time
most, i = int(sys.argv[1]) if sys.argv[1:] else 0, 0
os.makedirs("tree")
held, log = open("tree/held", "w+b"), open("log", "a")

def change(chance):
    a, b, n = "tree/%d" % chance.randrange(6), "tree/%d" % chance.randrange(6), chance.randrange(9000)
    what, data = chance.randrange(9), bytes([97 + n % 26]) * (1 + n)
    if what == 0:
        open(a, "ab").write(data)
    elif what == 1:
        with open(a, "r+b") as file:
            file.seek(n)
            file.write(data)
    elif what == 2:
        os.rename(a, b)
    elif what == 3:
        os.unlink(a)
    elif what == 4:
        open(a, "wb").write(data)
    elif what == 5:
        os.truncate(a, n)
    elif what == 6:
        os.link(a, b)
    elif what == 7:
        os.symlink(os.path.basename(b), a)
    else:
        held.seek(n)
        held.write(data)
        held.flush()

while not (i == most if most else os.path.exists("end")):
    i += 1
    chance = random.Random(i)
    for _ in range(3):
        try:
            change(chance)
        except OSError:
            pass
    print(i, file=log, flush=True)
    print(i, flush=True)
    time.sleep(0 if most else .01)
raise SystemExit(7)
"""
HOSTS = ("alpha", "beta", "gamma")
# Where the job is killed before its image is committed it goes on from the one before.
LEAVING = [(p, w) for p in ("preflight", "criu", "post-dump", "sending", "held") for w in ("agent", "keeper", "init")]
LEAVING += [("post-dump", "criu"), ("sending", "criu"), ("held", "criu")]
FAILING = [("arrived", "error"), ("post-restore", "error"), ("post-restore", "criu")]  # restores, and no agent ends
COMING = [*FAILING, *((p, w) for p in ("arrived", "post-restore") for w in ("agent", "keeper", "init"))]
SUPERVISOR = [(p, "stands") for p in ("post-dump", "sending", "held", "arrived", "post-restore")]  # and it is killed


def plan(seed: int, faults: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Draw faults, for ever."""
    chance = random.Random(seed)
    while True:
        yield chance.choice(faults)


class Vacates:
    """One job, in the directory `home`."""

    def __init__(self, home: Path, kept: obtain_criu.Bundle) -> None:
        self.home = home
        self.job = Supervised(home, kept, HOSTS, WORK)
        self._drawn, self._struck = home / "drawn", home / "struck"
        self.job.otherwise = f"drawn:{self._drawn}:1"
        self.job.begin()
        self.job.more()
        answer = self.job.ask("checkpoint")
        assert answer.startswith("True: "), answer

    def vacate(self, point: str, who: str) -> bool:
        """Have it leave, and that happen; it goes on. False: nothing came to that point."""
        self._struck.unlink(missing_ok=True)
        new = self.home / "drawn.new"
        new.write_text(f"{point}:{who}")
        new.rename(self._drawn)
        answers: list[str] = []
        asks = threading.Thread(target=self._ask, args=(answers, who == "stands"), daemon=True)
        asks.start()
        if who == "stands":
            try:
                until(self._struck.exists, f"it comes to {point}")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{answers}\n{self.job.job.log.read_text()}") from None
            self.job.kill()
            asks.join()
            self.job.begin()
        else:
            asks.join()
        self.job.more()
        self._drawn.unlink(missing_ok=True)
        return self._struck.exists()

    def _ask(self, answers: list[str], again: bool) -> None:
        """Ask for it; `again`: until it happens, as where to it could go may be resting from the failure before."""
        while True:
            with suppress(ControlError, AssertionError, ValueError):  # it was killed before it could answer
                answers.append(self.job.ask("vacate"))
            if not again or self._struck.exists():
                return
            time.sleep(0.5)

    def end(self) -> int:
        """The job ends, and has done what an undisturbed one does; how many rounds that was."""
        self.job.end()
        rounds = len(self.job.lines("log"))
        alone = self.home / "alone"
        alone.mkdir()
        done = subprocess.run(
            ["/usr/bin/python3", "-c", WORK, str(rounds)], cwd=alone, capture_output=True, check=False
        )
        assert done.returncode == 7, done.stderr
        here, there = (tree(top / "tree", timed=False) for top in (self.home, alone))
        assert here == there, {name: (here.get(name), there.get(name)) for name in {*here, *there}}
        beside = [path.name for path in (self.home / "tree").iterdir() if "-image" in path.name]
        assert not beside, beside
        return rounds


@click.command()
@click.option("--seed", default=1)
@click.option("--count", default=100, help="Vacates.")
@click.option("--restores", is_flag=True, help="Only restores fail.")
def main(seed: int, count: int, restores: bool) -> None:
    """Do so many vacates with faults drawn by that seed, and compare what came of it with an undisturbed run."""
    home = Path(tempfile.mkdtemp(prefix="vacates-", dir="/var/tmp"))
    began, struck = time.monotonic(), 0
    vacates, faults = Vacates(home, desk_root.criu()), FAILING if restores else [*LEAVING, *COMING, *SUPERVISOR]
    for number, (point, who) in zip(range(count), plan(seed, faults)):
        at = time.monotonic()
        there = vacates.vacate(point, who)
        struck += there
        left = "" if there else ", which nothing came to"
        click.echo(f"{number + 1} {who} at {point}: it goes on after {time.monotonic() - at:.1f} s{left}")
    rounds = vacates.end()
    click.echo(f"{count} vacates, {struck} struck, {rounds} rounds, {time.monotonic() - began:.0f} s: as undisturbed")
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
