"""What of this machine no job is shown, or may change: what ssh and rexec itself act on, and the code that they run.

A host that could change it would run programs here by itself, at the next connection (docs/security.md).
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from glob import glob
from importlib import import_module
from pathlib import Path

from checkpoint.submit import xdg
from remoteio.submit import programs
from remoteio.submit.export.confine import EMPTY, FIXED, FREE, HIDDEN, READ, Confinement, Key, Mark
from remoteio.submit.export.rights import ALWAYS, DENIAL, GRANT, RULE, Rule
from shim.submit import personal
from shim.submit.hosts import config
from shim.submit.scope import FULL, PROJECT, JobRights, Scope

_PACKAGES = ("remoteio", "checkpoint", "shim")
OWN, PROGRAM, ONLY = "rexec's and ssh's own", "rexec's program", "--only"
_LINKS = 40  # of one path: path_resolution(7)


def confinement(rights: JobRights | None = None, directory: bytes = b"", scratch: Iterable[bytes] = ()) -> Confinement:
    """Return the rights of a job, by where things are now.

    `rights`: its own; None: those of any. `directory`: where it works. `scratch`: where it has private space, which
    its kernel mounts there.
    """
    rights = rights or JobRights()
    scope = rights.scope
    settings, code = tuple(_settings()), program()
    marks = [Mark(b"/dev", EMPTY, None), *_own(settings, code), *_options(scope)]  # the job's kernel has its own /dev
    trees = [(str(path), HIDDEN) for path in settings] + [(str(path), READ) for path in code]
    rules: tuple[Rule, ...] = ()
    found = personal.Found([], [], [])
    if scope.trust != FULL:
        homes = personal.homes()
        rules, found = personal.rules(homes), personal.look(homes)
        trees += found.trees
        for target, level, name in found.led_to:
            marks += _way(target, level, name, RULE)
    within: tuple[int, Rule | None] = (FREE, None)
    if scope.trust == PROJECT:
        within = (HIDDEN, Rule((), HIDDEN, ONLY, RULE))
        for level, places in ((EMPTY, scratch), (READ, personal.SYSTEM), (FREE, (directory or b"/",))):
            for place in places:
                marks += _granted(place, level, GRANT, ONLY)
    linked = tuple(trees)
    return Confinement(marks, lambda: _linked(linked), _devices(linked), rules, within, rights.made, found.places)


def _own(settings: Iterable[Path], code: Iterable[Path]) -> Iterator[Mark]:
    kept = _those_known(xdg.state, xdg.cache, lambda: xdg.data() / "criu")
    for path in (*settings, *kept, *_led_to(settings)):
        yield from _way(os.fsencode(path), HIDDEN, OWN)
    for path in code:
        yield from _way(os.fsencode(path), READ, PROGRAM)


def _options(scope: Scope) -> Iterator[Mark]:
    for option, level, kind, named in (
        ("--read", READ, GRANT, scope.read),
        ("--write", FREE, GRANT, scope.write),
        ("--hide", HIDDEN, DENIAL, scope.hide),
    ):
        for each in named:
            yield from _granted(os.fsencode(each), level, kind, f"{option} {each}")


def _settings() -> Iterator[Path]:
    """The directories that are read at each connection: ssh's, which goes by passwd(5), and rexec's own."""
    yield from _those_known(lambda: Path(pwd.getpwuid(os.geteuid()).pw_dir, ".ssh"), lambda: Path.home() / ".ssh")
    for file in (config.hosts_file(os.environ), config.hosts_file({})):
        if file.is_absolute():
            yield file.parent


def _those_known(*places: Callable[[], Path]) -> Iterator[Path]:
    for place in places:
        try:
            yield place()
        except (KeyError, RuntimeError):
            continue  # this user has no entry in passwd(5), or no home


@cache
def program() -> tuple[Path, ...]:
    """List the files and directories whose code runs here, or is sent to hosts, as they were when this process started.

    The packages, and where they are installed: a virtual environment's programs and libraries, or the directory of
    libraries; the Python beneath, and ssh, where they are the user's own.
    """
    found = [Path(directory) for name in _PACKAGES for directory in import_module(name).__path__]
    found += [path for path in map(Path, _libraries()) if path.is_dir()]
    script = Path(sys.argv[0])
    if script.is_file():
        found.append(script.absolute())
    if sys.prefix != sys.base_prefix:
        found += [Path(sys.prefix, "bin"), Path(sys.prefix, "pyvenv.cfg")]
    standard = _standard()
    tools = [programs.find("ssh") or "", programs.find("setpriv") or ""]
    base = [sys.executable, *standard, *glob(sys.base_prefix + "/lib/libpython*"), *tools]
    found += [path for path in map(Path, filter(None, base)) if _users_own(path)]
    if _users_own(Path(standard[0])):  # Python looks there first, and it need not be there
        found += [Path(path) for path in sys.path if path.endswith(".zip")]
    return tuple(dict.fromkeys(found))


def _libraries() -> list[str]:
    """The directories that hold what rexec imports beside the standard library."""
    import click

    ours = {os.path.dirname(os.path.dirname(os.path.abspath(click.__file__)))}
    named = (path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages"))
    ours |= {path for path in named if _users_own(Path(path))}
    return sorted(ours)


def _standard() -> list[str]:
    """The directories of the standard library: what is not to be had from `os` and `sys` takes 10 ms."""
    base = os.path.dirname(os.path.abspath(os.__file__))
    return [base, *(path for path in sys.path if os.path.basename(path) == "lib-dynload")]


def _users_own(path: Path) -> bool:
    """Is it an ordinary user's own? What is root's, no job of such a user changes; and root's jobs may change all."""
    try:
        return path.stat().st_uid == os.geteuid() != 0
    except OSError:
        return False  # it is not there


