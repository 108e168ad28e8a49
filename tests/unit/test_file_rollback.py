"""A job's files when it goes on: what the job alone added is cut, nothing of others is; all else is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.wire.manifest import Manifest, Streams, WrittenFile
from remoteio.submit.export.changes import Changes, Key, state
from shim.submit.job import file_rollback, record


def put(path: Path, data: bytes, start: int = -1) -> None:
    """Write at `start`; negative: at the end."""
    with path.open("r+b") as file:
        file.seek(max(start, 0), os.SEEK_END if start < 0 else os.SEEK_SET)
        file.write(data)


class Files:
    """Files of 100 bytes as image 3 saw them, and what is known of the changes since."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.paths = {name: directory / name for name in names}
        for path in self.paths.values():
            path.write_bytes(bytes(100))
        stats = [(path, os.stat(path)) for path in self.paths.values()]
        self.written = [WrittenFile(os.fspath(path), 100, st.st_mtime_ns, st.st_ino) for path, st in stats]
        self.changes = Changes()
        self.changes.begin(3, frozenset(map(self.key, names)))

    def key(self, name: str) -> Key:
        st = os.stat(self.paths[name])
        return st.st_dev, st.st_ino

    def own(self, name: str, data: bytes, start: int = -1) -> None:
        """The job writes, and the export tells of it."""
        path, file = self.paths[name], self.changes.file(self.key(name))
        before = state(os.stat(path))
        put(path, data, start)
        file.wrote(before, state(os.stat(path)), start, len(data))

    def remove(self, name: str) -> None:
        self.changes.file(self.key(name)).removed(state(os.stat(self.paths[name])))
        self.paths[name].unlink()

    def image(self, *held: str, old: bool = False) -> Manifest:
        """`held`: what the job has open for writing; `old`: of a rexec that did not write that down."""
        names = [(os.path.basename(file.path), file) for file in self.written]
        stats: dict[str, object] = {"open": [[file.path, file.inode, name in held] for name, file in names]}
        return Manifest(
            job="1", number=3, generation=1, time_ns=0, host="alpha", argv=("x",), cwd="/", env=(), uid=0, gid=0,
            tty=False, streams=Streams(), files=(), written=tuple(self.written), facts={}, stats={} if old else stats,
        )  # fmt: skip

    def look(self, *held: str, old: bool = False) -> file_rollback.Look:
        return file_rollback.look(self.image(*held, old=old), self.changes.since(3))


def clauses(named: list[file_rollback.Named], directory: Path) -> list[str]:
    return [each.clause.replace(f"{directory}/", "") for each in named]


def test_what_the_job_has_not_done_is_not_undone(tmp_path: Path) -> None:
    """After a vacate or a hold: whatever others do to the files, they stay, and the job goes on."""
    names = ("same", "grown", "shorter", "touched", "removed", "replaced")
    files = Files(tmp_path, *names)
    for name in ("shorter", "touched"):
        files.own(name, b"before it left")
    files.changes.settle()
    put(files.paths["grown"], b"more")
    os.truncate(files.paths["shorter"], 50)
    os.utime(files.paths["touched"], (1, 1))
    files.paths["removed"].unlink()
    files.paths["replaced"].rename(tmp_path / "aside")
    files.paths["replaced"].write_bytes(bytes(200))
    found = files.look("same", "grown", "shorter", "touched")
    assert (found.cut, found.both, found.changed) == ([], [], [])
    found = files.look("removed", "replaced")
    assert clauses(found.changed, tmp_path) == [
        "removed has been removed",
        "replaced has been replaced by another file",
    ]
    assert file_rollback.replaced(files.image("removed"), False) == [
        os.fspath(files.paths[n]) for n in ("removed", "replaced")
    ]
    assert file_rollback.replaced(files.image("removed"), True) == [os.fspath(files.paths["replaced"])]
    assert clauses(files.look(old=True).changed, tmp_path) == clauses(found.changed, tmp_path)


def test_what_the_job_alone_added_is_cut_off_and_only_that(tmp_path: Path) -> None:
    files = Files(tmp_path, "log", "later", "changed", "between", "shared", "rewritten", "before")
    put(files.paths["before"], b"others'")  # after the image, before the job's first
    for name in files.paths:
        files.own(name, b"own")
        files.own(name, b"more own")
    files.own("rewritten", b"!", 101)  # its own
    put(files.paths["later"], b"others'")
    put(files.paths["changed"], b"!", 0)
    put(files.paths["shared"], b"others'")
    files.own("shared", b"own")
    found = files.look("log")
    assert [(os.path.basename(cut.path), cut.size) for cut in found.cut] == [
        ("log", 100), ("between", 100), ("rewritten", 100), ("before", 107),
    ]  # fmt: skip
    mixed = [f"both the job and others have changed {name}" for name in ("later", "changed", "shared")]
    assert clauses(found.both, tmp_path) == mixed and not found.changed
    put(files.paths["between"], b"others'")  # between the look and the cut
    assert [file_rollback.cut_back(cut) for cut in found.cut] == [True, False, True, True]
    assert [os.stat(cut.path).st_size for cut in found.cut] == [100, 118, 100, 107]
    assert os.stat(files.paths["log"]).st_mtime_ns == files.written[0].mtime_ns
    for cut in (found.cut[0], *found.cut[2:]):
        files.changes.undone(cut.key)
    found = files.look("log")  # again, as when another file could not be put back
    mixed.insert(2, "both the job and others have changed between")
    assert not found.cut and clauses(found.both, tmp_path) == mixed


