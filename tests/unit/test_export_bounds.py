"""What no kernel asks an export for is answered EINVAL; and a tree may be as deep and as shuffled as it likes."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from remoteio.submit.export.carried_locks import CarriedLocks
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.written_files import path_of
from remoteio.wire import fuse_abi as abi
from remoteio.wire.listed import walk

BIG = (1 << 64) - 1


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Export]:
    (tmp_path / "file").write_bytes(b"x" * 100)
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset(), None, None, None), str(tmp_path))
    yield made
    made.inodes.close_all()


def ask(export: Export, op: int, node: int, args: bytes) -> tuple[int, bytes]:
    """(errno, body) of the answer."""
    answer = export.answer(abi.Request(abi.request(op, node, args, 1)))
    assert answer is not None
    payload = answer[1]
    at = 0
    while abi.OUT_HEADER.unpack_from(payload, at)[2] != 1:  # a notification goes before it
        at += abi.OUT_HEADER.unpack_from(payload, at)[0]
    return -abi.OUT_HEADER.unpack_from(payload, at)[1], payload[at + abi.OUT_HEADER.size :]


def opened(export: Export) -> tuple[int, int]:
    """(node, handle) of the file."""
    _, body = ask(export, abi.LOOKUP, abi.ROOT_ID, b"file\0")
    node = abi.ENTRY.unpack_from(body)[0]
    _, body = ask(export, abi.OPEN, node, abi.OPEN_IN.pack(os.O_RDWR, 0))
    return node, abi.OPEN_OUT.unpack_from(body)[0]


@pytest.mark.parametrize("op", [abi.GETLK, abi.SETLK, abi.SETLKW])
@pytest.mark.parametrize(
    ("start", "end", "kind"),
    [
        (1 << 63, BIG, fcntl.F_WRLCK), (BIG, BIG, fcntl.F_RDLCK), (0, BIG, fcntl.F_WRLCK), (10, 9, fcntl.F_WRLCK),
        (0, 9, 32768), (0, 9, (1 << 32) - 1), (0, 9, 3),
    ],
)  # fmt: skip
def test_locks_that_no_kernel_asks_for(export: Export, op: int, start: int, end: int, kind: int) -> None:
    node, fh = opened(export)
    if op == abi.SETLKW:
        assert export.locks.expect(1, 10)
    assert ask(export, op, node, abi.LK_IN.pack(fh, 7, start, end, kind, 1, 0, 0))[0] == errno.EINVAL


def test_locks_to_the_end_are_granted(export: Export) -> None:
    node, fh = opened(export)
    for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK):
        assert ask(export, abi.SETLK, node, abi.LK_IN.pack(fh, 7, 5, (1 << 63) - 1, kind, 1, 0, 0))[0] == 0


def test_wild_numbers_in_every_operation_are_answered(export: Export) -> None:
    wild = random.Random(7)
    node, fh = opened(export)
    numbers = (0, 1, node, fh, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, BIG)
    safe = set(abi.OPERATIONS) - abi.UNANSWERED - {abi.SETLKW, abi.SYNCFS, abi.FALLOCATE, abi.MKNOD}
    for _ in range(3000):
        op = wild.choice(sorted(safe))
        _, size, names, _ = abi.OPERATIONS[op]
        args = b"".join(wild.choice(numbers).to_bytes(8, "little") for _ in range(size // 8 + 1))[:size]
        export.answer(abi.Request(abi.request(op, wild.choice((1, node, 99)), args + b"n\0" * names, 1)))


def deep(inodes: Inodes, top: str, levels: int) -> list[int]:
    """Node ids of directories, one within the other, below `top`."""
    above, found = inodes.top, []
    fd = os.open(top, os.O_PATH)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_PATH | os.O_NOFOLLOW, dir_fd=fd)
        os.close(fd)
        fd = below
        above = inodes.found(above, b"d", os.fstat(fd))
        found.append(above.id)
    os.close(fd)
    return found


def test_a_tree_of_any_depth_is_entered(tmp_path: Path) -> None:
    inodes = Inodes(str(tmp_path), most=8)
    found = deep(inodes, str(tmp_path), 1500)
    node = inodes.get(found[-1])
    fd = inodes.descriptors.directory(node)
    assert (os.fstat(fd).st_dev, os.fstat(fd).st_ino) == (node.dev, node.ino)
    inodes._check()
    assert sum(each.fd >= 0 for each in inodes.nodes.values()) <= 10
    inodes.close_all()
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest itself cannot: it is too deep for Python


def test_directories_that_were_moved_into_each_other_are_stale(tmp_path: Path) -> None:
    inodes = Inodes(str(tmp_path))
    a, b = (inodes.get(number) for number in deep(inodes, str(tmp_path), 2))
    a.parent = b  # as it was seen at two times: below a, and a below it
    with pytest.raises(OSError, match="moved about") as raised:
        inodes.descriptors.directory(b)
    assert raised.value.errno == errno.ESTALE
    inodes.close_all()


def test_a_directory_beneath_itself_has_a_path_that_leads_nowhere() -> None:
    class Beneath:
        name, steps = b"d", 0

        @property
        def parent(self) -> Beneath:
            self.steps += 1
            assert self.steps < 100_000, "it never ends"
            return self

    around: Any = Beneath()
    with pytest.raises(OSError, match="name too long"):
        os.stat(path_of(around, b"file"))


def test_a_directory_in_use_is_not_closed_under_its_user(tmp_path: Path) -> None:
    """However many others are opened meanwhile, and though the kernel forgets it: its number is no other file's."""
    inodes = Inodes(str(tmp_path), most=4)
    before = len(os.listdir("/proc/self/fd"))
    for name in map(str, range(20)):
        (tmp_path / name).mkdir()
    nodes = [inodes.found(inodes.top, b"%d" % k, os.stat(tmp_path / str(k))) for k in range(20)]
    at = inodes.descriptors.directory(nodes[0])
    with inodes.descriptors.path(nodes[0]) as path:
        for node in nodes[1:]:
            assert os.fstat(inodes.descriptors.directory(node)).st_ino == node.ino
        assert os.fstat(at).st_ino == os.stat(path).st_ino == nodes[0].ino
        inodes.forget(nodes[0].id, 1)
        assert os.fstat(at).st_ino == nodes[0].ino
    number = int(at)
    del at
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)  # whoever used it last closes it
    inodes._check()
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    inodes.close_all()


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda n: resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_as_many_directories_are_used_as_there_are_whatever_may_be_open(
    tmp_path: Path, limit: Callable[[int], None]
) -> None:
    """As at home, where the limit is one of each process, and `find` has only some of its directories open."""
    limit(max(map(int, os.listdir("/proc/self/fd"))) + 250)
    inodes = Inodes(str(tmp_path))
    for k in range(1000):
        (tmp_path / str(k)).mkdir()
    nodes = [inodes.found(inodes.top, b"%d" % k, os.stat(tmp_path / str(k))) for k in range(1000)]
    for node in nodes + nodes[::-1]:
        assert os.fstat(inodes.descriptors.directory(node)).st_ino == node.ino
    used = []
    try:
        for _ in range(180):  # other descriptors take up the room
            used.append(inodes.descriptors.reopen(nodes[0], os.O_RDONLY))
        assert all(os.fstat(inodes.descriptors.directory(node)).st_ino == node.ino for node in nodes)
    finally:
        for fd in used:
            os.close(fd)
    inodes._check()
    inodes.close_all()


