"""``rexec CMD`` without --checkpoint, once its words have been read; and the words of most such runs, read at once.

click takes a fifth of the processor time of a short run, so it is imported only where the words are not the usual ones:
for whatever is not understood here, for help and for what is wrong (main.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from remoteio.syscalls import one_arena
from shim.cli import durations, run
from shim.submit import scope
from shim.submit.desk.wanted import Wanted

_FLAGS: dict[str, tuple[str, bool]] = {
    "--tty": ("tty", True), "--no-tty": ("tty", False), "--sync": ("sync", True), "--no-sync": ("sync", False),
    "--only": ("only", True), "-v": ("verbose", True), "-q": ("quiet", True),
}  # fmt: skip
_VALUES = {
    "--on": "on", "--cd": "directory", "--disk": "disk", "--fds": "fds", "--lease": "lease", "--keep": "keep",
    "--json-log": "json_log", "--memory": "memory", "--require": "require", "--rank": "rank",
}  # fmt: skip
_NUMBERS = {"--cpus": ("cpus", 1), "--priority": ("priority", -(10**9))}  # and the least that is read here
_LISTS = ("--env", "--scratch", "--read", "--write", "--hide", "--forward")


def usual(words: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """Read a command and its options, as `start` takes them. None: it takes click to do so, or to say what is wrong."""
    options: dict[str, Any] = {}
    left = list(words)
    while left and left[0].startswith("-"):
        word = left.pop(0)
        if word == "--":
            break
        if word in _FLAGS:
            name, value = _FLAGS[word]
            options[name] = value
            continue
        word, equals, given = word.partition("=")
        if word not in _VALUES and word not in _LISTS and word not in _NUMBERS:
            return None
        if not equals:
            if not left:
                return None
            given = left.pop(0)
        if word in _VALUES:
            options[_VALUES[word]] = given
        elif word in _NUMBERS:
            name, least = _NUMBERS[word]
            digits = given.removeprefix("-")
            if not (digits.isascii() and digits.isdecimal() and len(digits) < 10 and int(given) >= least):
                return None
            options[name] = int(given)
        else:
            options[word[2:]] = (*options.get(word[2:], ()), given)
    return (tuple(left), options) if left else None


def start(command: tuple[str, ...], **options: Any) -> NoReturn:
    """Run CMD, and end this process with its status. The options are those of ``begin``. Raises RexecError."""
    one_arena()  # before there are threads
    status = begin(command, **options)
    # The threads that served the job hold nothing any more; to take the interpreter down around them costs 30 ms.
    os._exit(status)


def begin(
    command: tuple[str, ...],
    *,
    serve: Callable[..., int] = run.run,
    on: str | None = None,
    directory: str | None = None,
    env: tuple[str, ...] = (),
    tty: bool | None = None,
    scratch: tuple[str, ...] = (),
    only: bool = False,
    read: tuple[str, ...] = (),
    write: tuple[str, ...] = (),
    hide: tuple[str, ...] = (),
    disk: str | None = None,
    fds: str | None = None,
    forward: tuple[str, ...] = (),
    lease: str | None = None,
    cpus: int | None = None,
    memory: str | None = None,
    priority: int | None = None,
    require: str | None = None,
    rank: str | None = None,
    sync: bool | None = None,
    keep: str | None = None,
    verbose: bool = False,
    quiet: bool = False,
    json_log: str | None = None,
) -> int:
    """Run CMD by `serve`; its status. The other options are those of ``rexec --help``. Raises RexecError."""
    if tty is None:
        tty = os.isatty(0) and os.isatty(1)
    asked = scope.asked(only, read, write, hide, disk)
    spec = run.describe(command, directory, env, tty, scratch, fds, forward, False)
    wanted = slots(cpus, memory, priority, require, rank) or Wanted()
    return serve(
        spec, on, asked, durations.lease(lease, False), durations.keep(keep), wanted,
        sync=bool(sync), verbose=verbose, quiet=quiet, json_log=json_log,
    )  # fmt: skip


def slots(
    cpus: int | None, memory: str | None, priority: int | None, require: str | None, rank: str | None
) -> Wanted | None:
    """Return what these options ask of a desk; None: none of them was given. Raises PolicyError."""
    if (cpus, memory, priority, require, rank) == (None,) * 5:
        return None
    return Wanted(cpus or 1, _bytes(memory), priority or 0, require or "", rank or "")


def _bytes(memory: str | None) -> int:
    if memory is None:
        return 0
    from shim.wire.owner_policy import parse_size  # hardly ever

    return parse_size(memory, "--memory")
