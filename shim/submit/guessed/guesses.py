"""Guess what a job uses, of which nothing was learned (``FirstNames``); what that takes is imported when needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remoteio.submit.export.dispatch import Export
    from remoteio.submit.export.first_names import Use
    from shim.submit.guessed.programs import Programs


class Guessed:
    """Guesses for a job of these words, directory and variables.

    Threads: any; ``used`` and ``program`` are asked for one after the other.
    """

    def __init__(self, argv: Sequence[bytes], cwd: bytes, env: Sequence[bytes]) -> None:
        self._job = argv, cwd, env
        self._lock = threading.Lock()
        self._programs: Programs | None = None
        self._start: list[Use] = []

    def _made(self, export: Export) -> Programs:
        with self._lock:
            if self._programs is None:
                from remoteio.submit.export.seen import Seen
                from shim.submit.guessed.programs import Programs

                argv, cwd, env = self._job
                variables = dict(each.split(b"=", 1) for each in env if b"=" in each)
                self._programs = Programs(Seen(export), argv, cwd, variables)
                self._start = list(self._programs.start())
            return self._programs

    def start(self, export: Export) -> list[Use]:
        """What is looked up until the command's program is found."""
        self._made(export)
        return self._start

    def used(self, export: Export) -> Iterator[Use]:
        """What that program uses."""
        programs = self._made(export)
        yield from self._start
        yield from programs.used()

    def program(self, export: Export, path: bytes) -> Iterator[Use]:
        """What a program uses that is executed."""
        yield from self._made(export).program(path)

    def release(self) -> None:
        """Close what is open to guess by, once nobody asks any more."""
        with self._lock:
            self._programs = None
