"""docs/nug.md, with a problem that is small: workers search parts of it on hosts that are left, and that die."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.job_commands import USER, Mover, give, kill_agent
from tests.until import HANG, until

NUG = Path(__file__).resolve().parents[2] / "docs/nug"
LEAST = 578  # what QAPLIB has of nug12
WORKERS = 6


@pytest.mark.long(lambda **_: True)
@USER
def test_a_problem_is_solved_whatever_becomes_of_the_hosts(mover: Mover) -> None:
    (mover.dir / "config" / "rexec").mkdir(parents=True)
    (mover.dir / "config" / "rexec" / "hosts.toml").write_text(
        "".join(f'[host.{name}]\nssh = "{name}"\nowner = "none"\nslots = {WORKERS}\n' for name in mover.hosts)
    )
    for name in ("todo", "taken", "done", "best"):
        (mover.dir / name).mkdir()
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", mover.dir / "qap", NUG / "qap.c"], check=True)
    instance = (NUG / "nug12.dat").read_text()
    (mover.dir / "nug12.dat").write_text(instance)
    give(mover, mover.dir)

    def rows() -> list[dict[str, Any]]:
        return [row for row in json.loads(mover.verb("jobs", "--json")) if "id" in row]

    def is_done(parts: list[str]) -> bool:
        return {path.name for path in (mover.dir / "done").iterdir()} >= set(parts)

    def offer(parts: list[str]) -> None:
        for part in parts:
            (mover.dir / "todo" / part).touch()

    parts = [f"{i}-{j}" for i in range(12) for j in range(12) if i != j]
    first, second, rest = parts[:40], parts[40:80], parts[80:]
    offer(first)
    batch = mover.verb("submit", "--checkpoint", "-n", str(WORKERS), "./qap", "nug12.dat", ".", "{}").strip()
    until(lambda: [row["state"] for row in rows()] == ["running"] * WORKERS, "all run", within=HANG)
    until(lambda: is_done(first), "the first parts are searched")
    saved, left, lost = (str(row["id"]) for row in rows()[:3])
    mover.verb("checkpoint", saved)
    offer(second)
    mover.verb("vacate", left)
    until(lambda: is_done(second), "the second parts are searched")
    kill_agent(mover, saved)
    kill_agent(mover, lost)
    offer(rest)
    (mover.dir / "end").touch()
    mover.verb("watch", batch, timeout=2 * HANG)  # until all have ended
    (row,) = (row for row in json.loads(mover.verb("jobs", "--json")) if row.get("batch") == batch)
    assert row["done"] == WORKERS, mover.verb("log", batch)
    assert is_done(parts)
    assert not list((mover.dir / "todo").iterdir()) + list((mover.dir / "taken").iterdir())
    assert min(int(path.name) for path in (mover.dir / "best").iterdir()) == LEAST
    places = [int(word) - 1 for word in (mover.dir / "best" / str(LEAST)).read_text().split()]
    numbers = list(map(int, instance.split()))[1:]
    distances, flows = numbers[:144], numbers[144:]
    pairs = [(i, j) for i in range(12) for j in range(12)]
    assert sum(flows[12 * i + j] * distances[12 * places[i] + places[j]] for i, j in pairs) == LEAST
