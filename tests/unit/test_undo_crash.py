"""A journal that was cut short, a process that is killed between journal and change, and in the middle of undoing."""

from __future__ import annotations

import io
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from remoteio.submit.undo import records
from remoteio.submit.undo.journal import Journal
from remoteio.submit.undo.records import Made, Run
from shim.submit.job import undo_plan
from shim.submit.job.undo_files import Undoing, Undone
from tests.undo_play import Play, Step, tree


def work(play: Play, seed: int, steps: int = 40) -> None:
    """The job and the other at work, the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(steps):
        step: Step = (chance.randrange(41), chance.randrange(13), chance.randrange(13), chance.randrange(100))
        if chance.random() < 0.8:
            play.job.do(step)
        else:
            play.other(step)


def killed(run: object) -> None:
    """Run it in a process of its own, which kills itself."""
    pid = os.fork()
    if not pid:
        try:
            run()  # type: ignore[operator]
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (-signal.SIGKILL, 1)


def read(data: bytes) -> list[records.Record]:
    return list(records.unpacked(io.BytesIO(data), len(data)))


def test_what_is_torn_at_the_end_is_not_read() -> None:
    whole = [Run(1, 2, 3), Made(4, b"/a\xff/b", True), records.Attribute(b"/a", 1, 2, b"user.a", True, 5, b"abc")]
    data = b"".join(records.packed(each) for each in whole)
    assert read(data) == whole
    for cut in range(len(data)):
        found = read(data[:cut])
        assert found == whole[: len(found)] and len(found) < 3
    torn = bytearray(data)
    torn[-1] ^= 1
    assert read(bytes(torn) + data) == whole[:2]


def test_what_was_kept_stays_in_its_file_as_records_are_read() -> None:
    """A journal may be larger than the memory."""
    data = records.packed(Run(1, 2, 3)) + records.packed(records.Data(1, 7, 3, -1, raw=b"abc")) + b"torn"
    _, kept = read(data)
    assert isinstance(kept, records.Data) and not kept.raw and kept[:3] == (1, 7, 3)
    assert data[-1 - kept.place :][:3] == b"abc"


@pytest.mark.parametrize("seed", (0, 1, 2, 3, 5, 7))
def test_killed_between_the_journal_and_the_change(tmp_path: Path, seed: int) -> None:
    """The next change but so many is not done, or only its first half."""
    play = Play(tmp_path)
    image = play.moment()
    write, after = os.write, [random.Random(seed).randrange(1, 30)]

    def then_killed(fd: int, data: bytes) -> int:
        after[0] -= 1
        done = write(fd, data)
        if not after[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def run() -> None:
        os.write = then_killed  # type: ignore[assignment]
        work(play, seed)

    killed(run)
    play.journal = Journal(str(tmp_path / "undo"))
    play.undo(image)
    shown, model = tree(play.top), tree(play.models / str(image))
    own = {name for name in (*shown, *model) if "x" not in name and name.split()[0] not in ("log", "both")}
    assert {name: shown.get(name) for name in own} == {name: model.get(name) for name in own}


# Of the later seeds each has found something wrong, with `cut`.
@pytest.mark.parametrize("seed", (*range(4), 25, 31, 32, 71, 77))
@pytest.mark.parametrize("cut", (False, True))
def test_killed_in_the_middle_of_undoing_it_is_begun_again_and_does_the_rest(
    tmp_path: Path, seed: int, cut: bool
) -> None:
    """With `cut` the power was: how far it had come is not known, and some of what was done is there."""
    play = Play(tmp_path)
    image = play.moment()
    work(play, seed)
    play.moment()
    work(play, seed + 100)
    play.journal.close()
    chance = random.Random(seed)

    def run() -> None:
        left, undo = [chance.randrange(1, 40)], Undoing._undo

        def once(self: Undoing, entry: undo_plan.Entry) -> None:
            left[0] -= 1
            if not left[0] and chance.random() < 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
            undo(self, entry)
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)  # it is not noted that this is done

        Undoing._undo = once  # type: ignore[method-assign]
        play.undo(image)

    for _ in range(3):
        killed(run)
        chance.random()
        if cut and (tmp_path / "undo" / "undoing").exists():
            noted = json.loads((tmp_path / "undo" / "undoing").read_bytes())
            (tmp_path / "undo" / "undoing").write_text(json.dumps({**noted, "boot": "another"}))
    if (tmp_path / "undo" / "undoing").exists():
        play.undo(image)
    assert tree(play.top) == tree(play.models / str(image))


CALLS = (
    "chmod", "copy_file_range", "fsync", "ftruncate", "link", "mkdir", "open", "pread", "pwrite", "removexattr",
    "rename", "rmdir", "setxattr", "symlink", "unlink", "utime", "write",
)  # fmt: skip


# Each of these seeds has found something wrong.
@pytest.mark.parametrize("seed", (10, 11, 20, 24, 178, 264))
def test_killed_at_any_system_call_of_undoing_and_begun_again(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    play = Play(tmp_path)
    play.moment()
    for _ in range(chance.randrange(5, 60)):
        step: Step = (chance.randrange(41), chance.randrange(13), chance.randrange(13), chance.randrange(100))
        who = chance.random()
        if who < 0.9:
            play.job.do(step)
        elif who < 0.95:
            play.other(step)
        else:
            play.moment()
    image = 1 + chance.randrange(play.moments)
    play.journal.close()
    undoing = Undoing.run

    def dies(call: Callable[..., object], left: list[int], after: bool) -> Callable[..., object]:
        def counted(*args: object, **more: object) -> object:
            left[0] -= 1
            if not left[0] and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            done = call(*args, **more)
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return counted

    for _ in range(chance.randrange(1, 5)):
        left = [chance.randrange(1, 60)]
        chance.random()

        def run(left: list[int] = left) -> None:
            def armed(self: Undoing) -> Undone:
                for name in CALLS:
                    setattr(os, name, dies(getattr(os, name), left, left[0] % 2 == 0))
                return undoing(self)

            Undoing.run = armed  # type: ignore[method-assign]
            play.undo(image)
            os._exit(0)

        if not ends(run):
            break
    else:
        play.undo(image)
    assert tree(play.top) == tree(play.models / str(image))


def ends(run: Callable[[], None]) -> bool:
    """Run it in a process of its own: was it killed?"""
    pid = os.fork()
    if not pid:
        try:
            run()
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code != 0
