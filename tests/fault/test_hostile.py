"""A host that tries everything, and one that is merely broken, against a `rexec` in a process of its own.

The host speaks from a program `ssh` that comes first in PATH (hostile.py). Whatever it does, the run ends in bounded
time and memory by one sentence, and nothing at home has changed but what a job may change.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.desk_hosts import SUBMIT_USER
from tests.fault.hostile_plans import ENDS, FORWARDED, MISBEHAVES, PROBED, SAVED, WELL
from tests.fault.hostile_requests import SECRET
from tests.program import as_login
from tests.reachable import Copy
from tests.until import HANG, until

SAMPLE = {
    "a connection of more than was allowed",
    "a frame of 4 GiB",
    "escapes in each text",
    "an answer deep as the sea",
}  # the others are run with --all
MEMORY = 900 << 20  # bytes
HOME = {
    ".ssh/id_ed25519": "SECRET key", ".ssh/config": "Host *", ".config/rexec/hosts.toml": "",
    ".config/other/file": "text", ".local/state/rexec/jobs/1/job.json": "SECRET", ".cache/rexec/code": "SECRET",
    ".local/share/rexec/criu/criu-1.tar": "SECRET", "other/file": "text", "project/.keep": "",
}  # fmt: skip


class Victim:
    """A user's home, and rexec as that user runs it, with a host `evil`."""

    def __init__(self, top: Path, copy: Copy, user: str) -> None:
        self.top, self.user, self._copy = top, user, copy
        self.home, self.report, self.ssh = top / "home", top / "report", top / "bin/ssh"
        for name, text in HOME.items():
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text(text)
        self.ssh.parent.mkdir()
        self.ssh.write_text(f'#!/bin/sh\nPYTHONPATH={copy.checkout} exec {copy.python} -m tests.fault.hostile "$@"\n')
        self.ssh.chmod(0o755)
        top.chmod(0o755)
        uid = pwd.getpwnam(user).pw_uid
        for above, names, files in os.walk(top):
            for name in (".", *names, *files):
                os.chown(Path(above, name), uid, -1)
        self.before = self.picture()

    def picture(self) -> dict[str, bytes]:
        """What is at home outside the project, with its mode; symbolic links are told by what they say."""
        seen = {}
        for above, names, files in os.walk(self.home):
            for name in (*names, *files):
                path = Path(above, name)
                if not path.is_relative_to(self.home / "project"):
                    data = b"" if path.is_dir() else path.read_bytes()
                    seen[str(path)] = b"%o " % path.lstat().st_mode + data
        return seen

    def start(self, plan: str, *arguments: str) -> subprocess.Popen[bytes]:
        limited = ["/bin/sh", "-c", 'ulimit -n 1024; exec "$@"', "sh", self._copy.rexec, *arguments]
        return as_login(
            self.user, limited, cwd=self.home / "project", stdin=subprocess.PIPE,
            env={
                "HOME": str(self.home), "PATH": f"{self.ssh.parent}:/usr/bin:/bin", "HOSTILE_PLAN": plan,
                "HOSTILE_REPORT": str(self.report), "HOSTILE_PACKAGE": str(self._copy.checkout / "remoteio"),
            },
        )  # fmt: skip

    def said(self, process: subprocess.Popen[bytes], within: float = HANG) -> str:
        """What it said on standard error, once it has ended; and nothing at home is other than before."""
        try:
            out, err = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"it did not end: {err!r}") from None
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", err), err
        assert b"Traceback" not in err, err.decode()
        assert SECRET not in out + err
        now = self.picture()
        assert {k: v for k, v in now.items() if k in self.before} == self.before
        return err.decode() + out.decode()

    def run(self, plan: str, *options: str) -> tuple[int, str]:
        """Exit status, and what was said."""
        process = self.start(plan, "--on", "evil", *options, "--", "job")
        said = self.said(process)
        return process.returncode, said


@pytest.fixture(params=[SUBMIT_USER, "root"], ids=["user", "root"])
def victim(request: pytest.FixtureRequest, reached: Copy, own: Path) -> Iterator[Victim]:
    top = own / f"victim-{time.monotonic_ns()}"
    top.mkdir()
    yield Victim(top, reached, request.param)
    shutil.rmtree(top)


def sentence(said: str) -> None:
    """One, by rexec; beside what a host's own standard error may say."""
    told = [line for line in said.splitlines() if line.startswith("rexec: ")]
    assert len(told) == 1, said


@pytest.mark.long(lambda victim: victim == "root")
def test_no_attempt_through_the_export_succeeds(victim: Victim) -> None:
    status, said = victim.run("the export")
    assert status == 0, said
    attempts = [json.loads(line) for line in victim.report.read_text().splitlines()]
    for each in attempts:
        print(f"{each['attempt']:70} -> {each['refusal'] or 'SUCCEEDED'}")
    assert [each for each in attempts if each["succeeded"]] == []
    assert len(attempts) > 900


