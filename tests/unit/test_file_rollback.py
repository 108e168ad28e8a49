"""A job's files when it goes on: what the job alone added is cut, nothing of others is; all else is named."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint.wire.manifest import Manifest, Streams, WrittenFile
from remoteio.submit.export.changes import Changes, Key, state
from shim.submit.job import file_rollback, record


def refuse(*args: object, **more: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


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
        self.changes.begin(3, {self.key(name): os.fspath(path) for name, path in self.paths.items()})

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

    def image(self, *held: str, old: bool = False, told: bool = True) -> Manifest:
        """`held`: what the job has open for writing; `old`: of a rexec that did not write that down.

        `told`: it tells of the files beside that they are open.
        """
        names = [(os.path.basename(file.path), file) for file in self.written]
        stats: dict[str, object] = {"open": [[file.path, file.inode, name in held] for name, file in names]}
        return Manifest(
            job="1", number=3, generation=1, time_ns=0, host="alpha", argv=("x",), cwd="/", env=(), uid=0, gid=0,
            tty=False, streams=Streams(), files=(), facts={}, stats={} if old else stats,
            written=tuple(self.written) if told else (),
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
    tails = [file_rollback.cut_back(cut, tmp_path / "kept", "job7-image3") for cut in found.cut]
    assert [tail and tail.copy.read_bytes() for tail in tails] == [b"ownmore own", None, b"o!nmore own", b"ownmore own"]
    assert sorted(os.listdir(tmp_path / "kept")) == [
        "before.job7-image3.from-107", "log.job7-image3.from-100", "rewritten.job7-image3.from-100",
    ]  # fmt: skip
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


def test_a_file_that_an_image_has_by_a_name_only_is_not_taken_for_another(tmp_path: Path) -> None:
    """It had been moved away when the image was made, by a rexec that took it in all the same."""
    files = Files(tmp_path, "renamed", "nameless")
    image = files.image("renamed", "nameless", told=False)
    files.paths["renamed"].rename(tmp_path / "aside")
    files.paths["renamed"].write_bytes(bytes(100))
    files.paths["nameless"].unlink()
    found = file_rollback.look(image, {})
    assert clauses(found.changed, tmp_path) == ["renamed has been replaced by another file"]


def test_a_name_that_the_job_took_away_counts_where_it_is_the_images(tmp_path: Path) -> None:
    """While the file has others; and those of a directory that it renamed, be it while an image is made."""
    files = Files(tmp_path, "linked", "other link", "both")
    for name, lost in (("linked", "linked"), ("other link", "more"), ("both", "more too")):
        path, changes = files.paths[name], files.changes.file(files.key(name))
        link = tmp_path / ("aside" if lost == "linked" else lost)
        link.hardlink_to(path)
        before = state(os.stat(path))
        (tmp_path / lost).unlink()
        changes.unlinked(before, state(os.stat(link if lost == "linked" else path)))
    files.own("both", b"own")
    files.paths["linked"].write_bytes(b"new")
    found = files.look("linked")
    assert clauses(found.changed, tmp_path) == ["linked has been replaced by another file"]
    assert [os.path.basename(cut.path) for cut in found.cut] == ["both"] and not found.both
    rows = files.changes.rows()
    assert Changes.of(rows, 3).rows() == rows
    assert Changes.of((3, rows[1][:-1]), 3).since(3) is None, "of an older rexec"


@pytest.mark.parametrize("during", [False, True])
def test_a_directory_that_the_job_renamed(tmp_path: Path, during: bool) -> None:
    """The file was not even open, and has no other name: what is in its place is another."""
    for name in ("out", "output"):
        (tmp_path / name).mkdir()
    files = Files(tmp_path, "out/A", "output/A")
    paths = {file.inode: file.path for file in files.written}
    if during:
        files.changes.mark(1)
    found = files.changes.moves(f"{tmp_path}/out")
    assert [rest for _, rest in found] == ["/A"]
    (tmp_path / "out").rename(tmp_path / "out.old")
    for file, _ in found:
        now = state(os.stat(tmp_path / "out.old/A"))
        file.unlinked(now, now)
    if during:
        files.changes.commit(1, 3, paths)
    assert clauses(files.look().changed, tmp_path) == ["out/A has been removed"]
    (tmp_path / "out").mkdir()
    files.paths["out/A"].write_bytes(b"new")
    assert clauses(files.look().changed, tmp_path) == ["out/A has been replaced by another file"]
    (tmp_path / "out").rename(tmp_path / "out.new")
    (tmp_path / "out.old").rename(tmp_path / "out")
    found_again = files.look()
    assert not found_again.changed and not found_again.cut


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


def cut_of(files: Files, name: str) -> file_rollback.Cut:
    (cut,) = (cut for cut in files.look(name).cut if os.path.basename(cut.path) == name)
    return cut


@pytest.mark.parametrize("how", ["open", "mapped", "appended in the last moment", "stored by a mapping that is gone"])
def test_what_others_may_write_in_the_meantime_is_not_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Nothing of theirs shows in the file's size and times yet, or it comes between the copy and the cut."""
    files = Files(tmp_path, "log")
    files.own("log", b"own")
    cut, path = cut_of(files, "log"), files.paths["log"]
    keep = file_rollback.keep

    def kept(*args: object) -> Path:
        copy = keep(*args)  # type: ignore[arg-type]
        if how.startswith("appended"):
            put(path, b"others'")
        elif how.startswith("stored"):
            times = os.stat(path)
            monkeypatch.setattr(file_rollback, "state", lambda st: cut.last)
            put(path, b"!", 101)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return copy

    monkeypatch.setattr(file_rollback, "keep", kept)
    hold = "f = open(sys.argv[1], 'r+b'); "
    if how == "mapped":
        hold += "import mmap; m = mmap.mmap(f.fileno(), 50); f.close(); "
    script = f"import sys; {hold} print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script, path], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        if how in ("open", "mapped"):
            assert other.stdout.readline() == "open\n"
        else:
            other.communicate("")
        before = path.read_bytes()
        assert file_rollback.cut_back(cut, tmp_path / "kept", "job7-image3") is None
        assert path.read_bytes().startswith(before[:101]) and path.stat().st_size >= len(before)
    assert os.listdir(tmp_path / "kept") == [], "the file still has what the copy had"


