"""What of this machine no job is shown, or may change: what ssh and rexec itself act on, and the code that they run.

A host that could change it would run programs here by itself, at the next connection (docs/security.md).
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from checkpoint.submit import xdg
from remoteio import syscalls
from remoteio.submit.export.confine import EMPTY, FIXED, FREE, HIDDEN, READ, Confinement, Key, Mark
from remoteio.submit.export.rights import ALWAYS, DENIAL, GRANT, RULE, Rule
from remoteio.submit.sandbox import landlock
from shim.submit import own_code, personal
from shim.submit.hosts import config
from shim.submit.scope import FULL, PROJECT, JobRights, Scope

OWN, PROGRAM, ONLY = "rexec's and ssh's own", "rexec's program", "--only"
_LINKS = 40  # of one path: path_resolution(7)
_OF_ITSELF = frozenset((0xEF53, 0x58465342, 0x01021994))  # f_type of ext2 to ext4, xfs, tmpfs: linux/magic.h


def confinement(rights: JobRights | None = None, directory: bytes = b"", scratch: Iterable[bytes] = ()) -> Confinement:
    """Return the rights of a job, by where things are now.

    `rights`: its own; None: those of any. `directory`: where it works. `scratch`: where it has private space, which
    its kernel mounts there.
    """
    rights = rights or JobRights()
    scope = rights.scope
    settings, code = tuple(_settings()), own_code.program()
    marks = [Mark(b"/dev", EMPTY, None), *_own(settings, code), *_options(scope)]  # the job's kernel has its own /dev
    trees = [(str(path), HIDDEN) for path in settings] + [(str(path), READ) for path in code]
    rules = None
    found = personal.Found([], [], [])
    if scope.trust != FULL:
        homes = personal.homes()
        rules, found = personal.ruled(homes), personal.look(homes)
        trees += found.trees
        for target, level, name in found.led_to:
            marks += _way(target, level, name, RULE)
    within: tuple[int, Rule | None] = (FREE, None)
    if scope.trust == PROJECT:
        within = (HIDDEN, Rule((), HIDDEN, ONLY, RULE))
        for level, places in ((EMPTY, scratch), (READ, personal.SYSTEM), (FREE, (directory or b"/",))):
            for place in places:
                marks += _granted(place, level, GRANT, ONLY)

    def linked(level: int) -> frozenset[Key]:
        return _files(tuple(dict.fromkeys(path for path, each in trees if each == level)))

    return Confinement(marks, linked, _devices(trees), rules, within, rights.made, found.places)


def writable(scope: Scope, directory: bytes) -> list[bytes]:
    """List directories beneath which all is that what serves a job may have to change, as they are now.

    Of trust "project": where the job works and what it may write; of what is no directory, the one that it is in. Also
    where rexec keeps images and the job's streams.
    """
    if scope.trust != PROJECT:
        return landlock.everywhere()
    found = {os.path.realpath(place) for place in (directory or b"/", *map(os.fsencode, scope.write))}
    trees = {_directory(path) for path in found}
    if b"/" in trees:
        return landlock.everywhere()
    own = _those_known(xdg.state, xdg.data, xdg.cache)
    return sorted({*trees, *(os.path.realpath(os.fsencode(path)) for path in own)})


def _directory(path: bytes) -> bytes:
    """The path, or the first directory above it that there is."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


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
def _files(trees: tuple[str, ...]) -> frozenset[Key]:
    """The regular files of `trees` that may have further names, as an installer gives them which links from its cache.

    A listing has the very numbers that stat(2) tells where a filesystem is not made of others: each file is asked for
    its own only there.
    """
    found, todo = set[Key](), list(trees)
    while todo:
        path = todo.pop()
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # there is none, or this user may not look: nor may the job
        try:
            st = os.fstat(fd)
            if not stat.S_ISDIR(st.st_mode):
                found.add((st.st_dev, st.st_ino))
                continue
            listed = syscalls.fstatfs(fd)[0] in _OF_ITSELF
            with os.scandir(fd) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(f"{path}/{entry.name}")
                    elif listed:
                        found.add((st.st_dev, entry.inode()))
                    else:
                        with suppress(FileNotFoundError):  # it has just been removed
                            each = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
                            found.add((each.st_dev, each.st_ino))
        finally:
            os.close(fd)
    return frozenset(found)
