"""A machine with one slot, whose owner prefers one login: a job of that takes the slot of another, which moves on."""

from __future__ import annotations

import pwd
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.functional.test_owner_word import CALM, says
from tests.job_commands import COUNT, USER, Mover, counted, out
from tests.program import Argument, Rexec, as_login
from tests.until import HANG, until


class Apart:
    """A network whose slots no other test has: these are the machine's."""

    def __init__(self, rexec: Rexec, process: subprocess.Popen[bytes]) -> None:
        self._rexec, self._process = rexec, process

    def start(self, user: str, words: Sequence[Argument], env: dict[str, str], cwd: Path) -> subprocess.Popen[bytes]:
        """Start rexec there, as that user."""
        entry = pwd.getpwnam(user)
        argv = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", "setpriv", f"--reuid={entry.pw_uid}",
                f"--regid={entry.pw_gid}", "--init-groups", "--", self._rexec.path, *words]  # fmt: skip
        env = {"USER": user, "LOGNAME": user, **env}
        return as_login("root", argv, env=env, cwd=cwd, stdin=subprocess.PIPE)


@pytest.fixture
def apart(rexec: Rexec) -> Iterator[Apart]:
    inside = "ip link set lo up; echo in; cat"  # criu, when it is tried, connects to itself
    with subprocess.Popen(["unshare", "--net", "sh", "-c", inside], stdin=-1, stdout=-1) as process:
        assert process.stdout and process.stdout.readline() == b"in\n"
        yield Apart(rexec, process)


@USER
@pytest.mark.long(lambda **_: True)
def test_a_job_that_is_preferred_takes_the_slot_of_one_that_goes_on_later(
    mover: Mover, apart: Apart, place: Callable[[str], Path]
) -> None:
    text = CALM + 'slots = 1\nrank = ["root"]'
    mover.env.update(says(mover.dir, text))
    root = place("root")
    env = {**says(root, text), **{f"XDG_{name}_HOME": str(root / name) for name in ("STATE", "DATA", "CONFIG")}}
    with apart.start(
        mover.user, ["--checkpoint", "--detach", "--on", "local,local", "sh", "-c", COUNT], mover.env, mover.dir
    ) as submitted:
        job = submitted.communicate(timeout=HANG)[0].decode().strip()
    until(lambda: "line 5\n" in out(mover, job), "it runs")
    with apart.start("root", ["--on", "local", "sh", "-c", "echo in; cat"], env, root) as preferred:
        assert preferred.stdout and preferred.stdin and preferred.stderr
        assert preferred.stdout.readline() == b"in\n", preferred.stderr.read()
        until(lambda: mover.job(job)["state"] == "parked", "the other has left")
        log = mover.verb("log", job)
        assert f"{mover.dir}/home/.config/rexec/owner.toml prefers a job of root, which has come" in log
        assert "no more than 1 jobs at a time" in str(mover.job(job)["why"])
        size = len(out(mover, job))
        with apart.start(mover.user, ["--on", "local", "true"], mover.env, mover.dir) as refused:
            assert b"no more than 1 jobs" in refused.communicate(timeout=HANG)[1] and refused.returncode == 125
        assert len(out(mover, job)) == size
        assert preferred.communicate(timeout=HANG) == (b"", b"")

    def goes_on() -> bool:
        mover.verb_fails("release", job)  # it looks at once, unless it is just looking
        return len(out(mover, job)) > size

    until(goes_on, "it goes on")
    counted(mover, job)
