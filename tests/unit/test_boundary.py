"""Whatever a host sends, and whatever goes wrong here while it is served: one generation ends, and no supervisor."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from checkpoint.submit import obtain_criu
from checkpoint.submit.pack_queue import PackQueue
from checkpoint.submit.transaction import Transaction
from remoteio.wire import frames, fuse_abi
from remoteio.wire.link import LinkClosed
from shim.submit.job import events, placement, placement_steps
from shim.submit.job.generation import Generation
from shim.submit.job.placement_actions import Result
from shim.wire import job_messages, lease
from tests.agents import Agent
from tests.supervised import Run
from tests.until import until

Deed = Callable[[Agent], None]
DEEP = b"[" * 60_000


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    for name in ("STATE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setattr(lease, "LOST", 0.1)
    monkeypatch.setattr(placement_steps, "RETRY", 0.2)
    made = Run(tmp_path)
    yield made
    made.close()


def reasons(run: Run) -> str:
    return "\n".join(event.reason for event in events.read_events(run.job.log)[0])


def says(kind: int, payload: bytes) -> Deed:
    return lambda agent: agent.link.send(kind, payload)


def failing(code: int) -> Deed:
    return says(frames.FAIL, code.to_bytes(4, "little") + b"text")


def twice(agent: Agent) -> None:
    for _ in range(2):
        agent.news(job_messages.CRIU, need="ab")


DEEDS: dict[str, Deed] = {
    "deep news": says(frames.NEWS, DEEP),
    "unknown news": says(frames.NEWS, b'{"news": "party"}'),
    "no news": says(frames.NEWS, b"\xff"),
    "stopped by a signal": lambda agent: agent.end(0x137F),
    "every bit": lambda agent: agent.end((1 << 32) - 1),
    "signal 126": lambda agent: agent.end(126),
    "killed by SIGSTOP": lambda agent: agent.end(19),
    "wild code": failing((1 << 32) - 1),
    "no code": says(frames.FAIL, b""),
    "credit of four bytes": says(frames.CREDIT, b"\x08\1\0\0"),
    "empty credit": says(frames.CREDIT, b""),
    "second hello": lambda agent: agent.hello(),
    "our own frame": says(frames.START, b""),
    "no frame": lambda agent: os.write(agent.link.write_fd, b"\xff" * 64) and None,
    "short request": says(frames.FUSE, b"\0" * 8),
    "long request": says(frames.FUSE, bytes(fuse_abi.MAX_REQUEST + 1)),
    "an image unordered": lambda agent: agent.news(job_messages.DUMPING, serial=77),
    "credit for nothing": says(frames.CREDIT, b"\x15\1\0\0\0"),
    "lying request": says(frames.FUSE, fuse_abi.request(fuse_abi.GETATTR, 1, bytes(15))),
    "criu, twice": twice,
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_running_host_that_misbehaves_is_left_for_another(run: Run, deed: str) -> None:
    alpha = run.country.running(0)
    alpha.say()
    assert run.ask("checkpoint") == "True: image 1 is committed"
    with suppress(LinkClosed):  # what is said last, or waits to be sent behind it, may meet a link cut for the first
        DEEDS[deed](alpha)
    beta = run.country.running(1)
    assert (beta.name, beta.count) == ("beta", 1)
    beta.end(0)
    assert run.end() == Result(0)
    if deed != "criu, twice":
        assert "alpha misbehaves: " in reasons(run)


def test_what_a_host_said_last_is_heard_although_it_can_be_told_nothing_more(run: Run) -> None:
    """Its agent has ended, and with it who reads our answers; the job's status is still under way."""
    alpha = run.country.running(0)
    assert run.ask("checkpoint") == "True: image 1 is committed"
    generation = run.supervisor.generation()
    assert generation is not None
    alpha.stop_reading()
    alpha.link.send(frames.FUSE, fuse_abi.request(fuse_abi.GETATTR, 1, bytes(16)))
    until(lambda: generation._link._writing, "the answer cannot be sent")
    alpha.end(3 << 8)
    assert run.end() == Result(3 << 8)


