"""Keep, for each command line and directory, what it used as it started (remoteio/submit/export/first_names.py).

A file each in the user's cache, readable by nobody else: names, and which ranges of the files were read, which say
nothing by themselves. What is not as it was written is ignored, and written anew; so is what is old, or else what is
needed no more would stay.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence, Set
from itertools import islice
from pathlib import Path

from checkpoint.submit import xdg
from remoteio.submit.export.first_names import MOST_NAMES, MOST_RANGES, FirstNames, Ranges, Uses
from remoteio.submit.export.kept_there import KeptThere
from remoteio.submit.export.learned_walks import wanted_of
from shim.submit.guessed.guesses import Guessed
from shim.submit.kept_on_host import KeptOnHost
from shim.submit.scope import JobRights, Scope
from shim.wire.job_spec import JobSpec

try:
    from _blake2 import blake2b  # hashlib would import OpenSSL, which takes 5 ms
except ImportError:
    from hashlib import blake2b

MOST_STARTS = 512  # two of most commands
MOST_BYTES = 1 << 19
MOST_USES = MOST_NAMES + 1024  # with directories that are listed, and trees
OLD_S = 7 * 24 * 3600.0
_PATH_MAX = 4096  # bytes: linux/limits.h
_HEAD = b"rexec start 2"


def first_names(spec: JobSpec, rights: JobRights, told: Set[bytes] = frozenset()) -> FirstNames:
    """Find what is known of what a job uses as it starts, and what learns more; `told`: what its host knows already."""
    start, host = LearnedStart(spec.argv, spec.cwd, rights.scope), KeptOnHost(spec.host)
    known, there = start.uses(), KeptThere(host.marks, host.keep, told)
    return FirstNames(known, start.keep, Guessed(spec.argv, spec.cwd, spec.env), start.sure, there)


class LearnedStart:
    """What one command uses, started in one directory with what is of one scope; or else what is known of one like it,
    with the same program and first argument, but for the trees that this has walked.

    Each scope has its own: what a job with more rights looked up is no business of a host that has fewer.

    sure  what ``uses`` has read was learned of this very command
    """

    def __init__(self, argv: Sequence[bytes], cwd: bytes, scope: Scope) -> None:
        few = argv[: 3 if argv[1:2] in ([b"-c"], [b"-C"], [b"-m"]) else 2]  # sh -c, git -C, python -m
        self.sure = True
        try:
            keys = [_key(words, cwd, scope) for words in ((argv, few) if len(few) < len(argv) else (argv,))]
            self._paths = [xdg.cache() / "starts" / key for key in keys]
        except RuntimeError:  # who has no home
            self._paths = []

    def uses(self) -> Uses:
        """Read it; nothing, if nothing that can be used is kept."""
        for path in self._paths:
            found = _read(path)
            self.sure = path == self._paths[0]
            if found:
                return found if self.sure else {name: each for name, each in found.items() if wanted_of(each) is None}
        return {}

    def keep(self, uses: Uses) -> None:
        """Write it; where that cannot be done, the next start is told nothing."""
        text = b"\0".join([_HEAD, *(_item(name, ranges) for name, ranges in islice(uses.items(), MOST_USES))])
        if not self._paths or len(text) > MOST_BYTES:
            return
        places = self._paths[0].parent
        try:
            xdg.make(places)
            for path in self._paths:
                work = path.with_name(f"{path.name}.{threading.get_native_id()}")
                with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as f:
                    f.write(text)
                os.replace(work, path)
            kept = sorted(places.iterdir(), key=lambda each: each.stat().st_mtime)
            for each in kept[: max(len(kept) - MOST_STARTS, 0)]:
                each.unlink(missing_ok=True)
        except OSError:
            return


def _key(words: Sequence[bytes], cwd: bytes, scope: Scope) -> str:
    told = b"\0".join([os.fsencode(repr(scope)), cwd, *words])
    return blake2b(told, digest_size=16).hexdigest()


def _read(path: Path) -> Uses:
    try:
        with open(path, "rb") as f:
            old = time.time() - os.fstat(f.fileno()).st_mtime > OLD_S
            text = f.read(MOST_BYTES + 1)
    except OSError:
        return {}
    head, *items = text.split(b"\0")
    if old or head != _HEAD or len(text) > MOST_BYTES or not 0 < len(items) <= MOST_USES:
        return {}
    found = [_use(item) for item in items]
    return {use[0]: use[1] for use in found if use is not None} if None not in found else {}


def _item(name: bytes, ranges: Ranges | None) -> bytes:
    return name if ranges is None else b",".join(b"%d-%d" % each for each in ranges) + b" " + name


def _use(item: bytes) -> tuple[bytes, Ranges | None] | None:
    """The path and what was read of it; None: it is not as it was written."""
    told, space, rest = item.partition(b" /")
    if item.startswith(b"/") or not space:
        return (item, None) if _usable(item) else None
    ranges = []
    for each in told.split(b",") if told else ():
        begin, _, end = each.partition(b"-")
        if not (begin.isdigit() and end.isdigit() and len(each) < 40 and int(begin) < int(end)):
            return None
        ranges.append((int(begin), int(end)))
    name = b"/" + rest
    return (name, ranges) if _usable(name) and len(ranges) <= MOST_RANGES else None


def _usable(name: bytes) -> bool:
    return name.startswith(b"/") and len(name) <= _PATH_MAX and not {b"", b".", b".."} & {*name[1:].split(b"/")}