def test_who_opens_the_file_while_it_is_cut_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path, "log")
    files.own("log", b"own")
    path, ftruncate = files.paths["log"], os.ftruncate
    script = "import sys; print('here', flush=True); open(sys.argv[1], 'ab').write(b'others')"
    waiting: list[subprocess.Popen[str]] = []

    def truncate(fd: int, size: int) -> None:
        if size == 100:
            waiting.append(subprocess.Popen([sys.executable, "-c", script, path], stdout=-1, text=True))
            assert waiting[0].stdout is not None and waiting[0].stdout.readline() == "here\n"
            with pytest.raises(subprocess.TimeoutExpired):
                waiting[0].wait(0.5)
        ftruncate(fd, size)

    monkeypatch.setattr(os, "ftruncate", truncate)
    tail = file_rollback.cut_back(cut_of(files, "log"), tmp_path / "kept", "job7-image3")
    assert tail is not None and tail.copy.read_bytes() == b"own"
    waiting[0].communicate(timeout=60)
    assert path.read_bytes() == bytes(100) + b"others"


def test_a_file_that_is_read_or_locked_by_us_or_is_another_users_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path, "read", "ours", "another's")
    for name in files.paths:
        files.own(name, b"own")
    reader = subprocess.Popen(["tail", "-f", files.paths["read"]], stdout=subprocess.PIPE)
    assert reader.stdout is not None and reader.stdout.read(100) == bytes(100)
    cuts = [cut_of(files, name) for name in files.paths]
    utime = os.utime
    theirs = os.stat(files.paths["another's"]).st_ino

    def may_set(fd: int, **more: tuple[int, int]) -> None:
        (refuse if os.fstat(fd).st_ino == theirs else utime)(fd, **more)

    monkeypatch.setattr(os, "utime", may_set)
    with files.paths["ours"].open("r+b"):
        for cut in cuts:
            tail = file_rollback.cut_back(cut, tmp_path / "kept", "job7-image3")
            assert tail is not None and tail.copy.read_bytes() == b"own"
    reader.kill()
    reader.communicate()
    assert [path.read_bytes() for path in files.paths.values()] == [bytes(100)] * 3


def test_a_tail_is_dropped_when_it_is_there_again(tmp_path: Path) -> None:
    files = Files(tmp_path, "log")
    files.own("log", b"own")
    tail = file_rollback.cut_back(cut_of(files, "log"), tmp_path / "kept", "job7-image3")
    assert tail is not None and not tail.is_there_again()
    put(files.paths["log"], b"ow!")
    assert not tail.is_there_again()
    put(files.paths["log"], b"own more", 100)
    assert tail.is_there_again()
    files.paths["log"].rename(tmp_path / "aside")
    assert not tail.is_there_again()
    files.paths["log"].write_bytes(bytes(100) + b"own")
    assert not tail.is_there_again(), "another file"


def test_a_mark_tells_what_came_before_an_image_from_what_came_after(tmp_path: Path) -> None:
    files = Files(tmp_path, "log")
    paths = {file.inode: file.path for file in files.written}

    def bases() -> list[int]:
        return [change.base for change in (files.changes.since(files.changes.image or 0) or {}).values()]

    files.own("log", b"one")
    files.changes.mark(1)
    files.own("log", b"two")
    assert bases() == [100], "it is no image yet"
    files.changes.unmark()
    files.changes.mark(2)
    files.own("log", b"three")
    files.changes.commit(2, 4, paths)
    assert bases() == [106]
    assert files.changes.since(3) is None, "an older one"
    files.changes.mark(3)
    files.changes.commit(3, 5, paths)
    assert bases() == []
    files.changes.mark(4)
    files.changes.commit(5, 6, paths)
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
