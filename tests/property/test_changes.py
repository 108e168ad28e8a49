"""Whatever a job and others do to a file, in whatever order: going on from an image loses no byte that others wrote."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.wire.manifest import WrittenFile
from remoteio.submit.export.changes import Changes, state
from shim.submit.job import file_rollback

OWN, OTHERS, BEFORE = b"o", b"x", b"b"
step = st.tuples(
    st.sampled_from(["own", "others"]),
    st.sampled_from(["append", "append", "write", "truncate"]),
    st.integers(0, 30),
    st.integers(1, 8),
)


class Model:
    """A file of which each byte says who wrote it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(BEFORE * 10)
        self.fd = os.open(path, os.O_RDWR)
        self.now = os.fstat(self.fd)
        self.image = WrittenFile(os.fspath(path), 10, self.now.st_mtime_ns, self.now.st_ino)
        self.changes = Changes()
        self.key = (self.now.st_dev, self.now.st_ino)
        self.changes.begin(1, {self.key: os.fspath(path)})
        self.first: bytes | None = None  # the contents before the job's first change
        self.mixed = False  # others changed it after that
        self.lowest = 1 << 60  # the first byte that the job overwrote or cut off

    def do(self, who: str, what: str, where: int, length: int) -> None:
        before = os.fstat(self.fd)
        size = before.st_size
        byte = OWN if who == "own" else OTHERS
        if who == "own" and self.first is None:
            self.first = self.path.read_bytes()
        elif who == "others" and self.first is not None:
            self.mixed = True
        if what == "truncate":
            os.ftruncate(self.fd, where)
            start = where
        else:
            start = size if what == "append" else where
            os.pwrite(self.fd, byte * length, start)
        if who == "own":
            if start < size:
                self.lowest = min(self.lowest, start)
            file = self.changes.file(self.key)
            after = state(os.fstat(self.fd))
            if what == "truncate":
                file.cut(state(before), after, where)
            else:
                file.wrote(state(before), after, -1 if what == "append" else where, length)


@settings(deadline=None)
@given(st.lists(step, max_size=12))
def test_no_byte_of_others_is_lost(steps: list[tuple[str, str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        model = Model(Path(directory, "file"))
        try:
            for each in steps:
                model.do(*each)
            was = model.path.read_bytes()
            found = file_rollback.Look()
            now = os.stat(model.path)
            file_rollback.judge(found, model.image, now, model.changes.since(1), True)
            assert len(found.cut) + len(found.both) + len(found.changed) <= 1
            tails = [file_rollback.cut_back(cut, Path(directory, "kept"), "job1-image1") for cut in found.cut]
        finally:
            os.close(model.fd)
        after = model.path.read_bytes()
        assert was.startswith(after)
        assert all(tail is not None and after + tail.copy.read_bytes() == was for tail in tails)
        assert OTHERS not in was[len(after) :] and BEFORE not in was[len(after) :]
        if model.first is None:
            assert after == was and not found.both and not found.changed, "the job did nothing"
        elif model.mixed:
            assert after == was and (found.both or found.changed)
        elif model.lowest >= max(len(model.first), 10) and len(model.first) >= 10:
            assert after == model.first, "it is as before the job's first change"
        elif not found.both and not found.changed:
            assert after == model.first == was
