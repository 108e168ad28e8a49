"""What the words of a command line name: files, directories, and programs that it has executed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence

from remoteio.submit.export.first_names import Use
from remoteio.submit.export.seen import LISTED, Found, Seen

MOST_WORDS = 64
_EXECUTABLE = 0o111
_WORD = re.compile(rb"[^\s\0;|&<>(){}'\"`$=,*?\[\]\\]+")  # also of a line that a shell reads
_LINE = 4096  # bytes


def of(argv: Iterable[bytes]) -> list[bytes]:
    """Return what may be names among the words, each once."""
    found = (word for each in argv for word in _WORD.findall(each[:_LINE]) if not word.startswith(b"-"))
    return list(dict.fromkeys(found))[:MOST_WORDS]


def executed(seen: Seen, word: bytes, places: Sequence[bytes], cwd: bytes) -> Found:
    """Look for a program in these directories, as who executes it does; where it is in none, nothing is looked up."""
    looked: list[Use] = []
    for place in places:
        names, path = _walked(seen.walk(os.path.join(cwd, place, word)))
        looked += names
        mode = seen.mode(path) if path else 0
        if stat.S_ISREG(mode) and mode & _EXECUTABLE:
            yield from looked
            return path
    return b""


def named(seen: Seen, path: bytes) -> Iterator[Use]:
    """Look up what a word names, if anything; a directory is listed."""
    names, found = _walked(seen.walk(path, LISTED))
    if found:
        yield from names[:-1]
        yield found, LISTED if seen.is_directory(found) else None


def _walked(walk: Found) -> tuple[list[Use], bytes]:
    """Take all of a walk: what is looked up, and where it leads."""
    names: list[Use] = []
    while True:
        try:
            names.append(next(walk))
        except StopIteration as e:
            return names, e.value
