"""The locks that a job is known to hold are those that a kernel says it holds, whatever it asked for."""

from __future__ import annotations

import fcntl
import os
import random
import struct
import tempfile

from checkpoint import filelocks
from remoteio import fuse_abi as abi
from remoteio.held import Held

_F_OFD_SETLK = 37


def ask(held: Held, kind: int, start: int, end: int, *, flags: int = 0, fh: int = 3, owner: int = 5) -> None:
    held.granted(2, bytes(abi.ARGS) + abi.LK_IN.pack(fh, owner, start, end, kind, 77, flags, 0))


def bytes_locked(held: Held) -> list[int]:
    """The kind of the lock on each of the first 64 bytes."""
    kinds = [fcntl.F_UNLCK] * 64
    for lock in held.locks():
        last = lock.start + lock.length if lock.length else 64
        for at in range(lock.start, min(last, 64)):
            assert kinds[at] == fcntl.F_UNLCK, "two locks on one byte"
            kinds[at] = lock.kind
    return kinds


def test_record_locks_are_as_the_kernel_has_them() -> None:
    chance = random.Random(5)
    for _ in range(30):
        held = Held()
        with tempfile.TemporaryFile() as file:
            for _ in range(12):
                kind = chance.choice((fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK))
                start = chance.randrange(60)
                end = chance.choice((chance.randrange(start, 64), (1 << 63) - 1))
                ask(held, kind, start, end)
                length = 0 if end >= 64 else end - start + 1
                fcntl.fcntl(file, _F_OFD_SETLK, struct.pack("=hh4xqqi4x", kind, os.SEEK_SET, start, length, 0))
            kernel = [fcntl.F_UNLCK] * 64
            with open(f"/proc/self/fdinfo/{file.fileno()}") as lines:
                for line in lines:
                    if line.startswith("lock:"):
                        how, first, last = (line.split()[at] for at in (4, 7, 8))
                        for at in range(int(first), 64 if last == "EOF" else int(last) + 1):
                            kernel[at] = fcntl.F_RDLCK if how == "READ" else fcntl.F_WRLCK
        assert bytes_locked(held) == kernel


def test_what_ends_a_lock() -> None:
    held = Held()
    ask(held, fcntl.F_WRLCK, 0, 9)
    ask(held, fcntl.F_WRLCK, 20, 29, owner=6, fh=4)
    ask(held, fcntl.F_RDLCK, 0, (1 << 63) - 1, flags=abi.LK_FLOCK)
    ask(held, fcntl.F_WRLCK, 0, (1 << 63) - 1, flags=abi.LK_FLOCK)
    assert [(lock.flock, lock.kind, lock.fh) for lock in held.locks() if lock.flock] == [(True, fcntl.F_WRLCK, 3)]
    held.flushed(2, 6)
    assert [lock.start for lock in held.locks() if not lock.flock] == [0]
    held.released(3)
    assert held.locks() == []


def test_entries_of_the_image_that_criu_reads(tmp_path: os.PathLike[str]) -> None:
    filelocks.add(os.fspath(tmp_path), [])
    assert not os.listdir(tmp_path)
    filelocks.add(os.fspath(tmp_path), [(True, 1, 1001, 3, 0, 0)])
    filelocks.add(os.fspath(tmp_path), [(False, 0, 1001, 300, 1 << 40, 5)])
    with open(os.path.join(tmp_path, "filelocks.img"), "rb") as file:
        image = file.read()
    assert image[:8] == struct.pack("<II", 0x54564319, 0x54323616)
    first = bytes.fromhex("0802100118e907200328003000")
    second = bytes.fromhex("0801100018e90720ac02288080808080203005")
    assert image[8:] == struct.pack("<I", len(first)) + first + struct.pack("<I", len(second)) + second
