"""Submit side: what is in files that are sent before the job asks for them (``pushing``), but for what its host has
kept (``kept_there``)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from remoteio.submit.export.descriptors import Descriptor
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.fetched import quiet
from remoteio.submit.export.first_names import Ranges
from remoteio.submit.export.kept_there import KeptThere
from remoteio.submit.export.leases import leasable
from remoteio.wire import pushed
from remoteio.wire.coherence import AHEAD

_KEPT_THERE = 1 << 20  # bytes of a file; of more that was read before, some host has what it needs (``kept_contents``)
_LEAST_KEPT = 16 << 10  # bytes of a file: to look for less on a disk there takes as long as to send it
_FIRST = 1 << 20  # bytes of one file that go ahead of the other files
_PAGE = 4096  # bytes


class File(NamedTuple):
    """A file that is open, what is to be sent of it, whether it has no ``security.capability``, and the name of its
    version, if the host may have kept that. `whole`: of its last part, all that is sent of it."""

    node: int
    fd: Descriptor
    ranges: Ranges
    bare: bool
    version: bytes
    whole: Ranges


def open_file(export: Export, nodeid: int, ranges: Ranges, most: int, guessed: bool, there: KeptThere) -> File | None:
    """Open a file, of which no more than so many bytes may be sent, and watch it; None: not this one."""
    node = export.inodes.nodes.get(nodeid)
    if node is None or not quiet(node):
        return None
    try:
        with export.inodes.allowed.refusals.guessing():
            fd = Descriptor(export.inodes.descriptors.reopen(node, os.O_RDONLY))
        st = os.fstat(fd) if export.leases.watches(node, fd) else None
    except OSError:
        return None  # who asks for it is told so
    # changed since the kernel was told its size, it is opened as others are: only then is the kernel told so
    if st is None or not stat.S_ISREG(st.st_mode) or st.st_ctime_ns != node.ctime:
        return None
    whole = [(0, st.st_size)] if st.st_size <= AHEAD else ranges
    due = [(begin, min(end, st.st_size)) for begin, end in whole if begin < min(end, st.st_size)]
    if not leasable(export.leases, fd, st):
        return None
    version = export.versions.of(fd, st) if st.st_size > _LEAST_KEPT else b""
    size = sum(end - begin for begin, end in due)
    if version and ((size > _KEPT_THERE and not guessed) or there.has(nodeid, version, due)):
        due, size = [], 0  # the host has kept it since, and else asks
    if size > most:
        return None
    return File(nodeid, fd, due, _bare(fd), version, due) if export.inodes.descriptors.keeps(node, fd) else None


def begun(files: Iterable[File], last: list[File], there: KeptThere) -> Iterator[bytes]:
    """Make the parts for what is in these files, but for what comes `last`."""
    for file in files:
        first, rest = _parted(file)
        yield from _contents(first, there)
        last += [rest] if rest.ranges else []


def ended(files: Iterable[File], there: KeptThere) -> Iterator[bytes]:
    """Make the parts for what comes last of these."""
    for file in files:
        yield from _contents(file, there)


def _parted(file: File) -> tuple[File, File]:
    """Part what is to be sent of a file into no more than _FIRST bytes and the rest."""
    first: Ranges = []
    rest: Ranges = []
    left = _FIRST
    for begin, end in file.ranges:
        middle = min(begin + left // _PAGE * _PAGE, end)  # a host keeps whole pages
        left -= middle - begin
        first += [(begin, middle)] if begin < middle else []
        rest += [(middle, end)] if middle < end else []
    return file._replace(ranges=first, whole=[] if rest else file.whole), file._replace(ranges=rest)


def _contents(file: File, there: KeptThere) -> Iterator[bytes]:
    try:
        for begin, end in file.ranges:
            for offset in range(begin, end, pushed.PIECE):
                data = os.pread(file.fd, min(pushed.PIECE, end - offset), offset)
                if len(data) < min(pushed.PIECE, end - offset):
                    yield pushed.pack_file(file.node, [], False)  # nobody is to wait for it
                    return
                yield pushed.pack(pushed.DATA, file.node, b"", data, offset)
    except OSError:
        yield pushed.pack_file(file.node, [], False)
    else:
        if file.version and file.whole:
            there.sent(file.version, file.whole)


def _bare(fd: int) -> bool:
    try:
        os.getxattr(fd, "security.capability")
    except OSError as e:
        return e.errno == errno.ENODATA
    return False
