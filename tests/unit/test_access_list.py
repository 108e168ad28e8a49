"""An access list that says what a mode says, against what the kernel makes of both."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from remoteio.execute.access_list import as_mode
from remoteio.wire import fuse_abi as abi

NAME = b"system.posix_acl_access"
ENTRIES = [(1, 6, 0xFFFFFFFF), (4, 5, 0xFFFFFFFF), (0x20, 4, 0xFFFFFFFF)]


def packed(entries: list[tuple[int, int, int]], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *each) for each in entries)


def asked(value: bytes, name: bytes = NAME, flags: int = 0) -> bytes:
    return abi.request(abi.SETXATTR, 7, abi.SETXATTR_IN.pack(len(value), flags) + name + b"\0" + value, unique=9)


def test_a_minimal_list_is_a_mode_as_the_kernel_has_it(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    os.setxattr(file, NAME, packed(ENTRIES))
    found = as_mode(asked(packed(ENTRIES)))
    length, op, unique, nodeid, *_ = abi.IN_HEADER.unpack_from(found)
    valid, *_, mode, _, _, _, _ = abi.SETATTR_IN.unpack_from(found, abi.ARGS)
    assert (length, op, unique, nodeid, valid) == (len(found), abi.SETATTR, 9, 7, abi.FATTR_MODE)
    assert mode == stat.S_IMODE(file.stat().st_mode) == 0o654
    assert NAME.decode() not in os.listxattr(file), "the kernel keeps none such"


@pytest.mark.parametrize(
    "raw",
    [
        asked(packed([*ENTRIES[:2], (0x10, 7, 0xFFFFFFFF), ENTRIES[2]])),
        asked(packed([ENTRIES[0], (2, 6, 1000), ENTRIES[2]])),
        asked(packed([ENTRIES[1], ENTRIES[0], ENTRIES[2]])),
        asked(packed([(1, 8, 0xFFFFFFFF), *ENTRIES[1:]])),
        asked(packed(ENTRIES, version=1)),
        asked(packed(ENTRIES), flags=os.XATTR_CREATE),
        asked(packed(ENTRIES), name=b"system.posix_acl_default"),
        asked(packed(ENTRIES), name=b"user.mine"),
        asked(packed(ENTRIES)[:-1]),
        asked(b""),
    ],
    ids=["mask", "a-user", "order", "permissions", "version", "create", "default", "other", "short", "empty"],
)
def test_any_other_is_left_to_home(raw: bytes) -> None:
    assert as_mode(raw) == b""
