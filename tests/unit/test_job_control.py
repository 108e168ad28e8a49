"""A program started apart from our process group."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from remoteio.submit.transport.job_control import apart, end_group

STATE = ["sh", "-c", "grep -E '^Sig(Ign|Blk)' /proc/self/status; sleep 1000"]


@pytest.fixture(params=["util-linux", "busybox", "none"])
def setpriv(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """PATH as it is, with a setpriv that is busybox's (it knows no --pdeathsig), or with none."""
    if request.param != "util-linux":
        for name in ("sh", "grep", "sleep"):
            (tmp_path / name).symlink_to(f"/bin/{name}")
        monkeypatch.setenv("PATH", str(tmp_path))
    if request.param == "busybox":
        (tmp_path / "busybox").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "busybox").chmod(0o755)
        (tmp_path / "setpriv").symlink_to("busybox")
    return str(request.param)


def test_a_shutdown_s_signals_are_ignored_and_its_end_is_not(setpriv: str) -> None:
    with subprocess.Popen(apart(STATE), stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        blocked, ignored = (int(process.stdout.readline().split()[1], 16) for _ in range(2))
        wanted = {signal.SIGTERM, signal.SIGHUP}
        assert {number for number in signal.Signals if ignored & 1 << number - 1} >= wanted
        assert not ignored & (1 << signal.SIGINT - 1 | 1 << signal.SIGALRM - 1 | 1 << signal.SIGTTOU - 1)
        assert not blocked
        assert os.getpgid(process.pid) == process.pid
        os.kill(process.pid, signal.SIGSTOP)
        end_group(process)
        assert process.wait(60) == -signal.SIGALRM
