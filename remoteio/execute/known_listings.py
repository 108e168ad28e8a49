"""Execute side: entries of directories known beforehand, for LOOKUP and READDIRPLUS. Shipped.

A listing comes along with the reply to OPENDIR, and with one to LOOKUP when several were asked in the same directory.
The submit side has counted a lookup for each entry (struct fuse_direntplus). An entry is given to the kernel once, and
with it that count; what is not given out is given back (``unused``). Any change by the job in a directory, or of a
node, forgets what is known of it. Pure: the caller tells the time, and comes with one thread at a time.
"""

from __future__ import annotations

from collections import OrderedDict

from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import KNOWN_DIRECTORIES, LISTING_TTL, TTL

_ENTRY = abi.ENTRY.size + abi.ATTR.size
_NEGATIVE = bytes(abi.ATTR.size)


def walk(listing: bytes) -> list[tuple[int, int, int, bytes, int]]:
    """Read (start, end, nodeid, name, offset of the next) of each struct fuse_direntplus."""
    found, at = [], 0
    while at + _ENTRY + abi.DIRENT.size <= len(listing):
        _, offset, length, _ = abi.DIRENT.unpack_from(listing, at + _ENTRY)
        begin = at + _ENTRY + abi.DIRENT.size
        end = at + (_ENTRY + abi.DIRENT.size + length + 7 & ~7)
        found.append((at, end, abi.ENTRY.unpack_from(listing, at)[0], listing[begin : begin + length], offset))
        at = end
    return found


class _Directory:
    __slots__ = ("entries", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.entries: dict[bytes, bytes | None] = {}  # None: it exists, and the submit side must be asked


class _Read:
    __slots__ = ("complete", "found", "listing", "next", "offset", "until")

    def __init__(self, listing: bytes, complete: bool, until: float) -> None:
        self.listing, self.complete, self.until = listing, complete, until
        self.found = walk(listing)
        self.next = 0  # index in found
        self.offset = 0


class KnownListings:
    """Keeps what is known of directories. ``unused`` collects the node ids whose count is to be given back."""

    def __init__(self) -> None:
        self.unused: list[int] = []
        self._directories: OrderedDict[int, _Directory] = OrderedDict()
        self._where: dict[int, tuple[int, bytes]] = {}  # nodeid of an entry not given out -> directory, name
        self._reads: dict[int, _Read] = {}  # fh -> its listing

    def learn(self, parent: int, listing: bytes, now: float) -> None:
        """Keep all entries of the directory `parent`, as of now."""
        self.forget_directory(parent)
        directory = self._directories[parent] = _Directory(now + TTL)
        for start, _, nodeid, name, _ in walk(listing):
            if nodeid in self._where:
                self._take_back(nodeid)  # another name of it; one entry a node is enough
            directory.entries[name] = listing[start : start + _ENTRY] if nodeid else None
            if nodeid:
                self._where[nodeid] = (parent, name)
        if len(self._directories) > KNOWN_DIRECTORIES:
            self.forget_directory(next(iter(self._directories)))

    def refuse(self, listing: bytes) -> None:
        """Give all of a listing back that no longer holds."""
        self.unused += [nodeid for _, _, nodeid, _, _ in walk(listing) if nodeid]

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
            return abi.reply(unique, abi.ENTRY.pack(0, 0, 0, 0, nanoseconds, 0) + _NEGATIVE)
        entry = directory.entries[name]
        if entry is None:
            return None
        directory.entries[name] = None
        nodeid, generation, *_ = abi.ENTRY.unpack_from(entry)
        self._where.pop(nodeid, None)
        return abi.reply(
            unique, abi.ENTRY.pack(nodeid, generation, 0, 0, nanoseconds, nanoseconds) + entry[abi.ENTRY.size :]
        )

    def forget_directory(self, parent: int) -> None:
        """Forget the entries of a directory in which something has changed."""
        directory = self._directories.pop(parent, None)
        if directory is not None:
            for entry in directory.entries.values():
                if entry is not None:
                    nodeid = abi.ENTRY.unpack_from(entry)[0]
                    self._where.pop(nodeid, None)
                    self.unused.append(nodeid)

    def _take_back(self, nodeid: int) -> None:
        parent, name = self._where.pop(nodeid)
        self._directories[parent].entries[name] = None
        self.unused.append(nodeid)

    def changed(self, nodeid: int) -> None:
        """Forget what listings say of a node that the job changes, and what is in it."""
        if nodeid in self._where:
            self._take_back(nodeid)
        self.forget_directory(nodeid)

    def sweep(self) -> None:
        """Forget everything: the job changes nodes that are not known by number."""
        for parent in list(self._directories):
            self.forget_directory(parent)

    def opened(self, fh: int, listing: bytes, complete: bool, now: float) -> None:
        """Keep how the listing of a directory begins that has just been opened."""
        self._reads[fh] = _Read(listing, complete, now + LISTING_TTL)

    def read(self, unique: int, fh: int, offset: int, size: int, now: float) -> bytes | None:
        """Return the reply to a READDIRPLUS, if it is known."""
        read = self._reads.get(fh)
        if read is None:
            return None
        first = read.next
        if offset != read.offset or now > read.until or (first == len(read.found) and not read.complete):
            self.closed(fh)
            return None
        begin = end = read.found[first][0] if first < len(read.found) else len(read.listing)
        while read.next < len(read.found) and read.found[read.next][1] - begin <= size:
            _, end, _, _, read.offset = read.found[read.next]
            read.next += 1
        if read.next == first and first < len(read.found):
            self.closed(fh)  # too small a buffer for a single name: the submit side knows what to say
            return None
        return abi.reply(unique, read.listing[begin:end])

    def closed(self, fh: int) -> None:
        """Forget the listing of a directory that was closed, or that is of no more use."""
        read = self._reads.pop(fh, None)
        if read is not None:
            self.unused += [nodeid for _, _, nodeid, _, _ in read.found[read.next :] if nodeid]
