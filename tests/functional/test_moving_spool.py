"""What lies of a job on its host's disk while it is saved or restored: nothing that can be read."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import psutil

from checkpoint.submit import delivery
from checkpoint.wire import image_wire
from shim.wire import job_messages
from tests.mover import Placement
from tests.mover_as_user import PYTHON, Make, Run, begun, killed, more
from tests.until import until

JOB = """
import itertools, sys, time
kept = sys.argv[1][::-1].encode() * 4000
for number in itertools.count(1):
    print(number, flush=True)
    time.sleep(.01)
    assert len(kept) == 128000
"""


def on_disk() -> Iterator[bytes]:
    """All that the agents have of images on a disk: what has no name any more, and what has one."""
    seen = set()
    for process in psutil.Process().children():
        if process.status() == psutil.STATUS_ZOMBIE:
            continue
        for number in os.listdir(f"/proc/{process.pid}/fd"):
            link = Path(f"/proc/{process.pid}/fd/{number}")
            try:
                path = os.readlink(link)
            except FileNotFoundError:  # closed since it was listed, as the agents go on meanwhile; the image stays open
                continue
            if f"/rexec-{os.geteuid()}/" in path and "/spool-" in path and path not in seen:
                seen.add(path)
                if link.is_file():
                    assert stat.S_IMODE(link.stat().st_mode) == 0o600
                    yield link.read_bytes()
                elif not path.endswith("(deleted)"):
                    for root, _, names in os.walk(path):
                        yield from (Path(root, name).read_bytes() for name in names)


def lies_there(mark: bytes) -> bool:
    contents = list(on_disk())
    assert sum(map(len, contents)) > 1 << 20, "the image is not there"
    return any(mark in content for content in contents)


def gone(at: Placement) -> None:
    """It has left, with its image committed."""
    at.wait("moved")
    at.wait("closed")
    at.close()


def test_what_a_job_has_in_memory_never_lies_readable_on_the_disk(run: Run) -> None:
    """Not while it is saved, nor while it is restored; and the job goes on all the same."""

    def body(make: Make, home: Path) -> None:
        mark = secrets.token_hex(16)
        mover = make(PYTHON, "-c", JOB, mark[::-1], strike="sending:wait:1")
        at = begun(mover)
        more(mover)
        at.order(job_messages.VACATE, 1)
        until((home / "struck").exists, "the job is not saved")
        assert not lies_there(mark.encode())
        (home / "struck").unlink()
        gone(at)
        mover.strike = "arrived:wait:1"
        at = mover.place("local", mover.image)
        until((home / "struck").exists, "the image does not arrive")
        assert not lies_there(mark.encode())
        (home / "struck").unlink()
        at.wait("restored")
        assert not lies_there(mark.encode())
        at.order(job_messages.GO, mover.generation)
        at.wait("started")
        more(mover)
        killed(mover, at)

    run(body)


def test_without_libcrypto_it_lies_there_as_it_is(run: Run) -> None:
    """The job is saved and goes on; that it could be read is what shows that the other test would find it."""

    def body(make: Make, home: Path) -> None:
        mark = secrets.token_hex(16)
        mover = make(PYTHON, "-c", JOB, mark[::-1], strike="cipher:none:1")
        at = begun(mover)
        more(mover)
        at.order(job_messages.VACATE, 1)
        gone(at)
        mover.strike = "cipher:none:1"
        at = mover.place("local", mover.image)
        at.wait("restored")
        assert lies_there(mark.encode())
        at.order(job_messages.GO, mover.generation)
        at.wait("started")
        more(mover)
        killed(mover, at)

    run(body)


def test_an_image_that_was_changed_on_its_way_is_refused_before_criu_is_begun(run: Run) -> None:
    """By one bit, of its files' names, of a page or of what comes last; and the image as it is goes on."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", JOB, secrets.token_hex(16))
        at = begun(mover)
        more(mover)
        at.order(job_messages.VACATE, 1)
        gone(at)
        deliver = delivery.deliver
        for kind in (image_wire.FILES, image_wire.CHUNKS, image_wire.END):

            def spoilt(*image: object, kind: bytes = kind) -> Iterator[list[bytes]]:
                left = [kind]
                for parts in deliver(*image):  # type: ignore[arg-type]
                    message = b"".join(parts)
                    if message[:1] in left:
                        left.clear()
                        message = message[:-1] + bytes([message[-1] ^ 1])
                    yield [message]

            mover.strike = "arrived:error:1"
            with patch.object(delivery, "deliver", spoilt):
                refused = mover.place("local", mover.image)
                why = refused.wait("fail")["why"]
                refused.wait("closed")
                refused.close()
            assert "the restart failed: " in why and not (home / "struck").exists(), (kind, why)
        at = mover.place("local", mover.image)
        at.go()
        at.wait("started")
        more(mover)
        killed(mover, at)

    run(body)
