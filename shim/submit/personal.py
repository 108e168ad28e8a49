"""Finds what the rules of ``kept_places`` are about on this machine, for what is not told by its name alone.

A start-up file may be a symbolic link into a directory of dotfiles; a directory with keys may be mounted at a second
place, and a file may have a second name.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from remoteio.submit.export.confine import FREE, HIDDEN, READ, Key, Rights
from remoteio.submit.export.rights import Rule, RuleSet
from shim.submit import kept_places

# What --only leaves of the system, to be read: who may read them at all is the kernel's affair.
SYSTEM = (
    b"/usr", b"/bin", b"/sbin", b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/etc", b"/opt", b"/nix/store",
    b"/gnu/store", b"/snap", b"/var/lib/snapd", b"/run/systemd/resolve", b"/run/resolvconf", b"/run/current-system",
    b"/var/cache/fontconfig", b"/var/lib/dpkg", b"/proc", b"/sys", b"/dev",
)  # fmt: skip
_MOST = 200  # entries of what is kept that are looked at for links, and how far down
_DEPTH = 3


def homes() -> tuple[bytes, ...]:
    """This user's home directories, by passwd(5) and by $HOME, without links."""
    found = [os.environb.get(b"HOME", b"")]
    with suppress(KeyError):  # this user has no entry in passwd(5)
        found.append(os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir))
    real = (os.path.realpath(path) for path in found if path.startswith(b"/"))
    return tuple(dict.fromkeys(path for path in real if path != b"/"))


def prepare() -> None:
    """Make what `look` goes by, while there is something else to wait for."""
    ruled(homes())


class Found(NamedTuple):
    """What was found.

    places  directories by number, and the path whose rights they have
    led_to  what symbolic links lead to: path, level, name of the rule
    trees   (path, level) of what may have files with further names
    """

    places: list[tuple[Key, bytes]]
    led_to: list[tuple[bytes, int, str]]
    trees: list[tuple[str, int]]


def rules(homes: tuple[bytes, ...]) -> tuple[Rule, ...]:
    """All rules of `kept_places`, for a user with these home directories."""
    return (
        *(rule for home in homes for rule in kept_places.at_home(home)),
        *kept_places.anywhere(),
        *kept_places.elsewhere(),
    )


@cache
def ruled(homes: tuple[bytes, ...]) -> RuleSet:
    """Make of these rules what tells the rights of names."""
    return RuleSet(rules(homes))


def look(homes: tuple[bytes, ...]) -> Found:
    """Look through the home directories."""
    found, top = Found([], [], []), ruled(homes).top
    for home in homes:
        rights = top
        for word in home.strip(b"/").split(b"/"):
            rights = rights.child(word)
        for path, each, entry in _entries(home, rights, [_MOST], 0):
            _take(found, path, each, entry, home)
    return found


def _entries(
    directory: bytes, rights: Rights, room: list[int], depth: int
) -> Iterator[tuple[bytes, Rights, os.DirEntry[bytes]]]:
    """What is in the directory and concerned by a rule, and of what is kept the first things that are in that."""
    try:
        with os.scandir(directory) as listing:
            entries = list(listing)
    except OSError:
        return  # there is none, or this user may not look: nor may the job
    for entry in entries:
        each = rights.child(entry.name)
        if each.level == FREE:
            continue
        yield entry.path, each, entry
        within = depth + (each.level <= READ)
        if within > 1:
            room[0] -= 1
        if within <= _DEPTH and room[0] > 0 and entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path, each, room if within > 1 else [_MOST], within)


def _take(found: Found, path: bytes, rights: Rights, entry: os.DirEntry[bytes], home: bytes) -> None:
    name = rights.rule.name if rights.rule is not None else ""
    try:
        st = entry.stat(follow_symlinks=True) if entry.is_symlink() else entry.stat(follow_symlinks=False)
    except OSError:
        return  # it leads to nothing, or is gone
    key = st.st_dev, st.st_ino
    if entry.is_symlink():
        target = os.path.realpath(path)
        if (home + b"/").startswith(target.rstrip(b"/") + b"/"):
            return  # it leads to a directory that the home is in
        if stat.S_ISDIR(st.st_mode):
            found.places.append((key, path))
        elif rights.level in (HIDDEN, READ):
            found.led_to.append((target, rights.level, name))
            found.trees.append((os.fsdecode(target), rights.level))
    elif rights.level == HIDDEN and stat.S_ISDIR(st.st_mode):
        found.places.append((key, path))
        found.trees.append((os.fsdecode(path), HIDDEN))
    elif st.st_nlink > 1 and stat.S_ISREG(st.st_mode) and rights.level in (HIDDEN, READ):
        found.trees.append((os.fsdecode(path), rights.level))
