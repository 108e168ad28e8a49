"""What an undo journal says, record by record, and how that is written and read.

A record is `rxUn`, kind u8, three zero bytes, bytes of the body u32, CRC-32 of kind and body u32 (zlib.crc32), all
little-endian; then the body: bytes of the text u32, one line of JSON (a list: the fields), and bytes as they are. What
follows a record that is cut short or damaged was being written when its writer ended, and is not read.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Union

HEAD = struct.Struct("<4sB3xII")
_MAGIC = b"rxUn"
_TEXT = struct.Struct("<I")


class Known(NamedTuple):
    """What stat(2) told of a file, as far as it can be given back."""

    dev: int
    ino: int
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    size: int
    born: int = 0

    @classmethod
    def of(cls, st: os.stat_result, born: int = 0) -> Known:
        """Take it from `st`; `born`: see births.py."""
        own = st.st_dev, st.st_ino, st.st_mode, st.st_uid, st.st_gid
        return cls(*own, st.st_atime_ns, st.st_mtime_ns, st.st_size, born)


class First(NamedTuple):
    """The file at `path` is changed for the first time since the moment: this is how it was; `slot`: see Slots."""

    slot: int
    path: bytes
    known: Known


class Data(NamedTuple):
    """`length` bytes at `at` of the file of `slot`, before they are overwritten: `raw`, or at `place` in the data.

    A negative place means `raw`. As it is read again, that stays where it is: at -1 - `place` in the records.
    `sums`: the number of the first block's sum (sums.py), -1: there is none.
    """

    slot: int
    at: int
    length: int
    place: int
    sums: int = -1
    raw: bytes = b""


class Hole(NamedTuple):
    """`length` bytes at `at` of the file of `slot` were a hole; `sums`: as of Data."""

    slot: int
    at: int
    length: int
    sums: int = -1


class Run(NamedTuple):
    """[start, end) of the file of `slot` was added by the job; what comes after it is others'."""

    slot: int
    start: int
    end: int


class Attribute(NamedTuple):
    """The extended attribute `name` of the file at `path` was `raw`, if it was `there`."""

    path: bytes
    dev: int
    ino: int
    name: bytes
    there: bool
    born: int = 0
    raw: bytes = b""


class Made(NamedTuple):
    """`path`, which nothing has, is given to what the job makes, or, not `fresh`, to what has another name.

    Which that is, `slot` says when it is done.
    """

    slot: int
    path: bytes
    fresh: bool


class Gone(NamedTuple):
    """`path` is taken away from what was there.

    how    how to have it back: LINK or COPY of that name among the kept; NAME, that it has too; SYMLINK to that; NODE,
           DIRECTORY; or LOST
    """

    path: bytes
    known: Known
    how: str
    what: bytes
    rdev: int
    number: int


class Moved(NamedTuple):
    """What is at `old`, of those numbers, is renamed to `new`.

    other        the inode number of what is there, on the same device, if the two are exchanged; 0: they are not
    directory    it is one, or what it is exchanged with may be: what is below has another path, too
    born, other_born    of the two: see births.py
    """

    old: bytes
    new: bytes
    dev: int
    ino: int
    other: int
    directory: bool
    number: int
    born: int = 0
    other_born: int = 0


class Void(NamedTuple):
    """What the records of these numbers say was not done: the operation has failed."""

    numbers: list[int]


class Lost(NamedTuple):
    """What is done to the file at `path` cannot be undone, and why."""

    path: bytes
    why: str


LINK, COPY, NAME, SYMLINK, NODE, DIRECTORY, LOST = "link", "copy", "name", "symlink", "node", "directory", "lost"
Record = Union[First, Data, Run, Attribute, Made, Gone, Moved, Lost, Void, Hole]
_KINDS: tuple[type[Record], ...] = (First, Data, Run, Attribute, Made, Gone, Moved, Lost, Void, Hole)


def packed(record: Record) -> bytes:
    """Write a record."""
    fields = list(record)
    raw = fields.pop() if isinstance(record, (Data, Attribute)) else b""
    text = json.dumps([os.fsdecode(f) if isinstance(f, bytes) else f for f in fields]).encode()
    assert isinstance(raw, bytes)
    body = b"".join((_TEXT.pack(len(text)), text, raw))
    kind = _KINDS.index(type(record))
    return HEAD.pack(_MAGIC, kind, len(body), zlib.crc32(body, kind)) + body


def unpacked(file: BinaryIO, size: int) -> Iterator[Record]:
    """Read records from the `size` bytes of a file, up to the first that is not whole. Raises OSError."""
    at = HEAD.size
    while at <= size:
        magic, kind, length, crc = HEAD.unpack(file.read(HEAD.size))
        if magic != _MAGIC or kind >= len(_KINDS) or length > size - at:
            return
        body = file.read(length)
        if zlib.crc32(body, kind) != crc:
            return
        at += length
        yield _record(_KINDS[kind], body, at)
        at += HEAD.size


def _record(kind: type[Record], body: bytes, ends: int) -> Record:
    (length,) = _TEXT.unpack_from(body)
    end = _TEXT.size + length
    fields = dict(zip(kind._fields, json.loads(body[_TEXT.size : end])))
    for name in ("path", "name", "old", "new", "what"):
        if name in fields:
            fields[name] = os.fsencode(fields[name])
    if "known" in fields:
        fields["known"] = Known(*fields["known"])
    if kind is Attribute:
        fields["raw"] = body[end:]
    elif kind is Data and fields["place"] < 0:
        fields["place"] = -1 - (ends - fields["length"])
    return kind(**fields)
