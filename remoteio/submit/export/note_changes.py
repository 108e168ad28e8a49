"""Notes what the job does to its files, around the operation that does it; what is noted is kept in ``changes``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from remoteio.submit.export.changes import NOWHERE, File, Key, State, state
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.written_files import WrittenFiles, path_of

UNLOCKED = nullcontext()


class ChangeNotes:
    """Notes changes of the files of `inodes` for `record`, the files that the job has written; None: nobody asks.

    What is written through an open file is noted by the operation itself (``files.OpenFiles``): only that knows how
    much of it was done.
    """

    def __init__(self, inodes: Inodes, record: WrittenFiles | None) -> None:
        self._inodes, self._record = inodes, record

    def may_write(self, node: Node) -> None:
        """Note the changes of `node` from now on: its contents will change."""
        if self._record is not None:
            self._record.add(node)

    def changing(self, node: Node | None, size: int | None = None) -> AbstractContextManager[None]:
        """Note that what is done in a ``with`` changes what is known of `node`, and with `size` cuts it to that."""
        if node is None:
            return UNLOCKED
        if size is not None:
            self.may_write(node)
        return UNLOCKED if node.changes is None else self._around(node, size)

    @contextmanager
    def _around(self, node: Node, size: int | None) -> Iterator[None]:
        changes = node.changes
        assert changes is not None
        with changes.lock:
            before = self._state(node)
            try:
                yield
            finally:
                after = self._state(node)
                if before is None or after is None:
                    pass  # what nobody finds by its name is not put back either
                elif size is None:
                    changes.touched(before, after)
                elif after != before:
                    changes.cut(before, after, size)

    def _state(self, node: Node) -> State | None:
        try:
            return state(self._inodes.descriptors.stat(node))
        except OSError:
            return None

    def removed(self, st: os.stat_result | None) -> None:
        """Note that the last name of what `st` describes is gone; None: nothing had it. See also `losing`."""
        if st is None or (st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode)):
            return
        node = self._inodes.known(st)
        if node is not None:
            self._inodes.gone(node)
        self.unnamed(st)

    def unnamed(self, st: os.stat_result | None) -> None:
        """Note that the job has taken the only name of what `st` describes away from it."""
        changes = self._known(st)
        if changes is not None and st is not None and st.st_nlink == 1:
            with changes.lock:
                changes.removed(state(st))

    def losing(self, at: int, name: bytes, st: os.stat_result | None) -> AbstractContextManager[None]:
        """Note that what is done in a ``with`` takes away that name, in the directory `at`, of what `st` describes.

        For what has other names, too, that alone says little: it is the image that knows which of them it has.
        """
        changes = self._known(st)
        if changes is None or st is None or st.st_nlink == 1:
            return UNLOCKED
        return self._losing(changes, at, name, (st.st_dev, st.st_ino))

    @contextmanager
    def _losing(self, changes: File, at: int, name: bytes, key: Key) -> Iterator[None]:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            st = os.fstat(fd)
            yield  # without the lock: a rename has two files, and others may rename them the other way round
            if (st.st_dev, st.st_ino) == key:
                with changes.lock:
                    changes.unlinked(state(st), state(os.fstat(fd)))
        finally:
            os.close(fd)

    def moved(self, old: tuple[Node, bytes], new: tuple[Node, bytes], st: os.stat_result | None) -> None:
        """Note that the job has renamed what `st` describes: if it is a directory, that all below has another name."""
        if self._record is None or st is None or not stat.S_ISDIR(st.st_mode):
            return
        for changes, rest in self._record.moves(*old):
            with changes.lock:
                try:
                    now = state(os.stat(path_of(*new) + rest, follow_symlinks=False))
                except OSError:
                    now = NOWHERE
                changes.unlinked(now, now)

    def _known(self, st: os.stat_result | None) -> File | None:
        return self._record.known(st) if self._record is not None and st is not None else None
