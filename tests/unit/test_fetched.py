"""A file is fetched ahead only if what is told of it can be taken back; and nothing stays open of one that is not."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases as wire
from remoteio.wire.coherence import AHEAD
from remoteio.wire.fetched import parse
from remoteio.wire.frames import LEASED, FrameReader
from tests.forked import in_a_fork

CONTENTS = b"what is in it"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "top/dir").mkdir(parents=True)
    found = tmp_path / "top/dir/file"
    found.write_bytes(CONTENTS)
    return found


@pytest.fixture
def export(file: Path) -> Iterator[Export]:
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(file.parents[1]))
    assert made.leases.begin()
    yield made
    made.close()


def ask(export: Export, op: int, node: int, args: bytes = b"") -> bytes:
    """The body of the reply. Raises OSError."""
    answer = export.answer(abi.Request(abi.request(op, node, args, 1)))
    assert answer is not None
    payload = wire.split(answer[1])[3] if answer[0] == LEASED else answer[1]
    _, error, _ = abi.OUT_HEADER.unpack_from(payload)
    if error:
        raise OSError(-error, os.strerror(-error))
    return bytes(payload[abi.OUT_HEADER.size :])


def look(export: Export, name: bytes, parent: int = abi.ROOT_ID) -> int:
    return int(abi.ENTRY.unpack_from(ask(export, abi.LOOKUP, parent, name + b"\0"))[0])


@pytest.fixture
def node(export: Export) -> int:
    return look(export, b"file", look(export, b"dir"))


def refused(export: Export, node: int) -> int:
    """With which error a FETCH fails; it leaves nothing open."""
    before, handles = len(os.listdir("/proc/self/fd")), len(export.inodes.handles)
    with pytest.raises(OSError) as found:
        ask(export, abi.FETCH, node)
    assert (len(os.listdir("/proc/self/fd")), len(export.inodes.handles)) == (before, handles)
    return found.value.errno or 0


def broken(export: Export) -> list[tuple[int, bytes]]:
    return [item for _, payload in FrameReader().feed(export.leases.due()) for item in wire.broken(payload)]


def test_it_is_open_at_home_and_told_whole(export: Export, node: int, file: Path) -> None:
    handle, attr, parent, name, contents = parse(ask(export, abi.FETCH, node))
    assert (export.inodes.get(parent).name, name, contents) == (b"dir", b"file", CONTENTS)
    assert abi.ATTR.unpack(attr)[:2] == (file.stat().st_ino, len(CONTENTS))
    file.unlink()
    assert ask(export, abi.READ, node, abi.READ_IN.pack(handle, 5, 3, 0, 0, 0, 0)) == CONTENTS[5:8]


@pytest.mark.parametrize("how", ["written", "removed", "replaced", "moved"])
def test_a_change_of_it_is_told(export: Export, node: int, file: Path, how: str) -> None:
    parent = parse(ask(export, abi.FETCH, node))[2]
    if how == "written":
        file.write_bytes(b"other")
    elif how == "removed":
        file.unlink()
    elif how == "replaced":
        (file.parents[1] / "new").write_bytes(b"other")
        (file.parents[1] / "new").rename(file)
    else:
        file.rename(file.parents[1] / "elsewhere")
    assert (node, b"") in (found := broken(export))
    assert how == "written" or (parent, b"file") in found


@pytest.mark.parametrize("how", ["written", "cut", "opened", "set"])
def test_of_what_the_job_itself_does_to_it_nothing_is_told(export: Export, node: int, file: Path, how: str) -> None:
    """Its host knows, and a break would come behind what the job reads back; what others do is told all the same."""

    def do(op: int, args: bytes, number: int = 0) -> None:
        request = abi.Request(abi.request(op, node, args, 1))
        request.number = number
        export.answer(request)

    def does() -> None:
        if how == "set":
            do(abi.SETATTR, _set(abi.FATTR_MODE, mode=0o600))
            return
        do(abi.OPEN, abi.OPEN_IN.pack(os.O_WRONLY | (os.O_TRUNC if how == "opened" else 0), 0), next(numbers))
        handle = max(export.inodes.handles)
        if how == "cut":
            do(abi.SETATTR, _set(abi.FATTR_SIZE, size=1))
        else:
            do(abi.WRITE, abi.WRITE_IN.pack(handle, 0, 5, 0, 0, 0, 0) + b"mine!")
        do(abi.RELEASE, abi.RELEASE_IN.pack(handle, 0, 0, 0))

    numbers = itertools.count(1)
    ask(export, abi.FETCH, node)
    was = file.stat()
    does()
    now = file.stat()
    assert (now.st_mtime_ns, now.st_mode) != (was.st_mtime_ns, was.st_mode)
    assert not [each for each in broken(export) if each[0] == node]
    ask(export, abi.GETATTR, node, abi.GETATTR_IN.pack(0, 0, 0))
    ask(export, abi.FETCH, node)
    file.write_bytes(b"others did")
    does()
    assert (node, b"") in broken(export)


def test_a_file_that_is_cut_as_it_is_opened_is_taken_back_from_who_waits_for_that(export: Export, node: int) -> None:
    """Its host does not know of it before: it has asked for an OPEN."""
    ask(export, abi.FETCH, node)
    export.answer(abi.Request(abi.request(abi.OPEN, node, abi.OPEN_IN.pack(os.O_WRONLY | os.O_TRUNC, 0), 1)))
    assert (node, b"") in broken(export)


def test_a_file_that_is_opened_to_write_and_not_written_to_is_taken_back_once_others_change_it(
    export: Export, node: int, file: Path
) -> None:
    ask(export, abi.FETCH, node)
    request = abi.Request(abi.request(abi.OPEN, node, abi.OPEN_IN.pack(os.O_WRONLY | os.O_APPEND, 0), 1))
    request.number = 1
    export.answer(request)
    assert (node, b"") not in broken(export)
    file.write_bytes(b"others did")
    assert (node, b"") in broken(export)


def _set(valid: int, size: int = 0, mode: int = 0) -> bytes:
    return abi.SETATTR_IN.pack(valid, 0, 0, size, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0, 0, 0)


def test_what_changes_is_not_fetched(export: Export, node: int, file: Path) -> None:
    """Nor what has, since the job's kernel was told of it: it would read it as long as it was."""
    file.write_bytes(b"longer than that which it was")
    assert refused(export, node) == errno.EAGAIN
    ask(export, abi.GETATTR, node, abi.GETATTR_IN.pack(0, 0, 0))
    handle = abi.OPEN_OUT.unpack_from(ask(export, abi.OPEN, node, abi.OPEN_IN.pack(os.O_RDWR, 0)))[0]
    assert refused(export, node) == errno.EAGAIN
    export.answer(abi.Request(abi.request(abi.RELEASE, node, abi.RELEASE_IN.pack(handle, 0, 0, 0))))
    assert parse(ask(export, abi.FETCH, node))[4] == file.read_bytes()


