"""Read of an ELF file (elf(5)) what the kernel and the loader will: which others it needs, and what is used first."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from remoteio.submit.export.first_names import Ranges
from remoteio.submit.export.seen import WHOLE

_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
_NEEDED, _STRTAB, _STRSZ, _RPATH, _RUNPATH = 1, 5, 10, 15, 29
_ACCOUNTS = (b"getpwuid", b"getpwnam", b"getgrgid", b"getgrnam")  # functions of libc
_WRITABLE = 2
_PROGRAM = struct.Struct("<IIQQQQQQ")
_MOST_HEADERS, _MOST_DYNAMIC, _MOST_TAGS, _LONGEST = 128, 1 << 16, 256, 4096  # there are fewer in what is used
_NAMES = 1 << 18  # bytes, of its own
_PAGE = 4096
HEAD = 64 << 10
"""Bytes that the kernel reads first."""


class Elf(NamedTuple):
    """What an ELF file says of itself; `ranges`: all of it, in the order in which it is used; `accounts`: it may ask
    who has a user's or group's number, or name."""

    machine: int
    interpreter: bytes
    needed: list[bytes]
    runpath: list[bytes]
    ranges: Ranges
    accounts: bool


def read(fd: int) -> Elf | None:
    """Read the file that is open; None: it is no 64-bit little-endian ELF file, or a damaged one."""
    try:
        return _parse(fd)
    except (OSError, struct.error, ValueError, OverflowError):
        return None


def _parse(fd: int) -> Elf | None:
    head = os.pread(fd, 64, 0)
    if head[:6] != b"\x7fELF\x02\x01":
        return None
    machine, table = struct.unpack_from("<H", head, 18)[0], struct.unpack_from("<Q", head, 32)[0]
    size, count = struct.unpack_from("<HH", head, 54)
    if size != _PROGRAM.size or count > _MOST_HEADERS:
        return None
    headers = list(_PROGRAM.iter_unpack(os.pread(fd, size * count, table)))
    loads = [(offset, address, held, flags) for kind, flags, offset, address, _, held, *_ in headers if kind == _LOAD]
    interpreter = next((_text(fd, offset) for kind, _, offset, *_ in headers if kind == _INTERP), b"")
    tags: list[tuple[int, int]] = []
    for kind, _, offset, _, _, held, *_ in headers:
        if kind == _DYNAMIC:
            data = os.pread(fd, min(held, _MOST_DYNAMIC), offset)
            tags = list(struct.iter_unpack("<qQ", data[: len(data) // 16 * 16]))
    strings = next((value for tag, value in tags if tag == _STRTAB), 0)
    base = next((o + strings - a for o, a, held, _ in loads if a <= strings < a + held), 0)
    needed = [_text(fd, base + value) for tag, value in tags if tag == _NEEDED][:_MOST_TAGS]
    told = [_text(fd, base + value) for tag, value in tags if tag in (_RPATH, _RUNPATH)][:1]
    size = next((value for tag, value in tags if tag == _STRSZ), 0)
    names = {*os.pread(fd, min(size, _NAMES), base).split(b"\0")} if strings else set()
    runpath = [each for text in told for each in text.split(b":")]
    return Elf(machine, interpreter, needed, runpath, _ranges(loads), not names.isdisjoint(_ACCOUNTS))


def _text(fd: int, offset: int) -> bytes:
    data = os.pread(fd, _LONGEST, offset)
    return data[: data.index(b"\0")]


def _ranges(loads: list[tuple[int, int, int, int]]) -> Ranges:
    """The first pages, then what is written to as the file is linked, then all else."""
    written = [(offset & -_PAGE, offset + held) for offset, _, held, flags in loads if flags & _WRITABLE and held]
    begin = min((begin for begin, _ in written), default=0)
    end = max((end for _, end in written), default=0) + _PAGE - 1 & -_PAGE
    return [(0, HEAD), (begin, end), (HEAD, begin), (end, WHOLE[0][1])] if HEAD < begin < end < WHOLE[0][1] else WHOLE