def import_only_ours() -> None:
    """Import nothing any more from a directory of PYTHONPATH that this user, and so a job, may write to.

    One that is first imported later would be the host's.
    """
    for name in _PACKAGES:
        import_module(name)
    given = os.environ.get("PYTHONPATH")
    if not given:
        return
    named = {os.path.abspath(path) for path in given.split(":")}
    named = {path for path in named if os.access(path, os.W_OK)} - {*_libraries(), *_standard()}
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) not in named]


def _led_to(directories: Iterable[Path]) -> Iterator[Path]:
    """The symbolic links in `directories`: a configuration may be kept elsewhere, with other people's dotfiles."""
    for directory in directories:
        for above, names, files in os.walk(directory):
            yield from (path for name in (*names, *files) if (path := Path(above, name)).is_symlink())


def _granted(path: bytes, level: int, kind: int, name: str) -> Iterator[Mark]:
    """What `path` leads to, and the symbolic links on the way."""
    for mark in _way(os.path.abspath(path), level, name, kind):
        if mark.level == level:
            yield mark._replace(key=mark.key if kind == DENIAL else None)
        elif mark.key is not None and stat.S_ISLNK(os.lstat(mark.path).st_mode):
            yield Mark(mark.path, READ, None, name, GRANT)


def _way(path: bytes, level: int, name: str, kind: int = ALWAYS) -> Iterator[Mark]:
    """`path`, and every directory and symbolic link on the way to what it leads to."""
    at, todo, links = b"/", [name for name in path.split(b"/") if name], 0
    while todo:
        word = todo.pop(0)
        if word in (b"", b"."):
            continue
        if word == b"..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, word)
        try:
            st = os.lstat(here)
        except OSError:
            yield Mark(here, FIXED if todo else level, None, name, kind)
            at = here
            continue
        yield Mark(here, FIXED if todo else level, (st.st_dev, st.st_ino), name, kind)
        if stat.S_ISLNK(st.st_mode) and links < _LINKS:
            links += 1
            target = os.readlink(here)
            at = b"/" if target.startswith(b"/") else at
            todo = [word for word in target.split(b"/") if word] + todo
        else:
            at = here


def _devices(trees: Iterable[tuple[str, int]]) -> frozenset[int]:
    return frozenset(os.stat(path).st_dev for path, _ in trees if os.path.exists(path))


@cache
def _linked(trees: tuple[tuple[str, int], ...]) -> Mapping[Key, int]:
    """The regular files of `trees` that have further names, as an installer gives them which links from its cache."""
    found: dict[Key, int] = {}
    for top, level in trees:
        alone: list[tuple[str, list[str], list[str]]] = [(os.path.dirname(top), [], [os.path.basename(top)])]
        for above, _, names in os.walk(top) if os.path.isdir(top) else alone:
            for name in names:
                try:
                    st = os.lstat(os.path.join(above, name))
                except FileNotFoundError:
                    continue  # it has just been removed
                if st.st_nlink > 1 and stat.S_ISREG(st.st_mode):
                    found[st.st_dev, st.st_ino] = min(level, found.get((st.st_dev, st.st_ino), FREE))
    return found
