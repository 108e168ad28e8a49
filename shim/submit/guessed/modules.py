"""Find a python's modules, and what they import as far as their text tells."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Generator, Iterator, Sequence

from remoteio.submit.export.first_names import Use
from remoteio.submit.export.seen import LISTED, WHOLE, Seen
from shim.submit.guessed.libraries import Libraries

_IMPORT = re.compile(
    rb"^(?:([ \t]*)(?:(?:async[ \t]+)?(def|class)\b|import[ \t]+([^\n#;]+)"
    rb"|from[ \t]+([\w.]+)[ \t]+import[ \t]*(\(|[^\n#;]+))|[A-Za-z@])",
    re.MULTILINE,
)
_BY_NAME = re.compile(rb"\b(?:import_module|__import__)\(")
_QUOTED = re.compile(rb"[\"']([\w.]+\.(\w+))[\"']")
_COMMENT = re.compile(rb"#[^\n]*")
_WORD = re.compile(rb"[^\W\d]\w*$")
MOST_MODULES = 1000
_MOST_NAMES = 8192  # that may be modules
MOST_TEXT = 256 << 10  # bytes of a module's source
_MOST_IMPORTED = 2048  # names by one
_EXTENSION = b".so"


class Modules:
    """Finds the modules of python 3.`minor` in the directories `path`; none of `known`, which it has by itself.

    extension  what the names of modules in machine code end in
    own        the package that is the program, with a dot: what its functions import of it is used, too
    words      what the program is told: which of the modules it loads that are named in its text alone
    """

    def __init__(
        self, seen: Seen, libraries: Libraries, minor: int, known: Sequence[bytes], words: Sequence[bytes] = ()
    ) -> None:
        self._seen, self._libraries, self._minor, self._words = seen, libraries, minor, frozenset(words)
        self.path: list[bytes] = []
        self.own = b""
        self.extension = _EXTENSION
        self._done = {b"sys", b"builtins", b"time", *known}
        self._packages: dict[bytes, bytes] = {}  # by name, where each is
        self._count = 0  # of those that were found

    def module(self, name: bytes, deep: bool = True) -> Iterator[Use]:
        """What importing a module uses; `deep`: and what that imports."""
        todo = [name]
        while todo and self._count < MOST_MODULES and len(self._done) < _MOST_NAMES:
            name = todo.pop(0)
            if name in self._done or not all(map(_WORD.match, name.split(b"."))):
                continue
            above = name.rpartition(b".")[0]
            if above and above not in self._done:
                todo[:0] = [above, name]
                continue
            self._done.add(name)
            text, package = yield from self._found(name)
            if deep and text:
                todo[:0] = imported(text, name if package else above)
                todo += named(text, self._words)
                if self.own and name.startswith(self.own):
                    todo += (
                        each for each in imported(text, name if package else above, True) if each.startswith(self.own)
                    )

    def imports(self, text: bytes) -> Iterator[Use]:
        """What a program uses that imports modules, by its text."""
        for each in imported(text, b""):
            yield from self.module(each)

    def _found(self, name: bytes) -> Generator[Use, None, tuple[bytes, bool]]:
        """Look for a module; return its text, and whether it is a package."""
        above, _, last = name.rpartition(b".")
        places = self.path if not above else [self._packages[above]] if above in self._packages else []
        for place in places:
            at = place + b"/" + last
            if self._is_there(at + b"/__init__.py"):
                self._packages[name] = at
                yield at, LISTED
                for end in self._endings():
                    yield at + b"/__init__" + end, None
                return (yield from self._source(at + b"/__init__.py")), True
            for end in self._endings():
                if self._is_there(at + end):
                    self._count += 1
                    yield from self._libraries.library((yield from self._seen.walk(at + end)))
                    return b"", False
            if self._is_there(at + b".py"):
                return (yield from self._source(at + b".py")), False
        return b"", False

    def _endings(self) -> tuple[bytes, ...]:
        return self.extension, b".abi3.so", _EXTENSION

    def _is_there(self, path: bytes) -> bool:
        mode = self._seen.mode(path)
        return stat.S_ISREG(mode) or stat.S_ISLNK(mode)

    def _source(self, path: bytes) -> Generator[Use, None, bytes]:
        """A module's source, which is looked at, and its code, which is read; return the source."""
        self._count += 1
        found = yield from self._seen.walk(path)
        directory, _, name = path.rpartition(b"/")
        code = directory + b"/__pycache__/" + name[:-3] + b".cpython-3%d.pyc" % self._minor
        if self._seen.is_file(code):
            yield code, WHOLE
        elif found:
            yield found, WHOLE
        return self._seen.content(found, MOST_TEXT) if found else b""


def imported(text: bytes, package: bytes, later: bool = False) -> list[bytes]:
    """List what a module imports as it is loaded, outside of functions and classes: modules, and what may be such.

    `package`: that it is in. `later`: all that it imports.
    """
    found: dict[bytes, None] = {}
    inside = -1  # a function or class whose lines are further in than that many characters; -1: none
    after = 0  # where the last list of names ended
    for line in _IMPORT.finditer(text):
        indent, block, plain, source, what = line.groups(b"")
        if line.start() < after or (not later and 0 <= inside < len(indent)):
            continue
        inside = len(indent) if block else -1
        if len(found) >= _MOST_IMPORTED:
            break
        if plain:
            found.update((each.split()[0], None) for each in plain.split(b",") if each.split())
        elif source:
            if what.startswith(b"("):
                after = text.find(b")", line.end()) % (len(text) + 1)  # or all else is within it
                what = _COMMENT.sub(b"", text[line.end() : after])
            found.update(dict.fromkeys(_from(source, what, package)))
    return list(found)


def named(text: bytes, words: Collection[bytes]) -> list[bytes]:
    """List the modules that a module names and may import by that, as one of the program's `words` says: `install` of
    pip is in its text as "pip._internal.commands.install"."""
    if not words or not _BY_NAME.search(text):
        return []
    return list(dict.fromkeys(name for name, last in _QUOTED.findall(text) if last in words))


def _from(source: bytes, what: bytes, package: bytes) -> Iterator[bytes]:
    """The modules that may be meant by ``from source import what``."""
    dots = len(source) - len(source.lstrip(b"."))
    parts = package.split(b".")
    above = b".".join(parts[: max(len(parts) - dots + 1, 0)]) if dots else b""
    module = b".".join(filter(None, (above, source[dots:])))
    yield module
    for each in what.split(b","):
        if each.split() and _WORD.match(each.split()[0]):
            yield b".".join(filter(None, (module, each.split()[0])))