def test_what_a_lock_may_guard_is_not_fetched(export: Export, node: int) -> None:
    parent = export.inodes.get(node).parent
    assert parent is not None
    parent.shared = True
    assert refused(export, node) == errno.EAGAIN


def test_only_small_files_are_fetched(export: Export, file: Path) -> None:
    (file.parent / "large").write_bytes(bytes(AHEAD + 1))
    (file.parent / "link").symlink_to("file")
    parent = look(export, b"dir")
    for name in (b"large", b"link"):
        assert refused(export, look(export, name, parent)) == errno.EAGAIN
    assert refused(export, parent) == errno.EAGAIN


def test_what_may_not_be_read_is_not_fetched(export: Export, node: int, file: Path) -> None:
    file.with_name("other").write_bytes(CONTENTS)
    other = look(export, b"other", look(export, b"dir"))

    def as_nobody() -> None:
        if os.geteuid() == 0:  # who may read everything
            os.setresuid(65534, 65534, 65534)
            ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: else the descriptors in its /proc/self are root's
        assert parse(ask(export, abi.FETCH, other))[-1] == CONTENTS
        assert refused(export, node) == errno.EACCES
        assert not export.inodes.allowed.refusals.counted()

    file.chmod(0)
    in_a_fork(as_nobody)


def test_where_there_are_no_leases_nothing_is_fetched(file: Path) -> None:
    export = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(file.parents[1]))
    node = look(export, b"dir")
    assert refused(export, node) == errno.EAGAIN, "not yet: the job does not run"
    export.leases.close()
    assert refused(export, node) == errno.EOPNOTSUPP
    export.close()
