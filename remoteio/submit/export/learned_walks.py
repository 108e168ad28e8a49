"""Submit side: which trees a command walks, learned, to be listed at its next start before it asks (``pushed_walks``).

What is learned are the roots of these walks, what the command wanted of what is below them (to know what is there, the
attributes of files as well, or what is in them), and the few directories that it passed by. All else is as it is when
it is sent.
"""

from __future__ import annotations

from itertools import islice

from remoteio.submit.export.nodes import Node, path
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import AHEAD
from remoteio.wire.listed import DIRECTORY, walk

Ranges = list[tuple[int, int]]
Uses = dict[bytes, "Ranges | None"]  # as ``first_names`` has them

LOOKED_UP, NAMES, ATTRIBUTES, CONTENTS, PASSED_BY = range(-1, 4)
"""What is wanted of the files below a directory: those that are looked up, and so no walk; that they are there, to know
what they are, and what is in them; or nothing, nor of the directory itself."""
_LOOKED_IN = 4  # directories of a tree, in which names are looked up: who lists it wants attributes
LEAST = 8  # directories, each in another of them, that are a walk
MOST_WALKED = 4096  # directories of one walk
MOST_PASSED_BY = 64
_ENTRY = 512  # bytes, and few are so long
MOST_ALONE = 256  # directories of one run that are in no walk
_SEVERAL = 2  # names asked for in a directory that the host is told of for it: the next may be others
_ASKS = 3  # names asked for in directories of which names were sent alone: the attributes are wanted


