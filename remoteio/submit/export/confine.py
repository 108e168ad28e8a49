"""What an execute host may do with a file of the submit machine: the rights of a directory and a name give the child's.

Pure. Rights follow the way a file was found by: each directory that is known to the job's kernel has Rights, which say
what the names beneath it have. A file that has a protected name and another one, or a directory that is shown at two
places, is known by device and inode number too. The export asks at every lookup (``inodes.Inodes.found``) and before
every change; where the rights come from is ``shim/submit/protect.py``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

# Each may do all that those before it may.
HIDDEN = 0  # it is not there, and nothing may get its name
EMPTY = 1  # a directory with nothing in it, for the job's kernel to mount something on
READ = 2  # nothing of it may be changed, nor of what is beneath it
FIXED = 3  # a directory on the way to one of the others: it may not be moved, removed or replaced
FREE = 4  # what the submit machine's kernel allows the user

Key = tuple[int, int]  # st_dev, st_ino


class Rights:
    """Says what may be done with one file: a `level`, and the rights of what is `beneath` it, by name, or `others`."""

    __slots__ = ("beneath", "level", "others")

    def __init__(self, level: int, beneath: Mapping[bytes, Rights] | None = None, others: Rights | None = None) -> None:
        self.level = level
        self.beneath: Mapping[bytes, Rights] = beneath or {}
        self.others = others or self


ALL, NOT_THERE, UNCHANGED = Rights(FREE), Rights(HIDDEN), Rights(READ)
NOTHING_IN_IT = Rights(EMPTY, {}, NOT_THERE)
_OTHERS = {HIDDEN: NOT_THERE, EMPTY: NOT_THERE, READ: UNCHANGED, FIXED: ALL}


class Mark(NamedTuple):
    """One place that is protected: an absolute path without links or dots, its level, and what is there now, if any."""

    path: bytes
    level: int
    key: Key | None


class Confinement:
    """Holds the rights of the root, and of what is known by (device, inode number) wherever it is met.

    `linked`: the same for regular files that have more than one name, asked for when the first such file is met on one
    of `devices`.
    """

    __slots__ = ("_levels", "_linked", "devices", "hidden", "known", "top")

    def __init__(
        self,
        marks: Iterable[Mark] = (),
        linked: Callable[[], Mapping[Key, int]] = dict,
        devices: frozenset[int] = frozenset(),
    ) -> None:
        levels: dict[bytes, int] = {}
        keys: list[tuple[Key, bytes]] = []
        for path, level, key in marks:
            levels[path] = min(level, levels.get(path, FREE))
            if key is not None:
                keys.append((key, path))
        found: dict[bytes, Rights] = {}
        self.top = _rights(b"/", FREE, levels, _children(levels), found)
        self.known: dict[Key, Rights] = {}
        for key, path in keys:
            self.known[key] = least(self.known.get(key, ALL), found[path])
        self.hidden = frozenset(key for key, rights in self.known.items() if rights.level == HIDDEN)
        self._linked = linked
        self._levels: Mapping[Key, int] | None = None
        self.devices = devices

    def of_linked(self, key: Key) -> Rights:
        """Return the rights of a regular file with several names, whichever of them it was met by."""
        if self._levels is None:
            self._levels = self._linked()
        level = self._levels.get(key, FREE)
        return ALL if level == FREE else UNCHANGED if level == READ else NOT_THERE


def _children(paths: Iterable[bytes]) -> dict[bytes, set[bytes]]:
    """Of every directory that has one of `paths` somewhere beneath it, the names that lead there."""
    children: dict[bytes, set[bytes]] = {}
    for path in paths:
        while path != b"/":
            above, _, name = path.rpartition(b"/")
            above = above or b"/"
            children.setdefault(above, set()).add(name)
            path = above
    return children


def _rights(
    path: bytes,
    most: int,
    levels: Mapping[bytes, int],
    children: Mapping[bytes, set[bytes]],
    found: dict[bytes, Rights],
) -> Rights:
    """The rights of `path`, at `most` those of the directory that it is in; all beneath it go to `found`."""
    names = children.get(path, ())
    level = min(most, levels.get(path, FREE), FIXED if names else FREE)
    within = HIDDEN if level == EMPTY else FREE if level == FIXED else level
    join = b"/" if path == b"/" else path + b"/"
    beneath = {name: _rights(join + name, within, levels, children, found) for name in names}
    found[path] = Rights(level, beneath, _OTHERS[level]) if level < FREE else ALL
    return found[path]


def least(one: Rights, other: Rights) -> Rights:
    """Return, of what two ways to a file allow, that which allows less."""
    return other if other.level < one.level else one


def refused_change(rights: Rights) -> int:
    """Return the errno for changing contents or attributes of a file, or what in a directory has no name; 0: none."""
    return errno.EROFS if rights.level < FIXED else 0


def refused_link(rights: Rights) -> int:
    """Return the errno for giving a file a further name; 0: none."""
    return errno.EROFS if rights.level < FREE else 0


def refused_name(rights: Rights, there: bool, directory: bool = False) -> int:
    """Return the errno for making, removing, replacing or moving what has a name with these rights; 0: none.

    `there`: something has the name now. `directory`: a directory is to be made.
    """
    if rights.level == FREE or (rights.level == FIXED and directory and not there):
        return 0
    if rights.level == HIDDEN or not there:
        return errno.EROFS if rights.level == READ else errno.EACCES
    return errno.EROFS if rights.level == READ else errno.EBUSY
