"""What a job may add to the files here is counted, and refused, whichever request adds it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.submit.export import added as counted_files
from remoteio.submit.export import room
from remoteio.submit.export.added import NAME, Added
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.rights import FREE, Rule
from remoteio.submit.export.room import Quota, Reserve, Room
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from shim.submit import refused
from shim.submit.scope import ALL, FULL, PROJECT, JobRights, Scope, asked, of_row
from shim.wire.owner_policy import PolicyError
from tests.hostile import Host, Refused

MIB = 1 << 20


class Writer(Host):
    """A host that adds to the files in one directory."""

    def create(self, name: str) -> tuple[int, int]:
        """(node, handle) of a new file."""
        body = self.ask(abi.CREATE, 1, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + os.fsencode(name) + b"\0")
        node = int(abi.ENTRY.unpack_from(body)[0])
        return node, int(abi.OPEN_OUT.unpack_from(body, abi.ENTRY.size + abi.ATTR.size)[0])

    def write(self, handle: int, offset: int, data: bytes, flags: int = 0) -> None:
        self.ask(abi.WRITE, 1, abi.WRITE_IN.pack(handle, offset, len(data), 0, 0, flags, 0) + data)

    def truncate(self, node: int, size: int) -> None:
        self.ask(abi.SETATTR, node, abi.SETATTR_IN.pack(abi.FATTR_SIZE, 0, 0, size, *[0] * 12))

    def allocate(self, handle: int, offset: int, length: int, mode: int = 0) -> None:
        self.ask(abi.FALLOCATE, 1, abi.FALLOCATE_IN.pack(handle, offset, length, mode, 0))

    def copy(self, source: int, target: int, length: int) -> None:
        self.ask(abi.COPY_FILE_RANGE, 1, abi.COPY_IN.pack(source, 0, 1, target, 0, length, 0))

    def link(self, node: int, name: str) -> None:
        self.ask(abi.LINK, 1, abi.LINK_IN.pack(node) + os.fsencode(name) + b"\0")

    def attribute(self, node: int, name: bytes, value: bytes) -> None:
        self.ask(abi.SETXATTR, node, abi.SETXATTR_IN.pack(len(value), 0) + name + b"\0" + value)

    def remove(self, name: str, op: int = abi.UNLINK) -> None:
        self.ask(op, 1, os.fsencode(name) + b"\0")

    def close(self, handle: int) -> None:
        self.ask(abi.RELEASE, 1, abi.RELEASE_IN.pack(handle, 0, 0, 0))


Make = Callable[..., Writer]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[Room | None], Writer]]:
    made: list[Writer] = []

    def make(what: Room | None) -> Writer:
        ids = ShownIds(os.geteuid(), os.getegid(), frozenset())
        made.append(Writer(Export(ids, str(tmp_path), room=what)))
        return made[-1]

    yield make
    for each in made:
        if each.export.inodes.nodes:
            each.export.close()


def quota(most: int, added: Added | None = None) -> Quota:
    return Quota(most, added or Added(), Rule((), FREE, "too much"))


def refuses(work: Callable[[], object], number: int = errno.EDQUOT) -> None:
    with pytest.raises(Refused) as caught:
        work()
    assert caught.value.errno == number, caught.value


def test_what_is_written_counts_once_and_what_is_cut_off_no_more(serving: Make, tmp_path: Path) -> None:
    limit = quota(4 * MIB)
    host = serving(limit)
    node, handle = host.create("new")
    for k in range(3):
        host.write(handle, k * MIB, b"x" * MIB)
    assert limit.added.total == 3 * MIB + NAME
    host.write(handle, 0, b"y" * MIB)  # over what is there
    assert limit.added.total == 3 * MIB + NAME
    refuses(lambda: host.write(handle, 3 * MIB, b"x" * MIB))
    assert (tmp_path / "new").stat().st_size == 3 * MIB
    host.write(handle, 2 * MIB, b"z" * MIB)  # full, and what is there may still be written over
    host.truncate(node, MIB)
    assert limit.added.total == MIB + NAME
    host.write(handle, MIB, b"x" * MIB)
    host.close(handle)
    host.remove("new")
    assert (limit.added.total, limit.added.ahead, limit.added.rows()) == (0, 0, ())
    (refusal,) = host.export.inodes.allowed.refusals.counted()
    assert refusal.path == b"/new"


def test_what_was_there_is_not_the_job_s(serving: Make, tmp_path: Path) -> None:
    """Its room may be used again; only what goes beyond it counts, and it is not given back by removing it."""
    (tmp_path / "old").write_bytes(b"x" * 2 * MIB)
    limit = quota(MIB)
    host = serving(limit)
    node = host.lookup(1, b"old")
    handle = host.open(node, os.O_WRONLY | os.O_TRUNC)
    host.write(handle, 0, b"x" * MIB)
    host.write(handle, MIB, b"x" * MIB)
    assert limit.added.total == 0
    host.write(handle, 2 * MIB, b"x" * (MIB // 2))
    assert limit.added.total == MIB // 2
    refuses(lambda: host.write(handle, 2 * MIB + MIB // 2, b"x" * MIB))
    refuses(lambda: host.write(handle, 0, b"x" * MIB, os.O_APPEND))
    host.close(handle)
    host.remove("old")
    assert limit.added.total == 0


def test_holes_count_nothing_until_they_are_filled(serving: Make, tmp_path: Path) -> None:
    limit = quota(2 * MIB)
    host = serving(limit)
    node, handle = host.create("sparse")
    host.truncate(node, 1 << 40)
    assert limit.added.total == NAME
    host.write(handle, 1 << 39, b"x" * MIB)
    assert limit.added.total == NAME + MIB
    refuses(lambda: host.write(handle, 1 << 38, b"x" * MIB))
    refuses(lambda: host.write(handle, (1 << 40) + MIB, b"x" * MIB))
    host.truncate(node, 0)
    assert limit.added.total == NAME
    for k in range(3):  # beyond the end, each time: the hole is none of it
        host.write(handle, (k + 1) << 32, b"x" * 1000)
    assert limit.added.total == NAME + (tmp_path / "sparse").stat().st_blocks * 512


def test_each_way_to_add_is_refused(serving: Make, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 2 * MIB)
    limit = quota(MIB)
    host = serving(limit)
    source = host.open(host.lookup(1, b"source"), os.O_RDONLY)
    node, handle = host.create("new")
    refuses(lambda: host.allocate(handle, 0, 1 << 60))
    refuses(lambda: host.allocate(handle, 0, 2 * MIB, 1))  # KEEP_SIZE
    refuses(lambda: host.copy(source, handle, 1 << 62))
    refuses(lambda: host.write(handle, 0, b"x" * MIB))
    host.write(handle, 0, b"x" * (MIB - 8 * NAME))
    for name in ("a", "b", "c"):
        host.link(node, name)
    for k in range(3):
        host.ask(abi.MKDIR, 1, abi.MKDIR_IN.pack(0o755, 0) + b"dir%d\0" % k)
    refuses(lambda: host.attribute(node, b"user.x", b"x" * 8000))
    assert limit.added.total == MIB - NAME
    host.ask(abi.SYMLINK, 1, b"link\0target\0")
    assert limit.added.total == MIB
    for op, arguments in (
        (abi.LINK, abi.LINK_IN.pack(node) + b"more\0"),
        (abi.MKDIR, abi.MKDIR_IN.pack(0o755, 0) + b"more\0"),
        (abi.MKNOD, abi.MKNOD_IN.pack(0o100644, 0, 0, 0) + b"more\0"),
        (abi.SYMLINK, b"more\0x\0"),
        (abi.CREATE, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"more\0"),
        (abi.TMPFILE, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"/\0"),
        (abi.SETXATTR, abi.SETXATTR_IN.pack(1, 0) + b"user.x\0x"),
    ):
        at = node if op == abi.SETXATTR else 1
        refuses(lambda op=op, at=at, arguments=arguments: host.ask(op, at, arguments))  # type: ignore[misc]
    host.remove("link")
    host.remove("dir0", abi.RMDIR)
    host.ask(abi.RENAME, 1, abi.RENAME_IN.pack(1) + b"a\0z\0")  # a name for a name
    host.attribute(node, b"user.x", b"x" * 1000)
    host.ask(abi.REMOVEXATTR, node, b"user.x\0")
    assert limit.added.total == MIB - 2 * NAME
    host.ask(abi.RENAME, 1, abi.RENAME_IN.pack(1) + b"dir1\0dir2\0")  # and one that is replaced
    assert limit.added.total == MIB - 3 * NAME
    allocated, into = host.create("allocated")
    host.allocate(into, 0, NAME)
    assert limit.added.total == MIB - NAME
    host.write(into, 0, b"x" * NAME)
    assert limit.added.total == MIB - NAME
    assert (tmp_path / "allocated").stat().st_nlink == 1 and allocated


def test_a_file_without_a_name_counts_until_it_is_closed(serving: Make) -> None:
    limit = quota(2 * MIB)
    host = serving(limit)
    for k in range(2):
        _, handle = host.create(f"new{k}")
        host.write(handle, 0, b"x" * (MIB - NAME))
        host.remove(f"new{k}")
    refuses(lambda: host.write(handle, MIB - NAME, b"x" * MIB))
    host.close(handle)
    assert limit.added.total == MIB - NAME
    made = host.ask(abi.TMPFILE, 1, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"/\0")
    nameless = int(abi.OPEN_OUT.unpack_from(made, abi.ENTRY.size + abi.ATTR.size)[0])
    host.write(nameless, 0, b"x" * NAME)
    assert limit.added.total == MIB
    host.link(int(abi.ENTRY.unpack_from(made)[0]), "named")
    host.close(nameless)
    assert limit.added.total == MIB + NAME
    host.export.close()
    assert limit.added.total == 2 * NAME, "what had no name is closed with all else"


def test_requests_at_once_do_not_add_more_together(serving: Make) -> None:
    limit = quota(4 * MIB)
    host = serving(limit)
    handles = [host.create(f"new{k}")[1] for k in range(8)]
    done: list[int] = []
    start = threading.Barrier(8)

    def write(handle: int) -> None:
        start.wait()
        try:
            host.write(handle, 0, b"x" * MIB)
            done.append(handle)
        except Refused:
            return

    threads = [threading.Thread(target=write, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 3 and limit.added.total == 3 * MIB + 8 * NAME and limit.added.ahead == 0


def test_a_job_keeps_its_account_from_host_to_host_and_on_record(serving: Make) -> None:
    added = Added()
    first = serving(quota(2 * MIB, added))
    _, handle = first.create("new")
    first.write(handle, 0, b"x" * MIB)
    first.export.close()
    second = serving(quota(2 * MIB, Added(added.rows())))
    node = second.lookup(1, b"new")
    handle = second.open(node, os.O_WRONLY)
    refuses(lambda: second.write(handle, MIB, b"x" * MIB))
    second.truncate(node, 0)
    second.write(handle, 0, b"x" * MIB)
    assert added.total == MIB + NAME == second.export.room.added.total  # type: ignore[union-attr]
    assert Added((5,)).rows() == (5,), "what is known of no file stays"
    assert Added(("wild",)).total == 0


def test_no_more_files_are_told_apart_than_memory_is_for(serving: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted_files, "MOST_COUNTED", 2)
    monkeypatch.setattr(counted_files, "MOST_ROWS", 1)
    limit = quota(MIB)
    host = serving(limit)
    for name in "abc":
        host.create(name)
    assert len(limit.added.rows()) == 2 and limit.added.rows()[0] == 3 * NAME
    for name in "abc":
        host.remove(name)
    host.export.close()
    assert limit.added.total in (NAME, 0)


def test_the_last_free_space_is_left(serving: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [100 * MIB]
    monkeypatch.setattr(room, "left_free", lambda fd: free[0])
    host = serving(Reserve())
    _, handle = host.create("new")
    for k in range(20):
        host.write(handle, k * MIB, b"x" * MIB)
    free[0] = 0
    for k in range(20, 40):
        try:
            host.write(handle, k * MIB, b"x" * MIB)
        except Refused as error:
            assert error.errno == errno.ENOSPC
            break
    else:
        pytest.fail("nobody looked")
    host.write(handle, 0, b"x" * MIB)
    refuses(lambda: host.create("more"), errno.ENOSPC)
    refuses(lambda: host.allocate(handle, 0, 1 << 50), errno.ENOSPC)
    free[0] = 2 * MIB
    host.write(handle, k * MIB, b"x" * MIB)
    assert [refusal.rule for refusal in host.export.inodes.allowed.refusals.counted()] == [room.FULL] * 2


def test_how_much_is_left_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    made = os.statvfs_result((4096, 4096, 1000, 500, 400, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda fd: made)
    assert room.left_free(fd) == (400 - 50) * 4096, "5 %"
    made = os.statvfs_result((4096, 4096, 1 << 30, 500, 1 << 20, 0, 0, 0, 0, 255))
    assert room.left_free(fd) == (3 << 30), "1 GiB"
    made = os.statvfs_result((4096, 4096, 1 << 30, 500, 1 << 20, 1000, 60, 55, 0, 255))
    assert room.left_free(fd) == 5 * NAME, "inodes"
    os.close(fd)


def test_which_limit_holds() -> None:
    def of(scope: Scope) -> Room | None:
        return JobRights(scope).room()

    assert of(Scope(FULL)) is None
    assert isinstance(of(Scope()), Reserve) and isinstance(of(Scope(PROJECT)), Reserve)
    assert of(Scope(disk=ALL)) is None
    limit = of(asked(False, (), (), (), "10G").on(None, 1 << 30))
    assert isinstance(limit, Quota) and limit.most == 1 << 30
    assert asked(False, (), (), (), "1G").on(FULL, ALL).disk == 1 << 30
    assert asked(False, (), (), (), "all").on(FULL, 5).disk == 5
    assert of_row(Scope(disk=5).row()) == Scope(disk=5)
    with pytest.raises(PolicyError, match='--disk = "much" is not a size'):
        asked(False, (), (), (), "much")


def test_it_is_said_in_a_sentence(serving: Make) -> None:
    limit = JobRights(Scope(disk=2 * MIB)).room()
    host = serving(limit)
    for name in ("one", "two"):
        _, handle = host.create(name)
        refuses(lambda handle=handle: host.write(handle, 0, b"x" * (2 * MIB)))  # type: ignore[misc]
    counted = host.export.inodes.allowed.refusals.counted()
    assert refused.sentences(counted) == [
        "the job was kept from adding more than 2.0 MiB to the files here (/one and 1 more): a larger --disk SIZE lets"
        ' it, and disk = "SIZE" of its host in hosts.toml, where that is less'
    ]
    assert next(iter(refused.rows(counted))) == {
        "path": "/one", "rule": "adding more than 2.0 MiB to the files here", "to": "add", "option": "--disk SIZE",
        "count": 1,
    }  # fmt: skip
