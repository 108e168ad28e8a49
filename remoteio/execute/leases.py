"""Execute side: names, attributes and contents that hold until home takes them back (``wire.leases``). Shipped.

Names, by directory, lead to a node, or to nothing; a directory whose listing was leased has no others. A LOOKUP is
answered when both the name and the attributes of what it leads to are known. The kernel is given each answer for
coherence.TTL seconds, as what comes from home: so it asks again, and what was taken back meanwhile is asked for there.
Or it is given it for longer (`seconds`), and told when that is taken back, or forgotten here (`dropped`): then nobody
is asked (``invalidating``). That a name leads nowhere it is told for TTL alone.

A directory all of whose entries hold may be opened and read here (``listing``): each has the attributes with it that
hold, or is a name alone, so that the kernel asks for it as it needs it: but for directories, which who walks on asks
for at once. That lasts as long as the directory's own attributes: what the job changes in it takes these away before
home has done it.

A file whose contents hold may be opened for reading here (``opened``): home has opened it so itself, and the pages that
the kernel has since then are those of the file. They go with its attributes.

Each answer counts a lookup of the kernel's that home has not counted; and what is named here must be known at home
still when it is given out again. So what the kernel gives back of a node passes here (``forgotten``), which passes on
what home has counted beyond that, and keeps one as long as a name leads there. With the kernel's count K, that of
listings not given out L, home's H, and the node's `debt` D, what holds is

    H = K + L - D,   and H > 0 while a name leads there

Home must be heard of for an answer (`heard`): else it could not have taken anything back.

Pure: the caller tells the time, and comes with one thread at a time (``relay.Relay._order``).
"""

from __future__ import annotations

from collections import OrderedDict

from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import LEASED_LISTINGS, LEASED_NAMES, LEASED_NODES, SILENCE, TTL
from remoteio.wire.listed import ENTRY_SIZE, Entries, directories, names_alone

NO_CAPABILITY = 1  # lacks security.capability
ITSELF = (b".", b"..")
ABSENT = 0  # of names: nothing has it
UNKNOWN = -1  # it is there, and home must be asked what it is
# flags of an OPEN for which home is to do it: any but for reading, O_TRUNC, O_APPEND, O_DIRECT and O_DIRECTORY
_ASKS = 0o3 | 0o1000 | 0o2000 | 0o40000 | 0o200000
_NONE = abi.ENTRY.pack(0, 0, TTL, 0, 0, 0) + bytes(abi.ATTR.size)
_NONE_ONCE = bytes(abi.ENTRY.size + abi.ATTR.size)


class _Directory:
    __slots__ = ("complete", "entries", "found", "kept", "names", "seconds", "within")

    def __init__(self) -> None:
        self.found: Entries = []  # what is in `entries`, once that was taken apart: names alone
        self.kept = False  # by the kernel, as it is listed
        self.seconds = TTL  # 0: a file in it was locked, and the kernel is to ask for its names each time
        self.names: dict[bytes, int] = {}
        self.complete = False  # it has no other names
        self.entries = b""  # struct fuse_direntplus each, as it is listed; empty: it is not known how
        self.within: list[int] = []  # if it is known, the directories in it


class _Node:
    __slots__ = ("debt", "names")

    def __init__(self) -> None:
        self.debt = self.names = 0


