"""How much of this machine's files a job has: as asked for, and as far as the host that it runs on is trusted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shim.submit.shapes import listed, one_of, string, table

# Each has less than those before it.
FULL = "full"  # all files of the user, but rexec's own and ~/.ssh
HOME = "home"  # nor credentials, and what programs here run by themselves is not changed
PROJECT = "project"  # the system's files, to be read; the directory it works in, and what is named
TRUSTS = (FULL, HOME, PROJECT)

_TMP = b"/tmp"
_PATHS = listed(string, 10_000)
SHAPE = table({}, {"trust": one_of(*TRUSTS), "read": _PATHS, "write": _PATHS, "hide": _PATHS})


@dataclass(frozen=True, slots=True)
class Scope:
    """What a job is given. `trust`: one of TRUSTS; the others are absolute paths, of which each is an exception to it.

    read    may be read, and is not changed
    write   may be changed
    hide    is not there
    """

    trust: str = HOME
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()

    def on(self, trust: str | None) -> Scope:
        """The scope of the same job on a host that hosts.toml says so of; None: it says nothing.

        A host that is trusted fully has all, where the job has not asked for less.
        """
        if trust is None or (self.trust == PROJECT and trust != PROJECT):
            return self
        return replace(self, trust=trust)

    def row(self) -> Mapping[str, object]:
        """Write it for a record."""
        return {"trust": self.trust, "read": list(self.read), "write": list(self.write), "hide": list(self.hide)}


@dataclass(frozen=True, slots=True)
class JobRights:
    """What one job has: its scope, and the directories that it has `made` (Confinement.made), which are its own."""

    scope: Scope = field(default_factory=Scope)
    made: dict[tuple[int, int], int] = field(default_factory=dict)


def of_row(row: object) -> Scope:
    """Read what `Scope.row` has made; an older record has nothing. Raises ShapeError."""
    values = SHAPE(row, "its scope")
    paths = (tuple(values.get(name, ())) for name in ("read", "write", "hide"))
    return Scope(values.get("trust", HOME), *paths)


def with_tmp(scope: Scope, scratch: Sequence[bytes], directory: bytes) -> list[bytes]:
    """Add a /tmp of its own to the private space of a job that is shown none of ours, unless it works there."""
    named = (directory, *map(os.fsencode, (*scope.read, *scope.write)), *scratch)
    there = any(path == _TMP or path.startswith(_TMP + b"/") for path in named)
    return [*scratch, _TMP] if scope.trust == PROJECT and not there and os.path.isdir(_TMP) else [*scratch]


def asked(only: bool, read: Sequence[str], write: Sequence[str], hide: Sequence[str]) -> Scope:
    """Make the scope that the options of a command ask for, of paths as from this directory."""
    paths = [tuple(os.path.abspath(os.path.expanduser(path)) for path in given) for given in (read, write, hide)]
    return Scope(PROJECT if only else HOME, *paths)
