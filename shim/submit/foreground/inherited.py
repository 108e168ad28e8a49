"""What this process was given open from descriptor 3 on, and how a job elsewhere can have it.

A shell's `<(…)`, `3>out` and the like leave it to rexec as they would to the command. But much lies open that nobody
meant for the command: a shell's, a make's, a test runner's. So what costs nothing goes along; what would take something
away from others here, a pipe that is read ahead, only if the command's words name it; and the rest is left out, unless
the command names it or the user asks for it: then it is refused in a sentence.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterable, Sequence

from remoteio.errors import RexecError
from shim.wire.descriptors import FILE, MOST_STREAMS, READ, TERMINAL, WRITE, Descriptor

NONE = "none"
# `diff /dev/fd/63 …` needs it; the words of a `sh -c` only may.
_NAMED = rb"/(?:dev|proc/self)/fd/([0-9]{1,6})(?![0-9])"
_HINTED = rb"(?:[<>]&|-u)\s*([0-9]{1,6})(?![0-9])"
# memory devices that a host has too: null, zero, full, random, urandom (null(4), random(4), full(4))
_SAME_THERE = {os.makedev(1, n): b"/dev/" + name for n, name in
               ((3, b"null"), (5, b"zero"), (7, b"full"), (8, b"random"), (9, b"urandom"))}  # fmt: skip
_KEPT_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC
_O_PATH = os.O_PATH


class _Cannot(Exception):
    """It cannot be had elsewhere: the rest of a sentence that begins with the descriptor."""


def inherited() -> list[int]:
    """List the descriptors from 3 on that were open when this program was started: Python's own close at an exec."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and not fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.append(int(name))
        except OSError:
            continue  # what listed them
    return sorted(found)


def for_job(argv: Sequence[bytes], asked: str | None, *, tty: bool, moves: bool) -> list[Descriptor]:
    """Choose what a job is to have of them. Raises RexecError for one that it needs and cannot have.

    argv   the job's words
    asked  which it is to have: numbers with commas in between, or NONE; None: those that can do no harm, or are named
    tty    it has this process's terminal
    moves  it may go on on another machine: it has no pipes beside its three
    """
    if asked == NONE:
        return []
    open_ones = inherited()
    if not open_ones and asked is None:
        return []  # as a rule: to compile what is looked for in words takes longer than all else here
    if asked is not None:
        needed, wanted = _numbers(asked, open_ones), set[int]()
        open_ones = sorted(needed)
    else:
        needed, wanted = _in_words(_NAMED, argv) & set(open_ones), _in_words(_HINTED, argv)
    chosen: list[Descriptor] = []
    for number in open_ones:
        try:
            found = _look(number, tty, moves)
            if number in needed | wanted:
                _check(found, moves, chosen)
                found.needed = number in needed
            elif moves or found.kind == READ or (found.kind == WRITE and _streams(chosen) >= MOST_STREAMS // 2):
                continue
            chosen.append(found)
        except _Cannot as e:
            if number in needed:
                raise RexecError(f"the command cannot have descriptor {number}: {e}") from e
    return chosen


def _numbers(asked: str, open_ones: Iterable[int]) -> set[int]:
    words = asked.split(",")
    if not all(word.isdecimal() and len(word) < 7 for word in words):
        raise RexecError(f"--fds {asked}: name descriptors as in 3,4, or say {NONE}")
    found = {int(word) for word in words} - {0, 1, 2}
    for number in sorted(found.difference(open_ones)):
        raise RexecError(f"--fds {asked}: descriptor {number} is not open here; open it, as in {number}<file")
    return found


def _in_words(pattern: bytes, argv: Sequence[bytes]) -> set[int]:
    return {int(number) for word in argv for number in re.findall(pattern, word)}


def _streams(chosen: Sequence[Descriptor]) -> int:
    return sum(each.stream for each in chosen)


def _check(found: Descriptor, moves: bool, chosen: Sequence[Descriptor]) -> None:
    if found.stream and moves:
        raise _Cannot(
            "a job that moves keeps no pipe beside its three streams; give it a file, or leave --checkpoint out"
        )
    if found.stream and _streams(chosen) >= MOST_STREAMS:
        raise _Cannot(f"it has {MOST_STREAMS} pipes before this one, and there are no more; give it a file instead")


def _look(number: int, tty: bool, moves: bool) -> Descriptor:
    """How a job could have it. Raises _Cannot."""
    st, flags = os.fstat(number), fcntl.fcntl(number, fcntl.F_GETFL)
    if flags & _O_PATH:
        raise _Cannot("it is a name only (O_PATH); open the file itself")
    access = flags & os.O_ACCMODE
    if stat.S_ISFIFO(st.st_mode):
        if access == os.O_RDWR:
            raise _Cannot("it is a pipe that is open both ways; give it one end")
        return Descriptor(number, READ if access == os.O_RDONLY else WRITE)
    if stat.S_ISCHR(st.st_mode):
        return _device(number, st, flags, tty)
    if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
        # What only writes shares its offset with others here, as standard output does: so it is written here.
        return Descriptor(number, WRITE) if access == os.O_WRONLY and not moves else _file(number, st, flags)
    what = "a socket" if stat.S_ISSOCK(st.st_mode) else "no file, pipe or terminal"
    raise _Cannot(f"it is {what}, which cannot be had from another machine; give it a pipe or a file")


def _device(number: int, st: os.stat_result, flags: int, tty: bool) -> Descriptor:
    if st.st_rdev in _SAME_THERE:
        return Descriptor(number, FILE, flags=flags & _KEPT_FLAGS, path=_SAME_THERE[st.st_rdev])
    if tty and st.st_rdev == os.fstat(0).st_rdev:
        return Descriptor(number, TERMINAL)
    if flags & os.O_ACCMODE != os.O_RDONLY and st.st_rdev in {os.fstat(fd).st_rdev for fd in range(3) if os.isatty(fd)}:
        return Descriptor(number, WRITE)
    raise _Cannot("it is a device of this machine; give it a pipe or a file")


def _file(number: int, st: os.stat_result, flags: int) -> Descriptor:
    path = os.readlink(b"/proc/self/fd/%d" % number)
    try:
        named = os.path.samestat(os.stat(path), st)
    except OSError:
        named = False
    if not named or path.startswith((b"/proc/", b"/sys/", b"/dev/")):
        if flags & os.O_ACCMODE == os.O_RDONLY and stat.S_ISREG(st.st_mode):
            return Descriptor(number, READ)  # a shell's here-document has had no name for long
        raise _Cannot("its file has no name that the job could open; name one that it sees")
    offset = os.lseek(number, 0, os.SEEK_CUR) if stat.S_ISREG(st.st_mode) else 0
    return Descriptor(number, FILE, flags=flags & _KEPT_FLAGS, offset=offset, path=path)
