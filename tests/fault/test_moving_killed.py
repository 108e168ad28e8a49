"""kill -9 of any process of the execute side, at any step of a checkpoint, a vacate or a restart.

After it the job runs where it was, or goes on from a committed image; never two of it, never none, no line twice.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from tests.mover_as_user import Make, Run, begun, counted, killed, more
from tests.until import until

# The ordinary user's way has all that root's has and more; the orders are the same.
pytestmark = pytest.mark.where(lambda order="vacate", **params: params["uid"] != 0 and order == "vacate")

DUMP = [
    ("preflight", ("agent", "keeper", "init")),
    ("criu", ("agent", "keeper", "init")),
    ("post-dump", ("agent", "keeper", "init", "criu")),
    ("sending", ("agent", "keeper", "init")),
    ("committed", ("agent", "keeper", "init")),
]
CASES = [(order, point, who) for order in ("checkpoint", "vacate") for point, all_ in DUMP for who in all_]
CASES += [("vacate", "sending", "criu"), ("vacate", "committed", "criu"), ("vacate", "left", "agent")]
RESTORE = [(p, w) for p in ("arrived", "post-restore", "restored") for w in ("agent", "keeper", "init")]
RESTORE += [("post-restore", "criu")]


def alive(mark: str) -> list[str]:
    """Processes with that in their environment.

    Only of those is it read that are in a directory of these tests: to read it is to wait for a lock of the process's
    memory, and another test's may hold that for as long as its home is silent.
    """
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                if "/var/tmp/moving-" not in os.readlink(f"/proc/{pid}/cwd"):
                    continue
                if mark.encode() in Path("/proc", pid, "environ").read_bytes():
                    found.append(pid)
            except OSError:
                continue  # it has ended, or is not ours
    return found


def job(make: Make, mark: str) -> list[str]:
    return ["/usr/bin/env", f"MARK={mark}", "/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep .01; done"]


@pytest.mark.parametrize(("order", "point", "who"), CASES, ids=["-".join(case) for case in CASES])
def test_while_it_is_dumped(run: Run, order: str, point: str, who: str) -> None:
    mark = uuid.uuid4().hex

    def body(make: Make, home: Path) -> None:
        mover = make(*job(make, mark), strike=f"{point}:{who}:{1 if point == 'left' else 2}")
        at = begun(mover)
        more(mover)
        assert at.checkpoint(1)["what"] == "committed"
        more(mover)
        at.order(order, 2)
        heard = at.wait("moved", "refused", "closed", "dead", *(["committed"] if order == "checkpoint" else []))
        if (heard["what"], point) == ("committed", "committed") or (heard["what"] == "refused" and who != "criu"):
            heard = at.wait("closed", "dead")  # that was said before
        if heard["what"] in ("moved", "closed", "dead"):
            if heard["what"] != "closed":
                at.wait("closed")
            at.close()
            until(lambda: not alive(mark), "the old copy is still there")
            at = mover.place("local", mover.image)
            at.go()
            at.wait("started")
        more(mover, 60)
        at.order("kill", 0)
        assert at.end() == 9
        until(lambda: not alive(mark), "something is left of it")
        assert (home / "struck").exists()
        counted(mover)

    run(body)


def test_a_tree_whose_criu_is_gone_does_not_go_on_before_the_commit(run: Run) -> None:
    """What it did then would be in its files, and be done again by its image."""

    def body(make: Make, home: Path) -> None:
        script = "i=0; while :; do i=$((i+1)); echo $i >> file; echo $i; done"
        mover = make("/bin/sh", "-c", script, strike="sending:criu:1")
        at = begun(mover)
        more(mover, 400)
        at.order("vacate", 1)
        at.wait("moved")
        at.wait("closed")
        at.close()
        assert (home / "struck").exists()
        assert (home / "file").read_bytes().split()[: mover.out.count(b"\n")] == mover.out.split()
        at = mover.place("local", mover.image)
        at.go()
        at.wait("started")
        more(mover, 400)
        killed(mover, at)
        said = [int(word) for word in (home / "file").read_bytes().split()]
        assert said == list(range(1, len(said) + 1))

    run(body)


@pytest.mark.parametrize(("point", "who"), RESTORE, ids=["-".join(case) for case in RESTORE])
def test_while_it_is_restored(run: Run, point: str, who: str) -> None:
    mark = uuid.uuid4().hex

    def body(make: Make, home: Path) -> None:
        mover = make(*job(make, mark))
        at = begun(mover)
        more(mover)
        at.order("vacate", 1)
        at.wait("moved")
        at.wait("closed")
        at.close()
        mover.strike = f"{point}:{who}:1"
        at = mover.place("local", mover.image)
        while True:
            heard = at.wait("restored", "closed", "fail", "dead", "started")["what"]
            if heard == "restored":
                at.order("go", mover.generation)
            elif heard in ("closed", "fail", "dead"):
                break
        if heard != "closed":
            at.wait("closed")
        at.close()
        assert (home / "struck").exists(), at.seen
        until(lambda: not alive(mark), "the first copy is still there")
        at = mover.place("local", mover.image)
        at.go()
        more(mover, 60)
        at.order("kill", 0)
        assert at.end() == 9
        until(lambda: not alive(mark), "something is left of it")
        assert (home / "struck").exists()
        counted(mover)

    run(body)