class Leases:
    """Keeps what is leased. ``unused`` collects (node, count) of lookups that home is to be given back.

    heard    when anything came from home
    seconds  for how long the kernel is given what it is told
    dropped  nodes, and names in them, of which it is to be told that they hold no more; no name: attributes
    """

    def __init__(self) -> None:
        self.heard, self.seconds = 0.0, TTL
        self.dropped: list[tuple[int, bytes]] = []
        self.unused: list[tuple[int, int]] = []
        self._directories: OrderedDict[int, _Directory] = OrderedDict()
        self._names = self._bytes = 0  # in all of them, names and entries
        self._nodes: dict[int, _Node] = {}
        self._attr: OrderedDict[int, bytes] = OrderedDict()
        self._bare: dict[int, int] = {}  # of those, the extended attributes that they lack: bits of lacking.py
        # of those, the ones whose contents hold as well; and the name of their version, if it was told
        self._whole: dict[int, bytes] = {}

    # what was told

    def name(self, parent: int, name: bytes, nodeid: int, locked: bool = False) -> None:
        """Keep that `name` in the directory `parent` leads to that node, 0: to nothing; a file in it was `locked`."""
        directory = self._directory(parent)
        directory.seconds *= not locked
        if directory.names.get(name, ABSENT if directory.complete else None) != nodeid:
            self._unname(directory, name, nodeid)
            self._enter(directory, name, nodeid)
            self._bound()

    def listed(self, parent: int, found: Entries, entries: bytes = b"") -> None:
        """Keep that these are all the names in a directory, with their nodes; 0: what was known holds, or home must be
        asked.

        `entries`: it is listed so, if it is opened again; none: as before, if these are the names that it had.
        """
        old = self._directories.pop(parent, None)
        directory, before = self._directory(parent), old.names if old is not None else {}
        for name, nodeid in {each[3]: each[2] for each in found}.items():
            self._enter(directory, name, nodeid or before.get(name) or UNKNOWN)
        within = directories(found)
        if not entries and old is not None and old.names.keys() == directory.names.keys():
            entries, within, directory.found, directory.kept = old.entries, old.within, old.found, old.kept
        directory.complete, directory.entries, directory.within = True, entries, within
        self._bytes += len(entries)
        if old is not None:  # after: what is named by both is kept
            self._drop(old)
        self._bound()

    def attributes(self, nodeid: int, attr: bytes) -> None:
        """Keep the attributes (struct fuse_attr) of a node, for as long as a name leads there that is leased: of a
        directory that is removed, and open here or at home, it is the name's break that tells."""
        node = self._nodes.get(nodeid)
        if nodeid != abi.ROOT_ID and (node is None or not node.names):
            return
        self._attr[nodeid] = self._attr[nodeid] if self._attr.get(nodeid) == attr else attr  # see attributes_of
        self._attr.move_to_end(nodeid)
        if len(self._attr) > LEASED_NODES:
            _drops(self, next(iter(self._attr)))
            self.changed(next(iter(self._attr)))

    def pushed(self, parent: int, name: bytes, nodeid: int, attr: bytes) -> None:
        """Keep what home has told of a name by itself, and counted a lookup of the kernel's for."""
        self.name(parent, name, nodeid)
        if nodeid:
            self._nodes[nodeid].debt -= 1
            self.attributes(nodeid, attr)

    def lacks(self, nodeid: int, bit: int = NO_CAPABILITY) -> None:
        """Keep that a file lacks an extended attribute, as long as its attributes hold."""
        if nodeid in self._attr:
            self._bare[nodeid] = self._bare.get(nodeid, 0) | bit

    def contents(self, nodeid: int, version: bytes = b"") -> None:
        """Keep that a file may be opened for reading, and holds what it held, as long as its attributes hold."""
        if nodeid in self._attr:
            self._whole[nodeid] = version or self._whole.get(nodeid, b"")

    # what is answered

    def holds(self, now: float) -> bool:
        """Say whether anything may be answered from here: home has been heard of."""
        return now - self.heard < SILENCE

    def lookup(self, unique: int, parent: int, name: bytes) -> bytes | None:
        """Return the reply to a LOOKUP, if it is known."""
        directory = self._directories.get(parent)
        if directory is None:
            return None
        nodeid = directory.names.get(name, ABSENT if directory.complete else UNKNOWN)
        if nodeid == ABSENT:
            self._directories.move_to_end(parent)
            return abi.reply(unique, _NONE if directory.seconds else _NONE_ONCE)
        attr = self._attr.get(nodeid)
        if attr is None:
            return None
        self._directories.move_to_end(parent)
        self._nodes[nodeid].debt += 1
        ttl = self.seconds if directory.seconds else 0
        return abi.reply(unique, abi.ENTRY.pack(nodeid, 0, ttl, ttl, 0, 0) + attr)

    def lists(self, nodeid: int) -> bool:
        """Say whether a directory may be opened and read here."""
        directory = self._directories.get(nodeid)
        return directory is not None and bool(directory.entries) and {nodeid, *directory.within} <= self._attr.keys()

    def listing(self, nodeid: int, ns: int) -> tuple[bytearray, Entries]:
        """Return all entries of a directory that may be opened here, as a READDIRPLUS gives them, for so long, or for
        longer (`seconds`); each whose node is not 0 counts a lookup that is not given out yet."""
        directory, ttl = self._directories[nodeid], self.seconds - TTL
        self._directories.move_to_end(nodeid)
        if not directory.found:
            directory.entries, directory.found = names_alone(directory.entries)
        entries, found = bytearray(directory.entries), [*directory.found]
        for k, (start, end, _, name, offset, kind) in enumerate(directory.found):
            node = directory.names.get(name, UNKNOWN)
            attr = self._attr.get(node)
            if attr is not None:
                self._nodes[node].debt += 1
                entries[start : start + ENTRY_SIZE] = abi.ENTRY.pack(node, 0, ttl, ttl, ns, ns) + attr
                found[k] = start, end, node, name, offset, kind
        return entries, found

    def getattr(self, unique: int, nodeid: int) -> bytes | None:
        """Return the reply to a GETATTR, if it is known."""
        attr = self._attr.get(nodeid)
        if attr is None:
            return None
        self._attr.move_to_end(nodeid)
        return abi.reply(unique, abi.ATTR_OUT.pack(self.seconds, 0, 0) + attr)

    def may_open(self, nodeid: int, flags: int) -> bool:
        """Say whether a file may be opened here with these flags of an OPEN."""
        return nodeid in self._whole and only_reads(flags)

    def version(self, nodeid: int) -> tuple[bytes, int]:
        """Return the name of a file's version, and its size; no name: its contents may have changed, or have none."""
        version, attr = self._whole.get(nodeid), self._attr.get(nodeid)
        return (version, abi.ATTR.unpack(attr)[1]) if version and attr else (b"", 0)

    def open_first(self, nodeid: int, flags: int, version: bytes) -> bool:
        """Say whether a file that was pushed may be opened here, and keep that its contents hold from then on."""
        if nodeid not in self._attr or not only_reads(flags):
            return False
        self.contents(nodeid, version)
        return True

    # what holds no more

    def changed(self, nodeid: int) -> None:
        """Forget the attributes and contents of a node, which the job changes."""
        self._attr.pop(nodeid, None)
        self._bare.pop(nodeid, None)
        self._whole.pop(nodeid, None)

    def broken(self, nodeid: int, name: bytes) -> None:
        """Forget what home takes back: see ``wire.leases``; but not node 0."""
        self.changed(nodeid)
        directory = self._directories.get(nodeid)
        if directory is None:
            return
        if name:
            self._unname(directory, name)
            if directory.complete:
                self._enter(directory, name, UNKNOWN)
        else:
            _drops(self, nodeid)
            del self._directories[nodeid]
            self._drop(directory)

    def clear(self) -> None:
        """Forget everything."""
        self.dropped += everything(self)
        while self._directories:
            self._drop(self._directories.popitem()[1])
        self._attr.clear()
        self._bare.clear()
        self._whole.clear()

    def forgotten(self, nodeid: int, count: int) -> int:
        """Take note of lookups that are given back; return how many of them home is to be told of."""
        node = self._nodes.get(nodeid)
        if node is None:
            return count
        kept = 1 if node.names else 0
        told = count - node.debt - kept
        if told <= 0:
            node.debt -= count
            if not kept and not node.debt:
                del self._nodes[nodeid]
            return 0
        node.debt = -kept
        if not kept:
            del self._nodes[nodeid]
        return told

    # the tables

    def _directory(self, parent: int) -> _Directory:
        directory = self._directories.get(parent)
        if directory is None:
            directory = self._directories[parent] = _Directory()
        self._directories.move_to_end(parent)
        return directory

    def _enter(self, directory: _Directory, name: bytes, nodeid: int) -> None:
        directory.names[name] = nodeid
        self._names += 1
        if nodeid > 0:
            node = self._nodes.get(nodeid)
            if node is None:
                node = self._nodes[nodeid] = _Node()
            node.names += 1

    def _unname(self, directory: _Directory, name: bytes, now: int = 0) -> None:
        nodeid = directory.names.pop(name, None)
        if now <= 0 or nodeid != UNKNOWN:  # else it is listed as a name alone
            self._bytes -= len(directory.entries)
            directory.entries = b""
        if nodeid is not None:
            self._names -= 1
            self._lose(nodeid)

    def _drop(self, directory: _Directory) -> None:
        self._bytes -= len(directory.entries)
        self._names -= len(directory.names)
        for nodeid in directory.names.values():
            self._lose(nodeid)

    def _lose(self, nodeid: int) -> None:
        node = self._nodes.get(nodeid)
        if node is None:
            return
        node.names -= 1
        if not node.names:
            self.changed(nodeid)
            if node.debt < 0:
                self.unused.append((nodeid, -node.debt))
                node.debt = 0
            if not node.debt:
                del self._nodes[nodeid]

    def _bound(self) -> None:
        while (self._names > LEASED_NAMES or self._bytes > LEASED_LISTINGS) and len(self._directories) > 1:
            _drops(self, next(iter(self._directories)))
            self._drop(self._directories.popitem(last=False)[1])


