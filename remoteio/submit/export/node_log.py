"""Write down which node of the job's kernel stands for which file here, for a process after this one.

A process that is killed has its table of nodes (``inodes``) in its memory alone, and the kernel of the job's host goes
on asking by their numbers. So nodes are told to a file as they are made, renamed or dropped, before the reply in which
the kernel hears of it. The file is written, not synced: it is good until this machine is booted anew, as what the
job was told is written is no more than that either.

Regular files and symbolic links are noted only once they are opened: of others the kernel lets go by itself when it is
told that they are stale. What has its channel in the kernel (a fifo, a socket) would be another one then.

    u32 length, u8 what, then by it (native byte order):
    BOOT     u64 the highest id that is known to have been given, the boot_id of random(4)
    NODE     u64 id, u64 id of its directory, u64 st_dev, u64 st_ino, u32 format of st_mode, its name
    NAMED    u64 id, u64 id of its directory, u8 whether the name before is still one of it, its name
    GONE     u64 id: its last name was removed
    DROPPED  u64 id: the kernel knows it no more
    WRITTEN  u64 id: it was opened for writing
    MADE     u64 st_dev, u64 st_ino, i64 when: a directory that is the job's own (Confinement.made)
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator

from remoteio.submit.export.doings import Doings
from remoteio.submit.export.nodes import MOST_LINKS, Node
from remoteio.submit.export.once import Unfit

BOOT, NODE, NAMED, GONE, DROPPED, WRITTEN, MADE = range(1, 8)
_HEAD, _ID = struct.Struct("=IB"), struct.Struct("=Q")
_NODE, _NAMED, _MADE = struct.Struct("=QQQQI"), struct.Struct("=QQB"), struct.Struct("=QQq")
_ROOM = 16 << 20  # bytes that a log may grow by before it is written anew


def doings_of(path: str) -> str:
    """Return where the changes are noted that are begun and done, beside the log at `path`."""
    return f"{path}-asked"


def _record(what: int, *parts: bytes) -> bytes:
    return _HEAD.pack(sum(map(len, parts)), what) + b"".join(parts)


class NodeLog:
    """Writes the log at `path`. Whoever changes a node tells it, and then calls `flush` if it is `behind`.

    doings   which changes are begun and done, in a file beside it
    highest  at least that of any node of which it was told

    Where it cannot be written it is removed, and nothing more is written: a job of which a part is known is not taken
    up. Threads: any; `_lock` is held while it is written.
    """

    def __init__(self, path: str, boot: bytes, waits: bool = False) -> None:
        """`waits`: for `begin`; else it begins with its export."""
        self.doings = Doings(doings_of(path))
        self._path, self._boot, self._waits = path, boot, waits
        self._lock = threading.Lock()
        self._told: list[bytes] = []
        self._writing = False
        self.highest = 0
        self._fd, self._room = -1, _ROOM  # how much it may grow before it is written anew
        self._there: tuple[Callable[[], Iterable[Node]], dict[tuple[int, int], int]] = (tuple, {})  # as of `serves`
        self._known = -1  # how many of these are written down

    def serves(self, nodes: Callable[[], Iterable[Node]], made: dict[tuple[int, int], int]) -> None:
        """Write it for an export, whose nodes `nodes` lists at any time; `made`: as of Confinement."""
        self._there = nodes, made
        if not self._waits:
            self.begin()

    def begin(self) -> None:
        """Begin it anew, with all that there is."""
        with self._lock:
            self._anew()

    @property
    def behind(self) -> bool:
        """Whether something that was noted may not be in the file yet."""
        return bool(self._told) or self._writing

    def node(self, node: Node) -> None:
        """Note a node, unless it has been noted, or is the root."""
        if not node.noted and node.parent is not None:
            node.noted = True
            self.highest = max(self.highest, node.id)
            self._told.append(b"".join(_whole(node)) if node.links or node.changes else _new(node, node.parent))

    def named(self, node: Node, also: bool) -> None:
        """Note that it has another name; `also`: and still the one before."""
        if node.noted and node.parent is not None:
            self._told.append(_record(NAMED, _NAMED.pack(node.id, node.parent.id, also), node.name))

    def gone(self, node: Node) -> None:
        """Note that its last name was removed."""
        if node.noted:
            self._told.append(_record(GONE, _ID.pack(node.id)))

    def dropped(self, node: Node) -> None:
        """Note that the kernel knows it no more."""
        if node.noted:
            self._told.append(_record(DROPPED, _ID.pack(node.id)))

    def written(self, node: Node) -> None:
        """Note that it was opened for writing."""
        self.node(node)
        self._told.append(_record(WRITTEN, _ID.pack(node.id)))

    def flush(self) -> None:
        """Have all that was noted in the file when this returns, whoever notes more or writes it meanwhile."""
        with self._lock:
            self._writing = True
            if self._told and self._fd >= 0:
                told = self._told[:]  # others append meanwhile
                del self._told[: len(told)]
                self._put(b"".join(told) + self._made())
                if self._room < 0:
                    self._anew()
            self._writing = False

    def end(self) -> None:
        """Remove it: nothing of this generation is to be taken up any more."""
        with self._lock:
            self._close()

    def close(self) -> None:
        """Write no more; it stays for who comes after."""
        self.doings.close()
        self._there = tuple, {}
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _made(self) -> bytes:
        if len(self._there[1]) == self._known:
            return b""
        made = self._there[1].copy()  # in one step: others add to it
        self._known = len(made)
        return b"".join(_record(MADE, _MADE.pack(*key, born)) for key, born in made.items())

    def _anew(self) -> None:
        """Write it with what is there now alone, in place of the one before."""
        del self._told[:]  # the nodes are as it tells
        self._known = -1
        parts = [_record(BOOT, _ID.pack(self.highest), self._boot), self._made()]
        for node in self._there[0]():
            if node.noted:
                parts += _whole(node)
        before, self._fd = self._fd, -1
        try:
            self._fd = os.open(f"{self._path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._put(b"".join(parts))
            if self._fd >= 0:
                os.rename(f"{self._path}.new", self._path)
        except OSError:
            self._close()
        finally:
            if before >= 0:
                os.close(before)
        self._room = _ROOM + sum(map(len, parts))

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        self._room -= len(view)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for path in (self._path, f"{self._path}.new"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError:
                continue  # its directory is read-only by now: another boot's, or cut short, it is not believed either


def _new(node: Node, parent: Node) -> bytes:
    return _record(NODE, _NODE.pack(node.id, parent.id, node.dev, node.ino, node.kind), node.name)


def _whole(node: Node) -> list[bytes]:
    """All that is to be known of a node."""
    assert node.parent is not None
    first, *others = reversed(node.names())
    number = _ID.pack(node.id)
    parts = [_record(NODE, _NODE.pack(node.id, first[0].id, node.dev, node.ino, node.kind), first[1])]
    parts += [_record(NAMED, _NAMED.pack(node.id, parent.id, True), name) for parent, name in others]
    if node.nameless:
        parts.append(_record(GONE, number))
    if node.changes is not None:
        parts.append(_record(WRITTEN, number))
    return parts


class Noted:
    """A node as the log tells of it: which file it is, and its names, directory and name, the latest first."""

    def __init__(self, key: tuple[int, int], kind: int, names: list[tuple[int, bytes]]) -> None:
        self.key, self.kind, self.names = key, kind, names
        self.gone = self.written = False


class Told:
    """What a log tells: nodes by their ids, the highest that was given, and the directories that are the job's own."""

    def __init__(self) -> None:
        self.nodes: dict[int, Noted] = {}
        self.highest = 0
        self.made: dict[tuple[int, int], int] = {}