@pytest.mark.long(lambda victim: victim == "root")
def test_no_attempt_adds_more_than_the_quota(victim: Victim) -> None:
    """Each is refused; and the disk says so too, of what there is while the job has all its files open."""
    status, said = victim.run("the quota", "--disk", "1M", "-v")
    assert status == 0, said
    attempts = [json.loads(line) for line in victim.report.read_text().splitlines()]
    for each in attempts:
        print(f"{each['attempt']:70} -> {each['refusal'] or 'SUCCEEDED'}")
    assert {each["refusal"] for each in attempts} <= {"EDQUOT", "EINVAL", "EOPNOTSUPP"}, attempts
    assert len(attempts) > 40 and len([each for each in attempts if each["refusal"] == "EDQUOT"]) > 35
    found = [path.lstat() for path in (victim.home / "project").rglob("*")]
    assert sum(st.st_blocks * 512 for st in found) < 2 << 20, "blocks of 4 KiB, and attributes"
    assert "the job was kept from adding more than 1.0 MiB to the files here (" in said


@pytest.mark.long(lambda victim, plan: victim == "root" or plan not in SAMPLE)
@pytest.mark.parametrize("plan", [*MISBEHAVES, *ENDS])
def test_a_link_that_breaks_the_rules_ends_the_run_by_a_sentence(victim: Victim, plan: str) -> None:
    status, said = victim.run(plan)
    assert status == 125, said
    sentence(said)
    if plan in MISBEHAVES:
        assert "rexec: evil misbehaves: " in said and "; the job is lost with it\n" in said, said[:1000]


@pytest.mark.long(lambda victim, plan: victim == "root" or plan not in SAMPLE)
@pytest.mark.parametrize("plan", FORWARDED)
def test_a_host_reaches_no_port_but_what_was_named(victim: Victim, plan: str) -> None:
    """And has no more kept of what it sends there than may be under way."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        status, said = victim.run(plan, "--forward", f"any:{deaf.getsockname()[1]}")
    assert status == 125, said
    sentence(said)
    assert "rexec: evil misbehaves: FORWARD " in said, said[:1000]


@pytest.mark.long(lambda victim, plan: victim == "root" or plan not in SAMPLE)
@pytest.mark.parametrize("plan", PROBED)
def test_a_host_that_is_asked_for_its_facts_spoils_its_own_row(victim: Victim, plan: str) -> None:
    (victim.home / ".config/rexec/hosts.toml").write_text("[host.evil]\n")
    victim.before = victim.picture()
    process = victim.start(plan, "hosts")
    said = victim.said(process)
    assert process.returncode in (0, 1) and "evil" in said and "misbehaves" in said, said


@pytest.mark.long(lambda **_: True)
@pytest.mark.parametrize("plan", SAVED)
def test_a_host_of_a_job_that_moves_ends_its_own_visit(victim: Victim, plan: str) -> None:
    process = victim.start(plan, "--checkpoint", "--on", "evil", "--", "job")
    said = victim.said(process)
    assert process.returncode == 125 and "evil misbehaves: " in said, said


@pytest.mark.long(lambda **_: True)
@pytest.mark.parametrize("plan", WELL)
def test_a_host_that_is_merely_odd_runs_its_job(victim: Victim, plan: str) -> None:
    status, said = victim.run(plan)
    assert status == 0, said
    assert ("the clock of evil is +86400 s off" in said) == (plan == "a clock of tomorrow")


@pytest.mark.long(lambda **_: True)
def test_what_was_half_written_is_there_and_said_to_be_lost(victim: Victim) -> None:
    status, said = victim.run("half a frame, half a file")
    assert status == 125 and "lost evil, and the job with it" in said
    assert (victim.home / "project/half").read_text() == "half"


@pytest.mark.long(lambda **_: True)
def test_signs_of_life_for_ever_keep_no_user(victim: Victim) -> None:
    process = victim.start("signs of life for ever", "--on", "evil", "--", "job")
    until(lambda: any(name.is_symlink() for name in Path(f"/proc/{process.pid}/fd").iterdir()), "it has begun")
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=5)
    process.send_signal(signal.SIGINT)
    victim.said(process)
    assert process.returncode == -signal.SIGINT


@pytest.mark.long(lambda **_: True)
@pytest.mark.parametrize("plan", ["what it asked for and did not take", "output without credit"])
def test_memory_is_not_a_hosts(victim: Victim, plan: str) -> None:
    """Asked for in kilobytes, or sent to a reader who stands still: neither is kept without a bound."""
    process = victim.start(plan, "--on", "evil", "--", "job")
    most = 0
    while process.poll() is None and (rss := resident(process.pid)):
        most = max(most, rss)
        time.sleep(0.05)
    victim.said(process)
    assert process.returncode == 125
    assert 0 < most < MEMORY, f"{most >> 20} MiB"


def resident(pid: int) -> int:
    """Bytes of memory that the process has; 0: it has ended."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0
