"""A batch of jobs with --checkpoint, each of another kind, in places of an engine's: for test_pool_moves.py."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.pool import Access
from tests.pool_jobs import COUNTER, MOVE
from tests.until import until

# Each says a line again and again, writes it to a file that it has open, and knows by itself which comes next.
NUMPY = """\
import os, sys, time
import numpy
step = numpy.identity(150)
step[0, 1] = 1
power, kept = numpy.identity(150), open(sys.argv[1] + ".kept", "w", buffering=1)
while not os.path.exists(sys.argv[1] + ".end"):
    power = power @ step
    print("line", int(power[0, 1]), flush=True)
    print("line", int(power[0, 1]), file=kept)
    time.sleep(0.05)
sys.exit(3)
"""
# Each line is said by a program that gcc has built for it.
GCC = """\
n=0; exec 3>"$1.kept"
until [ -e "$1.end" ]; do
    n=$((n + 1))
    echo "#include <stdio.h>
int main(void) { return puts(\\"line $n\\") < 0; }" >"$1.c"
    gcc -O2 -o "$1.program" "$1.c" && "./$1.program" >"$1.line" || exit 4
    cat "$1.line"; cat "$1.line" >&3
done
exit 3
"""
PIPELINE = """\
sh -c "python3 counter.py $1" | while read -r word n; do echo $word $n; done
exit 3
"""
KIND = """\
case $2 in
0) exec python3 counter.py $1.$2 ;;
1) exec sh pipeline.sh $1.$2 ;;
2) exec python3 matrix.py $1.$2 ;;
3) exec sh build.sh $1.$2 ;;
esac
"""
KINDS = ("an open file", "a pipeline", "numpy", "gcc")
_FILES = {"counter.py": COUNTER, "pipeline.sh": PIPELINE, "matrix.py": NUMPY, "build.sh": GCC, "kind.sh": KIND}
_JOBS = range(len(KINDS))


class Kinds:
    """The batch, and what is seen of it; `stem`: what its files begin with."""

    def __init__(self, alice: Access, stem: str) -> None:
        """Have all of its jobs run, on one host, and be saved once."""
        self.alice, self.stem = alice, stem
        for file, text in _FILES.items():
            alice.sh(f"cat >{file} <<'END'\n{text}END")
        options = ("--checkpoint", "--every", "10s", "--lease", "20s", "--name", stem)
        with alice.without("p3"):
            self.name = alice.submit(*options, "-n", str(len(KINDS)), "sh", "kind.sh", stem, "{}")
            self._all(self._lines, "says something")
        until(lambda: self._saved() == len(KINDS), "each has an image", within=MOVE)
        (self.host,) = set(self.hosts().values())

    def engines(self) -> str:
        """What the engine calls all of it."""
        return str(self.alice.rows(self.name)[0]["engine"]).partition(":")[0]

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """The rows of its log that say that a job was `kind`: running, waiting, held or done."""
        return self.alice.has(self.name, **{"is": kind})()

    def hosts(self) -> dict[int, str]:
        """Where each runs, or ran last."""
        return {row["job"]: row["host"] for row in self.rows("running")}

    def are(self, kind: str) -> None:
        """Wait until all of them are `kind`."""
        self._all(lambda: Counter(job for job, last in self._last().items() if last == kind), kind)

    def _last(self) -> dict[int, str]:
        return {row["job"]: row["is"] for row in self.alice.rows(self.name) if "is" in row}

    @contextmanager
    def moved(self, *, elsewhere: bool = False) -> Iterator[None]:
        """What is done to them meanwhile has each of them run on in another place; `elsewhere`: on another host."""
        before = Counter(row["job"] for row in self.rows("running"))
        yield
        self._all(lambda: Counter(row["job"] for row in self.rows("running")) - before, "runs again")
        said = self._lines()
        self._all(lambda: self._lines() - said, "says more")
        assert not elsewhere or self.host not in self.hosts().values()

    def end(self) -> None:
        """Have all end: what each said is there once, in its output and in the file that it had open."""
        self.alice.sh(f"touch {' '.join(f'{self.stem}.{job}.end' for job in _JOBS)}")
        self._all(lambda: Counter(row["job"] for row in self.rows("done")), "has ended")
        assert {row["job"]: row["status"] for row in self.rows("done")} == dict.fromkeys(_JOBS, 3)
        for job in _JOBS:
            said = self.alice.lines(f"{self.stem}.{job}.out")
            assert said == [f"line {n}" for n in range(1, len(said) + 1)], KINDS[job]
            assert self.alice.lines(f"{self.stem}.{job}.kept") == said, KINDS[job]
        assert not any("begins anew" in str(row.get("why")) for row in self.alice.rows(self.name))

    def _all(self, look: Callable[[], Counter[int]], what: str) -> None:
        """Wait until each of them is in what is seen."""
        seen: Counter[int] = Counter()

        def all_are() -> bool:
            nonlocal seen
            time.sleep(1)  # else the looks alone take a processor
            seen = look()
            return set(seen) == set(_JOBS)

        try:
            until(all_are, what, within=MOVE)
        except AssertionError as e:
            e.add_note(f"seen: {seen}\n{self.alice('rexec', 'log', self.name)}")
            raise

    def _lines(self) -> Counter[int]:
        """How many lines each has said."""
        counted = self.alice.sh(
            f"for n in {' '.join(map(str, _JOBS))}; do cat {self.stem}.$n.out 2>/dev/null | wc -l; done"
        )
        return +Counter(dict(enumerate(map(int, counted.split()))))

    def _saved(self) -> int:
        """How many of them have an image."""
        listed = json.loads(self.alice("rexec", "jobs", "--json"))
        ours = [row for row in listed if row["command"][:3] == ["sh", "kind.sh", self.stem]]
        return sum(row.get("checkpoint") is not None for row in ours)
