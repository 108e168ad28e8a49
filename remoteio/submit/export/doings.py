"""Note which changes were begun, and which are done and how, for the process after one that is killed.

It is told of what may not be done twice (``once.matters``), around the doing, in a file that is mapped: that costs no
system call, and what is put there outlives this process, killed at whatever instruction. So of a request that has no
answer the next process knows: it was not begun, and may be done now; it is done, and what its answer was; or it was
begun, and nobody knows how far it came. As with ``node_log`` this is good until this machine is booted anew.

The file: SLOTS slots of three u64 in native byte order, used in turn:

    what of the requests that the slot was used for before had the highest number
    OPEN: begun; FAILED | errno: done, and failed; else done, and so many bytes were written
    the request's number; 0: the slot was never used

A request whose slot was used again is one of which nothing is known: as no kernel has that many changes under way, it
was answered long ago. The number is written last, and a slot in the middle of being written says nothing but OPEN.
"""

from __future__ import annotations

import itertools
import mmap
import os

SLOTS = 1024
OPEN, FAILED = 1 << 63, 1 << 62
_WORDS, _WORD = 3, 8
_HIGHEST, _STATE, _UNIQUE = range(_WORDS)


class Doings:
    """Keeps them in the file at `path`, which is made unless it is there.

    before   what the process before this one noted: by a request's number OPEN, or how it was done
    unknown  of requests up to this number that are not in `before` nothing is known

    Where the file cannot be had, nothing is noted, and nothing known of any. Threads: any: to take the next slot is one
    step of the interpreter, and nobody else has it until all have been taken.
    """

    def __init__(self, path: str) -> None:
        self._next = itertools.count()
        self._words: memoryview | None = None
        self.before: dict[int, int] = {}
        self.unknown = OPEN
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, SLOTS * _WORDS * _WORD)  # or a full disk would be a SIGBUS later
            self._words = memoryview(mmap.mmap(fd, SLOTS * _WORDS * _WORD)).cast("B").cast("Q")
        except OSError:
            return
        finally:
            os.close(fd)
        self._read(self._words)

    def _read(self, words: memoryview) -> None:
        self.unknown = newest = 0
        for slot in range(SLOTS):
            highest, state, unique = words[slot * _WORDS : (slot + 1) * _WORDS]
            self.unknown = max(self.unknown, highest)
            if unique:
                self.before[unique] = state
            if unique > newest:
                newest, self._next = unique, itertools.count(slot + 1)  # the oldest first

    def begin(self, unique: int) -> int:
        """Note that the request of that number is about to be done; returns what `done` takes."""
        words = self._words
        if words is None:
            return -1
        at = next(self._next) % SLOTS * _WORDS
        words[at + _HIGHEST] = max(words[at + _HIGHEST], words[at + _UNIQUE])
        words[at + _STATE] = OPEN
        words[at + _UNIQUE] = unique
        return at

    def done(self, at: int, how: int) -> None:
        """Note that what began at `at` is done, before anybody is told: FAILED | errno, or how much was written."""
        words = self._words
        if words is not None:
            words[at + _STATE] = how

    def close(self) -> None:
        """Note no more. The mapping, and the descriptor that Python keeps for it, go with the last that uses it."""
        self._words = None
