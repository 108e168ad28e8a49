"""A job that does what it is told, a line of Python at a time, while the test looks on from this machine."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.program import Combo
from tests.until import HANG

PYTHON = "/usr/bin/python3"
_LISTEN = """
import ctypes, errno, fcntl, json, mmap, os, signal, socket, sqlite3, stat, struct, subprocess, sys, time
def says(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "fine"
def get(name):
    with open(name, "rb") as f:
        return f.read().decode()
def put(name, text, mode="w"):
    with open(name, mode) as f:
        f.write(text)
for line in sys.stdin:
    code = json.loads(line)
    try:
        try:
            value = eval(compile(code, "<told>", "eval"))
        except SyntaxError:
            value = exec(compile(code, "<told>", "exec"))
        answer = {"value": value}
    except Exception as e:
        answer = {"error": f"{type(e).__name__}: {e}"}
    print(json.dumps(answer), flush=True)
"""


class Talk:
    """The job, running under rexec in the combination's directory. Use it in a ``with``."""

    def __init__(self, combo: Combo, options: Sequence[str] = ()) -> None:
        self.process = combo.popen([PYTHON, "-c", _LISTEN], stdin=subprocess.PIPE, options=options)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            try:
                self.process.communicate(timeout=HANG)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.communicate()

    def tell(self, code: str) -> None:
        """Have it run `code`, an expression or statements, and do not wait."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, within: float = HANG) -> Any:
        """What the expression gave. AssertionError with its exception, or after `within` seconds."""
        assert self.process.stdout is not None
        assert self.quiet(within) is False, f"no answer within {within} s"
        line = self.process.stdout.readline()
        assert line, f"the job ended: {self.process.stderr and self.process.stderr.read().decode()}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def quiet(self, seconds: float) -> bool:
        """Does it say nothing for that long?"""
        return not select.select([self.process.stdout], [], [], seconds)[0]

    def __call__(self, code: str) -> Any:
        self.tell(code)
        return self.answer()
