"""The kernel of a job that has come by many files lets go of them, where it can be told to (Linux 6.18)."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from remoteio.submit.export import pruning
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.leases import Leases
from shim import Result, run
from tests.until import until

FILES, MORE = 1200, 400
JOB = """
import os, sys
there = sys.argv[1]
held = open(f"{there}/7")
os.chdir(f"{there}/directory")
def look():
    return sum(os.stat(f"{there}/{k}").st_size for k in range(1200))
print("ready", flush=True)
sys.stdin.read(1)
print(look(), flush=True)
sys.stdin.read(1)
gone = "deleted" in os.getcwd() + os.readlink("/proc/self/exe") + os.readlink(f"/proc/self/fd/{held.fileno()}")
print(look(), held.read(), open(f"{there}/8").read(), gone)
"""


def test_files_of_long_ago_are_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is leased stays known, as the host may tell of it: so nothing is. So does what came along as it began."""
    monkeypatch.setattr(Leases, "runs", lambda leases: None)
    served: list[tuple[pruning.Pruning, Inodes]] = []
    made = pruning.Pruning.__init__

    def makes(self: pruning.Pruning, inodes: Inodes) -> None:
        made(self, inodes)
        served.append((self, inodes))

    monkeypatch.setattr(pruning.Pruning, "__init__", makes)
    (tmp_path / "directory").mkdir()
    for k in range(FILES):
        (tmp_path / str(k)).write_text(str(k))
    ended: list[Result] = []
    gives, says = os.pipe(), os.pipe()
    command = ["/usr/bin/python3", "-uc", JOB, str(tmp_path)]
    with open(gives[0], "rb") as stdin, open(says[1], "wb") as stdout:
        job = threading.Thread(
            target=lambda: ended.append(run(command, on="local", stdin=stdin, stdout=stdout)), daemon=True
        )
        job.start()
        with open(says[0]) as said:
            size = sum(len(str(k)) for k in range(FILES))
            assert said.readline() == "ready\n"
            ((pruned, inodes),) = served
            most = len(inodes.nodes) + MORE
            monkeypatch.setattr(pruning, "MOST_KEPT", most)
            os.write(gives[1], b".")
            assert said.readline() == f"{size}\n"
            assert pruned.able == (tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 18))
            if pruned.able:  # it comes by no other file meanwhile, so they stay gone
                until(lambda: len(inodes.nodes) <= most, "the kernel there lets go of files")
            else:
                assert len(inodes.nodes) > FILES
            os.write(gives[1], b".")
            assert said.readline() == f"{size} 7 8 False\n"
        job.join()
    os.close(gives[1])
    assert [each.returncode for each in ended] == [0]
