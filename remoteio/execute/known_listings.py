"""Execute side: entries of directories known beforehand, for LOOKUP and READDIRPLUS. Shipped.

A listing comes along with the reply to OPENDIR, and with one to LOOKUP when several were asked in the same directory.
The submit side has counted a lookup for each entry (struct fuse_direntplus). An entry is given to the kernel once, and
with it that count; what is not given out is given back (``unused``). Any change by the job in a directory, or of a
node, forgets what is known of it. Pure: the caller tells the time, and comes with one thread at a time.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import KNOWN_DIRECTORIES, LISTING_TTL, TTL
from remoteio.wire.listed import ENTRY_SIZE, Entries, walk

_NEGATIVE = bytes(abi.ATTR.size)
_VALID, _VALID_AT = struct.Struct("=QQII"), 16  # in struct fuse_entry_out: for how long the name and attributes hold


class _Directory:
    __slots__ = ("entries", "until", "whole")

    def __init__(self, until: float, whole: bool) -> None:
        self.until, self.whole = until, whole  # whole: what is not among the entries is not there
        self.entries: dict[bytes, bytes | None] = {}  # None: it exists, and the submit side must be asked


class _Read:
    __slots__ = ("_nodes", "complete", "found", "listing", "next", "offset", "until")

    def __init__(self, listing: bytearray, found: Entries, complete: bool, until: float) -> None:
        self.listing, self.complete, self.until = listing, complete, until
        self.found = found
        self._nodes: dict[int, int] | None = None  # the last entry of each; None: nobody has asked
        self.next = 0  # index in found
        self.offset = 0

    def is_left(self, nodeid: int) -> bool:
        """Say whether an entry of that node is not given out yet."""
        if self._nodes is None:
            self._nodes = {each: k for k, (_, _, each, *_) in enumerate(self.found)}
        return self._nodes.get(nodeid, -1) >= self.next


class KnownListings:
    """Keeps what is known of directories. ``unused`` collects the node ids whose count is to be given back."""

    def __init__(self) -> None:
        self.unused: list[int] = []
        self._directories: OrderedDict[int, _Directory] = OrderedDict()
        self._where: dict[int, tuple[int, bytes]] = {}  # nodeid of an entry not given out -> directory, name
        self._reads: dict[int, _Read] = {}  # fh -> its listing
        self._left: dict[int, _Read] = {}  # those of which not all was read
        self._untold: set[int] = set()  # handles of the relay's own that were given out with no listing, and not read

    def learn(self, parent: int, listing: bytes, found: Entries, until: float) -> None:
        """Keep all entries of the directory `parent`, which hold `until` then."""
        self.forget_directory(parent)
        directory = self._directories[parent] = _Directory(until, True)
        for start, _, nodeid, name, *_ in found:
            if nodeid in self._where:
                self._take_back(nodeid)  # another name of it; one entry a node is enough
            directory.entries[name] = listing[start : start + ENTRY_SIZE] if nodeid else None
            if nodeid:
                self._where[nodeid] = (parent, name)
        if len(self._directories) > KNOWN_DIRECTORIES:
            self.forget_directory(next(iter(self._directories)))

    def learn_name(self, parent: int, name: bytes, entry: bytes, now: float) -> None:
        """Keep what a LOOKUP of that name gives, as of now."""
        nodeid = abi.ENTRY.unpack_from(entry)[0]
        directory = self._directories.get(parent)
        if directory is None:
            directory = self._directories[parent] = _Directory(now + TTL, False)
        if directory.whole or nodeid in self._where or (nodeid and name in directory.entries):
            self.unused += [nodeid] if nodeid else []
            return
        directory.entries[name] = entry[:ENTRY_SIZE]
        if nodeid:
            self._where[nodeid] = (parent, name)
        if len(self._directories) > KNOWN_DIRECTORIES:
            self.forget_directory(next(iter(self._directories)))

    def refuse(self, listing: bytes) -> None:
        """Give all of a listing back that no longer holds."""
        self.unused += [nodeid for _, _, nodeid, *_ in walk(listing) if nodeid]

    def lookup(self, unique: int, parent: int, name: bytes, now: float) -> bytes | None:
        """Return the reply to a LOOKUP, if it is known."""
        directory = self._directories.get(parent)
        if directory is None:
            return None
        left = directory.until - now
        if left <= 0:
            self.forget_directory(parent)
            return None
        nanoseconds = int(left * 1e9) % 1000000000
        if name not in directory.entries:
            if not directory.whole:
                return None
            return abi.reply(unique, abi.ENTRY.pack(0, 0, 0, 0, nanoseconds, 0) + _NEGATIVE)
        entry = directory.entries[name]
        if entry is None:
            return None
        nodeid, generation, *_ = abi.ENTRY.unpack_from(entry)
        if nodeid:
            directory.entries[name] = None
            self._where.pop(nodeid, None)
        return abi.reply(
            unique, abi.ENTRY.pack(nodeid, generation, 0, 0, nanoseconds, nanoseconds) + entry[abi.ENTRY.size :]
        )

    def forget_directory(self, parent: int) -> None:
        """Forget the entries of a directory in which something has changed."""
        directory = self._directories.pop(parent, None)
        if directory is not None:
            for entry in directory.entries.values():
                nodeid = abi.ENTRY.unpack_from(entry)[0] if entry is not None else 0
                if nodeid:
                    self._where.pop(nodeid, None)
                    self.unused.append(nodeid)

    def _take_back(self, nodeid: int) -> None:
        parent, name = self._where.pop(nodeid)
        self._directories[parent].entries[name] = None
        self.unused.append(nodeid)

    def changed(self, nodeid: int, names: tuple[bytes, ...] = ()) -> None:
        """Forget what listings say of a node that the job changes, and what is in it; or of these names there alone.
        What the kernel was told already of a directory that it reads is no matter any more."""
        if nodeid in self._where:
            self._take_back(nodeid)
        for name in names:
            self._lose(nodeid, name)
        if not names:
            self.forget_directory(nodeid)
        for fh in [fh for fh, read in self._left.items() if read.is_left(nodeid)]:
            self._outdate(fh)

    def _lose(self, parent: int, name: bytes) -> None:
        """Have home, or a lease, be asked for a name."""
        directory = self._directories.get(parent)
        if directory is not None:
            entry, directory.entries[name] = directory.entries.get(name), None
            if entry is not None and (nodeid := abi.ENTRY.unpack_from(entry)[0]):
                self._where.pop(nodeid, None)
                self.unused.append(nodeid)

    def sweep(self) -> None:
        """Forget everything: the job changes nodes that are not known by number."""
        for parent in list(self._directories):
            self.forget_directory(parent)
        for fh in list(self._left):
            self._outdate(fh)

    def _outdate(self, fh: int) -> None:
        if fh < abi.OWN:
            self.closed(fh)  # the submit side tells the rest as it is by then
        else:
            self._bare(fh)

    def opened(self, fh: int, listing: bytes, complete: bool, now: float) -> Entries:
        """Keep how the listing of a directory begins that has just been opened, and return what is in it."""
        found = walk(listing)
        self._reads[fh] = self._left[fh] = _Read(bytearray(listing), found, complete, now + LISTING_TTL)
        return found

    def opened_ahead(self, fh: int, listing: bytes, found: Entries, now: float, until: float) -> None:
        """Keep the listing of a directory that is open by a handle of the relay's own; it holds `until` then."""
        left, held = min(int((until - now) * 1e9), 999999999), bytearray(listing)
        for start, _, nodeid, *_ in found:
            if nodeid:
                _VALID.pack_into(held, start + _VALID_AT, 0, 0, left, left)
        self.opened_leased(fh, held, found, until)

    def opened_leased(self, fh: int, listing: bytearray, found: Entries, until: float) -> None:
        """Keep the listing of a directory that is open so, and tells for how long its entries hold."""
        self._reads[fh] = self._left[fh] = _Read(listing, found, True, until)

    def _bare(self, fh: int) -> None:
        """Leave of what is not read yet by a handle of the relay's own the names alone: the rest may be old."""
        read = self._left.pop(fh)
        for k, (start, end, nodeid, name, offset, kind) in enumerate(read.found[read.next :], read.next):
            if nodeid:
                self.unused.append(nodeid)
                read.found[k] = start, end, 0, name, offset, kind
                read.listing[start : start + ENTRY_SIZE] = bytes(ENTRY_SIZE)

    def opened_untold(self, fh: int) -> None:
        """Take note that a directory is open by a handle of the relay's own of which there is no listing yet."""
        self._untold.add(fh)

    def first(self, fh: int) -> bool:
        """Say whether such a handle is read for the first time, and not rewound."""
        if fh not in self._untold:
            return False
        self._untold.remove(fh)
        return True

    def unread(self, fh: int) -> Entries | None:
        """Return what is in the directory that is open by that handle, if nothing of it was read; None: it was, or is
        not known."""
        read = self._reads.get(fh)
        return read.found if read is not None and not read.next else None

    def read(self, unique: int, fh: int, offset: int, size: int, now: float) -> bytes | None:
        """Return the reply to a READDIRPLUS, if it is known."""
        read = self._reads.get(fh)
        if read is None:
            return None
        first = read.next
        if now > read.until and fh >= abi.OWN and fh in self._left:
            self._bare(fh)
        late = now > read.until and fh < abi.OWN
        if offset != read.offset or late or (first == len(read.found) and not read.complete):
            self.closed(fh)
            return None
        begin = end = read.found[first][0] if first < len(read.found) else len(read.listing)
        while read.next < len(read.found) and read.found[read.next][1] - begin <= size:
            _, end, _, _, read.offset, _ = read.found[read.next]
            read.next += 1
        if read.next == first and first < len(read.found):
            self.closed(fh)  # too small a buffer for a single name: the submit side knows what to say
            return None
        if read.next == len(read.found):
            self._left.pop(fh, None)
        return abi.reply(unique, bytes(read.listing[begin:end]))

    def closed(self, fh: int) -> None:
        """Forget the listing of a directory that was closed, or that is of no more use."""
        self._left.pop(fh, None)
        self._untold.discard(fh)
        read = self._reads.pop(fh, None)
        if read is not None:
            self.unused += [nodeid for _, _, nodeid, *_ in read.found[read.next :] if nodeid]
