"""Which files a program needs to start, read from its ELF headers (elf(5)) in-process: `ldd` would run the program.

Shipped: runs on the execute host.
"""

from __future__ import annotations

import os
import struct

from checkpoint.errors import CheckpointError
from checkpoint.value import Value

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
_HEADER = 56  # bytes of an Elf64_Phdr
DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 1, 5, 15, 29


class ElfError(CheckpointError):
    """One sentence: which file is no 64-bit little-endian ELF program, or which library is missing."""


class Elf(Value):
    """The headers of an ELF file.

    machine       e_machine
    interpreter   the loader's path, or ""
    needed        sonames
    runpath       directories
    """

    __slots__ = ("interpreter", "machine", "needed", "runpath")
    machine: int
    interpreter: str
    needed: list[str]
    runpath: list[str]

    def __init__(self, machine: int, interpreter: str, needed: list[str], runpath: list[str]) -> None:
        self._set(machine=machine, interpreter=interpreter, needed=needed, runpath=runpath)


def parse(image: bytes, name: str) -> Elf:
    """Read the headers of an ELF file's content; name is for the error. Raises ElfError."""
    if image[:6] != b"\x7fELF\x02\x01":
        raise ElfError(f"{name} is not a 64-bit little-endian ELF file, so it cannot be run from a private directory")
    try:
        (machine,) = struct.unpack_from("<H", image, 18)
        (table,) = struct.unpack_from("<Q", image, 32)
        size, count = struct.unpack_from("<HH", image, 54)
        if size != _HEADER:
            raise ValueError(f"a program header of {size} bytes")  # of 0, each of 65535 would be the same
        headers = [struct.unpack_from("<IIQQQQQQ", image, table + i * size) for i in range(count)]
        interpreter = next((image[h[2] : h[2] + h[5]].rstrip(b"\0").decode() for h in headers if h[0] == PT_INTERP), "")
        tags: list[tuple[int, int]] = []
        for h in headers:
            if h[0] == PT_DYNAMIC:
                tags = [struct.unpack_from("<qQ", image, at) for at in range(h[2], h[2] + h[5], 16)]
        strings = next((value for tag, value in tags if tag == DT_STRTAB), 0)
        base = next((h[2] - h[3] for h in headers if h[0] == PT_LOAD and h[3] <= strings < h[3] + h[5]), 0) + strings

        def text(offset: int) -> str:
            return image[base + offset : image.index(b"\0", base + offset)].decode()

        needed = [text(value) for tag, value in tags if tag == DT_NEEDED]
        runpath = [d for tag, value in tags if tag in (DT_RPATH, DT_RUNPATH) for d in text(value).split(":")]
    except (struct.error, ValueError, OverflowError) as e:
        raise ElfError(f"{name} has damaged ELF headers ({e}); install it again") from e
    return Elf(machine, interpreter, needed, runpath)


def closure(program: str, library_dirs: list[str]) -> tuple[str, dict[str, str]]:
    """Find the loader as the program names it, and {soname: path} of every library reached from the program.

    library_dirs are searched in order, after a file's own run path. A library for another machine is passed over,
    as the loader does. Raises ElfError, OSError.
    """
    with open(program, "rb") as f:
        root = parse(f.read(), program)
    found: dict[str, str] = {}
    todo = [(root, os.path.dirname(program), program)]
    while todo:
        elf, origin, path = todo.pop()
        own = [d.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for d in elf.runpath]
        for soname in elf.needed:
            if soname in found or soname == os.path.basename(root.interpreter):
                continue
            for directory in own + library_dirs:
                candidate = os.path.join(directory, soname)
                if not os.path.exists(candidate):
                    continue
                with open(candidate, "rb") as f:
                    library = parse(f.read(), candidate)
                if library.machine == root.machine:
                    found[soname] = candidate
                    todo.append((library, os.path.dirname(os.path.realpath(candidate)), candidate))
                    break
            else:
                raise ElfError(f"{path} needs {soname}, which is in none of {', '.join(own + library_dirs)}")
    return root.interpreter, found
