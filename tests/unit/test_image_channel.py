"""How long the host that saves a job waits for the store at home, of which it cannot know whether it commits."""

from __future__ import annotations

import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from checkpoint.execute import dump
from checkpoint.execute.dump import DumpError
from checkpoint.submit.receiver import Receiver, committed
from checkpoint.submit.store import Store
from shim.execute.agent.image_channel import STORE_S, ImageChannel
from tests.images import manifest, write_process
from tests.spools import spooled

Payload = bytes | None


class Silence(queue.SimpleQueue[Payload]):
    """Has nothing for so many seconds, and then what was put."""

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.left = seconds

    def get(self, block: bool = True, timeout: float | None = None) -> Payload:
        if self.left and block:
            assert timeout == 1.0
            self.left -= 1
            raise queue.Empty
        return super().get(block, timeout)


def silent(seconds: int, leaves: bool, cut: bool = False) -> ImageChannel:
    """One to a store that says nothing for so long."""
    channel = ImageChannel(cast(Any, SimpleNamespace(cut=cut, send=lambda *_: None)))
    channel.begin(leaves)
    channel._payloads = Silence(seconds)
    channel.receive(b"at last")
    return channel


@pytest.mark.parametrize(("leaves", "ended"), [(False, False), (False, True), (True, False)])
def test_a_store_that_says_nothing_is_given_up_after_its_limit(leaves: bool, ended: bool) -> None:
    assert silent(int(STORE_S) - 1, leaves).get(True, ended) == b"at last"
    with pytest.raises(DumpError, match="nothing was heard of the store for 600 s"):
        silent(int(STORE_S), leaves).get(True, ended)


def test_a_job_that_leaves_is_not_let_go_on_while_home_may_be_committing() -> None:
    """As the tree stands still from END on until home says what becomes of it, however long its disk takes."""
    assert silent(10 * int(STORE_S), leaves=True).get(True, ended=True) == b"at last"


def test_a_store_that_cannot_be_heard_is_waited_for() -> None:
    assert silent(10 * int(STORE_S), leaves=False, cut=True).get(True, ended=True) == b"at last"


def test_the_store_may_commit_once_it_was_told_that_it_has_all_and_not_before(tmp_path: Path) -> None:
    write_process(tmp_path / "image", {1: b"1" * 4096, 2: b"2" * 4096})
    asked = set[tuple[bool, bool]]()
    with Store(tmp_path / "store").begin("1") as transaction, spooled(tmp_path / "image") as spool:
        receiver, answers = Receiver(transaction), list[bytes]()

        def put(payload: list[bytes | memoryview]) -> None:
            answers.extend(receiver.receive(b"".join(payload)))

        def get(wait: bool, ended: bool) -> bytes | None:
            asked.add((ended, receiver.complete))
            if answers or not wait:
                return answers.pop(0) if answers else None
            image = manifest("1", transaction.number, receiver.files())
            transaction.commit(image)
            return committed(image.digest)

        dump.send(spool, b"", put, get)
    assert asked == {(False, False), (True, True)}
