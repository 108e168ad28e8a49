"""What the supervisor of a job has open and keeps: nothing of a generation, or a job, that is over."""

from __future__ import annotations

import faulthandler
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shim.submit.job import replayed_streams
from shim.submit.job.placement_actions import Result
from shim.submit.job.replayed_streams import ReplayedInput
from tests.forked import in_a_new_process
from tests.standing import stand
from tests.supervised import Run, descriptors, place_jobs
from tests.until import until

LATE = 8  # what a job that goes on opens, or begins, only once there is a reason to


def few(run: Run, most: int) -> None:
    """Wait until no more than so many descriptors are open. AssertionError says which are, and what the threads do."""
    try:
        until(lambda: descriptors(run.country) <= most, f"no more than {most} descriptors are open")
    except AssertionError as e:
        e.add_note(stand([psutil.Process()]))
        faulthandler.dump_traceback()
        raise


def generations(directory: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        place_jobs(directory, monkeypatch)
        run = Run(directory)
        open_before = 0
        for number in range(2 * LATE):
            run.country.running(number)
            until(run.supervisor.generation, "it is known to run")
            open_before = open_before or descriptors(run.country)
            run.ask("vacate")
        run.country.running(2 * LATE)
        few(run, open_before + LATE)
        run.country.agents[2 * LATE].end(0)
        run.end()


def test_a_generation_that_is_over_leaves_no_descriptor_open(tmp_path: Path) -> None:
    in_a_new_process(generations, tmp_path)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Garbage is not looked for by itself: as good as in a supervisor's own process."""
    gc.disable()
    yield
    gc.enable()


def test_a_generation_that_is_over_is_not_kept(run: Run, no_collector: None) -> None:
    """Its export knows of every file that the job has used."""
    run.country.running(0)
    until(run.supervisor.generation, "it is known to run")
    generation = run.supervisor.generation()
    assert generation is not None and generation._session.export is not None
    before = weakref.ref(generation), weakref.ref(generation._session.export)
    del generation
    for number in range(3):
        run.country.running(number)
        assert run.ask("vacate").startswith("True: ")
    until(lambda: before[0]() is None and before[1]() is None, "nothing holds it")


def side_by_side(directory: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        place_jobs(directory, monkeypatch)
        first = Run(directory / "0", make=True)
        first.country.running(0)
        until(first.supervisor.generation, "it is known to run")
        open_before, running_before = descriptors(first.country), threading.active_count()
        others = [Run(directory / str(number), make=True) for number in range(1, 2 + LATE)]
        for run in others:
            run.country.running(0).say()
            assert run.ask("vacate") == "True: the job goes on on beta"
        for run in others:
            run.country.running(1).say()
            run.country.agents[1].end(0)
            assert run.end() == Result(0)
            assert run.out.read_text() == "1\n2\n"
            run.forget()
        few(first, open_before + LATE)
        until(lambda: threading.active_count() <= running_before + LATE, "their threads have ended")
        first.country.agents[0].end(0)
        assert first.end() == Result(0)


def test_jobs_side_by_side_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    """Whoever supervises several has a thread for each, and neither thread nor descriptor of one that has ended."""
    in_a_new_process(side_by_side, tmp_path)


def test_much_input_is_not_kept_before_there_is_an_image(run: Run) -> None:
    alpha = run.country.running(0)
    block = bytes(1 << 16)
    for _ in range(300):
        os.write(run.typed, block)
    alpha.wait(lambda: len(alpha.given) == 300 << 16)
    assert run.input.size - run.input.kept < 9 << 20
    alpha.end(0)
    run.end()


def test_input_is_let_go_where_no_image_could_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayed_streams, "HEAVY", 1 << 20)
    heavy: list[int] = []
    given = ReplayedInput(tmp_path, -1)
    given.heavy = lambda: heavy.append(given.size)
    given.keep()
    for _ in range(5):
        given.feed(bytes(1 << 19))
    assert heavy == [3 << 19]
    given.unkeep()
    given.feed(bytes(1 << 21))
    assert heavy == [3 << 19]
    given.given = given.size  # a generation has got all of it
    given.saved(1 << 20)
    given.unkeep()  # of a later one: there is one
    given.feed(bytes(1 << 21))
    assert len(heavy) == 2
    assert given.kept == 1 << 20
    given.close()
