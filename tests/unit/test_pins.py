"""Files that an image has open are kept if they are still those that it saw; what is kept is shown to criu alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from checkpoint.wire.manifest import Manifest, Streams
from remoteio.submit.export.confine import HIDDEN, Confinement, Mark
from remoteio.submit.export.pinned import Pin, Pinned
from remoteio.submit.export.written_files import OpenFiles, opened
from remoteio.wire import fuse_abi as abi
from shim.submit.job import file_rollback, pins
from tests.hostile import Host, Refused

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done beside the job is done when it is asked for."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("shim.submit.threads.begin", lambda run: run() is None)


class Job:
    """A job whose images have files of `top` open."""

    def __init__(self, directory: Path) -> None:
        self.path, self.top = directory / "job", directory / "top"
        for each in (self.path, self.top):
            each.mkdir()
        self.told: list[str] = []
        self.pins = pins.Pins(self.path, self.told.append)

    def file(self, name: str, size: int = 100) -> Path:
        (self.top / name).write_bytes(name[:1].encode() * size)
        return self.top / name

    def begin(self, number: int, *paths: Path, of_before: tuple[tuple[Pin, int], ...] = ()) -> None:
        looks = [(os.fsencode(path), path.stat()) for path in paths]
        self.pins.begin(number, OpenFiles([], [], [], looks, list(of_before)))

    def keep(self, number: int, *paths: Path, images: tuple[int, ...] = ()) -> None:
        self.begin(number, *paths)
        self.pins.keep(number, images or (number,))

    def has(self, number: int) -> set[str]:
        """Names of what is kept."""
        return {os.path.basename(path) for path in pins.covered(self.path, number)}

    def image(self, number: int, *paths: Path, private: tuple[Path, ...] = ()) -> Manifest:
        rows = [[str(path), path.stat().st_ino, False] for path in paths]
        stats = {"open": rows, "mapped": [row[0] for row in rows], "private": [str(path) for path in private]}
        return Manifest(
            job="1", number=number, generation=1, time_ns=0, host="h", argv=("a",), cwd="/", env=(), uid=0, gid=0,
            tty=False, streams=Streams(), files=(), facts={}, stats=stats,
        )  # fmt: skip

    def shown(self, image: Manifest) -> dict[str, bytes]:
        """What is to be shown in place of files, by name."""
        found = {}
        for pin, fd in pins.opened(self.path, image):
            with open(fd, "rb") as file:
                found[os.path.basename(os.fsdecode(pin.path))] = file.read()
        return found


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def links(job: Job, number: int) -> dict[str, int]:
    """How many links there are to what is kept, by name of the file."""
    return {
        os.path.basename(path): (job.path / "pins" / str(number) / pin.name).stat().st_nlink
        for path, pin in pins.covered(job.path, number).items()
    }


def test_bytes_are_kept_once_for_all_images_and_go_with_the_last(job: Job, tmp_path: Path) -> None:
    a, b = job.file("a"), job.file("b")
    a.chmod(0o751)
    job.keep(1, a)
    assert links(job, 1) == {"a": 2}
    (kept,) = pins.pool().iterdir()
    assert kept.read_bytes() == b"a" * 100 and kept.stat().st_mode & 0o777 == 0o751
    assert kept.stat().st_mtime_ns == a.stat().st_mtime_ns
    job.begin(2, a, b)
    assert job.has(2) == {"a"}, "what is kept already, an image has at its commit"
    job.pins.keep(2, (1, 2))
    assert (links(job, 1), links(job, 2)) == ({"a": 3}, {"a": 3, "b": 2})
    (tmp_path / "other").mkdir()
    other = Job(tmp_path / "other")
    other.keep(1, b)
    assert links(other, 1) == {"b": 3}
    job.keep(3, a, images=(3,))
    assert [each.name for each in (job.path / "pins").iterdir()] == ["3"]
    assert (links(job, 3), links(other, 1)) == ({"a": 2}, {"b": 2})
    job.pins.forget()
    assert [each.read_bytes()[:1] for each in pins.pool().iterdir()] == [b"b"]
    pins.remove(other.path, [1])
    assert not list(pins.pool().iterdir()) and not job.told


@pytest.mark.parametrize("how", ["written to", "replaced", "removed", "made unreadable"])
def test_what_is_another_by_then_is_not_kept(job: Job, how: str) -> None:
    a, b = job.file("a"), job.file("b")
    job.begin(1, a, b)
    if how == "written to":
        a.write_bytes(b"A" * 100)
    elif how == "replaced":
        job.file("new").rename(a)
    elif how == "removed":
        a.unlink()
    else:
        a.unlink()
        a.symlink_to(b)
    job.pins.keep(1, (1,))
    assert job.has(1) == {"b"}
    (said,) = job.told
    assert said.startswith(f"{a}, which image 1 has open, is not kept: it ")
    job.pins.keep(1, (1,))
    assert job.told == [said], "once"


@pytest.mark.parametrize("what", ["file", "bytes", "files", "room"])
def test_no_more_is_kept_than_may_be(job: Job, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The smallest files are."""
    paths = [job.file(name, size) for name, size in (("large", 5000), ("a", 100), ("b", 200))]
    most = {"file": ("MOST_FILE", 4999), "bytes": ("MOST_BYTES", 5299), "files": ("MOST_FILES", 2)}
    if what == "room":
        monkeypatch.setattr(pins, "left_free", lambda fd: 4999)
    else:
        monkeypatch.setattr(pins, *most[what])
    job.keep(1, *paths)
    assert job.has(1) == {"a", "b"}
    (said,) = job.told
    assert said.startswith(f"{paths[0]}, which image 1 has open, is not kept: ")
    job.keep(2, paths[1], images=(1, 2))
    assert job.has(2) == {"a"}, "of what is kept already there is not more"


