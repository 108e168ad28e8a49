"""A stream that a program carries which starts others, as condor_ssh_to_job does: nothing of them is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from remoteio.submit.transport.program import ProgramStream, open_program
from remoteio.submit.transport.stream import TransportError
from tests.until import until


def _open(script: str, *words: str) -> ProgramStream:
    return open_program("there", ["sh", "-c", script, "sh", *words], 1, TransportError)


def _runs(process: str) -> bool:
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_its_input_output_and_status_are_the_program_s() -> None:
    stream = _open("read -r word; echo got $word; exit 7")
    os.write(stream.write_fd, b"it\n")
    assert os.read(stream.read_fd, 100) == b"got it\n"
    assert stream.wait(None) == 7
    stream.close()
    refused = _open("echo no >&2; exit 1")
    assert (refused.wait(None), refused.stderr_tail()) == (255, "no\n")
    refused.close()


def test_what_a_program_has_left_ends_when_it_has() -> None:
    stream = _open("trap '' TERM; sleep 1000 & echo begun")
    assert stream.wait(None) == 0
    said = b""
    while more := os.read(stream.read_fd, 100):  # to its end: until nobody has the other one
        said += more
    assert said == b"begun\n"
    stream.close()


def test_a_program_that_is_to_end_takes_away_what_it_has_made(tmp_path: Path) -> None:
    made = tmp_path / "key"
    stream = _open('trap "rm $1; exit" TERM; : >$1; echo begun; while :; do sleep 0.1; done', str(made))
    assert os.read(stream.read_fd, 100) == b"begun\n" and made.exists()
    stream.close(done=True)
    assert not made.exists()


def test_a_program_and_what_it_has_started_end_with_a_rexec_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from remoteio.submit.transport.program import open_program
stream = open_program("there", ["sh", "-c", "sleep 1000 & echo $$ $!; wait"], 1, OSError)
open({str(tmp_path / "pids")!r}, "wb").write(os.read(stream.read_fd, 100))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    both = (tmp_path / "pids").read_text().split()
    assert len(both) == 2
    until(lambda: not any(map(_runs, both)), "both have ended")
