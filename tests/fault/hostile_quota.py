"""Ways to add more to a disk than `--disk 1M` lets a job."""

from __future__ import annotations

import os
from collections.abc import Iterator

from remoteio.wire import fuse_abi as abi
from tests.fault.hostile import Wire
from tests.fault.hostile_requests import Attempt, attempt_all, end_well

MOST = 1 << 20  # bytes
_PIECE = b"x" * 65536


def _write(handle: int, offset: int, flags: int = 0) -> bytes:
    return abi.WRITE_IN.pack(handle, offset, len(_PIECE), 0, 0, flags, 0) + _PIECE


def _sized(node: int, size: int) -> tuple[int, int, bytes]:
    return abi.SETATTR, node, abi.SETATTR_IN.pack(abi.FATTR_SIZE, 0, 0, size, *[0] * 12)


def _of_contents(wire: Wire, project: int) -> Iterator[Attempt]:
    """What a file grows by: holes cost nothing, and what fills them does."""
    _, sparse = wire.create(project, b"sparse")
    node = wire.lookup(project, b"sparse")
    assert not wire.ask(*_sized(node, 1 << 43))[0], "a hole takes nothing of a disk"
    for offset in (0, 1 << 20, 1 << 40, (1 << 43) - 65536, 1 << 43):
        yield f"into a hole at {offset:#x}", abi.WRITE, node, _write(sparse, offset)
    yield "at the end of a hole", abi.WRITE, node, _write(sparse, 0, os.O_APPEND)
    for mode in (0, 0x01, 0x10, 0x11, 0x40):
        for length in (1 << 20, 1 << 40, (1 << 62)):
            arguments = abi.FALLOCATE_IN.pack(sparse, 0, length, mode, 0)
            yield f"{length:#x} bytes allocated, mode {mode:#x}", abi.FALLOCATE, node, arguments


def _of_copies(wire: Wire, project: int, full: int, handle: int) -> Iterator[Attempt]:
    node, copy = wire.create(project, b"copy")
    for op in (abi.COPY_FILE_RANGE, abi.COPY_FILE_RANGE_64):
        for at in (0, 1 << 30):
            yield "a copy of what is there", op, node, abi.COPY_IN.pack(handle, 0, node, copy, at, 1 << 62, 0)
        yield "a copy onto its own end", op, full, abi.COPY_IN.pack(handle, 0, full, handle, MOST, 1 << 20, 0)


def _of_names(project: int, full: int) -> Iterator[Attempt]:
    """When all is used, down to less than a name takes."""
    for op, arguments in (
        (abi.LINK, abi.LINK_IN.pack(full) + b"link\0"),
        (abi.CREATE, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"made\0"),
        (abi.TMPFILE, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"/\0"),
        (abi.MKDIR, abi.MKDIR_IN.pack(0o755, 0) + b"directory\0"),
        (abi.MKNOD, abi.MKNOD_IN.pack(0o100644, 0, 0, 0) + b"node\0"),
        (abi.SYMLINK, b"symbolic\0" + b"x" * 4000 + b"\0"),
    ):
        yield "a name too many", op, project, arguments


def over_the_quota(wire: Wire) -> None:
    """Use up what there is, in each way; none adds more. Then the job ends well."""
    wire.begin()
    assert not wire.ask(abi.INIT, 0, bytes.fromhex("0700000024000000") + bytes(8))[0]
    project = wire.walk(wire.start["cwd"][0])
    full, handle = wire.create(project, b"full")
    offset = 0
    while not wire.ask(abi.WRITE, full, _write(handle, offset))[0]:
        offset += len(_PIECE)
    assert MOST - (1 << 17) < offset < MOST
    attempt_all(wire, _of_contents(wire, project))
    attempt_all(wire, _of_copies(wire, project, full, handle))
    for k in range(8):  # what is removed while it is open is there still
        _, one = wire.create(project, b"nameless")
        wire.ask(abi.WRITE, full, _write(one, 0))
        wire.ask(abi.UNLINK, project, b"nameless\0")
        attempt_all(wire, [(f"a file without a name, {k}", abi.WRITE, full, _write(one, len(_PIECE)))])
    for k in range(400):
        wire.ask(abi.SETXATTR, full, abi.SETXATTR_IN.pack(3000, 0) + b"user.%d\0" % k + b"x" * 3000)
        wire.ask(abi.MKDIR, project, abi.MKDIR_IN.pack(0o755, 0) + b"dir%d\0" % k)
    large = abi.SETXATTR_IN.pack(9000, 0) + b"user.x\0" + b"x" * 9000
    attempt_all(wire, [("an attribute too many", abi.SETXATTR, full, large)])
    attempt_all(wire, _of_names(project, full))
    end_well(wire)
