"""The kernel's own tables are told from filesystems that keep data, and anew when something is mounted."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from remoteio import syscalls
from remoteio.execute.mount import MNT_DETACH, mount
from remoteio.submit.export.filesystems import DATA, PSEUDO, Filesystems, keeps_data


def test_none_is_both() -> None:
    assert not DATA & PSEUDO.keys()


@pytest.mark.parametrize(
    ("kind", "blocks", "device", "kept"),
    [
        (0x9FA0, 10, os.makedev(8, 1), False),
        (0x01021994, 0, os.makedev(0, 30), True),
        (0xEF53, 0, os.makedev(8, 1), True),
        (0x9123683E, 100, os.makedev(0, 40), True),
        (0x12345678, 0, os.makedev(0, 40), False),
        (0x12345678, 1, os.makedev(0, 40), True),
    ],
    ids=["proc", "tmpfs", "ext4", "btrfs", "a table unknown", "a network filesystem unknown"],
)
def test_what_keeps_data(kind: int, blocks: int, device: int, kept: bool) -> None:
    assert keeps_data(kind, blocks, device) is kept


def test_the_tables_of_this_kernel() -> None:
    """Each that is mounted here, by the name mountinfo gives it."""
    names = {
        "proc",
        "sysfs",
        "cgroup",
        "cgroup2",
        "debugfs",
        "tracefs",
        "securityfs",
        "bpf",
        "mqueue",
        "pstore",
        "devpts",
    }
    names |= {"configfs", "fusectl", "binfmt_misc", "efivarfs", "nsfs"}
    data = {"ext4", "tmpfs", "xfs", "btrfs", "overlay"}
    seen = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        name, where = fields[fields.index("-") + 1], fields[4]
        if name not in names | data or not os.access(where, os.F_OK):
            continue
        fd = os.open(where, os.O_PATH)
        try:
            device = os.fstat(fd).st_dev
            if f"{os.major(device)}:{os.minor(device)}" == fields[2]:  # else something is mounted over it
                assert keeps_data(*syscalls.fstatfs(fd), device) == (name in data), line
                seen.add(name)
        finally:
            os.close(fd)
    assert {"proc", "sysfs"} <= seen


def test_a_device_number_that_comes_back_is_looked_at_anew(tmp_path: Path) -> None:
    """An unmounted tmpfs gives its number free, and /proc may get it."""
    filesystems = Filesystems()
    here = os.open(tmp_path, os.O_PATH)
    table = os.open("/proc/self", os.O_PATH)
    try:
        number = 0xFFFF1
        assert filesystems.keep_data(here, number)
        assert filesystems.keep_data(table, number), "it is remembered by the number"
        mount("x", str(tmp_path), "tmpfs")
        try:
            assert not filesystems.keep_data(table, number)
            assert not filesystems.keep_data(here, number)
        finally:
            ctypes.CDLL(None).umount2(os.fsencode(tmp_path), MNT_DETACH)
        assert filesystems.keep_data(here, number)
    finally:
        os.close(here)
        os.close(table)
        filesystems.close()
