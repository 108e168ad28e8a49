"""What a python uses as it starts (PEP 405, site.py), and then for what its words have it run."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence

from remoteio.submit.export.first_names import Use
from remoteio.submit.export.seen import LISTED, WHOLE, Seen
from shim.submit.guessed.libraries import Libraries
from shim.submit.guessed.modules import MOST_TEXT, Modules

_NAME = re.compile(rb".*/python(?:3(?:\.([0-9]{1,2}))?)?$")
_SAID = re.compile(rb"^(home|version|version_info)[ \t]*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_ADDED = re.compile(rb"(?:import|__import__\(['\"])[ \t]*([\w.]+)")
_FROZEN = 11  # the first version that has the modules of its start in itself
_START = tuple(b"io abc site os stat posixpath genericpath _collections_abc _sitebuiltins codecs".split())
_CODECS = (b"encodings", b"encodings.aliases", b"encodings.utf_8")
_MOST_SAID = 4096  # bytes of a small file
_MOST_ADDED = 32  # files of a directory that add to the path
_TAKES_ARGUMENT = (b"-W", b"-X")


def is_python(program: bytes) -> bool:
    """Say whether a path is that of a python 3, as its name goes."""
    return bool(_NAME.match(program))


class Python:
    """Guesses for a python: `program` by its path without links, `called` as it was found."""

    def __init__(
        self, seen: Seen, program: bytes, called: bytes, argv: Sequence[bytes], cwd: bytes, env: Mapping[bytes, bytes]
    ) -> None:
        self._seen, self._program, self._called, self._argv, self._cwd, self._env = (
            seen, program, called, argv, cwd, env
        )  # fmt: skip
        self._environment = b""  # the virtual one (venv), if any

    def start(self, libraries: Libraries) -> Iterator[Use]:
        """What it uses before it begins with what it is to do, and then."""
        said = yield from self._looks()
        name = _NAME.match(self._program)
        told = said.get(b"version", said.get(b"version_info", b"")).split(b".")
        text = name[1] if name and name[1] else told[1] if len(told) > 1 else b""
        if not text.isdigit():
            return
        minor, own = int(text), said.get(b"home", os.path.dirname(self._program))
        modules = Modules(self._seen, libraries, minor, _START if minor >= _FROZEN else (), self._argv[1:])
        yield from self._library(modules, own, b"python3.%d" % minor)
        for each in (*_CODECS, *_START):
            yield from modules.module(each, False)
        if not self._said(b"S"):
            yield from self._site(modules, os.path.dirname(own), b"python3.%d" % minor)
        yield from self._told(modules)

    def _looks(self) -> Generator[Use, None, dict[bytes, bytes]]:
        """Look for a virtual environment; return what its file says."""
        own = os.path.dirname(self._called)
        for place in (own, os.path.dirname(own)):
            found = yield from self._seen.walk(place + b"/pyvenv.cfg", WHOLE)
            if found:
                self._environment = os.path.dirname(found)
                return dict(_SAID.findall(self._seen.content(found, _MOST_SAID)))
        return {}

    def _library(self, modules: Modules, own: bytes, base: bytes) -> Iterator[Use]:
        """What it looks for beside itself to find its library."""
        called, prefix = os.path.basename(self._called), os.path.dirname(own)
        library = prefix + b"/lib/" + base
        if self._environment:
            yield from self._seen.names(own + b"/" + called, own + b"/python3")
        names = (called + b"._pth", base + b"._pth", b"pybuilddir.txt", b"Modules", b"lib")
        yield from self._seen.names(*(own + b"/" + each for each in names))
        yield from self._seen.names(prefix + b"/lib/" + base.replace(b".", b"") + b".zip", library + b"/os.py")
        yield from self._seen.walk(b"/etc/localtime", WHOLE)
        modules.path = [library, library + b"/lib-dynload"]
        for each in modules.path:
            yield from self._seen.walk(each, LISTED)
        machine = next((each for each in self._seen.listed(modules.path[1]) if each.endswith(b".so")), b"")
        modules.extension = machine[machine.find(b".") :] or modules.extension

    def _said(self, letter: bytes) -> bool:
        for word in self._argv[1:]:
            if not word.startswith(b"-") or word.startswith(b"--") or word[:2] in (b"-c", b"-m"):
                return False
            if letter in word[1:]:
                return True
        return False

    def _site(self, modules: Modules, prefix: bytes, base: bytes) -> Iterator[Use]:
        """What site does: it looks for directories of packages, and reads what is to be added to the path."""
        if self._environment:
            places = [self._environment + b"/lib/" + base + b"/site-packages"]
        else:
            home = self._env.get(b"HOME", b"")
            places = [home + b"/.local/lib/" + base + b"/site-packages"] if home.startswith(b"/") else []
            local = b"/usr/local" if prefix == b"/usr" else prefix
            places += [local + b"/lib/" + base + each for each in (b"/dist-packages", b"/site-packages")]
            places.append(prefix + b"/lib/python3/dist-packages")
        for place in places:
            found = yield from self._seen.walk(place, LISTED)
            if found:
                modules.path.append(found)
                yield from self._added(modules, found)
        for each in (b"sitecustomize", b"usercustomize"):
            yield from modules.module(each)

    def _added(self, modules: Modules, place: bytes) -> Iterator[Use]:
        found = sorted(name for name in self._seen.listed(place) if name.endswith(b".pth"))
        for name in found[:_MOST_ADDED]:
            yield place + b"/" + name, WHOLE
            for line in self._seen.content(place + b"/" + name, _MOST_SAID).splitlines():
                if line.startswith((b"import ", b"import\t")):
                    for word in _ADDED.findall(line):
                        yield from modules.module(word)

    def _told(self, modules: Modules) -> Iterator[Use]:
        """What its words have it run."""
        words = list(self._argv[1:])
        while words:
            word = words.pop(0)
            if word in _TAKES_ARGUMENT:
                words = words[1:]
            elif word.startswith(b"-") and not word.startswith(b"--") and word != b"-":
                what = next((each for each in (b"c", b"m") if each in word[1:]), b"")
                if not what:
                    continue
                rest = word.partition(what)[2] or b"".join(words[:1])
                if what == b"c":
                    yield from modules.imports(rest)
                else:
                    modules.own = rest.partition(b".")[0] + b"."
                    yield from modules.module(rest)
                    yield from modules.module(rest + b".__main__")
                return
            else:
                at = yield from self._seen.walk(os.path.join(self._cwd, word), WHOLE)
                if at:
                    modules.path.insert(0, os.path.dirname(at))
                    yield from modules.imports(self._seen.content(at, MOST_TEXT))
                return
