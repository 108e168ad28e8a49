"""What a program asks of the files here for its jobs is what they have, as a command line's options are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import shim
from shim.submit.api import arguments, remote_run
from shim.submit.hosts.config import Host
from shim.submit.job import detached
from shim.submit.job.record import Job
from shim.submit.scope import ALL, FULL, HOME, PROJECT, JobRights, Scope


def test_each_keyword_is_an_option() -> None:
    here = os.getcwd()
    assert arguments.scope({}) == Scope()
    assert arguments.scope({"only": True, "read": ["a", b"/b"], "write": [Path("c")], "hide": ["/d"]}) == Scope(
        PROJECT, (f"{here}/a", "/b"), (f"{here}/c",), ("/d",)
    )
    assert arguments.scope({"trust": FULL, "disk": 5}) == Scope(FULL, disk=5)
    assert arguments.scope({"disk": "all"}).disk == ALL
    with pytest.raises(TypeError, match="'reed' is no keyword argument"):
        shim.run(["true"], reed=["a"])  # type: ignore[call-arg]


def test_a_job_has_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setattr(detached, "start", lambda made, stdin: made.unlock())
    asked: shim.ScopeOptions = {"only": True, "read": ["/a"], "hide": ["/b"], "disk": "1G"}
    record = shim.start(["true"], hosts="local", cwd="/usr", **asked).path
    found = Job(record).read()
    assert found.job_scope() == Scope(PROJECT, ("/a",), (), ("/b",), 1 << 30)
    assert b"/tmp" in found.job_spec().scratch


def test_a_command_has_what_was_asked_for_and_its_host_is_trusted_with(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connected(Exception):
        """It would have been run."""

    seen: list[Scope] = []

    def to_the_end(run: object, *_: object) -> None:
        raise Connected

    class Stream:
        read_fd = write_fd = 0

    def rights(scope: Scope, *, sync: bool) -> JobRights:
        assert not sync, "the default"
        seen.append(scope)
        return JobRights(scope, sync=sync)

    host = Host("bench", None, trust=FULL, disk=1 << 20)
    monkeypatch.setattr(remote_run, "connect_first", lambda *_, **__: (host, Stream(), None))
    monkeypatch.setattr(remote_run, "to_the_end", to_the_end)
    monkeypatch.setattr(remote_run, "JobRights", rights)
    for options in ({"disk": "1G"}, {"trust": HOME, "disk": 5}, {"only": True}):
        with pytest.raises(Connected):
            remote_run.run(["true"], **options)  # type: ignore[arg-type]
    assert seen == [Scope(FULL, disk=1 << 20), Scope(FULL, disk=5), Scope(PROJECT, disk=1 << 20)]