class LearnedWalks:
    """Learns which trees are walked.

    has   directories of which the job's host has a listing that it has asked for, by their ids
    fetched  files of which it has asked for what is in them, by their ids
    bare  directories of which names alone were sent, by their ids -> the root of that walk
    left  roots of walks that are not sent to their end
    sent  roots of those that are
    walked  path of a directory of which the host was told -> what is wanted there, its entries
    names  how many names were sent of the trees that are walked

    Threads: any; what is lost when two come at once is learned the next time.
    """

    def __init__(self) -> None:
        self.has: set[int] = set()
        self.fetched: set[int] = set()
        self.bare: dict[int, bytes] = {}
        self.left: set[bytes] = set()
        self.sent: set[bytes] = set()
        self.walked: dict[bytes, tuple[int, bytes]] = {}
        self.names = 0
        self._looked: dict[bytes, int] = {}  # directories of which the host was told as names were looked up there
        self._lookups: dict[int, int] = {}  # names that the job has asked for in a directory, by its id
        self._asked: dict[bytes, int] = {}  # root of a walk -> names asked for in it
        self._opened: dict[bytes, None] = {}  # paths of directories that the job has opened, or made a file in

    def listed(self, node: Node, entries: bytes, wanted: int) -> None:
        """Take note that the host is given a directory's entries, for what is `wanted`."""
        name = path(node, b"")
        if name != b"/" and (name in self.walked or len(self.walked) < MOST_WALKED):
            if wanted == NAMES:
                self.has.add(node.id)
            elif wanted == LOOKED_UP:
                self._looked[name] = node.id
            self.walked[name] = max(wanted, self.walked.get(name, (wanted, b""))[0]), entries

    def saw(self, node: Node, op: int) -> None:
        """Take note of a LOOKUP in a directory, an OPENDIR of it, of what is made in it, or a FETCH of a file."""
        if op in (abi.OPENDIR, abi.CREATE):
            if len(self._opened) < MOST_WALKED and node.parent is not None:
                self._opened[path(node, b"")] = None
        elif op == abi.FETCH and node.parent is not None:
            self.fetched.add(node.id)
            name = path(node.parent, b"")
            if name in self.walked:
                self.walked[name] = CONTENTS, self.walked[name][1]
        elif op == abi.LOOKUP:
            self._lookups[node.id] = self._lookups.get(node.id, 0) + 1
            if node.id in self.bare:
                root = self.bare[node.id]
                self._asked[root] = self._asked.get(root, 0) + 1

    def pushed(self, node: Node, entries: bytes) -> None:
        """Take note that the host is sent a directory alone: a walk may come from there."""
        self.walked.setdefault(path(node, b""), (LOOKED_UP, entries))

    def asked_for(self, node: Node) -> bytes:
        """Return the entries of a directory that the host has asked for; nothing, if it has not, or not for all."""
        entries = self.walked.get(path(node, b""), (0, b""))[1] if node.id in self.has else b""
        return b"" if is_cut(entries) else entries

    def wants(self, root: bytes, wanted: int) -> int:
        """Return what is wanted of what is below a root, of which so much was sent: more, if the host asked for it."""
        return ATTRIBUTES if wanted == NAMES and self._asked.get(root, 0) >= _ASKS else wanted

    def uses(self, known: Uses) -> Uses:
        """Return `known` uses with those of the walks of this run, and without such as the command did not go on."""
        found = {name: ranges for name, ranges in known.items() if name not in self.left}
        walked = dict(self.walked)  # what is being sent of a walk still is entered meanwhile
        for name in walked:
            if wanted_of(found.get(name)) == PASSED_BY:
                del found[name]
        new = {name for name, (wanted, _) in walked.items() if wanted > LOOKED_UP and not is_in(name, wanted, known)}
        for its in self._walks() if new else ():
            wants = [self.walked[name][0] for name in its.names]
            few = len(its.alone) + len(its.passed_by) <= MOST_PASSED_BY
            if sum(each > LOOKED_UP for each in wants) < LEAST or not few or new.isdisjoint(its.names):
                continue
            above = [
                each for each in _above(its.names[0]) if wanted_of(known.get(each)) in (NAMES, ATTRIBUTES, CONTENTS)
            ]
            found[(above or its.names)[0]] = use_of(max(wants))
            if not above:
                found.update((name, []) for name in its.alone)
                found.update((name, use_of(PASSED_BY)) for name in its.passed_by)
        for root, ranges in found.items():
            wanted = wanted_of(ranges)
            if wanted is not None:
                looked = sum(each.startswith(root + b"/") for each in list(self._looked)) >= _LOOKED_IN
                found[root] = use_of(ATTRIBUTES if looked and wanted == NAMES else self.wants(root, wanted))
        looked_up = [name for name, node in list(self._looked.items()) if self._lookups.get(node, 0) >= _SEVERAL]
        several = dict.fromkeys([*self._opened, *looked_up])
        alone = (name for name in several if not is_in(name, NAMES, found) and found.get(name) is None)
        found.update((name, []) for name in islice(alone, MOST_ALONE))
        return found

    def _walks(self) -> list[_Walk]:
        """What was walked, from where on: all that is in a directory, or most of it."""
        found: list[_Walk] = []
        of: dict[bytes, _Walk] = {}  # which of these goes on in a directory
        for name in sorted(self.walked, key=lambda each: each.split(b"/")):
            entries = walk(self.walked[name][1])
            names = [each[3] for each in entries if each[5] == DIRECTORY]
            within = [name + b"/" + each for each in names if each not in (b".", b"..")]
            passed_by = [each for each in within if each not in self.walked]
            its = of.get(name.rpartition(b"/")[0])
            if 2 * len(passed_by) > len(within):
                if its is not None:
                    its.alone.append(name)
                continue
            if its is None:
                found.append(its := _Walk())
            of[name] = its
            its.names.append(name)
            its.passed_by += passed_by
        return found


class _Walk:
    """One tree that was walked: the directories from its root on, those of which no more than a few of what is within
    was walked on to, and those that were passed by."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.alone: list[bytes] = []
        self.passed_by: list[bytes] = []


def use_of(wanted: int) -> Ranges:
    """Note what is wanted of what is below a directory, as the use of a path."""
    return [(wanted, wanted + 1)]


def is_cut(entries: bytes) -> bool:
    """Say whether these are perhaps not all that is in a directory, but as much as goes along with a reply."""
    return len(entries) >= AHEAD - _ENTRY


def wanted_of(ranges: Ranges | None) -> int | None:
    """Read what ``use_of`` has noted; None: the directory alone is wanted, or nothing was noted."""
    return next((wanted for wanted in range(NAMES, PASSED_BY + 1) if ranges == use_of(wanted)), None)


def is_in(name: bytes, wanted: int, known: Uses) -> bool:
    """Whether a directory is in a tree that is sent as it is `wanted`; not where it is below one that is listed alone,
    or passed by."""
    for each in reversed(_above(name)):
        ranges = known.get(each)
        of = wanted_of(ranges)
        if of == PASSED_BY or (ranges == [] and each != name):
            return False
        if of is not None and wanted <= of:
            return True
    return False


def _above(name: bytes) -> list[bytes]:
    """The paths that lead to it, and it itself."""
    parts = name.split(b"/")
    return [b"/".join(parts[:count]) for count in range(2, len(parts) + 1)]
