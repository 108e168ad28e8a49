"""Images of what changed: whatever changes a job's memory, each image restores to the memory of its moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.execute import forked
from checkpoint.execute.collector import Collector
from checkpoint.submit.delivery import deliver
from shim.wire import job_messages
from tests.mover import Mover, Placement
from tests.mover_as_user import PYTHON, Make, Run
from tests.spools import spool
from tests.until import until

API, REGISTER, SCAN = 0xC018AA3F, 0xC020AA00, 0xC0606610  # linux/userfaultfd.h, linux/fs.h
JOB = Path(__file__).parent.parent.joinpath("changing_job.py").read_bytes()  # here: who runs the job may not read it


class Talk:
    """Orders to the job, by its input, and its answers, in a file of its directory."""

    def __init__(self, mover: Mover) -> None:
        self._mover, self._number = mover, 0

    def ask(self, at: Placement, words: str) -> str:
        self._number += 1
        at.type(f"{self._number} {words}\n".encode())
        answer = self._mover.cwd / "answer"
        wanted = f"{self._number} "
        until(lambda: answer.exists() and answer.read_text().startswith(wanted), f"no answer to {words}")
        return answer.read_text().removeprefix(wanted)


def started(make: Make, home: Path, **more: object) -> tuple[Mover, Talk, Placement]:
    """Start the job there."""
    job = home / "job.py"
    job.write_bytes(JOB)
    mover = make(PYTHON, str(job), str(home), **more)
    at = mover.place("local")
    at.wait("started")
    return mover, Talk(mover), at


def saved(mover: Mover) -> float:
    """What part of the last image's memory criu was told of."""
    with mover.store.open(mover.job, mover.image) as opened:
        image = opened.manifest
    pages = sum(file.size for file in image.files if file.name.startswith("pages-"))
    return int(image.stats["criu"]["pages_written"]) * 4096 / pages


def by_pages(mover: Mover) -> int:
    """How many page images of the last image are said to be read page by page."""
    with spool() as into, mover.store.open(mover.job, mover.image) as opened:
        collector = Collector(into)
        for message in deliver(opened):
            collector.receive(b"".join(message))
        forked.mark(into)
        return sum(into.file(name).by_pages for name in into.names())


def right(mover: Mover, talk: Talk, image: int, said: str, given: int) -> None:
    """Check that the image, restored, has the memory of which `said` is the hash; it had read so much input."""
    orders = mover.given
    mover.given = orders[:given]
    at = mover.place("local", image)
    at.go()
    at.wait("started")
    assert talk.ask(at, "hash") == said, image
    at.close()
    mover.given = orders


@pytest.mark.long(lambda seed, uid: seed > 1)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_image_has_the_memory_of_its_moment(run: Run, seed: int) -> None:
    def body(make: Make, home: Path) -> None:
        mover, talk, at = started(make, home)
        memories = {}
        for serial in range(1, 3 if seed == 1 else 7):
            said = talk.ask(at, f"change {seed * 100 + serial}")
            heard = at.checkpoint(serial)
            assert heard["what"] == "committed", heard
            memories[mover.image] = said, len(mover.given)
        assert saved(mover) < 0.7, "criu was told of all pages, so this test shows nothing"
        assert by_pages(mover) == 1  # the child's, which has most of its memory from the job
        said = talk.ask(at, f"change {seed * 100 + 50}")
        at = at.move("local")
        assert talk.ask(at, "hash") == said
        at.close()
        for image, (said, given) in list(memories.items())[2:]:
            right(mover, talk, image, said, given)

    run(body)


@pytest.mark.long(lambda committed, uid: not (committed and uid))
@pytest.mark.parametrize("committed", [True, False], ids=["no host can go on", "the store is full"])
def test_after_a_vacate_that_was_called_off_an_image_is_of_what_changed_too(run: Run, committed: bool) -> None:
    why = "no host can go on with it" if committed else "the store is full"

    def body(make: Make, home: Path) -> None:
        mover, talk, at = started(make, home)
        mover.holds = True
        for serial in (1, 2, 3):
            said = talk.ask(at, f"change {serial * 3 + 1}")  # and no other child
            leaves = serial == 2
            at.full = leaves and not committed
            at.order(job_messages.VACATE if leaves else job_messages.CHECKPOINT, serial)
            if leaves and committed:
                at.wait("held")
                at.order(job_messages.THAW, serial, why=why)
            if leaves:
                assert at.wait("refused")["why"] == why
            else:
                at.wait("committed")
        assert mover.image == 2 + committed
        assert saved(mover) < 0.7
        at.close()
        right(mover, talk, mover.image, said, len(mover.given))

    run(body)


@pytest.mark.long(lambda request_, uid: request_ != SCAN or uid)
@pytest.mark.parametrize("request_", [API, REGISTER, SCAN], ids=["no such kernel", "not followed", "not told"])
def test_where_the_kernel_does_not_say_what_was_written_all_is_saved(run: Run, uid: int, request_: int) -> None:
    """And once it does, what was written before is not taken for what is in an image."""

    def body(make: Make, home: Path) -> None:
        struck = home / "struck"
        if request_ == API:
            struck.touch()
        mover, talk, at = started(make, home, strike=f"pages:{request_:x}:1")
        for serial in (1, 2, 3):
            if serial == 2:
                struck.touch()
            if serial == 3 and request_ != API:
                struck.unlink()
            said = talk.ask(at, f"change {serial}")
            assert at.checkpoint(serial)["what"] == "committed"
            assert (saved(mover) > 0.9) == (serial != 3 or request_ == API)
        at.close()
        right(mover, talk, mover.image, said, len(mover.given))

    run(body)
