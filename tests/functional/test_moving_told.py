"""A job leaves its host where its agent is told to end: by an engine that takes its place, or by a shutdown there."""

from __future__ import annotations

import signal

from shim.wire.engine_place import TAKEN_BACK
from tests.job_commands import COUNT, USER, Mover, counted, kill_agent, out
from tests.until import until


@USER
def test_a_job_goes_on_elsewhere_where_its_agent_is_told_to_end(mover: Mover) -> None:
    first, second = mover.hosts
    job = mover.submit("sh", "-c", COUNT)
    until(lambda: len(out(mover, job)) > 40, "it counts")
    kill_agent(mover, job, signal.SIGTERM)
    until(lambda: f"execute     {second}" in mover.verb("log", job), "it goes on")
    log = mover.verb("log", job)
    assert f"evict       {first}: its agent is told to end there, image " in log
    assert "lost" not in log  # all of it was saved
    counted(mover, job)


@USER
def test_no_job_begins_where_an_engine_takes_the_place_back(mover: Mover) -> None:
    words = ["--on", "local", "true"]
    with mover.rexec.start(words, as_user=mover.user, env={**mover.env, TAKEN_BACK: "1"}, cwd=mover.dir) as process:
        assert process.wait(60) == 125
        assert process.stderr is not None
        assert b"lets no job begin now: the engine takes this place back" in process.stderr.read()
