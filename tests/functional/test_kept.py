"""A connection that stays for the next run: it is used, is made anew where it is dead, and is gone in the end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from glob import glob  # what vanishes while it looks is no error to it
from pathlib import Path

import pytest

from tests import desk
from tests.program import MARK, Combo
from tests.until import until

HANGS = 90.0  # seconds: only a run that hangs takes so long
pytestmark = pytest.mark.where(lambda combo: combo in ("root-root", "user-alice"))


class Runs:
    """Runs of rexec that keep the connection to the host of `combo`, with a log and a cache of their own."""

    def __init__(self, combo: Combo) -> None:
        self._combo, self._log = combo, combo.dir / "log"
        self._env = {"XDG_CACHE_HOME": str(combo.dir / "cache"), "REXEC_KEEP": "1h"}

    def __call__(self, script: str = "exit 3", status: int = 3) -> str:
        """Run a script to its end; tells how its agent was found."""
        done = self._combo.run(
            ["sh", "-c", script], options=["--json-log", self._log], env=self._env, stdin=b"given\n", timeout=HANGS
        )
        assert done.returncode == status, done.stderr
        assert (done.stdout, done.stderr) == (b"given\n" if "cat" in script else b"", b"")
        events = [json.loads(line) for line in self._log.read_text().splitlines()]
        return str([event["runtime"] for event in events if event["event"] == "reached"][-1])

    def until_kept(self, script: str = "exit 3", status: int = 3) -> None:
        """Run as often as it takes until one was given a connection that was kept, or what stays at its far end."""
        until(lambda: self(script, status) in ("waits", "stays"), "no run was given a connection", within=HANGS)

    def disconnect(self) -> bytes:
        """Say `rexec disconnect`; what it prints."""
        with self._combo.rexec.start(["disconnect"], as_user=self._combo.as_user, env=self._env) as process:
            said, error = process.communicate()
        assert process.returncode == 0, error
        return said


@pytest.fixture
def runs(combo: Combo) -> Iterator[Runs]:
    found = Runs(combo)
    yield found
    found.disconnect()


def test_the_next_run_is_given_the_connection_and_disconnect_ends_it(runs: Runs, combo: Combo) -> None:
    runs.until_kept("cat; exit 3")
    runs.until_kept("kill -TERM $$", -signal.SIGTERM)
    assert runs.disconnect() == combo.on.encode() + b"\n"
    assert runs.disconnect() == b""
    assert list((combo.dir / "cache/rexec/kept").iterdir()) == []


@pytest.mark.where(lambda combo: combo == "user-alice")
def test_what_is_kept_may_die_at_either_end(runs: Runs, combo: Combo) -> None:
    host = combo.on.partition("-")[0]
    runs.until_kept()
    for pid, line in desk.processes(host).items():
        if " -ISc " in line:  # the one that waits, or is just being started to
            kill(pid)
    runs("cat; exit 3")
    # What home says last goes by the keeper's ssh: without it an agent waits for home as long as its lease is.
    doors = f"/proc/{desk.pid(host)}/root/var/tmp/rexec-*/door-*"
    until(lambda: not glob(doors), "the agent of that run has left")
    for pid in keepers():
        kill(pid)
    runs.until_kept()


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended since we looked
        os.kill(pid, signal.SIGKILL)


def keepers() -> list[int]:
    """The keepers that these tests have started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended while we looked
            if b"shim.submit.hosts.keeper" in line and MARK.encode() in environment:
                found.append(int(entry.name))
    return found