def _drops(leases: Leases, nodeid: int) -> None:
    """Have the kernel told that it may go by no name in that directory, nor by its attributes, any more."""
    if leases.seconds > TTL:
        directory = leases._directories.get(nodeid)
        names = directory.names.items() if directory is not None else ()
        leases.dropped += [(nodeid, b""), *((nodeid, name) for name, found in names if found > 0)]


def everything(leases: Leases) -> list[tuple[int, bytes]]:
    """List all that the kernel may have been told for longer than TTL, as `dropped`."""
    if leases.seconds == TTL:
        return []
    names = [(at, name) for at, each in leases._directories.items() for name, node in each.names.items() if node > 0]
    return names + [(nodeid, b"") for nodeid in leases._attr]


def only_reads(flags: int) -> bool:
    """Say whether an OPEN with these flags may be answered by what is known of a file's contents."""
    return not flags & _ASKS


def is_bare(leases: Leases, nodeid: int, bit: int) -> bool:
    """Say whether the file is known to lack that extended attribute."""
    return bool(leases._bare.get(nodeid, 0) & bit)


def attributes_of(leases: Leases, nodeid: int) -> bytes | None:
    """Return the attributes (struct fuse_attr) of a node that hold; None: none do.

    As long as nothing has changed them it is the same object, though they were told again.
    """
    return leases._attr.get(nodeid)


def size_of(leases: Leases, nodeid: int) -> int:
    """Return the size of a file by the attributes that are known; -1: none are."""
    attr = leases._attr.get(nodeid)
    return -1 if attr is None else int(abi.ATTR.unpack_from(attr)[1])