GREETINGS: dict[str, Deed] = {
    "a time of 400 digits": lambda agent: agent.hello(time=[b"1" + b"0" * 400]),
    "no time": lambda agent: agent.hello(time=[]),
    "ids that are none": lambda agent: agent.hello(uids=[b"x y"]),
    "shown ids that are none": lambda agent: agent.hello(shown=[b"x"]),
    "no fields": says(frames.HELLO, b""),
    "dumped": lambda agent: agent.news(job_messages.DUMPED, serial=1),
    "restored": lambda agent: agent.news(job_messages.RESTORED, seconds=1.0),
    "started": says(frames.STARTED, b""),
    "a request": says(frames.FUSE, fuse_abi.request(fuse_abi.GETATTR, 1, bytes(16))),
    "an image": says(frames.IMAGE, b"F"),
}


@pytest.mark.parametrize("greeting", GREETINGS)
def test_a_host_that_greets_wrongly_is_passed_over(run: Run, greeting: str) -> None:
    alpha = run.country.running(0)
    run.ask("checkpoint")

    def prepare(agent: Agent) -> None:
        agent.greets = GREETINGS[greeting] if agent.name == "beta" else None

    run.country.prepare = prepare
    said = run.ask("vacate", host="beta")
    assert said.startswith("False: no host could go on with the job (beta: ") and "beta misbehaves: " in said
    assert run.thread.is_alive()
    assert alpha.running.wait(60)
    alpha.end(0)
    assert run.end() == Result(0)


def test_a_fresh_job_ends_with_a_sentence_where_its_only_host_misbehaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setattr(lease, "LOST", 0.1)
    run = Run(tmp_path, hosts=("alpha",))
    says(frames.NEWS, DEEP)(run.country.running(0))
    result = run.end()
    assert result.code == 125 and "alpha misbehaves: NEWS is no JSON" in result.reason


@pytest.mark.parametrize(
    "head",
    [
        b'{"streams": {"stdout": Infinity, "stderr": 0, "stdin": 0, "stdin_unread": ""}, "facts": {}}',
        b'{"streams": {"stdout": 0, "stderr": 0, "stdin": 0, "stdin_unread": ""}, "facts": {}, "handles": '
        + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"handles": [[Infinity, 0, 0]], "numbers": {}, "facts": {}, "streams": '
        b'{"stdout": 0, "stderr": 0, "stdin": 0, "stdin_unread": ""}}',
        b"[" * 100_000,
    ],
    ids=["infinite", "deep", "infinite handles", "deeper"],
)  # fmt: skip
def test_an_image_described_wrongly_is_refused_at_once_and_the_job_goes_on(run: Run, head: bytes) -> None:
    alpha = run.country.running(0)
    alpha.describes = lambda _: head
    assert run.ask("checkpoint").startswith("False: alpha misbehaves: the head of its image ")
    alpha.describes = lambda head: json.dumps(head).encode()
    assert run.ask("checkpoint") == "True: image 1 is committed"
    alpha.end(0)
    assert run.end() == Result(0)


def test_an_image_that_counts_more_input_than_there_is(run: Run) -> None:
    alpha = run.country.running(0)

    def describes(head: Any) -> bytes:
        head["streams"]["stdin"] = 1 << 62
        return json.dumps(head).encode()

    alpha.describes = describes
    assert run.ask("checkpoint") == (
        f"False: alpha misbehaves: its image counts {1 << 62} bytes of standard input, of 0 that it was given"
    )
    alpha.end(0)
    assert run.end() == Result(0)


