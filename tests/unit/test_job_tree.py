"""What the agent asks of init, and what comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest

from remoteio.errors import RexecError
from shim.execute.agent import job_tree
from shim.execute.agent.job_tree import Gone, JobTree
from shim.execute.init import messages
from tests.until import until


@pytest.fixture
def ends() -> Iterator[tuple[JobTree, socket.socket]]:
    """The tree, and init's end of the socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield JobTree(SimpleNamespace(init=ours)), theirs  # type: ignore[arg-type]


@pytest.fixture
def tree(ends: tuple[JobTree, socket.socket]) -> JobTree:
    return ends[0]


def test_an_answer_that_came_too_late_is_not_taken_for_the_next(tree: JobTree) -> None:
    with pytest.raises(RexecError, match="does not answer"):
        tree.ask(messages.WRITE_BACK, limit=0.01)
    for said in ((messages.WRITTEN, b"late"), (messages.IPC, b"0")):
        tree.answered(*said)
    assert tree.ask(messages.ASK_IPC) == b"0"


def test_what_init_cannot_do_is_said(tree: JobTree) -> None:
    tree.answered(messages.FAULT, b"out of memory")
    with pytest.raises(RexecError, match="cannot do its part: out of memory"):
        tree.ask(messages.DUMP)


def test_the_end_is_heard_by_all_who_ask(ends: tuple[JobTree, socket.socket]) -> None:
    tree, theirs = ends
    tree.end()
    for _ in range(2):
        with pytest.raises(Gone):
            tree.ask(messages.DUMP)
    theirs.close()
    with pytest.raises(Gone):
        tree.ask(messages.DUMP)


def test_a_tree_is_stopped_whatever_a_look_at_it_meets(
    tree: JobTree, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(root: int, before: object) -> None:
        raise KeyError("on purpose")

    monkeypatch.setattr(tree, "root", lambda: 1)
    monkeypatch.setattr(job_tree.waits, "look", fails)
    tree.answered(messages.STOP_TREE.answer or messages.FAULT, b"7")
    tree.freeze()
    assert (tree.frozen, tree.stood, tree.waits) == (True, [7], {})
    assert "it is not known in which calls the job waits: KeyError('on purpose'), at " in capfd.readouterr().err


# A process (the keeper) with a child (init) that has two, of which the first has ended and is not taken away.
_TREE = """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)
    if os.fork() == 0:
        time.sleep(1000)
    time.sleep(1000)
time.sleep(1000)
"""


def test_the_root_is_none_that_is_ending() -> None:
    """As a criu that has restored the root, and is not taken away yet."""
    with subprocess.Popen([sys.executable, "-c", _TREE], start_new_session=True) as keeper:
        try:
            tree = JobTree(SimpleNamespace(pid=keeper.pid))  # type: ignore[arg-type]
            until(lambda: len(psutil.Process(keeper.pid).children(recursive=True)) == 3, "all are there")
            (init,) = psutil.Process(keeper.pid).children()
            ended, root = sorted(init.children(), key=lambda each: each.pid)
            until(lambda: ended.status() == psutil.STATUS_ZOMBIE, "it has ended")
            assert (tree.init(), tree.root()) == (init.pid, root.pid)
        finally:
            os.killpg(keeper.pid, signal.SIGKILL)
