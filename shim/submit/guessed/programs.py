"""What a command looks up to find its program, and what a program uses as it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from remoteio.submit.export.first_names import Use
from remoteio.submit.export.seen import WHOLE, Seen
from shim.submit.guessed import git, libraries, python, words

_USUAL = b"/bin:/usr/bin"  # as shim/execute/init/init.py has it
_LINE = 256  # bytes: BINPRM_BUF_SIZE of linux/binfmts.h
_EXECUTABLE = 0o111
_MOST_LINES = 4  # scripts that are run by scripts


class Programs:
    """Guesses for one job.

    Threads: one at a time.
    """

    def __init__(self, seen: Seen, argv: Sequence[bytes], cwd: bytes, env: Mapping[bytes, bytes]) -> None:
        self._argv, self._cwd, self._env = argv, cwd, env
        self._seen, self._libraries = seen, libraries.Libraries(seen)
        self._done: set[bytes] = set()
        self._first = b""  # the program, by its path without links
        self._called = b""  # the same, as it was found

    def start(self) -> Iterator[Use]:
        """What is looked up until the command's program is found."""
        yield from self._seen.names(b"/proc", b"/sys", b"/dev", self._cwd)
        name = self._argv[0]
        for place in self._places(name):
            called = os.path.join(self._cwd, place, name)
            self._first = yield from self._seen.walk(called)
            if self._first and self._seen.mode(self._first) & _EXECUTABLE and self._seen.is_file(self._first):
                self._called = called
                return
        self._first = b""

    def _places(self, name: bytes) -> list[bytes]:
        """The directories in which a program is looked for."""
        return [b""] if b"/" in name else self._env.get(b"PATH", _USUAL).split(b":")

    def used(self) -> Iterator[Use]:
        """What the command's program uses; after `start`."""
        if self._first:
            yield from self.program(self._first)
            yield from self._told()

    def _told(self) -> Iterator[Use]:
        """What the words of the command name: files, and programs that a shell or the like is to execute."""
        for word in words.of(self._argv[1:]):
            if b"/" not in word:
                found = yield from words.executed(self._seen, word, self._places(word), self._cwd)
                if found:
                    yield from self.program(found)
            yield from words.named(self._seen, os.path.join(self._cwd, word))

    def program(self, path: bytes) -> Iterator[Use]:
        """What a program uses, by its path without links."""
        for _ in range(_MOST_LINES):
            if path in self._done:
                return
            self._done.add(path)
            line = self._seen.content(path, _LINE)
            if not line.startswith(b"#!"):
                break
            yield path, WHOLE
            words = line[2:].partition(b"\n")[0].split()
            path = (yield from self._seen.walk(words[0])) if words and words[0].startswith(b"/") else b""
        yield from self._libraries.program(path)
        is_python = python.is_python(path)
        yield from libraries.language(self._seen, self._env, not is_python)
        if is_python:
            first = path == self._first
            called, argv = (self._called, self._argv) if first else (path, [path])
            yield from python.Python(self._seen, path, called, argv, self._cwd, self._env).start(self._libraries)
        elif git.is_git(path):
            yield from git.used(self._seen, self._argv if path == self._first else [path], self._cwd, self._env)
        elif b"gcc" in path or b"g++" in path:
            from shim.submit.guessed.compilers import Compiler

            argv = self._argv if path == self._first else []
            yield from Compiler(self._seen, path).start(argv, self._cwd, self._env.get(b"PATH", b""), self._libraries)
