"""A real supervisor, real agents and a real criu: an image is restored beside its job, and the job does not notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint.submit import obtain_criu
from tests.fault.supervised_here import JOB, Supervised
from tests.mover_as_user import Make, Run
from tests.until import until

# Root's is the rarer login, and has the same way through but for the ids.
pytestmark = pytest.mark.long(lambda uid: uid == 0)
Started = Callable[..., None]


@pytest.fixture
def started(run: Run, kept: obtain_criu.Bundle) -> Started:
    """started(body, strikes): body(job) once it runs; strikes[N]: what becomes of the Nth agent (tests/strike.py)."""

    def start(
        body: Callable[[Supervised], None], *strikes: str, hosts: tuple[str, ...] = ("alpha",), program: str = JOB
    ) -> None:
        def inside(make: Make, home: Path) -> None:
            job = Supervised(home, kept, hosts, program)
            job.job.write(replace(job.job.read(), rehearse="small"))
            job.begin(alpha=list(strikes))
            job.more()
            body(job)

        run(inside)

    return start


def shown(job: Supervised) -> tuple[bool, str]:
    """What the rehearsal that is due has shown."""
    until(
        lambda: job.job.read().movable or job.job.read().obstacle or "was not restored here" in job.job.log.read_text(),
        "a rehearsal",
        within=60.0,
    )
    return job.job.read().movable, job.job.read().obstacle


# Names and ports that the job itself holds, in its host's network, and a file that it has open and has cut.
HOLDS = (
    """
import os, socket
ports, names = socket.socket(), socket.socket(socket.AF_UNIX)
ports.bind(("127.0.0.1", 0))
ports.listen(1)
names.bind("\\0rexec-rehearsed-%d" % os.getpid())
names.listen(1)
"""
    + JOB
)
NOTHING, BROKEN = "nowhere:none:1", "arrived:error:1"


def test_a_job_is_known_to_be_movable_and_does_not_notice(started: Started) -> None:
    def body(job: Supervised) -> None:
        before = sorted(path.name for path in job.home.iterdir())
        assert job.ask("checkpoint") == "True: image 1 is committed"
        assert shown(job) == (True, ""), job.job.log.read_text()
        assert sorted(path.name for path in job.home.iterdir()) == before
        job.more()
        assert job.held() == [True, True]
        assert job.job.read().restored == 1
        assert job.ask("checkpoint") == "True: image 2 is committed"
        job.more()
        assert job.job.log.read_text().count("the job is movable") == 1, "its kinds of resources are the same"
        job.end()

    started(body, program=HOLDS)


def test_a_job_that_cannot_be_restored_is_told_of_and_is_never_given_up(started: Started) -> None:
    """As no host is there to go to, and were it parked, it would be lost."""

    def body(job: Supervised) -> None:
        assert job.ask("checkpoint") == "True: image 1 is committed"
        movable, obstacle = shown(job)
        assert not movable and "on purpose" in obstacle, job.job.log.read_text()
        job.more()
        assert job.held() == [True, True]
        for what in ("hold", "vacate"):
            said = job.ask(what)
            assert said.startswith("False: ") and "on purpose" in said and said.endswith("it goes on on alpha"), said
            job.more()
            assert job.held() == [True, True]
        assert (job.phase(), job.job.read().moves, job.job.read().held) == ("running", 0, False)
        job.end()

    started(body, NOTHING, BROKEN, hosts=("alpha",))
