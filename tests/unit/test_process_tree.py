"""In which order a job's tree is stopped and continued: no shell in it may find its own job stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shim.execute.init import process_tree
from shim.execute.init.process_tree import ProcessTree
from tests.until import until

PARENTS = {2: 1, 3: 2, 4: 3, 5: 3, 6: 2}  # a shell 2 with a shell 3 in it, and their jobs


class Tree(ProcessTree):
    """Its processes stop when they have been looked at once more after the signal."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.sent: list[tuple[int, int, bytes]] = []  # to whom, which, and the state of the one above
        self.states = dict.fromkeys(PARENTS, b"S")

    def _pids(self) -> list[int]:
        return list(PARENTS)

    def stat(self, pid: int) -> tuple[bytes, int, int]:
        before = self.states.get(pid, b"S")
        if (pid, int(signal.SIGSTOP)) in [sent[:2] for sent in self.sent]:
            self.states[pid] = b"T"
        return before, PARENTS.get(pid, 0), 2


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree()

    def kill(pid: int, number: int) -> None:
        made.sent.append((pid, number, made.states.get(PARENTS.get(pid, 0), b"")))

    monkeypatch.setattr(process_tree.os, "kill", kill)
    return made


def test_whoever_waits_for_a_process_stands_before_that_is_stopped(tree: Tree) -> None:
    tree.stop()
    first = {pid: state for pid, _, state in reversed(tree.sent)}
    assert {number for _, number, _ in tree.sent} == {signal.SIGSTOP}
    assert [pid for pid, _, _ in tree.sent] == [2, 3, 6, 4, 5]
    assert set(first.values()) == {b"", b"T"}


def test_who_stands_already_is_not_told(tree: Tree) -> None:
    tree.states[5] = b"T"
    tree.stop()
    assert [pid for pid, _, _ in tree.sent] == [2, 3, 6, 4]


def test_what_is_forked_meanwhile_is_stopped_too(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PARENTS, 5)
    looked = tree.stat

    def late(pid: int) -> tuple[bytes, int, int]:
        if tree.sent and 5 not in PARENTS:
            monkeypatch.setitem(PARENTS, 5, 4)
        return looked(pid)

    monkeypatch.setattr(tree, "stat", late)
    tree.stop()
    assert [pid for pid, _, _ in tree.sent] == [2, 3, 6, 4, 5]


def test_children_go_on_before_their_parents(tree: Tree) -> None:
    tree.go_on({6})
    told = [pid for pid, number, _ in tree.sent if number == signal.SIGCONT]
    assert sorted(told) == [2, 3, 4, 5]
    assert all(told.index(pid) < told.index(PARENTS[pid]) for pid in told if PARENTS[pid] in told)


SPAWNS = """
import os, sys
os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 9, sys.argv[1], os.O_RDONLY, 0)])
os.wait()
"""


def test_who_has_called_vfork_stops_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits in the kernel for its child, which opens a fifo first, to execute; stopped before, that never does."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    proc = os.open("/proc", os.O_RDONLY)
    with subprocess.Popen([sys.executable, "-c", SPAWNS, str(fifo)], start_new_session=True) as parent:
        try:
            tree = ProcessTree(proc)
            children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
            until(lambda: tree.stat(parent.pid)[0] == b"D" and children.read_text(), "it has not called vfork")
            child = int(children.read_text())
            monkeypatch.setattr(tree, "_pids", lambda: [parent.pid, child])
            monkeypatch.setattr(process_tree, "_EXECUTES_WITHIN", 60.0)  # the fifo may be opened late
            threading.Timer(0.1, lambda: os.close(os.open(fifo, os.O_WRONLY))).start()
            tree.stop()
            until(lambda: (tree.stat(parent.pid)[0], tree.stat(child)[0]) == (b"T", b"T"), "they do not stand")
            assert Path(f"/proc/{child}/comm").read_text() == "sleep\n"
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
            os.close(proc)
