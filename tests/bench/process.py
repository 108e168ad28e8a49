"""One command run to its end and timed, in a session of its own so that a timeout ends all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CUT = -9  # the exit code of what outlived its time
_WORD = 5.0  # seconds in which who is told to end does


class BenchError(Exception):
    """What stops the whole bench, as one sentence: what failed, why, what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """One finished command. `seconds` is wall time from the start of the process to its end."""

    seconds: float
    code: int
    out: bytes
    err: bytes

    def trouble(self) -> str:
        """Why the command counts as failed, from its last words."""
        said = (self.err or self.out).decode(errors="replace").splitlines()
        words = [line for line in said if line.strip() and not line.startswith("inside=")]
        return f"exit {self.code}: {words[-1] if words else 'it said nothing'}"


def execute(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: Path | None = None,
    stdout: Path | None = None,
    given: bytes | None = None,
    timeout: float = 900.0,
) -> Run:
    """Run `argv`, feeding it the file `stdin` or the bytes `given`; `stdout` names a file to take its output.

    A command that outlives `timeout` (seconds) is ended with its session and has code -9.
    """
    source = stdin.open("rb") if stdin else None
    sink = stdout.open("wb") if stdout else None
    started = time.perf_counter()
    try:
        process = subprocess.Popen(
            [str(part) for part in argv],
            env=env,
            cwd=cwd,
            stdin=source or (subprocess.PIPE if given is not None else subprocess.DEVNULL),
            stdout=sink or subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    finally:
        for opened in (source, sink):
            if opened:
                opened.close()
    try:
        out, err = process.communicate(given, timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        return Run(timeout, CUT, b"", b"not finished after %d s" % timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return Run(time.perf_counter() - started, process.returncode, out or b"", err)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and its session, by a word first: what it has at the other end it is to end too."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.communicate(timeout=_WORD)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def must(argv: Sequence[str | Path], why: str, **how: object) -> Run:
    """Run a step that the bench cannot do without; BenchError says which it was."""
    run = execute(argv, **how)  # type: ignore[arg-type]
    if run.code:
        raise BenchError(f"{why}: {run.trouble()}")
    return run