def test_open_files_of_the_job_leave_room_to_find_files_with(export: Export, limit: Callable[[int], None]) -> None:
    limit(max(map(int, os.listdir("/proc/self/fd"))) + 250)
    made = Export(export.ids, os.readlink(f"/proc/self/fd/{export.inodes.top.fd}"))
    _, body = ask(made, abi.LOOKUP, abi.ROOT_ID, b"file\0")
    node = abi.ENTRY.unpack_from(body)[0]
    errors = [ask(made, abi.OPEN, node, abi.OPEN_IN.pack(os.O_RDONLY, 0))[0] for _ in range(400)]
    assert set(errors) == {0, errno.EMFILE}
    new = abi.CREATE_IN.pack(os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + b"new\0"
    assert ask(made, abi.CREATE, abi.ROOT_ID, new)[0] == errno.EMFILE
    assert ask(made, abi.LOOKUP, abi.ROOT_ID, b"new\0")[1][:8] == bytes(8), "what could not be opened is not made"
    assert ask(made, abi.MKDIR, abi.ROOT_ID, abi.MKDIR_IN.pack(0o755, 0) + b"d\0")[0] == 0
    made.inodes.close_all()


def test_of_the_directories_those_used_of_late_and_those_not_found_by_their_name_stay_open(tmp_path: Path) -> None:
    """The job may be in one that others have renamed or removed: by its descriptor it is there all the same."""
    inodes = Inodes(str(tmp_path), most=16)
    for k in range(100):
        (tmp_path / str(k)).mkdir()
    nodes = [inodes.found(inodes.top, b"%d" % k, os.stat(tmp_path / str(k))) for k in range(100)]
    for node in nodes[:4]:
        inodes.descriptors.directory(node)
    (tmp_path / "0").rename(tmp_path / "renamed")
    (tmp_path / "1").rename(tmp_path / "99" / "1")
    (tmp_path / "2").rmdir()
    for node in nodes[4:]:
        inodes.descriptors.directory(nodes[3])
        inodes.descriptors.directory(node)
    assert [k for k, node in enumerate(nodes[:20]) if node.fd >= 0] == [0, 1, 2, 3]
    assert sum(node.fd >= 0 for node in nodes) <= 16
    inodes.close_all()


def test_of_a_file_that_the_disk_does_not_tell_the_name_is_listed_and_a_lookup_says_why(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.stat

    def bad_disk(path: str | bytes | int, **how: Any) -> os.stat_result:
        if path == b"file":
            raise OSError(errno.EIO, "Input/output error")
        return look(path, **how)

    monkeypatch.setattr(os, "stat", bad_disk)
    _, body = ask(export, abi.OPENDIR, abi.ROOT_ID, abi.OPEN_IN.pack(0, 0))
    handle = abi.OPEN_OUT.unpack_from(body)[0]
    error, body = ask(export, abi.READDIRPLUS, abi.ROOT_ID, abi.READ_IN.pack(handle, 0, 4096, 0, 0, 0, 0))
    assert error == 0
    assert [(nodeid, name) for _, _, nodeid, name, *_ in walk(body)] == [(0, b"."), (0, b".."), (0, b"file")]
    assert ask(export, abi.LOOKUP, abi.ROOT_ID, b"file\0")[0] == errno.EIO


def test_directories_used_by_many_threads_at_once(tmp_path: Path) -> None:
    """Each finds its own, though there is room for two."""
    inodes = Inodes(str(tmp_path), most=2)
    for name in map(str, range(8)):
        (tmp_path / name / "in").mkdir(parents=True)
    nodes = [inodes.found(inodes.top, b"%d" % k, os.stat(tmp_path / str(k))) for k in range(8)]
    nodes += [inodes.found(node, b"in", os.stat(tmp_path / str(k) / "in")) for k, node in enumerate(nodes)]

    def use(seed: int) -> list[int]:
        order = random.Random(seed).choices(nodes, k=400)
        wrong = []
        for node in order:
            at = inodes.descriptors.directory(node)
            first = os.fstat(at).st_ino
            wrong += [node.id] if not first == os.fstat(at).st_ino == node.ino else []
            wrong += [node.id] if inodes.descriptors.stat(node).st_ino != node.ino else []
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert [found for found in pool.map(use, range(4)) if found] == []
    inodes._check()
    inodes.close_all()


def test_what_of_the_locks_can_be_kept_is_kept(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = CarriedLocks()
    for _ in range(2):
        node, fh = opened(export)
        ask(export, abi.SETLK, node, abi.LK_IN.pack(fh, 7, 0, (1 << 63) - 1, fcntl.F_RDLCK, 1, abi.LK_FLOCK, 0))
    dup, left = os.dup, [1]

    def scarce(fd: int) -> int:
        if not left:
            raise OSError(errno.EMFILE, "Too many open files")
        left.pop()
        return dup(fd)

    monkeypatch.setattr(os, "dup", scarce)
    with pytest.raises(OSError, match="Too many"):
        carried.keep(export.inodes)
    before = len(os.listdir("/proc/self/fd"))
    carried.release()
    assert len(os.listdir("/proc/self/fd")) == before - 1
