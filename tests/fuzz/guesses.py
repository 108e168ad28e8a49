"""Targets: files of which is guessed what a program uses; a job may have written them."""

from __future__ import annotations

import os
from pathlib import Path

from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.seen import Seen
from remoteio.submit.export.shown_ids import ShownIds
from shim.submit.guessed import git, libraries
from shim.submit.guessed.modules import imported
from shim.submit.guessed.programs import Programs
from tests.fuzz.target import scratch, target

_NAMES = ("python3.12", "pyvenv.cfg", "a.py", "x-gcc-12", "a.c")


@target()
def guessed_program(data: bytes) -> None:
    """A program, a file of a python or of a compiler, and what these lead to."""
    with scratch() as top:
        for name in _NAMES:
            Path(top, name).write_bytes(data)
        export = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), top)
        programs = Programs(Seen(export), [b"/python3.12", b"a.py"], b"/", {})
        for each in _NAMES:
            for name, ranges in programs.program(b"/" + each.encode()):
                assert name.startswith(b"/") and all(0 <= begin < end for begin, end in ranges or ())
        export.close()


@target()
def guessed_libraries(data: bytes) -> None:
    """ld.so.cache."""
    assert all(each for each in libraries.cached(data).values())


@target()
def guessed_imports(data: bytes) -> None:
    """The text of a python's module."""
    assert len(imported(data, b"a.b")) <= len(data) + 2


@target()
def guessed_repository(data: bytes) -> None:
    """HEAD of a repository of git's, and a commit."""
    commit, words = "ab" * 20, [b"/git", b"status"]
    with scratch() as top:
        for name, text in (("HEAD", data), ("refs/x", commit.encode()), (f"objects/ab/{commit[2:]}", data)):
            Path(top, ".git", name).parent.mkdir(parents=True, exist_ok=True)
            Path(top, ".git", name).write_bytes(text)
        export = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), top)
        for told in (data, b"ref: refs/x\n"):
            Path(top, ".git/HEAD").write_bytes(told)
            for name, ranges in git.used(Seen(export), words, b"/", {}):
                assert name.startswith(b"/") and all(0 <= begin < end for begin, end in ranges or ())
        export.close()


TARGETS = (guessed_program, guessed_libraries, guessed_imports, guessed_repository)