def read(path: str, boot: bytes) -> Told:
    """Read the log at `path`, of this `boot`. Raises Unfit."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise Unfit(f"which files it uses is not noted ({error.strerror})") from error
    told = Told()
    try:
        for number, (what, body) in enumerate(_records(data)):
            if (what == BOOT) != (number == 0) or (what == BOOT and body[_ID.size :] != boot):
                raise Unfit("this machine was started anew since, and may have lost what was written last")
            _take(told, what, body)
    except (struct.error, LookupError, ValueError) as error:
        raise Unfit(f"what is noted of the files it uses is damaged ({error})") from error
    return told


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """List the records. The last one is left out if it is cut short: nobody was told of what it says."""
    at = 0
    while at + _HEAD.size <= len(data):
        size, what = _HEAD.unpack_from(data, at)
        at += _HEAD.size + size
        if at <= len(data):
            yield what, data[at - size : at]


def _take(told: Told, what: int, body: bytes) -> None:
    if what == NODE:
        number, parent, dev, ino, kind = _NODE.unpack_from(body)
        told.nodes[number] = Noted((dev, ino), kind, [(parent, body[_NODE.size :])])
        told.highest = max(told.highest, number)
    elif what == NAMED:
        number, parent, also = _NAMED.unpack_from(body)
        node, name = told.nodes[number], (parent, body[_NAMED.size :])
        others = [each for each in node.names[0 if also else 1 :] if each != name]
        node.names = [name, *others[:MOST_LINKS]]
    elif what == MADE:
        dev, ino, born = _MADE.unpack(body)
        told.made[dev, ino] = born
    elif what == DROPPED:
        told.nodes.pop(_ID.unpack(body)[0], None)
    elif what == GONE:
        told.nodes[_ID.unpack(body)[0]].gone = True
    elif what == WRITTEN:
        told.nodes[_ID.unpack(body)[0]].written = True
    elif what == BOOT:
        (told.highest,) = _ID.unpack_from(body)
    else:
        raise ValueError("a record of the kind %d" % what)
