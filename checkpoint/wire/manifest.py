"""What an image is: a frozen, versioned value with one canonical encoding, hashed (docs/images.md)."""

from __future__ import annotations

import hashlib
import json
import os
import struct

from checkpoint.errors import CheckpointError
from checkpoint.value import Value

FORMAT = 2
WINDOW = 65536  # bytes of one chunk at most: an aligned window of the job's address space
PAGE = 4096
HASH = hashlib.sha256  # of chunks, tables and manifests (FIPS 180-4): docs/decisions/image-store.md says why
ZERO = bytes(32)  # stands for the hash of a chunk of zeros, which is neither hashed, sent nor stored
ENTRY = struct.Struct("<QI32s")  # key, length in bytes, hash of the contents
_KIND = b"rexec image "
_MAGIC = b"%s%d\n" % (_KIND, FORMAT)
_NAME_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class ManifestError(CheckpointError):
    """These bytes are not an image's manifest, or these values cannot be one: the text says why."""


def check_name(name: str) -> str:
    """Return `name` if it is a plain file name: 1 to 128 ASCII letters, digits, `.`, `_` or `-`; else ManifestError."""
    plain = isinstance(name, str) and 0 < len(name) <= 128 and name.isascii() and not name.startswith(".")
    if not plain or not _NAME_BYTES.issuperset(name.encode()):
        raise ManifestError(f"{name!r:.80} is not a plain file name")
    return name


def _natural(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ManifestError(f"{what} is {value!r:.80}, not a whole number from 0 to 2^63-1")
    return value


def _text(value: object, what: str) -> str:
    """Text as the kernel gives it: any bytes but NUL, kept by surrogateescape (PEP 383)."""
    if not isinstance(value, str) or "\0" in value:
        raise ManifestError(f"{what} is {value!r:.80}, not text without NUL")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ManifestError(f"{what} holds {value!r:.80}, which is no string of bytes") from None
    return value


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, (list, tuple)):
        raise ManifestError(f"{what} is {value!r:.80}, not a list")
    return list(value)


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ManifestError(f"{what} is {value!r:.80}, not an object")
    return dict(value)


def _canonical(value: object, what: str) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ManifestError(f"{what} cannot be written as JSON: {error}") from None


class ImageFile(Value):
    """One of CRIU's files: the concatenation of its chunks.

    name     as CRIU calls it
    origin   what the file is the memory of, the same from one checkpoint to the next (`pages-2.img` may be another
             process next time)
    size     bytes
    table    the chunks in order, ENTRY each; a chunk's key is its place in the origin: the window's number (address
             or offset divided by WINDOW)
    """

    __slots__ = ("name", "origin", "size", "table")
    name: str
    origin: str
    size: int
    table: bytes

    def __init__(self, name: str, origin: str, size: int, table: bytes) -> None:
        self._set(name=check_name(name), origin=check_name(origin), size=_natural(size, "a file's size"), table=table)
        if not isinstance(table, bytes) or len(table) % ENTRY.size:
            raise ManifestError(f"the chunk table of {name} is cut short")
        total = 0
        for _, length, _ in self.chunks():
            if not 0 < length <= WINDOW:
                raise ManifestError(f"{name} has a chunk of {length} bytes, outside 1 to {WINDOW}")
            total += length
        if total != size:
            raise ManifestError(f"the chunks of {name} make {total} bytes, not {size}")

    def chunks(self) -> list[tuple[int, int, bytes]]:
        """List (key, length, hash) of each chunk, in the file's order."""
        return list(ENTRY.iter_unpack(self.table))


class WrittenFile(Value):
    """A file that the job has written or holds open for writing, as it was at the checkpoint."""

    __slots__ = ("inode", "mtime_ns", "path", "size")
    path: str
    size: int
    mtime_ns: int
    inode: int

    def __init__(self, path: str, size: int, mtime_ns: int, inode: int) -> None:
        if type(mtime_ns) is not int or not -(1 << 63) <= mtime_ns < 1 << 63:
            raise ManifestError(f"the time of {path!r:.80} is {mtime_ns!r:.80}, not nanoseconds in 64 bits")
        self._set(
            path=_text(path, "a written file's path"),
            size=_natural(size, "a written file's size"),
            mtime_ns=mtime_ns,
            inode=_natural(inode, "a written file's inode"),
        )


