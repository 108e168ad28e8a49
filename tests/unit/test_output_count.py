"""What a supervisor that was killed had written of its job's output: the next one writes each byte once."""

from __future__ import annotations

import ctypes
import os
import pty
import queue
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint.wire.manifest import Streams
from remoteio.wire import frames
from remoteio.wire.link import Link
from shim.submit.job import detached_main, output_file
from shim.submit.job.output_file import OutputCount, OutputFile
from shim.submit.job.record import Job, JobError, create, packed
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.job.submission import Resumed
from shim.wire.job_spec import JobSpec
from shim.wire.stream_pumps import Sink, Source
from tests.images import manifest
from tests.unit.test_job_record import empty_record

WORDS = bytes(range(256))
SPEC = JobSpec(
    argv=[b"true"], env=[], cwd=b"/", uid=os.geteuid(), gid=os.getegid(), groups=[], umask=0o22, hostname=b"here",
    limits=[], scratch=[], stdio=[0, 1], tty=[],
)  # fmt: skip


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path))
    return create(empty_record())


@pytest.fixture
def link() -> Iterator[Link]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = Link(ours.fileno(), ours.fileno())
        yield made
        made.close()


def resumed(said: int, *, from_files: bool, goes_on: bool = True) -> Resumed:
    return Resumed(manifest("1", 1, streams=Streams(stdout=said)), from_files, goes_on, ())


def live(output: OutputOnce, link: Link, image: int, says: int) -> None:
    """A generation goes on from an image, and its supervisor is killed once it has written all that it says."""
    output.start(pytest.fail)
    output.begin(link, image)
    output.put(link, WORDS[image : image + says])
    assert output.drain(60)


def test_it_goes_on_from_what_was_written_wherever_that_went(job: Job, link: Link, tmp_path: Path) -> None:
    """In files of its own, then elsewhere, then in the files again: they hold less than all of it."""

    def detached(resumed: Resumed | None) -> OutputOnce:
        record = replace(job.read(), spec=packed(SPEC))
        return detached_main._outputs(job, record, resumed)[frames.STDOUT]

    def elsewhere(resumed: Resumed) -> OutputOnce:
        count = OutputCount(job.path, frames.STDOUT)
        taken = resumed.written(frames.STDOUT, count)
        count.begin(taken)
        fd = os.open(tmp_path / "elsewhere", os.O_WRONLY | os.O_CREAT)
        return OutputOnce(frames.STDOUT, OutputFile(fd, count=count), taken=taken)

    live(detached(None), link, 0, 40)
    live(elsewhere(resumed(30, from_files=True)), link, 30, 50)
    live(detached(resumed(60, from_files=False)), link, 60, 40)
    live(detached(resumed(90, from_files=True)), link, 90, 20)
    assert (tmp_path / "elsewhere").read_bytes() == WORDS[40:80]
    assert (job.path / "stdout").read_bytes() == WORDS[:40] + WORDS[80:110]


def test_who_goes_back_to_an_image_sees_again_what_was_said_since(job: Job) -> None:
    OutputCount(job.path, frames.STDOUT).begin(50)
    count = OutputCount(job.path, frames.STDOUT)
    assert resumed(20, from_files=False).written(frames.STDOUT, count) == 50
    assert resumed(20, from_files=False, goes_on=False).written(frames.STDOUT, count) == 20
    assert resumed(60, from_files=False).written(frames.STDOUT, count) == 60


def test_after_another_boot_nothing_is_known(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count may not have come to the disk, or the output: none is lost. Where the file begins is known."""
    OutputCount(job.path, frames.STDOUT).begin(50, -7)
    monkeypatch.setattr(output_file, "boot_id", lambda: b"another")
    count = OutputCount(job.path, frames.STDOUT)
    assert (count.written, count.begins) == (None, -7)
    assert resumed(20, from_files=False).written(frames.STDOUT, count) == 20


@pytest.mark.parametrize("damage", [b"", b"x" * 51, b"x" * 52])
def test_a_damaged_count_is_none(job: Job, damage: bytes) -> None:
    (job.path / "stdout.count").write_bytes(damage)
    assert OutputCount(job.path, frames.STDOUT).written is None


def test_a_count_that_cannot_be_kept_is_told_in_a_sentence(job: Job) -> None:
    (job.path / "stdout.count").mkdir()
    with pytest.raises(JobError, match=r"stdout\.count cannot be written: Is a directory; make room there"):
        OutputCount(job.path, frames.STDOUT).begin(0)


def test_a_stream_ends_only_where_the_job_is(link: Link, tmp_path: Path) -> None:
    """A tree that could not be restored elsewhere ends there, with its streams, and the job goes on where it was."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        elsewhere = Link(ours.fileno(), ours.fileno())
        file = OutputFile(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT))
        output = OutputOnce(frames.STDOUT, file)
        live(output, link, 0, 10)
        output.end(elsewhere)
        assert output.drain(60) and not file.closed
        output.end(link)
        assert output.drain(60) and file.closed
        output.close()
        elsewhere.close()


@pytest.fixture
def faulty() -> Iterator[tuple[int, ctypes.Array[ctypes.c_char]]]:
    """A file that gives EIO where it is now, and, once "mended" by a seek, is the memory beside it."""
    fd = os.open("/proc/self/mem", os.O_RDWR)
    yield fd, ctypes.create_string_buffer(len(WORDS))
    os.close(fd)


def test_a_disk_that_fails_ends_no_stream(
    faulty: tuple[int, ctypes.Array[ctypes.c_char]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_file, "AGAIN", 0.01)
    fd, memory = faulty
    said: list[str] = []

    def mended(text: str) -> None:
        said.append(text)
        os.lseek(fd, ctypes.addressof(memory), os.SEEK_SET)

    OutputFile(fd, close=pytest.fail, say=mended).write(WORDS, len(WORDS))
    assert memory.raw == WORDS
    assert said == ["the job's output cannot be written: Input/output error; mend that: it waits"]


def test_a_terminal_that_is_gone_ends_its_stream() -> None:
    """It says the same as a disk that fails."""
    theirs, ours = pty.openpty()
    os.close(theirs)
    file = OutputFile(ours, say=pytest.fail)
    file.write(WORDS, len(WORDS))
    assert file.closed


def test_input_from_a_disk_that_fails_is_not_taken_for_its_end(
    link: Link, faulty: tuple[int, ctypes.Array[ctypes.c_char]], tmp_path: Path
) -> None:
    failed: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    given = ReplayedInput(tmp_path, os.dup(faulty[0]))
    given.start(failed.put)
    given.begin(link, 0)
    assert str(failed.get(timeout=60)) == "standard input cannot be read: Input/output error"
    given.close()


@pytest.mark.parametrize("end", [Source, Sink])
def test_a_plain_job_is_told_of_a_disk_that_fails(
    link: Link, faulty: tuple[int, ctypes.Array[ctypes.c_char]], end: type[Source] | type[Sink]
) -> None:
    failed: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    pump = end(link, frames.STDOUT, os.dup(faulty[0]))
    pump.start(failed.put)
    if isinstance(pump, Sink):
        pump.put(WORDS)
    assert str(failed.get(timeout=60)).endswith(": Input/output error")
