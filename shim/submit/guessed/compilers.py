"""What a C compiler uses: the program that compiles, and the headers that its sources include."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from remoteio.submit.export.first_names import Use
from remoteio.submit.export.seen import WHOLE, Seen
from shim.submit.guessed.libraries import Libraries

_GCC = re.compile(rb"/usr/bin/(?:([\w-]+)-)?(gcc|g\+\+)(?:-([0-9.]+))?$")
_SOURCE = re.compile(rb".*\.(c|cc|cpp|cxx|C|h|hpp)$")
_INCLUDE = re.compile(rb"^[ \t]*#[ \t]*include(?:_next)?[ \t]*([<\"])([^>\"\n]+)[>\"]", re.MULTILINE)
MOST_HEADERS = 1024
_STOPS = frozenset((b"-c", b"-S", b"-E", b"-fsyntax-only"))  # short of linking
_TOOLS = (b"as", b"ld", b"gnm", b"nm", b"gstrip", b"strip")
_OWN_PARTS = (b"crtbeginS.o", b"crtendS.o", b"libgcc.a", b"libgcc_s.so", b"liblto_plugin.so")
_PARTS = (b"Scrt1.o", b"crti.o", b"crtn.o", b"libc.so", b"libc_nonshared.a", b"libgcc_s.so.1")
_MOST_TEXT = 1 << 20  # bytes of a header


class Compiler:
    """Knows where a gcc has its parts, by its path without links."""

    def __init__(self, seen: Seen, program: bytes) -> None:
        self._seen = seen
        found = _GCC.match(program)
        self.target, self._plus = (found[1] or b"", found[2] == b"g++") if found else (b"", False)
        self._own = b"/usr/lib/gcc/%s/%s" % (self.target, found[3] or b"") if found else b""
        self._places = [self._own + b"/include", b"/usr/local/include", b"/usr/include/" + self.target, b"/usr/include"]

    def start(self, argv: Sequence[bytes], cwd: bytes, path: bytes, libraries: Libraries) -> Iterator[Use]:
        """What it uses for these words, with that $PATH."""
        if not self._seen.is_directory(self._own):
            return
        yield from self._seen.names(self._own + b"/specs", self._own.rpartition(b"/")[0] + b"/specs")
        sources = [os.path.join(cwd, word) for word in argv[1:] if _SOURCE.match(word) and not word.startswith(b"-")]
        yield from libraries.program(self._own + (b"/cc1plus" if self._plus else b"/cc1"))
        own = [os.path.join(cwd, word[2:]) for word in argv if word.startswith(b"-I") and word[2:]]
        yield from self._headers(sources, own)
        if sources and not _STOPS & {*argv}:
            yield from self._linked(path, libraries)

    def _linked(self, path: bytes, libraries: Libraries) -> Iterator[Use]:
        """What is used to assemble and link."""
        above, usual = os.path.dirname(self._own), b"/usr/lib/" + self.target
        own = (b"as", self.target + b"-as", b"collect2", b"lto-wrapper")
        yield from self._seen.names(*(place + b"/" + each for place in (self._own, above) for each in own))
        for tool in _TOOLS:
            for place in path.split(b":") if path else ():
                found = yield from self._seen.walk(place + b"/" + tool)
                if found:
                    if tool in (b"as", b"ld"):
                        yield from libraries.program(found)
                    break
        yield from libraries.program(self._own + b"/collect2")
        for place, parts in ((self._own, _OWN_PARTS), (usual, _PARTS)):
            for each in parts:
                yield from self._seen.walk(place + b"/" + each, WHOLE)

    def _headers(self, sources: list[bytes], own: list[bytes]) -> Iterator[Use]:
        places = [*own, *self._places]
        machine = b"/" + self.target
        yield from self._seen.names(*places, self._own + b"/include-fixed", b"/usr/local/include" + machine)
        yield from self._seen.names(b"/usr" + machine)
        todo = [(source, self._seen.content(source, _MOST_TEXT)) for source in sources]
        for source, _ in todo:
            yield from self._seen.names(source + b".gch")
            yield from self._seen.walk(source, WHOLE)
        todo.insert(0, (b"", b"#include <stdc-predef.h>"))
        done: set[bytes] = set()
        while todo:
            above, text = todo.pop(0)
            for quote, name in _INCLUDE.findall(text):
                if name in done or len(done) > MOST_HEADERS:
                    continue
                done.add(name)
                beside = [os.path.dirname(above)] if quote == b'"' else []
                for place in [*beside, *places]:
                    at = place + b"/" + name
                    yield from self._seen.names(at + b".gch")
                    found = yield from self._seen.walk(at, WHOLE)
                    if found:
                        todo.append((found, self._seen.content(found, _MOST_TEXT)))
                        break
