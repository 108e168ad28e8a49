"""Explains what a job may do with one path of this machine: by a look as the export takes it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from remoteio.submit.export.confine import EMPTY, FIXED, FREE, HIDDEN, KEPT, READ, Rights
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.rights import LEVELS, Rule
from shim.submit import protect, refused
from shim.submit.scope import JobRights, Scope

_MAY = {
    HIDDEN: "does not see {path}, and makes nothing of that name",
    EMPTY: "sees of {path} only what leads to what it may have",
    READ: "reads {path}, and changes nothing of it",
    FIXED: "changes what is in {path}, and neither moves nor removes it",
    KEPT: "changes {path} where it is, and does not make it",
    FREE: "may do to {path} what you may",
}


@dataclass(frozen=True, slots=True)
class Access:
    """What a job on `host` may do with `path`: `level`, one of LEVELS; `rule`, which says so; None: none does."""

    host: str
    trust: str
    path: str
    level: int
    rule: Rule | None
    read: bool
    write: bool
    there: bool

    def sentence(self) -> str:
        """Say it."""
        text = f"a job on {self.host} (trust: {self.trust}) {_MAY[self.level].format(path=self.path)}"
        if self.rule is None:
            own = [word for word, may in (("read", self.read), ("change", self.write)) if not may and self.there]
            return text + (f": the kernel here lets you not {' or '.join(own)} it" if own else ": no rule is about it")
        text += f": rule “{self.rule.name}”, {refused.pattern(self.rule)}"
        option = self.option
        return text + (f"; {option} is how to let it" if option else "; nothing lets it" if self.level < FIXED else "")

    @property
    def option(self) -> str:
        """The option of a run that would change this; "": there is none."""
        if self.rule is None or self.level >= FIXED:
            return ""
        return refused.option(self.rule, os.fsencode(self.path), self.level == HIDDEN)

    def row(self) -> dict[str, object]:
        """Write it as --json has it."""
        rule = None if self.rule is None else {"name": self.rule.name, "pattern": refused.pattern(self.rule)}
        return {
            "host": self.host, "trust": self.trust, "path": self.path, "level": LEVELS[self.level], "rule": rule,
            "sees": self.level > HIDDEN, "reads": self.level > EMPTY and self.read,
            "changes": self.level > READ and self.write, "option": self.option,
        }  # fmt: skip


def look(host: str, trust: str | None, path: str) -> Access:
    """Find out what a job that asks for nothing may do with `path` on a host of that trust."""
    scope = Scope().on(trust)
    real = os.path.join(
        os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(os.path.abspath(path))
    )
    rights, leads = _rights(os.fsencode(real), scope)
    level = rights.of(leads)
    return Access(
        host, scope.trust, real, level, rights.rule if level < FREE else None,
        os.access(real, os.R_OK), os.access(real, os.W_OK), os.path.lexists(real),
    )  # fmt: skip


def _rights(path: bytes, scope: Scope) -> tuple[Rights, bool]:
    """Its rights; and whether it is a directory or a symbolic link, or is not there."""
    inodes = Inodes(confinement=protect.confinement(JobRights(scope), os.fsencode(os.getcwd())))
    node, rights, leads = inodes.top, inodes.top.rights, True
    try:
        names = [name for name in path.split(b"/") if name]
        for k, name in enumerate(names):
            try:
                st = os.stat(name, dir_fd=inodes.descriptors.directory(node), follow_symlinks=False)
            except OSError:
                for rest in names[k:]:
                    rights = rights.child(rest)
                return rights, True
            rights, leads = inodes.allowed.rights(node, name, st), stat.S_ISDIR(st.st_mode) or stat.S_ISLNK(st.st_mode)
            if rights.level == HIDDEN:
                return rights, leads
            node = inodes.found(node, name, st)
        return rights, leads
    finally:
        inodes.close_all()
