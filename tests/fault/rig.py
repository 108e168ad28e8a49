"""Breaks the link of a running job, again and again, and compares what came of it with an undisturbed run.

    python -m tests.fault.rig --seed 1 --cuts 200
    python -m tests.fault.rig --seed 1 --cuts 200 --checkpoint 3s

One seed gives the same faults, at the same bytes of the same connections; what goes over a connection until then is
the kernel's and the scheduler's affair. The work is mixed_work.py, and the connection cut_ssh.py.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]


@dataclass(frozen=True)
class Outcome:
    """What came of a run: its output, what it said otherwise, its status, and its files by name."""

    out: bytes
    err: bytes
    status: int
    files: dict[str, object]


def picture(directory: Path, links: bool) -> dict[str, object]:
    """What is in a directory: modes and contents; of a database its rows, of git's index nothing (it has inodes).

    `links`: how many names each file has, too. The journal of a job with images keeps one of what the job has removed.
    """
    found: dict[str, object] = {}
    for above, names, files in os.walk(directory):
        for name in (*names, *files):
            path = Path(above, name)
            if path.suffix == ".db":
                with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
                    found[name] = (db.execute("pragma integrity_check").fetchall(), list(db.iterdump()))
                db.close()
            elif path.name != "index":
                said = b"" if path.is_dir() else path.read_bytes()
                found[str(path.relative_to(directory))] = (path.stat().st_mode, path.stat().st_nlink * links, said)
    return found


class Rig:
    """Has one job done over a connection that is cut `cuts` times by the plan of `seed`; beneath `top`."""

    def __init__(self, top: Path, rexec: str, seed: int, cuts: int, every: str = "") -> None:
        """`every`: an image of it is made so often; empty: it is a job without images."""
        self.top, self._links = top, not every
        self._count = top / "count"
        images = ["--checkpoint", "--owner", "none", "--every", every] if every else []
        self._words = [rexec, *images, "--on", "rig", "--"]
        self._environment = {
            **os.environ, "PATH": f"{top}/bin:{os.environ['PATH']}", "RIG_SEED": str(seed),
            "RIG_COUNT": str(self._count), "RIG_BEGUN": str(top / "begun"), "PYTHONDONTWRITEBYTECODE": "1",
            "REXEC_KEEP": "0",
        }  # fmt: skip
        self._count.write_text(f"0 {cuts} ")
        ssh = top / "bin/ssh"
        ssh.parent.mkdir()
        ssh.write_text(f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m tests.fault.cut_ssh "$@"\n')
        ssh.chmod(0o755)

    def counted(self) -> tuple[int, int]:
        """Return how many connections there have been, and how many cuts are left."""
        number, left = map(int, self._count.read_text().split() or (0, 1))
        return number, left

    def disturbed(self, seconds: float) -> tuple[Outcome, int]:
        """Do rounds until all cuts are made, or for so long; return what came of it, and the number of rounds."""
        self.reach()
        return self._run(self._words, self.top / "cut", self._environment, seconds=seconds)

    def reach(self) -> None:
        """Have the host keep the runtime, over a connection that is not cut."""
        subprocess.run([*self._words, "true"], env={**self._environment, "RIG_COUNT": "/dev/null"}, check=True)

    def started(self, fault: str, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        """Run a command whose first connection is cut as $RIG_FAULT says, counted from its first byte."""
        environment = {**self._environment, "RIG_FAULT": fault, "RIG_BEGUN": os.devnull}
        return subprocess.run([*self._words, *command], env=environment, capture_output=True, check=False)

    def undisturbed(self, rounds: int) -> Outcome:
        """Do so many rounds here."""
        return self._run([], self.top / "here", {**os.environ}, rounds=rounds)[0]

    def _run(
        self, before: list[str], directory: Path, environment: dict[str, str], *, rounds: int = 0, seconds: float = 0
    ) -> tuple[Outcome, int]:
        directory.mkdir()
        words = [*before, "python3", str(HERE / "mixed_work.py")]
        out, done, until = b"", 0, time.monotonic() + seconds
        with (
            open(self.top / f"{directory.name}.err", "w+b") as err,
            subprocess.Popen(
                words, cwd=directory, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err
            ) as process,
        ):
            assert process.stdin is not None and process.stdout is not None
            while done < rounds or (not rounds and self.counted()[1] and time.monotonic() < until):
                done += 1
                process.stdin.write(b"round %d\n" % done)
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    break
                out += line
                self.top.joinpath("begun").touch()
            out += process.communicate(b"end\n")[0] if process.poll() is None else process.stdout.read()
            err.seek(0)
            said = err.read()
        return Outcome(out, said, process.returncode, picture(directory, self._links)), done


def differences(one: Outcome, other: Outcome) -> list[str]:
    """Say what is not the same, a line each; nothing if all is."""
    found = [
        f"{name}: {a!r} and {b!r}"
        for name, a, b in (("output", one.out, other.out), ("status", one.status, other.status))
        if a != b
    ]
    names = one.files.keys() | other.files.keys()
    return found + [f"file {name}" for name in sorted(names) if one.files.get(name) != other.files.get(name)]


@click.command()
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--cuts", type=click.IntRange(1), default=50, show_default=True, help="How often.")
@click.option("--seconds", type=float, default=3600.0, show_default=True, help="End it after so long all the same.")
@click.option("--checkpoint", "every", default="", metavar="D", help="Make it a job of which an image is made every D.")
@click.option("--rexec", default=str(Path(sys.executable).with_name("rexec")), show_default=True)
def main(seed: int, cuts: int, seconds: float, every: str, rexec: str) -> None:
    """Cut the link of a job that does mixed work, and compare with an undisturbed run."""
    top = Path(tempfile.mkdtemp(prefix="rexec-rig-"))
    rig = Rig(top, rexec, seed, cuts, every)
    began = time.monotonic()
    cut, rounds = rig.disturbed(seconds)
    took, left = time.monotonic() - began, rig.counted()[1]
    found = differences(cut, rig.undisturbed(rounds))
    click.echo(
        f"seed {seed}: {cuts - left} cuts, {rounds} rounds, {took:.0f} s; "
        + ("all as undisturbed" if not found and not cut.status else f"kept in {top}")
    )
    for line in found[:20]:
        click.echo(line[:400])
    if found or cut.status:
        click.echo(cut.err.decode("utf-8", "replace")[-2000:], err=True)
        sys.exit(1)
    shutil.rmtree(top)


if __name__ == "__main__":
    main()
