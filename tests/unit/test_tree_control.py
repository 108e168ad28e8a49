"""In which order a job's tree is stopped and continued: no shell in it may find its own job stopped."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from shim.execute.init import tree_control
from shim.execute.init.tree_control import TreeControl

PARENTS = {2: 1, 3: 2, 4: 3, 5: 3, 6: 2}  # a shell 2 with a shell 3 in it, and their jobs


class Tree(TreeControl):
    """Its processes stop when they have been looked at once more after the signal."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.sent: list[tuple[int, int, bytes]] = []  # to whom, which, and the state of the one above
        self.states = dict.fromkeys(PARENTS, b"S")

    def _pids(self) -> list[int]:
        return list(PARENTS)

    def _stat(self, pid: int) -> tuple[bytes, int, int]:
        before = self.states[pid]
        if (pid, int(signal.SIGSTOP)) in [sent[:2] for sent in self.sent]:
            self.states[pid] = b"T"
        return before, PARENTS[pid], 2


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = Tree(ours)

        def kill(pid: int, number: int) -> None:
            made.sent.append((pid, number, made.states.get(PARENTS.get(pid, 0), b"")))

        monkeypatch.setattr(tree_control.os, "kill", kill)
        yield made


def test_whoever_waits_for_a_process_stands_before_that_is_stopped(tree: Tree) -> None:
    tree._stop()
    first = {pid: state for pid, _, state in reversed(tree.sent)}
    assert {number for _, number, _ in tree.sent} == {signal.SIGSTOP}
    assert [pid for pid, _, _ in tree.sent] == [2, 3, 6, 4, 5]
    assert set(first.values()) == {b"", b"T"}


def test_who_stands_already_is_not_told(tree: Tree) -> None:
    tree.states[5] = b"T"
    tree._stop()
    assert [pid for pid, _, _ in tree.sent] == [2, 3, 6, 4]


def test_what_is_forked_meanwhile_is_stopped_too(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PARENTS, 5)
    looked = tree._stat

    def late(pid: int) -> tuple[bytes, int, int]:
        if tree.sent and 5 not in PARENTS:
            monkeypatch.setitem(PARENTS, 5, 4)
        return looked(pid)

    monkeypatch.setattr(tree, "_stat", late)
    tree._stop()
    assert [pid for pid, _, _ in tree.sent] == [2, 3, 6, 4, 5]


def test_children_go_on_before_their_parents(tree: Tree) -> None:
    tree._go_on({6})
    told = [pid for pid, number, _ in tree.sent if number == signal.SIGCONT]
    assert sorted(told) == [2, 3, 4, 5]
    assert all(told.index(pid) < told.index(PARENTS[pid]) for pid in told if PARENTS[pid] in told)