def test_what_is_damaged_or_was_not_written_to_its_end_is_as_if_it_were_not_kept(job: Job) -> None:
    a, b = job.file("a"), job.file("b")
    job.keep(1, a, b)
    there = job.path / "pins" / "1"
    os.truncate(there / pins.covered(job.path, 1)[str(a)].name, 50)
    assert job.has(1) == {"b"}
    for damaged in ('[["', "{}", "[[1]]", '[["a","b","c","d","e","f"]]'):
        (there / "rows").write_text(damaged)
        assert not pins.covered(job.path, 1)
    (job.path / "pins" / "part").write_text("of one that was killed")
    job.keep(2, job.file("c"))
    assert job.has(2) == {"c"}


def test_what_a_name_leads_to_by_now(job: Job) -> None:
    paths = [job.file(name) for name in ("same", "replaced", "gone", "own", "read")]
    job.keep(1, *paths)
    image = job.image(1, *paths, private=(paths[0], paths[3]))
    assert job.shown(image) == {}
    job.file("new").rename(paths[1])
    paths[2].unlink()
    for path in paths[3:]:
        with path.open("ab") as file:
            file.write(b"more")
    assert job.shown(image) == {name: name[:1].encode() * 100 for name in ("replaced", "gone", "own")}
    unpinned = file_rollback.look(image, None).changed
    assert [each.path for each in unpinned] == [str(paths[1]), str(paths[2])]
    assert not file_rollback.look(image, None, pins.covered(job.path, 1)).changed
    job.top.rename(job.top.with_name("away"))
    job.top.with_name(job.top.name).symlink_to("away")
    assert not pins.covered(job.path, 1), "criu would be led elsewhere"


def test_an_image_has_what_its_job_has_of_one_before(job: Job) -> None:
    a = job.file("a")
    job.keep(1, a)
    image = job.image(1, a)
    a.unlink()
    ((pin, fd),) = pins.opened(job.path, image)
    job.begin(2, of_before=((pin, fd),))
    assert links(job, 2) == {"a": 3}
    pins.remove(job.path, [1, 2])
    assert not list(pins.pool().iterdir())
    job.begin(3, of_before=((pin, fd),))
    assert links(job, 3) == {"a": 2} and job.shown(image) == {}
    os.close(fd)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Where `file` is another by now."""
    made = tmp_path / "exported"
    made.mkdir()
    (made / "file").write_bytes(b"newer")
    return made


def shows(host: Host, directory: Path) -> Pinned:
    """What `file` had been is kept."""
    (directory / "kept").write_bytes(b"old")
    pinned = host.export.instead.pinned
    pinned.show([(Pin(b"/file", 1, 2, 3, 0, "name"), os.open(directory / "kept", os.O_RDONLY))])
    return pinned


def test_criu_alone_is_shown_what_is_kept(top: Path, tmp_path: Path) -> None:
    host = Host.of(top)
    shown = shows(host, tmp_path)
    old = host.lookup(abi.ROOT_ID, b"file")
    assert host.lookup(abi.ROOT_ID, b"file (deleted)") == old, "as an image calls it whose job was shown it already"
    handle = host.open(old, os.O_RDONLY)
    assert host.read(old) == b"old"
    mode = abi.SETATTR_IN.pack(abi.FATTR_MODE, 0, 0, 0, *[0] * 7, 0o777, 0, 0, 0, 0)
    for op, arguments in ((abi.OPEN, abi.OPEN_IN.pack(os.O_RDWR, 0)), (abi.SETATTR, mode)):
        with pytest.raises(Refused) as refused:
            host.ask(op, old, arguments)
        assert refused.value.errno == errno.EROFS
    found = opened(host.export.inodes, shown)
    assert found.rows == [(b"/file", 2, False)] and found.pinned[0][0].name == "name" and not found.read
    assert host.names(abi.ROOT_ID) == {b"file"}

    assert shown.goes_on() == abi.inval_entry(abi.ROOT_ID, b"file") and not shown.goes_on()
    new = host.lookup(abi.ROOT_ID, b"file")
    assert new != old and (host.read(new), host.read(old)) == (b"newer", b"old")
    gone = b"file (deleted)"
    with pytest.raises(Refused):
        host.lookup(abi.ROOT_ID, gone)
    shown.saves(True)
    assert (host.lookup(abi.ROOT_ID, gone), host.lookup(abi.ROOT_ID, b"file")) == (old, new)
    (top / "file (deleted)").write_bytes(b"real")
    assert host.read(host.lookup(abi.ROOT_ID, gone)) == b"real", "a file of that name is meant"
    host.ask(abi.RELEASE, old, abi.RELEASE_IN.pack(handle, 0, 0, 0))
    host.export.close()


def test_what_a_job_may_not_see_is_not_shown(top: Path, tmp_path: Path) -> None:
    host = Host.of(top, Confinement([Mark(b"/file", HIDDEN, None)]))
    shows(host, tmp_path)
    for name in (b"file", b"file (deleted)"):
        with pytest.raises(Refused):
            host.lookup(abi.ROOT_ID, name)
