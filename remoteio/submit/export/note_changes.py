"""Notes what the job does to its files, around the operation that does it; what is noted is kept in ``changes``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from remoteio.submit.export.changes import NOWHERE, File, Key, state
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.nodes import Node, Place
from remoteio.submit.export.written_files import WrittenFiles, path_of

TYPE_CHECKING = False  # only a job of which images are made has a journal, and each run would wait for its modules
if TYPE_CHECKING:
    from remoteio.submit.undo.watch import FileWatch, Watch

UNLOCKED = nullcontext()


class ChangeNotes:
    """Notes changes of the files of `inodes` for `record`, the files that the job has written; None: nobody asks.

    What is written through an open file is noted by the operation itself (``files.OpenFiles``): only that knows how
    much of it was done.
    """

    def __init__(self, inodes: Inodes, record: WrittenFiles | None) -> None:
        self._inodes, self._record = inodes, record
        self.watch = record.watch if record is not None else None
        if self.watch is not None:
            self.watch.namers.add(self)

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
            was = self._stat(node)
            before = state(was) if was is not None else None
            if changes.watch is not None and was is not None and size is not None and stat.S_ISREG(was.st_mode):
                self._cuts(changes.watch, node, was, size)
            try:
                yield
            finally:
                now = self._stat(node)
                after = state(now) if now is not None else None
                if changes.watch is not None and now is not None:
                    changes.watch.after(now)
                if before is None or after is None:
                    pass  # what nobody finds by its name is not put back either
                elif size is None:
                    changes.touched(before, after)
                elif after != before:
                    changes.cut(before, after, size)

    def _stat(self, node: Node) -> os.stat_result | None:
        try:
            return self._inodes.descriptors.stat(node)
        except OSError:
            return None

    def _cuts(self, watch: FileWatch, node: Node, was: os.stat_result, size: int) -> None:
        """Keep what of the file is cut off as it gets that size."""
        try:
            fd = self._inodes.descriptors.reopen(node, os.O_PATH)
        except OSError:
            return  # it cannot be cut either
        try:
            watch.before(fd, was, min(size, was.st_size), was.st_size, size)
        finally:
            os.close(fd)

    def attributes(self, node: Node, name: bytes | None = None) -> AbstractContextManager[None]:
        """Note that what is done in a ``with`` changes what is known of `node`, or its extended attribute `name`."""
        return UNLOCKED if self.watch is None else self._attributes(self.watch, node, name)

    @contextmanager
    def _attributes(self, watch: Watch, node: Node, name: bytes | None) -> Iterator[None]:
        fd = self._inodes.descriptors.reopen(node, os.O_PATH)
        try:
            watch.attributes(fd, name)
            yield
            watch.changed(os.fstat(fd))
        finally:
            os.close(fd)

    @contextmanager
    def making(self, place: Place, new: bool) -> Iterator[None]:
        """Note that what is done in a ``with`` gives that name, to something `new` or to what has another."""
        slot = self.watch.makes(place.at, place.name, new) if self.watch is not None else -1
        yield
        if self.watch is not None and slot >= 0:
            self.watch.made(slot, place.at, place.name, new)

    @contextmanager
    def removing(self, at: int, name: bytes, st: os.stat_result) -> Iterator[None]:
        """Note that what is done in a ``with`` removes that name, in the directory `at`, of what `st` describes."""
        number = 0 if self.watch is None else self._removes(self.watch, at, name, st)
        try:
            yield
        except OSError:
            if self.watch is not None:
                self.watch.void(number)
            raise

    def _removes(self, watch: Watch, at: int, name: bytes, st: os.stat_result) -> int:
        node = self._inodes.known(st)
        if node is None or not node.handles:
            return watch.removes(at, name, st, False, b"")
        return watch.removes(at, name, st, True, self.named(st, (at, name)) if st.st_nlink > 1 else b"")

    def named(self, st: os.stat_result, but: tuple[int, bytes] | None = None) -> bytes:
        """Find a path that leads to what `st` describes, `but` that name in that directory; b"": none is known."""
        from remoteio.submit.undo.watch import path_in

        node = self._inodes.known(st)
        for parent, name in node.names() if node is not None else ():
            try:
                directory = self._inodes.descriptors.directory(parent)
                there = os.stat(name, dir_fd=directory, follow_symlinks=False)
                own = but is not None and name == but[1] and os.path.samestat(os.fstat(directory), os.fstat(but[0]))
            except OSError:
                continue
            if os.path.samestat(there, st) and not own:
                return path_in(directory, name)
        return b""

    @contextmanager
    def renaming(
        self, old: Place, new: Place, st: os.stat_result | None, replaced: os.stat_result | None, exchange: bool
    ) -> Iterator[None]:
        """Note that what is done in a ``with`` renames what `st` describes, in place of what `replaced` does."""
        numbers = []
        if self.watch is not None and st is not None:
            same = replaced is not None and (st.st_dev, st.st_ino) == (replaced.st_dev, replaced.st_ino)
            if replaced is not None and not exchange and not same:
                numbers.append(self._removes(self.watch, new.at, new.name, replaced))
            other = replaced.st_ino if replaced is not None and exchange else 0
            if not same:  # else rename(2) does nothing
                numbers.append(self.watch.moves((old.at, old.name), (new.at, new.name), st, other))
        try:
            yield
        except OSError:
            if self.watch is not None:
                self.watch.void(*numbers)
            raise

    def removed(self, st: os.stat_result | None) -> None:
        """Note that the last name of what `st` describes is gone; None: nothing had it. See also `losing`."""
        if self.watch is not None:
            self.watch.removed(st)
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
