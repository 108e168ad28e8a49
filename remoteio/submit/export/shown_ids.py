"""Whose file the job is told it is: the true ids where the job's user namespace has them, else the nearest truth.

The kernel refuses to write to a file whose uid or gid has no mapping in the namespace (``HAS_UNMAPPED_ID`` in
fs/namei.c), whatever the mode says. So a file that the user may in fact write is shown as the user's own, and so is one
of root's: many a program takes a file that is its user's or root's, and nobody else's (ssh its configuration, Perl's
File::Temp a directory). The others keep their true ids, which the job sees as ``nobody``. Permission itself is checked
at home, by the real kernel.
"""

from __future__ import annotations

import os

_NOBODY = 65534


class ShownIds:
    """Translates the ids of a mount.

    `uids`, `gids`: the (first, count) ranges that its user namespace maps; None: all.

    `shown`: the (uid, gid) under which the job sees its user's own, if they are others: one that goes on from an image
    of a rexec that made it uid 0 in name. No other id is mapped then.
    """

    __slots__ = ("_gids", "_groups", "_shown", "_uids", "gid", "uid")

    def __init__(
        self,
        uid: int,
        gid: int,
        groups: frozenset[int],
        uids: list[tuple[int, int]] | None = None,
        gids: list[tuple[int, int]] | None = None,
        shown: tuple[int, int] | None = None,
    ) -> None:
        self._shown = shown
        self.uid, self.gid, self._groups = uid, gid, groups | {gid}
        self._uids, self._gids = uids, gids

    @property
    def true(self) -> bool:
        """Every id is shown as it is."""
        return self._uids is None

    @property
    def plain(self) -> bool:
        """No id is shown as another one: ``of`` need not be asked."""
        return self._uids is None and self._shown is None

    def of(self, st: os.stat_result) -> tuple[int, int]:
        """Return (uid, gid) to show for the file of `st`."""
        uid, gid = st.st_uid, st.st_gid
        if self._shown is not None:
            # every other id is one that the namespace does not have, whatever its number
            return self._shown if self._own(st) else (_NOBODY, _NOBODY)
        if self._uids is None or self._gids is None or (_within(uid, self._uids) and _within(gid, self._gids)):
            return uid, gid
        return (self.uid, self.gid) if self._own(st) else (uid, gid)

    def _own(self, st: os.stat_result) -> bool:
        mode = st.st_mode
        mine = st.st_uid in (self.uid, 0) or self.uid == 0
        return mine or bool(mode & 0o002) or bool(mode & 0o020 and st.st_gid in self._groups)

    def given(self, uid: int, gid: int) -> tuple[int, int]:
        """Return the true ids for those the job names, as in chown(2); -1 stays."""
        if self._shown is None:
            return uid, gid
        return self.uid if uid == self._shown[0] else uid, self.gid if gid == self._shown[1] else gid


def _within(value: int, ranges: list[tuple[int, int]]) -> bool:
    return any(first <= value < first + count for first, count in ranges)
