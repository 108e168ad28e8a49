"""Which fifos are open here is looked for anew as often as it costs little, however busy the machine."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from remoteio.submit.export import channels
from tests.stuck import stuck


class Clock:
    """The time that passes, and what of it this thread had the processor."""

    def __init__(self) -> None:
        self.now = self.used = 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.used

    def pass_by(self, waited: float, worked: float) -> None:
        self.now += waited + worked
        self.used += worked


@pytest.mark.parametrize(("waited", "worked", "known_for"), [(0.5, 0.01, 0.2), (0.0, 0.1, 2.0)])
def test_what_was_seen_is_good_for_twenty_times_the_work_of_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited: float, worked: float, known_for: float
) -> None:
    clock, looks = Clock(), list[float]()

    def look() -> set[tuple[int, int]]:
        looks.append(clock.now)
        clock.pass_by(waited, worked)
        return set()

    monkeypatch.setattr(channels, "time", clock)
    monkeypatch.setattr(channels, "_open_fifos", look)
    fifos, st = channels.Fifos(lambda call: call()), os.stat(tmp_path)
    assert not fifos.held(st)
    began = clock.now
    clock.now = began + known_for * 0.9
    fifos.held(st)
    assert len(looks) == 1
    clock.now = began + known_for * 1.1
    fifos.held(st)
    assert len(looks) == 2


def test_an_open_fifo_is_seen(tmp_path: Path) -> None:
    """Not one that this process has itself open: that is the job's."""
    os.mkfifo(tmp_path / "f")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        held = os.open(tmp_path / "f", os.O_RDWR)
        os.write(held, b"x")
        os.read(read, 1)
        os._exit(0)
    try:
        mine = os.open(tmp_path / "f", os.O_RDONLY)
        assert os.read(mine, 1) == b"x"
        assert channels.Fifos(lambda call: call()).held(os.stat(tmp_path / "f"))
        os.close(write)
        os.waitpid(child, 0)
        assert not channels.Fifos(lambda call: call()).held(os.stat(tmp_path / "f"))
        os.close(mine)
    finally:
        os.close(read)


def test_a_file_whose_filesystem_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    """As that of another job, of which the host is away."""
    (tmp_path / "dead").mkdir()
    opened, tell = os.pipe()
    with stuck(tmp_path / "dead", silent=True):
        child = os.fork()
        if not child:
            os.open(tmp_path / "dead/1", os.O_RDONLY)
            os.write(tell, b"x")
            threading.Event().wait()
        try:
            assert os.read(opened, 1) == b"x"
            looks = threading.Thread(
                target=lambda: channels.Fifos(lambda call: call()).held(os.stat(tmp_path)), daemon=True
            )
            looks.start()
            looks.join(60)
            assert not looks.is_alive()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(opened)
            os.close(tell)