def test_what_the_job_itself_cannot_have_undone_is_named(tmp_path: Path) -> None:
    files = Files(tmp_path, "over", "cut", "gone", "over and grown")
    files.own("over", b"!", 5)
    files.own("over and grown", b"!", 5)
    files.own("over and grown", b"more")
    path, changes = files.paths["cut"], files.changes.file(files.key("cut"))
    before = state(os.stat(path))
    os.truncate(path, 50)
    changes.cut(before, state(os.stat(path)), 50)
    files.remove("gone")
    found = files.look()
    assert clauses(found.changed, tmp_path) == [
        "over has been changed",
        "cut has been cut from 100 to 50 bytes",
        "gone has been removed",
        "over and grown has been changed",
    ]
    assert not found.cut and not found.both


def test_where_nothing_is_known_nothing_is_cut(tmp_path: Path) -> None:
    """The supervisor was killed."""
    files = Files(tmp_path, "same", "grown", "shorter", "touched", "removed")
    put(files.paths["grown"], b"more")
    os.truncate(files.paths["shorter"], 50)
    os.utime(files.paths["touched"], (1, 1))
    files.paths["removed"].unlink()
    found = file_rollback.look(files.image(), None)
    assert not found.cut
    assert clauses(found.both, tmp_path) == ["it is not known who has added to grown"]
    assert clauses(found.changed, tmp_path) == [
        "shorter has been cut from 100 to 50 bytes",
        "touched has been changed",
        "removed has been removed",
    ]


def test_copies(tmp_path: Path) -> None:
    path, kept = tmp_path / "log", tmp_path / "kept"
    path.write_bytes(b"one")
    first = file_rollback.keep(os.fspath(path), kept, "job7-image3")
    assert first == kept / "log.job7-image3" and first.read_bytes() == b"one"
    assert file_rollback.keep(os.fspath(path), kept, "job7-image3") == first, "the same again, after a failure"
    path.write_bytes(b"two")
    assert file_rollback.keep(os.fspath(path), kept, "job7-image3").name == "log.job7-image3.2"
    assert first.read_bytes() == b"one"
    with pytest.raises(FileNotFoundError):
        file_rollback.keep(os.fspath(tmp_path / "none"), kept, "job7-image3")


def test_a_mark_tells_what_came_before_an_image_from_what_came_after(tmp_path: Path) -> None:
    files = Files(tmp_path, "log")
    inodes = frozenset(file.inode for file in files.written)

    def bases() -> list[int]:
        return [change.base for change in (files.changes.since(files.changes.image or 0) or {}).values()]

    files.own("log", b"one")
    files.changes.mark(1)
    files.own("log", b"two")
    assert bases() == [100], "it is no image yet"
    files.changes.unmark()
    files.changes.mark(2)
    files.own("log", b"three")
    files.changes.commit(2, 4, inodes)
    assert bases() == [106]
    assert files.changes.since(3) is None, "an older one"
    files.changes.mark(3)
    files.changes.commit(3, 5, inodes)
    assert bases() == []
    files.changes.mark(4)
    files.changes.commit(5, 6, inodes)
    assert files.changes.since(6) is None and not files.changes.rows(), "another dump's than the last that was marked"


def test_what_is_known_goes_into_the_jobs_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "state"))
    files = Files(tmp_path, "log", "quiet")
    files.own("log", b"one")
    job = record.create(
        record.Record(
            id=0,
            command=("x",),
            cwd="/",
            created=0,
            hosts=("alpha",),
            owner="",
            every=0,
            keep=2,
            detached=True,
            tty=False,
            spec="",
            after=files.changes.rows(),
        )
    )
    rows = job.read().after
    assert rows == files.changes.rows() and rows[0] == 3 and len(rows) == 2
    again = Changes.of(rows, 3)
    assert again.rows() == rows
    (change,) = (again.since(3) or {}).values()
    assert (change.base, change.last) == (100, state(os.stat(files.paths["log"])))
    assert Changes.of(rows, 4).since(4) is None
    assert Changes.of((), 3).since(3) is None
    assert Changes.of((3, ["/path", 1, 2, 3]), 3).since(3) is None, "of an older rexec"
    assert Changes.of((), 0).since(0) == {}, "it has no image yet"
