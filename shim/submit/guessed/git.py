"""What git uses: its settings, what it reads of a repository before anything else, and the tree that it compares."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence

from remoteio.submit.export.first_names import Use
from remoteio.submit.export.learned_walks import ATTRIBUTES, use_of
from remoteio.submit.export.seen import LISTED, WHOLE, Found, Seen

_ELSEWHERE = (b"GIT_DIR", b"GIT_WORK_TREE", b"GIT_INDEX_FILE", b"GIT_COMMON_DIR")
_NAMES = (b"commondir", b"packed-refs", b"info/grafts", b"objects/info/alternates", b"objects/pack/multi-pack-index")
_READ = (b"HEAD", b"config", b"index", b"info/exclude")
_LISTED = (b"", b"/refs", b"/refs/heads", b"/refs/tags", b"/refs/remotes", b"/info", b"/objects/info", b"/objects/pack")
_COMPARES = frozenset((b"status", b"diff", b"add", b"commit", b"stash", b"describe"))  # files with the index
_OBJECT = re.compile(rb"([0-9a-f]{2})([0-9a-f]{38}(?:[0-9a-f]{24})?)\n?")
_TREE = re.compile(rb"commit [0-9]+\0tree ([0-9a-f]+)\n")
_LINE, _COMMIT = 4096, 1 << 16  # bytes
_TOLD = 256  # bytes at the beginning of a commit


def is_git(path: bytes) -> bool:
    """Say whether the program of that path is git."""
    return os.path.basename(path) == b"git"


def used(seen: Seen, argv: Sequence[bytes], cwd: bytes, env: Mapping[bytes, bytes]) -> Iterator[Use]:
    """What it uses for these words in that directory."""
    home = env.get(b"HOME", b"/")
    for each in (b"/etc/gitconfig", home + b"/.config/git/config", home + b"/.gitconfig"):
        yield from seen.walk(each, WHOLE)
    directory, command = _asked(argv, cwd)
    if not command or any(name in env for name in _ELSEWHERE):
        return
    top, repository = yield from _found(seen, directory)
    if not repository:
        return
    yield from ((repository + each, LISTED) for each in _LISTED if seen.is_directory(repository + each))
    yield from seen.names(*(repository + b"/" + each for each in _NAMES))
    for each in _READ:
        yield from seen.walk(repository + b"/" + each, WHOLE)
    yield from _head(seen, repository)
    if command in _COMPARES:
        yield top, use_of(ATTRIBUTES)


def _asked(argv: Sequence[bytes], cwd: bytes) -> tuple[bytes, bytes]:
    """The directory in which it is to work, and what it is to do; nothing, where it is told of another repository."""
    at, words = cwd, list(argv[1:])
    while words and words[0].startswith(b"-"):
        word = words.pop(0)
        if word == b"-C" and words:
            at = os.path.join(at, words.pop(0))
        elif word == b"-c" and words:
            words.pop(0)
        elif word.startswith((b"--git-dir", b"--work-tree", b"--bare", b"--namespace")):
            return at, b""
    return at, words[0] if words else b""


def _found(seen: Seen, directory: bytes) -> Generator[Use, None, tuple[bytes, bytes]]:
    """Look for a repository, upwards; return the directory that it is of, and its own; none: there is none such."""
    at = yield from seen.walk(directory)
    while at:
        repository = yield from seen.walk(at + b"/.git")
        if repository:
            return at, repository if seen.is_directory(repository) else b""  # a file leads elsewhere
        at = at.rpartition(b"/")[0]
    return b"", b""


def _head(seen: Seen, repository: bytes) -> Iterator[Use]:
    """What leads to the last commit, it and its tree, where they are not packed."""
    told = seen.content(repository + b"/HEAD", _LINE)
    if told.startswith(b"ref: "):
        name = yield from seen.walk(repository + b"/" + told[5:].strip(), WHOLE)
        told = seen.content(name, _LINE) if name else b""
    commit = yield from _object(seen, repository, told)
    try:
        tree = _TREE.match(zlib.decompressobj().decompress(seen.content(commit, _COMMIT), _TOLD)) if commit else None
    except zlib.error:
        return
    if tree is not None:
        yield from _object(seen, repository, tree[1])


def _object(seen: Seen, repository: bytes, told: bytes) -> Found:
    """Look an object up, and return its path; none, where it is packed."""
    found = _OBJECT.fullmatch(told)
    return (yield from seen.walk(repository + b"/objects/%s/%s" % found.groups(), WHOLE)) if found else b""
