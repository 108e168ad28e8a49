"""What an execute host may do with a file of the submit machine, by the way it was found and by its number.

Pure. Each directory that is known to the job's kernel has Rights (``rights``), which say what the names beneath it
have. A file that has a protected name and another one, or a directory that is shown at two places, is known by device
and inode number too; and so are the directories that the job has made. The export asks at every lookup
(``inodes.Inodes.found``) and before every change; where the rules come from is ``shim/submit/protect.py``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from remoteio.submit.export.rights import (
    ALWAYS,
    EMPTY,
    FIXED,
    FREE,
    HIDDEN,
    KEPT,
    READ,
    Rights,
    Rule,
    RuleSet,
    least,
)

__all__ = ("EMPTY", "FIXED", "FREE", "HIDDEN", "KEPT", "READ", "Confinement", "Key", "Mark", "Rights", "least")

Key = tuple[int, int]  # st_dev, st_ino
MOST_MADE = 1 << 16  # directories that are remembered as the job's

_ANOTHER_NAME = Rule((), READ, "another name of a file that is kept")
_OTHER_SYSTEM = Rule((), HIDDEN, "the kernel's own filesystems")
ALL, NOT_THERE = RuleSet().top, RuleSet([Rule((), HIDDEN, _ANOTHER_NAME.name)]).top
UNCHANGED = RuleSet([_ANOTHER_NAME]).top
NOTHING_IN_IT = RuleSet([_OTHER_SYSTEM._replace(level=EMPTY)]).top
NO_FILE = RuleSet([_OTHER_SYSTEM]).top


class Mark(NamedTuple):
    """One place that is protected: an absolute path without links or dots, its level, and what is there now, if any.

    `name` and `kind` are those of the Rule that it makes.
    """

    path: bytes
    level: int
    key: Key | None
    name: str = ""
    kind: int = ALWAYS


class Confinement:
    """Holds the rights of the root, and of what is known by (device, inode number) wherever it is met.

    `linked`: the regular files of a level, HIDDEN or READ, that have more than one name, on `devices`: asked for when
    the first such file is met, for which it matters.
    `rules`: further ones, which hold beside. `places`: where the directories are that are to be known by number too,
    and have the rights of that path. `within`: the level of what no rule speaks of, and the rule that this is.
    `made`: the directories that the job has made, as far as their own names make them its own, and when.
    """

    __slots__ = ("_linked", "_of_level", "devices", "hidden", "known", "made", "top")

    def __init__(
        self,
        marks: Iterable[Mark] = (),
        linked: Callable[[int], Collection[Key]] = lambda level: (),
        devices: frozenset[int] = frozenset(),
        rules: RuleSet | None = None,
        within: tuple[int, Rule | None] = (FREE, None),
        made: dict[Key, int] | None = None,
        places: Iterable[tuple[Key, bytes]] = (),
    ) -> None:
        marks = tuple(marks)
        own = [Rule(words_of(mark.path), mark.level, mark.name, mark.kind) for mark in marks]
        self.top = RuleSet(own, *within, beside=rules).top
        self.known: dict[Key, Rights] = {}
        for key, path in (*((mark.key, mark.path) for mark in marks), *places):
            if key is not None:
                self.known[key] = least(self.known.get(key, ALL), self.at(path))
        self.hidden = frozenset(key for key, rights in self.known.items() if rights.level == HIDDEN)
        self._linked = linked
        self._of_level: dict[int, Collection[Key]] = {}
        self.devices = devices
        self.made: dict[Key, int] = {} if made is None else made

    def at(self, path: bytes) -> Rights:
        """Return the rights of an absolute path without links or dots."""
        rights = self.top
        for word in words_of(path):
            rights = rights.child(word)
        return rights

    def of_linked(self, key: Key) -> Rights:
        """Return who may see a regular file with several names, whichever of them it was met by."""
        return NOT_THERE if key in self._those_of(HIDDEN) else ALL

    def keeps(self, key: Key) -> bool:
        """Is a regular file with several names to be kept as it is, whichever of them it was met by?"""
        return key in self._those_of(READ)

    def _those_of(self, level: int) -> Collection[Key]:
        if level not in self._of_level:
            self._of_level[level] = self._linked(level)
        return self._of_level[level]


def words_of(path: bytes) -> tuple[bytes, ...]:
    """Split an absolute path into names."""
    return tuple(name for name in path.split(b"/") if name)


def refused_change(level: int) -> int:
    """Return the errno for changing contents or attributes of a file, or what in a directory has no name; 0: none."""
    return errno.EROFS if level < FIXED else 0


def refused_link(level: int) -> int:
    """Return the errno for giving a file a further name; 0: none."""
    return errno.EROFS if level < KEPT else 0


def refused_name(level: int, there: bool, directory: bool = False) -> int:
    """Return the errno for making, removing, replacing or moving what has a name with these rights; 0: none.

    `there`: something has the name now. `directory`: a directory is to be made.
    """
    if level == FREE or (level == KEPT and there) or (level == FIXED and directory and not there):
        return 0
    if level == HIDDEN or not there:
        return errno.EROFS if level == READ else errno.EACCES
    return errno.EROFS if level == READ else errno.EBUSY
