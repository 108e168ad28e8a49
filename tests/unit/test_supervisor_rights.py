"""A job has the same of this machine's files on each host that it goes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from remoteio.submit.export.added import NAME, Grown
from remoteio.submit.export.confine import Confinement
from shim.submit import protect
from shim.submit.scope import JobRights, Scope
from tests.supervised import Run
from tests.until import until


def test_the_same_rights_on_each_host(tmp_path: Path, job_place: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for, the directories that are the job's own by what it did on another, and what it has added."""
    seen: list[JobRights] = []
    grown = Grown((5, 6), 0, 0)
    grown.names = 1
    found = protect.confinement

    def looked(rights: JobRights, *more: Any) -> Confinement:
        seen.append(rights)
        return found(rights, *more)

    monkeypatch.setattr(protect, "confinement", looked)
    asked = Scope("project", read=("/read",), hide=("/hide",), disk=1 << 30)
    run = Run(tmp_path, scope=asked)
    try:
        run.country.running(0)
        until(lambda: seen, "the first host has greeted")
        seen[0].made[5, 6] = 7
        assert seen[0].added is not None
        with seen[0].added.lock:
            seen[0].added.settle(grown, 0)
        run.ask("vacate")
        run.country.running(1)
        until(lambda: len(seen) > 1, "the second host has greeted")
        assert [rights.scope for rights in seen] == [asked, asked]
        assert seen[1].made == {(5, 6): 7}
        assert seen[1].added is seen[0].added
        until(lambda: run.job.read().made == ([5, 6, 7],), "what is the job's own is on record")
        assert run.job.read().added[0] == NAME
        assert run.job.read().job_scope() == asked
    finally:
        run.close()
