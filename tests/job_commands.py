"""Jobs on two hosts by `rexec`'s own commands, as root or an ordinary user types them; the fixture `mover`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from checkpoint.submit import obtain_criu
from shim.submit.job import agent_file
from shim.wire import rendezvous
from tests.desk_root import give_criu
from tests.program import Argument, Rexec, as_login
from tests.standing import holders, inside, stand
from tests.until import HANG, until

PAIRS = {
    "root": ("root", "alpha", "beta"),
    "user": ("rexecuser", "alpha-alice", "beta-alice"),
    # subby alone has subordinate ids there
    "mapped": ("rexecuser", "alpha-subby", "beta-subby"),
    "mapped by root": ("rexecuser", "alpha", "beta-subby"),
    "fewer": ("rexecuser", "alpha-subby", "beta-alice"),
    "more": ("rexecuser", "alpha-alice", "beta-subby"),
}
COUNT = "i=0; until [ -e end ]; do i=$((i+1)); echo line $i; sleep .05; done; exit 3"  # see `counted`
PYTHON = "/usr/bin/python3"


class Mover:
    """Runs `rexec` with a state, data and configuration of its own, for jobs on two hosts."""

    def __init__(self, rexec: Rexec, user: str, hosts: tuple[str, str], directory: Path) -> None:
        self.rexec, self.user, self.hosts, self.dir = rexec, user, hosts, directory
        self.env = {f"XDG_{name}_HOME": str(directory / name.lower()) for name in ("STATE", "DATA", "CONFIG")}

    def verb(self, *words: Argument, timeout: float = 60) -> str:
        """A verb's output; AssertionError with what it says if it fails."""
        done, out, err = self.verb_fails(*words, timeout=timeout)
        assert done == 0, f"{words}: status {done}, {out}{err}"
        return out

    def verb_fails(self, *words: Argument, timeout: float = 60) -> tuple[int, str, str]:
        process = self.rexec.start(
            words, as_user=self.user, env=self.env, cwd=self.dir, stdin=subprocess.DEVNULL
        )  # fmt: skip
        with process:
            out, err = process.communicate(timeout=timeout)
        return process.returncode, out.decode(), err.decode()

    def submit(self, *argv: Argument, options: tuple[str, ...] = ()) -> str:
        """Start a detached job; its id."""
        on = ",".join(self.hosts)
        job = self.verb("--checkpoint", "--detach", "--on", on, "--owner", "none", *options, "--", *argv).strip()
        self.running(job)
        return job

    def foreground(self, *argv: Argument, options: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        return self.rexec.start(
            ["--checkpoint", "--on", ",".join(self.hosts), "--owner", "none", *options, "--", *argv],
            as_user=self.user, env=self.env, cwd=self.dir, stdin=subprocess.PIPE,
        )  # fmt: skip

    def job(self, job: str) -> dict[str, object]:
        return next(row for row in json.loads(self.verb("jobs", "--json")) if str(row["id"]) == job)

    def running(self, job: str) -> None:
        until(lambda: self.job(job)["state"] == "running", "the job runs")

    def path(self, job: str, name: str) -> Path:
        return self.dir / "state" / "rexec" / "jobs" / job / name

    def ended(self, job: str) -> object:
        until(
            lambda: self.job(job)["state"] not in ("running", "choosing", "starting", "left", "lost", "parked"),
            "it ends",
        )
        return self.job(job)["state"]


USER = pytest.mark.where(lambda mover, **others: mover == "user")  # what is the same for both
ROOT = pytest.mark.where(lambda mover, **others: mover == "root")
LONG = pytest.mark.long(lambda **_: True)


@pytest.fixture(params=["root", "user"])
def mover(
    request: pytest.FixtureRequest,
    rexec: Rexec,
    kept: obtain_criu.Bundle,
    place: Callable[[str], Path],
    desk: ModuleType,
) -> Iterator[Mover]:
    user, first, second = PAIRS[request.param]
    made = Mover(rexec, user, (first, second), place(user))
    give_criu(kept, made.dir / "data", user)
    yield made
    rows = json.loads(made.verb("jobs", "--json"))
    for name in (row["batch"] for row in rows if "batch" in row and row["state"] != "ended"):
        made.verb_fails("kill", name)
    for row in (row for row in rows if "id" in row):
        if row["state"] not in ("done", "failed") and not str(row["state"]).startswith(("exit", "signal")):
            made.verb_fails("kill", str(row["id"]))  # which answers before its supervisor, that writes there, has ended
            until(lambda job=str(row["id"]): not supervisors(made, job), "its supervisor ends")


def lines(n: int) -> str:
    return "".join(f"line {k}\n" for k in range(1, n + 1))


def counted(mover: Mover, job: str) -> str:
    """Have a job that does COUNT say more and end, however long what it went through has taken: all that it said."""
    before = len(out(mover, job))
    until(lambda: len(out(mover, job)) > before + 40, "it says more")
    (mover.dir / "end").touch()
    assert mover.ended(job) == "exit 3", mover.verb("log", job)
    text = out(mover, job)
    assert text == lines(text.count("\n"))
    return text


def supervisors(mover: Mover, job: str) -> list[int]:
    return holders(mover.path(job, "lock"))


def kill_ssh(mover: Mover, job: str = "1") -> None:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
            if words[0].endswith(b"ssh") and parent in supervisors(mover, job):
                with suppress(ProcessLookupError):  # a rehearsal's, which was over
                    os.kill(int(name), signal.SIGKILL)


def kill_agent(mover: Mover, job: str = "1", number: int = signal.SIGKILL) -> None:
    """Have the job's host lose it: its agent is killed there, and with that all of it; or is given another signal."""
    noted = agent_file.noted(mover.path(job, "lock").parent)[-1]
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                began = rendezvous.started(Path(f"/proc/{name}/stat").read_bytes())[1]
            except OSError:
                continue  # it has ended
            if began == noted.where.started and b"-ISc" in words:  # its number is another within its host
                os.kill(int(name), number)


def here(mover: Mover, *argv: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """The same command here, without rexec, by the same user: its output."""
    with as_login(mover.user, list(argv), cwd=cwd or mover.dir, env=env) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err.decode()
    return out.decode()


def give(mover: Mover, *tops: Path) -> None:
    """What root put there becomes the user's."""
    for top in tops:
        for path in (top, *top.rglob("*")):
            shutil.chown(path, mover.user, mover.user)


def out(mover: Mover, job: str) -> str:
    return mover.path(job, "stdout").read_text()


def said(mover: Mover, job: str, what: str, within: float = HANG) -> None:
    try:
        until(lambda: what in out(mover, job), f"the job says {what!r}", within=within)
    except AssertionError as e:
        e.add_note(mover.verb("log", job) + mover.path(job, "stderr").read_text() + stand(inside(mover.dir)))
        raise


def vacate(mover: Mover, job: str) -> None:
    """In the middle: it must be going on afterwards."""
    host = mover.job(job)["host"]
    there = next(name for name in mover.hosts if name != host)
    assert mover.verb("vacate", job) == f"job {job}: the job goes on on {there}\n"


def well(mover: Mover, job: str) -> str:
    """Wait for a good end: all its output."""
    assert mover.ended(job) == "done", mover.path(job, "stderr").read_text() + mover.verb("log", job)
    return out(mover, job)


def again(mover: Mover, job: str) -> None:
    """It is lost with its agent, and goes on."""
    generation = int(str(mover.job(job)["generation"]))
    kill_agent(mover, job)
    until(lambda: mover.job(job)["generation"] > generation, "another generation")
    mover.running(job)


def pinned(mover: Mover, job: str) -> set[str]:
    """The files of which the newest image of the job has the bytes."""
    with suppress(FileNotFoundError):  # an older image's go while we look
        rows = sorted(mover.path(job, "pins").glob("*/rows"), key=lambda path: int(path.parent.name))
        return {path for path, *_ in json.loads(rows[-1].read_text())} if rows else set()
    return set()


def kept(mover: Mover, job: str) -> list[Path]:
    """The copies of what could not be told apart, each of which the log names."""
    copies, words = sorted(mover.path(job, "kept").glob("*")), mover.verb("log", job)
    assert all(str(copy) in words for copy in copies), words
    return copies
