"""This process ends as the job did, whatever signal that was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from shim.submit.foreground import own_streams
from shim.submit.foreground.own_streams import die_like, merges
from shim.submit.host_frames import exit_status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, 32, 33, 34, signal.SIGRTMAX])
def test_every_signal_that_ends_a_process_ends_this_one(number: int) -> None:
    assert exit_status(number.to_bytes(4, "little")) == number
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(die_like(number, False))
        finally:
            os._exit(99)
    # glibc may have put a handler of its own to its two: then as a shell says it
    assert os.waitpid(pid, 0)[1] in ((number, 128 + number << 8) if number in (32, 33) else (number,))


def test_a_signal_in_a_finalizer_is_not_lost() -> None:
    program = """
import os, signal
from shim.submit.foreground import own_streams
from shim.submit.foreground.own_streams import Signalled, raise_lost, raise_signals
class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGHUP)
        for _ in range(1000): pass
raise_signals()
raise_lost()
Ends()
print("goes on")
try:
    raise_lost()
except Signalled as signalled:
    print(signalled.number)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n") == ["goes on", str(int(signal.SIGHUP)), ""]


def test_what_is_pending_is_merged_and_who_asks_again_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_streams, "_since", {})
    came = [(0.0, signal.SIGTERM), (0.01, signal.SIGTERM), (0.011, signal.SIGINT), (0.012, signal.SIGUSR1)]
    came += [(0.013, signal.SIGUSR1), (0.03, signal.SIGTERM), (0.04, signal.SIGTERM), (0.06, signal.SIGTERM)]
    assert [merges(number, now, 7) for now, number in came] == [
        False, True, False, False, False, False, True, False
    ]  # fmt: skip
    assert not merges(signal.SIGTERM, 0.061, 8), "the job may have answered the one before"
