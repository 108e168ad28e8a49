"""Whose file the job is told it is: the true ids where the job's user namespace has them, else the nearest truth.

The kernel refuses to write to a file whose uid or gid has no mapping in the namespace (``HAS_UNMAPPED_ID`` in
fs/namei.c), whatever the mode says. So a file that the user may in fact write is shown as the user's own; the others
keep their true ids, which the job sees as ``nobody``. Permission itself is checked at home, by the real kernel.
"""

from __future__ import annotations

import os


class Ids:
    """The ids of a mount. `uids` and `gids` are the (first, count) ranges its user namespace maps; None: all."""

    __slots__ = ("_gids", "_groups", "_uids", "gid", "uid")

    def __init__(
        self,
        uid: int,
        gid: int,
        groups: frozenset[int],
        uids: list[tuple[int, int]] | None = None,
        gids: list[tuple[int, int]] | None = None,
    ) -> None:
        self.uid, self.gid, self._groups = uid, gid, groups | {gid}
        self._uids, self._gids = uids, gids

    @property
    def true(self) -> bool:
        """Every id is shown as it is."""
        return self._uids is None

    def of(self, st: os.stat_result) -> tuple[int, int]:
        """(uid, gid) to show for the file of `st`."""
        uid, gid = st.st_uid, st.st_gid
        if self._uids is None or self._gids is None or (_within(uid, self._uids) and _within(gid, self._gids)):
            return uid, gid
        mode = st.st_mode
        if uid == self.uid or self.uid == 0 or mode & 0o002 or (mode & 0o020 and gid in self._groups):
            return self.uid, self.gid
        return uid, gid


def _within(value: int, ranges: list[tuple[int, int]]) -> bool:
    return any(first <= value < first + count for first, count in ranges)
