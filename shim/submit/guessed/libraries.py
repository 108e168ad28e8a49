"""What a program needs that the loader starts (ld.so(8)): the loader, the libraries, and the words of its language."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from remoteio.submit.export.first_names import Use
from remoteio.submit.export.seen import LISTED, WHOLE, Found, Seen
from shim.submit.guessed import elf

_CACHE = b"/etc/ld.so.cache"
_MAGIC = b"glibc-ld.so.cache1.1"
_HEAD, _ENTRY = 48, struct.Struct("<iIIIQ")  # of that file
_MOST_CACHE = 8 << 20  # bytes
_PLACES = (b"/lib64", b"/usr/lib64", b"/lib", b"/usr/lib")
_MOST = 128  # files
LARGE = 8 << 20
"""Bytes of a library, of which more than this is not guessed: most of what is so large is not used."""
_BEHIND = 1 << 20  # bytes behind what is written to: the kernel reads ahead
_LOCALES = b"/usr/lib/locale/"
_C = (b"", b"C", b"POSIX")
_CATEGORIES = (
    b"IDENTIFICATION", b"MEASUREMENT", b"TELEPHONE", b"ADDRESS", b"NAME", b"PAPER", b"MONETARY", b"COLLATE", b"TIME",
    b"NUMERIC",
)  # fmt: skip
_ACCOUNTS = (b"/etc/nsswitch.conf", b"/etc/passwd", b"/etc/group")
_BESIDE = {b"libselinux.so.1": b"/etc/selinux/config"}  # files that a library looks for as it is loaded


class Libraries:
    """Knows which libraries were found, so that each is told once."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._done: set[bytes] = set()
        self._cached: dict[bytes, list[bytes]] | None = None

    def program(self, path: bytes) -> Iterator[Use]:
        """What the kernel and the loader use of a program, and of all that it needs."""
        found = self._read(path)
        if found is None:
            return
        self._done.add(path)
        yield path, found.ranges
        if found.interpreter:
            self._done.add(found.interpreter.rpartition(b"/")[2])
            yield from self._seen.walk(found.interpreter, WHOLE)
            yield from self._seen.names(b"/etc/ld.so.preload")
            yield from self._seen.walk(_CACHE, WHOLE)
        yield from self._needed(path, found)
        if found.accounts:
            yield from self._seen.names(b"/var/run/nscd/socket")
            for each in _ACCOUNTS:
                yield from self._seen.walk(each, WHOLE)

    def library(self, path: bytes) -> Iterator[Use]:
        """What the loader uses of a library that a program opens as it runs."""
        found = self._read(path)
        if found is not None and path not in self._done:
            self._done.add(path)
            yield path, _part(found)
            yield from self._needed(path, found)

    def _needed(self, path: bytes, first: elf.Elf) -> Iterator[Use]:
        todo = [(path, first, soname) for soname in first.needed]
        while todo:
            above, of, soname = todo.pop(0)
            if soname in self._done or len(self._done) > _MOST:
                continue
            self._done.add(soname)
            for place in self._places(above, of, soname):
                at = yield from self._there(place)
                found = self._read(at)
                if found is not None and found.machine == first.machine:
                    yield at, _part(found)
                    yield from self._seen.names(*filter(None, (_BESIDE.get(soname),)))
                    todo += [(at, found, each) for each in found.needed]
                    break

    def _read(self, path: bytes) -> elf.Elf | None:
        fd = self._seen.open(path) if path else -1
        return elf.read(fd) if fd >= 0 else None

    def _there(self, path: bytes) -> Found:
        return (yield from self._seen.walk(path)) if path.startswith(b"/") else b""

    def _places(self, above: bytes, of: elf.Elf, soname: bytes) -> Iterator[bytes]:
        if b"/" in soname:
            yield soname
            return
        origin = above.rpartition(b"/")[0]
        for each in of.runpath:
            yield each.replace(b"$ORIGIN", origin).replace(b"${ORIGIN}", origin) + b"/" + soname
        if self._cached is None:
            self._cached = cached(self._seen.content(_CACHE, _MOST_CACHE))
        yield from self._cached.get(soname, [])
        yield from (place + b"/" + soname for place in _PLACES)


def _part(of: elf.Elf) -> list[tuple[int, int]]:
    """Of what is large the first pages, and what is written to: that is what the loader uses."""
    if len(of.ranges) == 1:
        return of.ranges
    head, (begin, end), (after, until), _ = of.ranges
    return [head, (begin, end + _BEHIND), (after, min(until, LARGE))]


def cached(data: bytes) -> dict[bytes, list[bytes]]:
    """Read ld.so.cache: where each library is. Of what is no such file, as much as is."""
    found: dict[bytes, list[bytes]] = {}
    if not data.startswith(_MAGIC) or len(data) < _HEAD:
        return found
    count = min(struct.unpack_from("<I", data, len(_MAGIC))[0], (len(data) - _HEAD) // _ENTRY.size)
    for _, key, value, _, _ in _ENTRY.iter_unpack(data[_HEAD : _HEAD + count * _ENTRY.size]):
        found.setdefault(_text(data, key), []).append(_text(data, value))
    return found


def _text(data: bytes, at: int) -> bytes:
    return data[at : max(data.find(b"\0", at), at)]


def language(seen: Seen, env: Mapping[bytes, bytes], whole: bool) -> Iterator[Use]:
    """What setlocale(3) uses for these variables, for the `whole` of a language or for its characters alone."""
    told = env.get(b"LC_ALL") or env.get(b"LC_CTYPE") or env.get(b"LANG", b"")
    if told in _C or b"/" in told:
        return
    archive = yield from seen.walk(_LOCALES + b"locale-archive", [(0, elf.HEAD)])
    if archive:
        return
    yield from seen.walk(b"/usr/share/locale/locale.alias", WHOLE)
    name, _, codeset = told.partition(b".")
    usual = name + b"." + codeset.replace(b"-", b"").lower() if codeset else name
    yield from seen.names(_LOCALES + told)
    for each in _CATEGORIES if whole else ():
        yield from seen.walk(_LOCALES + usual + b"/LC_" + each, [(0, elf.HEAD)])
    yield from seen.walk(_LOCALES + usual + b"/LC_CTYPE", WHOLE)
    yield from seen.walk(_LOCALES + usual + b"/LC_MESSAGES", LISTED)
    yield from seen.walk(_LOCALES + usual + b"/LC_MESSAGES/SYS_LC_MESSAGES", WHOLE)
    for each in (told, usual, name):
        yield from seen.walk(b"/usr/share/locale/" + each + b"/LC_MESSAGES", LISTED)
    for share in (b"/usr/lib/x86_64-linux-gnu/gconv", b"/usr/lib64/gconv", b"/usr/lib/gconv"):
        yield from seen.walk(share + b"/gconv-modules.cache", WHOLE)
