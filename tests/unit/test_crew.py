"""The crew: nothing is lost, a slow item holds up nobody, a failure is raised where the crew was started."""

from __future__ import annotations

import queue
import threading

import pytest

from remoteio.crew import Crew
from remoteio.workers import Workers


class Stop(Exception):
    pass


def crew_of(items: queue.Queue[list[int]], handle: object, slow: object = lambda _: False) -> Crew[int]:
    def receive() -> list[int]:
        got = items.get()
        if not got:
            raise Stop
        return got

    return Crew(receive, handle, slow)  # type: ignore[arg-type]


def to_its_end(crew: Crew[int]) -> None:
    with pytest.raises(Stop):
        crew.run()


def test_quick_items_are_handled_in_order_and_none_is_lost() -> None:
    items: queue.Queue[list[int]] = queue.Queue()
    for n in range(0, 3000, 3):
        items.put([n, n + 1, n + 2])
    items.put([])
    done: list[int] = []
    with pytest.raises(Stop):
        crew_of(items, done.append).run()
    assert sorted(done) == list(range(3000))


def test_stuck_items_hold_up_nobody() -> None:
    items: queue.Queue[list[int]] = queue.Queue()
    free, seen, left = threading.Event(), threading.Event(), threading.Semaphore(0)

    def handle(item: int) -> None:
        if item % 2:
            free.wait(20)
            left.release()
        elif item == 20:
            seen.set()

    items.put(list(range(21)))  # ten of them stuck, known to nobody as slow
    thread = threading.Thread(target=to_its_end, args=(crew_of(items, handle),), daemon=True)
    thread.start()
    assert seen.wait(10)
    free.set()
    assert all(left.acquire(timeout=10) for _ in range(10))
    items.put([])
    thread.join(10)
    assert not thread.is_alive()


def test_known_slow_items_run_at_once_side_by_side() -> None:
    items: queue.Queue[list[int]] = queue.Queue()
    together = threading.Barrier(50)
    items.put(list(range(50)))
    done = threading.Semaphore(0)

    def handle(_: int) -> None:
        together.wait(20)
        done.release()

    crew = crew_of(items, handle, lambda _: True)
    threading.Thread(target=to_its_end, args=(crew,), daemon=True).start()
    assert all(done.acquire(timeout=20) for _ in range(50))
    items.put([])


def test_a_failure_is_raised_where_it_was_started() -> None:
    def handle(item: int) -> None:
        raise ZeroDivisionError(item)

    for slow in (True, False):
        items: queue.Queue[list[int]] = queue.Queue()
        items.put([1])
        with pytest.raises(ZeroDivisionError):
            crew_of(items, handle, lambda _, slow=slow: slow).run()


def test_workers_are_made_as_they_are_needed() -> None:
    failed: list[BaseException] = []
    done = threading.Semaphore(0)
    workers = Workers(failed.append)
    for _ in range(1000):
        workers.give(done.release)
    assert all(done.acquire(timeout=10) for _ in range(1000))
    assert not failed