def test_a_host_that_uses_up_all_descriptors_and_hangs_up(run: Run) -> None:
    alpha = run.country.running(0)
    run.ask("checkpoint")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the lowest, though who started this may have left higher ones open
    os.close(free)
    most = max(free, 100) + 40  # the copies of a stream lie high
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        for unique in range(1, 200):
            args = fuse_abi.OPEN_IN.pack(os.O_RDONLY | os.O_DIRECTORY, 0)
            alpha.link.send(frames.FUSE, fuse_abi.request(fuse_abi.OPENDIR, 1, args, unique))
        full = -errno.EMFILE
        alpha.wait(
            lambda: any(fuse_abi.OUT_HEADER.unpack_from(p)[1] == full for k, p in alpha.heard if k == frames.FUSE)
        )
        alpha.die()
        again = run.country.running(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    again.end(0)
    assert run.end() == Result(0)


def test_an_error_of_our_own_ends_the_generation_and_stands_in_the_jobs_log(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = run.country.running(0)
    run.ask("checkpoint")
    with monkeypatch.context() as broken:
        broken.setattr(Generation, "_news", lambda *_: 1 // 0)
        alpha.news(job_messages.CLOSES, why="")
        why = "an error of rexec's own while serving alpha: ZeroDivisionError at test_boundary.py:"
        until(lambda: why in reasons(run), "alpha is left")  # not its phase: that is over in a moment
    beta = run.country.running(1)
    assert beta.name == "beta"
    assert "Traceback (most recent call last)" in (run.job.path / "errors").read_text()
    beta.end(0)
    assert run.end() == Result(0)


def test_an_error_of_our_own_while_an_image_comes_refuses_the_image(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = run.country.running(0)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(PackQueue, "_whole", broken)
        said = run.ask("checkpoint")
    assert said.startswith(f"False: the image of job {run.job.id} was not saved, because ")
    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "commit", lambda *_: 1 // 0)
        assert "an error of rexec's own while taking in an image from alpha: " in run.ask("checkpoint")
    assert run.ask("checkpoint").startswith("True: ")
    alpha.end(0)
    assert run.end() == Result(0)


def test_locks_that_cannot_be_kept_are_said_and_the_job_leaves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.country.running(0)

    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("remoteio.submit.export.carried_locks.CarriedLocks.keep", full)
    assert run.ask("vacate") == "True: the job goes on on beta"
    assert "keeping the job's file locks, which were asked for on alpha" in reasons(run)
    run.country.running(1).end(0)
    assert run.end() == Result(0)


# what is wrong here


def test_a_typing_error_in_hosts_toml_parks_the_job_until_it_is_put_right(run: Run, tmp_path: Path) -> None:
    run.country.running(0)
    config = tmp_path / "config/rexec/hosts.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[hosts.alpha\n")
    said = run.ask("vacate")
    assert said.startswith("True: the job is parked: ") and "hosts.toml" in said
    assert run.thread.is_alive()
    config.unlink()
    run.country.running(1).end(0)
    assert run.end() == Result(0)


def test_a_typing_error_in_hosts_toml_is_nothing_to_a_job_that_runs(run: Run, tmp_path: Path) -> None:
    alpha = run.country.running(0)
    config = tmp_path / "config/rexec/hosts.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[hosts.alpha\n")
    assert run.ask("checkpoint") == "True: image 1 is committed"
    alpha.end(0)
    assert run.end() == Result(0)


def test_a_bundle_that_cannot_be_looked_for_leaves_the_job_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = run.country.running(0)

    def closed(at: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(at))

    with monkeypatch.context() as patched:
        patched.setattr(obtain_criu, "kept", closed)
        said = run.ask("vacate")
    assert said.startswith("False: no host could go on with the job (beta: ") and "Permission denied" in said
    assert alpha.running.wait(60)
    alpha.end(0)
    assert run.end() == Result(0)


def test_where_no_thread_can_be_had_a_host_is_passed_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.country.running(0)
    start = threading.Thread.start

    def scarce(thread: threading.Thread) -> None:
        if "JobHome.in_thread" in getattr(thread, "_target").__qualname__:  # noqa: B009 - threading's own
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", scarce)
        run.supervisor.tell(placement.Ask("vacate", 999))
        until(lambda: "no more threads" in run.job.read().why, "the job is parked")
    run.country.running(1).end(0)
    assert run.end() == Result(0)


def test_what_ends_a_supervisor_all_the_same_stands_in_its_record_and_log(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.country.running(0)
    monkeypatch.setattr(placement, "step", lambda *_: 1 // 0)
    run.supervisor.tell(placement.Tick())
    run.thread.join(60)
    (error,) = run.result
    text = f"an error of rexec's own while supervising job {run.job.id}: ZeroDivisionError"
    assert str(error).startswith(text)
    assert run.job.read().reason.startswith(text)
    assert f"its supervisor ends: {text}" in reasons(run)
    assert "Traceback" in (run.job.path / "errors").read_text()
