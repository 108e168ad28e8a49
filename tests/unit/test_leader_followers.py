"""Leader/Followers: nothing is lost, a slow item holds up nobody, a failure is raised where they were started."""

from __future__ import annotations

import queue
import threading

import pytest

from remoteio.submit.leader_followers import LeaderFollowers
from remoteio.thread_pool import ThreadPool


class Stop(Exception):
    pass


def threads_of(items: queue.Queue[list[int]], handle: object, slow: object = lambda _: False) -> LeaderFollowers[int]:
    def receive() -> list[int]:
        got = items.get()
        if not got:
            raise Stop
        return got

    return LeaderFollowers(receive, handle, slow)  # type: ignore[arg-type]


def to_its_end(threads: LeaderFollowers[int]) -> None:
    with pytest.raises(Stop):
        threads.run()


def test_quick_items_are_handled_in_order_and_none_is_lost() -> None:
    items: queue.Queue[list[int]] = queue.Queue()
    for n in range(0, 3000, 3):
        items.put([n, n + 1, n + 2])
    items.put([])
    done: list[int] = []
    with pytest.raises(Stop):
        threads_of(items, done.append).run()
    assert sorted(done) == list(range(3000))


def test_stuck_items_hold_up_nobody() -> None:
    items: queue.Queue[list[int]] = queue.Queue()
    free, seen, left = threading.Event(), threading.Event(), threading.Semaphore(0)

    def handle(item: int) -> None:
        if item % 2:
            free.wait(60)
            left.release()
        elif item == 20:
            seen.set()

    items.put(list(range(21)))  # ten of them stuck, known to nobody as slow
    thread = threading.Thread(target=to_its_end, args=(threads_of(items, handle),), daemon=True)
    thread.start()
    assert seen.wait(60)
    free.set()
    assert all(left.acquire(timeout=60) for _ in range(10))
    items.put([])
    thread.join(60)
    assert not thread.is_alive()


def test_known_slow_items_run_at_once_side_by_side() -> None:
    items: queue.Queue[list[int]] = queue.Queue()
    together = threading.Barrier(50)
    items.put(list(range(50)))
    done = threading.Semaphore(0)

    def handle(_: int) -> None:
        together.wait(60)
        done.release()

    threads = threads_of(items, handle, lambda _: True)
    threading.Thread(target=to_its_end, args=(threads,), daemon=True).start()
    assert all(done.acquire(timeout=60) for _ in range(50))
    items.put([])


def test_a_failure_is_raised_where_it_was_started() -> None:
    def handle(item: int) -> None:
        raise ZeroDivisionError(item)

    for slow in (True, False):
        items: queue.Queue[list[int]] = queue.Queue()
        items.put([1])
        with pytest.raises(ZeroDivisionError):
            threads_of(items, handle, lambda _, slow=slow: slow).run()


def test_workers_are_made_as_they_are_needed() -> None:
    failed: list[BaseException] = []
    done = threading.Semaphore(0)
    workers = ThreadPool(failed.append)
    for _ in range(1000):
        workers.give(done.release)
    assert all(done.acquire(timeout=60) for _ in range(1000))
    assert not failed


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the threads that cannot be had, as if pids.max were reached."""
    names: set[str] = set()
    start = threading.Thread.start

    def start_if_there_is_one(thread: threading.Thread) -> None:
        if thread.name in names:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_there_is_one)
    return names


def test_a_stuck_item_is_passed_as_soon_as_a_thread_can_be_had(scarce: set[str]) -> None:
    items: queue.Queue[list[int]] = queue.Queue()
    free, stuck, seen, over = (threading.Event() for _ in range(4))

    def handle(item: int) -> None:
        if item == 0:
            scarce.add("follower")
            stuck.set()
            free.wait(60)
        seen.set() if item else over.set()

    items.put([0, 1])
    thread = threading.Thread(target=to_its_end, args=(threads_of(items, handle),), daemon=True)
    thread.start()
    assert stuck.wait(60)
    assert not seen.wait(0.5)
    scarce.clear()
    assert seen.wait(60), "the watch goes on"
    assert not over.is_set()
    free.set()
    items.put([])
    thread.join(60)
    assert not thread.is_alive()


def test_without_any_worker_slow_items_are_done_all_the_same(scarce: set[str]) -> None:
    scarce.add("worker")
    items: queue.Queue[list[int]] = queue.Queue()
    done: list[int] = []
    items.put(list(range(100)))
    items.put([])
    to_its_end(threads_of(items, done.append, lambda _: True))
    assert done == list(range(100))


def test_what_no_more_worker_can_be_had_for_waits_for_one_that_is_busy(scarce: set[str]) -> None:
    failed: list[BaseException] = []
    workers = ThreadPool(failed.append)
    begun, free, done = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        free.wait(60)

    assert workers.give(first)
    assert begun.wait(60)
    scarce.add("worker")
    assert workers.give(done.set)
    assert not done.wait(0.1)
    free.set()
    assert done.wait(60)
    assert not failed