class Streams(Value):
    """Bytes of stdout and stderr delivered, bytes of stdin the job has read, and those it was given but not read."""

    __slots__ = ("stderr", "stdin", "stdin_unread", "stdout")
    stdout: int
    stderr: int
    stdin: int
    stdin_unread: bytes

    def __init__(self, stdout: int = 0, stderr: int = 0, stdin: int = 0, stdin_unread: bytes = b"") -> None:
        if not isinstance(stdin_unread, bytes):
            raise ManifestError("the unread bytes of stdin are no bytes")
        self._set(
            stdout=_natural(stdout, "stdout"),
            stderr=_natural(stderr, "stderr"),
            stdin=_natural(stdin, "stdin"),
            stdin_unread=stdin_unread,
        )


class Manifest(Value):
    """One image of one job.

    job, number   which image of which job
    generation    the fencing number of the job's run that made it
    time_ns       when, since the epoch
    host          where the dump was made
    argv … tty    what was started: its words, directory, environment, ids, and whether it has a terminal
    streams       how far its streams had come
    files         CRIU's files
    written       files that the job has written or holds open for writing
    facts         of the host, for compatibility, and
    stats         of the dump: JSON objects which only their owners understand

    Text may hold surrogate escapes. Raises ManifestError for values that cannot be encoded.
    """

    __slots__ = (
        "_facts", "_stats", "argv", "cwd", "env", "files", "generation", "gid", "host", "job", "number",
        "streams", "time_ns", "tty", "uid", "written",
    )  # fmt: skip
    job: str
    number: int
    generation: int
    time_ns: int
    host: str
    argv: tuple[str, ...]
    cwd: str
    env: tuple[tuple[str, str], ...]
    uid: int
    gid: int
    tty: bool
    streams: Streams
    files: tuple[ImageFile, ...]
    written: tuple[WrittenFile, ...]
    _facts: str
    _stats: str

    def __init__(
        self,
        *,
        job: str,
        number: int,
        generation: int,
        time_ns: int,
        host: str,
        argv: tuple[str, ...],
        cwd: str,
        env: tuple[tuple[str, str], ...],
        uid: int,
        gid: int,
        tty: bool,
        streams: Streams,
        files: tuple[ImageFile, ...],
        written: tuple[WrittenFile, ...] = (),
        facts: dict[str, object],
        stats: dict[str, object],
    ) -> None:
        if type(tty) is not bool:
            raise ManifestError(f"tty is {tty!r:.80}, neither true nor false")
        if len({file.name for file in files}) != len(files):
            raise ManifestError("two files of the image have the same name")
        if not argv:
            raise ManifestError("the image has no command")
        self._set(
            job=check_name(job),
            number=_natural(number, "the image's number"),
            generation=_natural(generation, "the generation"),
            time_ns=_natural(time_ns, "the image's time"),
            host=_text(host, "the host"),
            argv=tuple(_text(word, "an argument") for word in argv),
            cwd=_text(cwd, "the directory"),
            env=tuple((_text(name, "a variable"), _text(value, f"${name}")) for name, value in env),
            uid=_natural(uid, "the uid"),
            gid=_natural(gid, "the gid"),
            tty=tty,
            streams=streams,
            files=tuple(files),
            written=tuple(written),
            _facts=_canonical(_object(facts, "facts"), "facts"),
            _stats=_canonical(_object(stats, "stats"), "stats"),
        )

    @property
    def facts(self) -> dict[str, object]:
        """Of the host: as compat.Facts.plain has them."""
        return _object(json.loads(self._facts), "facts")

    @property
    def stats(self) -> dict[str, object]:
        """Of the dump."""
        return _object(json.loads(self._stats), "stats")

    @property
    def size(self) -> int:
        """Bytes of CRIU's files, uncompressed."""
        return sum(file.size for file in self.files)

    def to_bytes(self) -> bytes:
        """Write the canonical encoding: magic line, digest line, one line of JSON, the files' chunk tables."""
        head = {
            "format": FORMAT,
            "job": self.job,
            "number": self.number,
            "generation": self.generation,
            "time_ns": self.time_ns,
            "host": self.host,
            "argv": self.argv,
            "cwd": self.cwd,
            "env": self.env,
            "uid": self.uid,
            "gid": self.gid,
            "tty": self.tty,
            "streams": {
                "stdout": self.streams.stdout,
                "stderr": self.streams.stderr,
                "stdin": self.streams.stdin,
                "stdin_unread": self.streams.stdin_unread.hex(),
            },
            "files": [
                {"name": file.name, "origin": file.origin, "size": file.size, "chunks": len(file.table) // ENTRY.size}
                for file in self.files
            ],
            "written": [[file.path, file.size, file.mtime_ns, file.inode] for file in self.written],
            "facts": self.facts,
            "stats": self.stats,
        }
        body = b"".join([_canonical(head, "the manifest").encode(), b"\n", *(file.table for file in self.files)])
        return b"".join([_MAGIC, HASH(body).hexdigest().encode(), b"\n", body])

    @property
    def digest(self) -> str:
        """The hexadecimal hash of the canonical body: the image's identity."""
        start = len(_MAGIC)
        return self.to_bytes()[start : start + 64].decode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read the manifest that `to_bytes` wrote as `data`; ManifestError for any other bytes."""
        if not data.startswith(_MAGIC):
            line = data[:40].partition(b"\n")[0]
            other = line[len(_KIND) :].decode("ascii", "replace")
            if line.startswith(_KIND) and other.isdigit():
                raise ManifestError(
                    f"it has format {other}, made by another version of rexec, and this one reads format {FORMAT}"
                )
            raise ManifestError("this is no image of rexec")
        start = len(_MAGIC)
        body = data[start + 65 :]
        digest = HASH(body).hexdigest().encode()
        if data[start : start + 65] != digest + b"\n":
            raise ManifestError("the manifest is damaged: its hash does not match")
        line, _, tables = body.partition(b"\n")
        try:
            head = _object(json.loads(line.decode()), "the manifest")
            manifest = _from_head(head, tables)
        except KeyError as missing:
            raise ManifestError(f"the manifest has no {missing}") from None
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"the manifest is not well formed: {error}") from None
        if manifest.to_bytes() != data:
            raise ManifestError("the manifest is not in its canonical form")
        return manifest


def _files(rows: list[object], tables: bytes) -> tuple[ImageFile, ...]:
    files = []
    start = 0
    for row in rows:
        fields = _object(row, "a file")
        end = start + _natural(fields["chunks"], "a file's count of chunks") * ENTRY.size
        files.append(
            ImageFile(
                _text(fields["name"], "a file's name"),
                _text(fields["origin"], "a file's origin"),
                _natural(fields["size"], "a file's size"),
                tables[start:end],
            )
        )
        start = end
    return tuple(files)


def _pair(value: object) -> tuple[str, str]:
    pair = _list(value, "a variable")
    if len(pair) != 2:
        raise ManifestError(f"a variable is {value!r:.80}, not a name and a value")
    return _text(pair[0], "a variable"), _text(pair[1], "a variable")


def _written(value: object) -> WrittenFile:
    row = _list(value, "a written file")
    if len(row) != 4 or type(row[2]) is not int:
        raise ManifestError(f"a written file is {value!r:.80}, not path, size, time and inode")
    return WrittenFile(_text(row[0], "a path"), _natural(row[1], "a size"), row[2], _natural(row[3], "an inode"))


def _from_head(head: dict[str, object], tables: bytes) -> Manifest:
    streams = _object(head["streams"], "streams")
    return Manifest(
        job=_text(head["job"], "the job"),
        number=_natural(head["number"], "the image's number"),
        generation=_natural(head["generation"], "the generation"),
        time_ns=_natural(head["time_ns"], "the image's time"),
        host=_text(head["host"], "the host"),
        argv=tuple(_text(word, "an argument") for word in _list(head["argv"], "argv")),
        cwd=_text(head["cwd"], "the directory"),
        env=tuple(_pair(pair) for pair in _list(head["env"], "env")),
        uid=_natural(head["uid"], "the uid"),
        gid=_natural(head["gid"], "the gid"),
        tty=head["tty"] is True,
        streams=Streams(
            _natural(streams["stdout"], "stdout"),
            _natural(streams["stderr"], "stderr"),
            _natural(streams["stdin"], "stdin"),
            bytes.fromhex(_text(streams["stdin_unread"], "stdin_unread")),
        ),
        files=_files(_list(head["files"], "files"), tables),
        written=tuple(_written(row) for row in _list(head["written"], "written")),
        facts=_object(head["facts"], "facts"),
        stats=_object(head["stats"], "stats"),
    )
