"""What holds of jobs in the places of any engine: for the tests on each of them (test_pools.py and what it names)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from tests.pool import EXECUTE, PLACE, Access
from tests.until import until

# Says a line again and again, writes it to a file that it has open, and keeps in memory which comes next.
COUNTER = """\
import os, sys, time
done, kept = 0, open(sys.argv[1] + ".kept", "w", buffering=1)
while not os.path.exists(sys.argv[1] + ".end"):
    done += 1
    print("line", done, flush=True)
    print("line", done, file=kept)
    time.sleep(0.05)
sys.exit(3)
"""
MOVE = 3 * PLACE
"""Seconds for a job to be given another place and to go on there."""


def gives_each_status(alice: Access) -> str:
    """Jobs of a batch see home's files, make theirs there, and end as they say; the batch."""
    alice.sh("echo of home >given")
    name = alice.submit("-n", "5", "--name", "each", "sh", "-c", "cat given; pwd; echo {} >made.{}; exit {}")
    until(lambda: len(alice.has(name, **{"is": "done"})()) == 5, "all have ended", within=PLACE)
    ended = alice.has(name, **{"is": "done"})()
    assert {each["job"]: each["status"] for each in ended} == {job: job for job in range(5)}
    assert {each["host"] for each in ended} <= set(EXECUTE)
    for job in range(5):
        assert alice.lines(f"each.{job}.out") == ["of home", "/home/alice"]
        assert alice.lines(f"made.{job}") == [str(job)]
    return name


def goes_through_what_an_engine_does(alice: Access) -> None:
    """A job with --checkpoint goes on when its place is taken, when it is held, and when its host dies."""
    job = Counting(alice, "goes", "--every", "5s", "--lease", "20s")
    with job.moved():
        alice.does("vacate", job.name)
    with job.moved():
        alice("rexec", "hold", f"{job.name}.0")
        until(lambda: job.rows(**{"is": "held"}), "it is held", within=PLACE)
        alice("rexec", "release", f"{job.name}.0")
    assert not [row for row in job.log() if row["kind"] == "lost"]
    images = job.saved()
    until(lambda: job.saved() > images, "it has a new image", within=PLACE)
    host = job.hosts()[-1]
    alice.dies(host)
    job.end()
    assert job.hosts()[-1] != host
    alice.pool.boot(host)


class Counting:
    """A job with --checkpoint that counts, and what is seen of it; `stem`: what its files begin with."""

    def __init__(self, alice: Access, stem: str, *options: str) -> None:
        self.alice, self.stem = alice, stem
        alice.sh(f"cat >counter.py <<'END'\n{COUNTER}END")
        self.name = alice.submit("--checkpoint", *options, "--name", stem, "python3", "counter.py", stem)
        self.says_more()

    def said(self) -> list[str]:
        return self.alice.lines(f"{self.stem}.0.out")

    def says_more(self) -> None:
        before = len(self.said())
        until(lambda: len(self.said()) > before + 10, f"{self.stem} says more", within=MOVE)

    def rows(self, **row: object) -> list[dict[str, object]]:
        return self.alice.has(self.name, job=0, **row)()

    def hosts(self) -> list[str]:
        """The hosts on which it has run, in order."""
        return [host for host, _ in itertools.groupby(str(row["host"]) for row in self.rows(**{"is": "running"}))]

    def moves(self, *words: str) -> None:
        """Have it moved by a command: it runs on in another place."""
        with self.moved():
            self.alice(*words)

    @contextmanager
    def moved(self) -> Iterator[None]:
        """What is done to it meanwhile has it run on in another place."""
        before = len(self.rows(**{"is": "running"}))
        yield
        until(lambda: len(self.rows(**{"is": "running"})) > before, f"{self.stem} runs again", within=MOVE)
        self.says_more()

    def engines(self) -> str:
        """What the engine calls the batch."""
        return str(self.alice.rows(self.name)[0]["engine"])

    def number(self) -> str:
        """What `rexec jobs` calls it."""
        return str(next(row["id"] for row in self.rows() if "id" in row))

    def log(self) -> list[dict[str, object]]:
        """What `rexec log` has of it by its number."""
        return self.alice.rows(self.number())

    def saved(self) -> int:
        """How many images of it there are in its log."""
        return sum(row["kind"] == "checkpoint" for row in self.log())

    def end(self) -> None:
        """Have it end: all that it said is there once, in its output and in the file that it had open."""
        self.says_more()
        self.alice.sh(f"touch {self.stem}.end")
        until(lambda: self.rows(**{"is": "done"}), f"{self.stem} has ended", within=MOVE)
        assert [row["status"] for row in self.rows(**{"is": "done"})] == [3]
        said = self.said()
        assert said == [f"line {n}" for n in range(1, len(said) + 1)]
        assert self.alice.lines(f"{self.stem}.kept") == said
        assert not any("begins anew" in str(row.get("why")) for row in self.rows())
