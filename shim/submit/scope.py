"""How much of this machine's files a job has: as asked for, and as far as the host that it runs on is trusted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from shim.submit.shapes import NATURAL, listed, maybe, one_of, string, table, whole

if TYPE_CHECKING:
    from remoteio.submit.export.added import Added
    from remoteio.submit.export.room import Room

# Each has less than those before it.
FULL = "full"  # all files of the user, but rexec's own and ~/.ssh
HOME = "home"  # nor credentials, and what programs here run by themselves is not changed
PROJECT = "project"  # the system's files, to be read; the directory it works in, and what is named
TRUSTS = (FULL, HOME, PROJECT)

ALL = NATURAL  # bytes: `--disk all`

_TMP = b"/tmp"
_PATHS = listed(string, 10_000)
SHAPE = table(
    {}, {"trust": one_of(*TRUSTS), "read": _PATHS, "write": _PATHS, "hide": _PATHS, "disk": maybe(whole())}
)  # fmt: skip


class Scope(NamedTuple):
    """What a job is given. `trust`: one of TRUSTS; the others are absolute paths, of which each is an exception to it.

    read    may be read, and is not changed
    write   may be changed
    hide    is not there

    `disk`: bytes that it may add; ALL: as many as there is room for; None: nothing is said.
    """

    trust: str = HOME
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    disk: int | None = None

    def on(self, trust: str | None, disk: int | None = None) -> Scope:
        """The scope of the same job on a host that hosts.toml says so of; None: it says nothing.

        A host that is trusted fully has all, where the job has not asked for less; of two limits the smaller counts.
        """
        limit = min((each for each in (self.disk, disk) if each is not None), default=None)
        if trust is None or (self.trust == PROJECT and trust != PROJECT):
            trust = self.trust
        return self._replace(trust=trust, disk=limit)

    def row(self) -> Mapping[str, object]:
        """Write it for a record."""
        paths = {"read": list(self.read), "write": list(self.write), "hide": list(self.hide)}
        return {"trust": self.trust, **paths, "disk": self.disk}


_NOTHING_SAID = Scope()


class JobRights:
    """What one job has: its scope, and the directories that it has `made` (Confinement.made), which are its own.

    `added`: what it has added so far, wherever it ran; None: nothing yet. `sync`: it waits until each change is made.
    """

    __slots__ = ("added", "made", "scope", "sync")

    def __init__(
        self, scope: Scope = _NOTHING_SAID, made: dict[tuple[int, int], int] | None = None, added: Added | None = None,
        *, sync: bool = False,
    ) -> None:  # fmt: skip
        self.scope, self.made, self.added, self.sync = scope, {} if made is None else made, added, sync

    def room(self) -> Room | None:
        """Tell how much it may add to the files here; None: all that there is room for."""
        from remoteio.submit.export.added import Added
        from remoteio.submit.export.rights import FREE, Rule
        from remoteio.submit.export.room import Quota, Reserve  # each command reads this module, few this one
        from shim.submit.units import size

        if self.scope.disk is None:
            return None if self.scope.trust == FULL else Reserve()
        if self.scope.disk == ALL:
            return None
        rule = Rule((), FREE, f"adding more than {size(self.scope.disk)} to the files here")
        return Quota(self.scope.disk, self.added or Added(), rule)


def of_row(row: object) -> Scope:
    """Read what `Scope.row` has made; an older record has nothing. Raises ShapeError."""
    values = SHAPE(row, "its scope")
    read, write, hide = (tuple(values.get(name, ())) for name in ("read", "write", "hide"))
    return Scope(values.get("trust", HOME), read, write, hide, values.get("disk"))


def with_tmp(scope: Scope, scratch: Sequence[bytes], directory: bytes) -> list[bytes]:
    """Add a /tmp of its own to the private space of a job that is shown none of ours, unless it works there."""
    named = (directory, *map(os.fsencode, (*scope.read, *scope.write)), *scratch)
    there = any(path == _TMP or path.startswith(_TMP + b"/") for path in named)
    return [*scratch, _TMP] if scope.trust == PROJECT and not there and os.path.isdir(_TMP) else [*scratch]


def asked(
    only: bool, read: Sequence[str], write: Sequence[str], hide: Sequence[str], disk: str | int | None = None
) -> Scope:
    """Make the scope that the options of a command ask for, of paths as from this directory. Raises PolicyError."""
    paths = [tuple(os.path.abspath(os.path.expanduser(path)) for path in given) for given in (read, write, hide)]
    limit = None if disk is None else parse_disk(disk, "--disk")
    return Scope(PROJECT if only else HOME, paths[0], paths[1], paths[2], limit)


def parse_disk(text: object, key: str) -> int:
    """Read how much may be added, a size or "all". Raises PolicyError, which names `key`."""
    from shim.wire.owner_policy import parse_size  # few commands have to do with it

    return ALL if text == "all" else min(parse_size(text, key), ALL)
