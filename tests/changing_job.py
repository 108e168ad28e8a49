"""A job that changes its memory in every way there is, and says hashes of it: for tests of images of what changed.

Run as a program in a directory. After each line of its input, a number and words, the file `answer` has the number and
hashes of all memory of each of its processes. `change SEED`: once it has been changed; `hash`: as it is.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import random
import socket
import sys
import threading
from collections.abc import Callable

PAGE, SIZE = 4096, 20 << 20
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
_READ_WRITE, _FIXED, _MAY_MOVE, _REMAP_FIXED = 3, 0x10, 1, 2
_FREE, _HUGE = 8, 14  # of madvise(2)


class Area:
    """A mapping at an address of our choice, none of Python's."""

    def __init__(self, address: int, size: int, flags: int = PRIVATE, fd: int = -1) -> None:
        self.address, self.size = address, size
        self.map(0, size, flags, fd)

    def map(self, at: int, size: int, flags: int = PRIVATE, fd: int = -1) -> None:
        where = self.address + at
        place, length = ctypes.c_void_p(where), ctypes.c_size_t(size)
        got = libc.mmap(place, length, _READ_WRITE, flags | _FIXED, fd, ctypes.c_long(0))
        if got != where:
            raise OSError(ctypes.get_errno(), "mmap")

    def write(self, at: int, data: bytes) -> None:
        ctypes.memmove(self.address + at, data, len(data))

    def advise(self, at: int, size: int, how: int) -> None:
        if libc.madvise(ctypes.c_void_p(self.address + at), ctypes.c_size_t(size), how):
            raise OSError(ctypes.get_errno(), "madvise")

    def hash(self) -> str:
        return hashlib.sha256((ctypes.c_char * self.size).from_address(self.address)).hexdigest()


class Memory:
    """All areas, and the ways in which they are changed."""

    def __init__(self) -> None:
        self.main = Area(0x200000000000, SIZE)
        self.other = Area(0x210000000000, SIZE // 4)
        self.huge = Area(0x220000000000, 8 << 20)
        self.memfd = os.memfd_create("shared")
        os.ftruncate(self.memfd, 2 << 20)
        self.shared = Area(0x230000000000, 2 << 20, mmap.MAP_SHARED, self.memfd)
        self.huge.advise(0, self.huge.size, _HUGE)
        self.donors = [Area(0x240000000000 + (i << 20), 32 * PAGE) for i in range(6)]
        self.areas = [self.main, self.other, self.huge, self.shared, *self.donors]
        for area in self.areas:
            area.write(0, random.Random(area.address).randbytes(area.size))

    def ways(self) -> list[Callable[[random.Random], None]]:
        return [self._write, self._read, self._receive, self._remap, self._move, self._forget, self._free,
                self._thread, self._huge, self._shared, self._grow, self._zero, self._by_proc]  # fmt: skip

    def change(self, seed: int) -> None:
        chance = random.Random(seed)
        for way in chance.choices(self.ways(), k=12):
            way(chance)

    def _place(self, chance: random.Random, area: Area, size: int = PAGE) -> int:
        return chance.randrange((area.size - size) // PAGE) * PAGE

    def _write(self, chance: random.Random) -> None:
        for _ in range(chance.choice((1, 40))):
            self.main.write(self._place(chance, self.main) + 17, chance.randbytes(9))

    def _read(self, chance: random.Random) -> None:
        """The kernel writes into it, by read(2)."""
        r, w = os.pipe()
        os.write(w, chance.randbytes(3 * PAGE))
        where = self.main.address + self._place(chance, self.main, 4 * PAGE) + 99
        if libc.read(r, ctypes.c_void_p(where), 3 * PAGE) != 3 * PAGE:
            raise OSError("read")
        os.close(r)
        os.close(w)

    def _receive(self, chance: random.Random) -> None:
        a, b = socket.socketpair()
        with a, b:
            a.send(chance.randbytes(200))
            view = (ctypes.c_char * 200).from_address(self.other.address + self._place(chance, self.other))
            if b.recv_into(view) != 200:
                raise OSError("recv")

    def _remap(self, chance: random.Random) -> None:
        """Unmapped, and mapped anew at the same address."""
        at = self._place(chance, self.main, 64 * PAGE)
        libc.munmap(ctypes.c_void_p(self.main.address + at), ctypes.c_size_t(48 * PAGE))
        self.main.map(at, 48 * PAGE)
        for page in range(0, 48, 2):
            self.main.write(at + page * PAGE, chance.randbytes(64))

    def _move(self, chance: random.Random) -> None:
        """A mapping moved into another, mremap(2); it has been there since an earlier image, or has not."""
        donor = chance.choice(self.donors)
        target = self.main.address + self._place(chance, self.main, donor.size)
        got = libc.mremap(
            ctypes.c_void_p(donor.address), ctypes.c_size_t(donor.size), ctypes.c_size_t(donor.size),
            _MAY_MOVE | _REMAP_FIXED, ctypes.c_void_p(target),
        )  # fmt: skip
        if got != target:
            raise OSError(ctypes.get_errno(), "mremap")
        donor.map(0, donor.size)
        donor.write(0, chance.randbytes(donor.size // 2))

    def _forget(self, chance: random.Random) -> None:
        at = self._place(chance, self.main, 20 * PAGE)
        self.main.advise(at, 20 * PAGE, mmap.MADV_DONTNEED)
        self.main.write(at + 3 * PAGE, b"once more")

    def _free(self, chance: random.Random) -> None:
        """Pages that the kernel may take, and are written again at once."""
        at = self._place(chance, self.other, 8 * PAGE)
        self.other.advise(at, 8 * PAGE, _FREE)
        self.other.write(at, chance.randbytes(8 * PAGE))

    def _thread(self, chance: random.Random) -> None:
        at, data = self._place(chance, self.main), chance.randbytes(300)
        thread = threading.Thread(target=self.main.write, args=(at, data))
        thread.start()
        thread.join()

    def _huge(self, chance: random.Random) -> None:
        self.huge.write(self._place(chance, self.huge), chance.randbytes(5))

    def _shared(self, chance: random.Random) -> None:
        if chance.random() < 0.5:
            self.shared.write(self._place(chance, self.shared), chance.randbytes(700))
        else:
            os.pwrite(self.memfd, chance.randbytes(700), self._place(chance, self.shared))

    def _grow(self, chance: random.Random) -> None:
        """Deeper on the stack than before."""
        size = chance.randrange(1, 40) * PAGE
        buffer = ctypes.create_string_buffer(chance.randbytes(size), size)
        self.main.write(self._place(chance, self.main), buffer.raw[:50])

    def _zero(self, chance: random.Random) -> None:
        self.main.write(self._place(chance, self.main), bytes(PAGE))

    def _by_proc(self, chance: random.Random) -> None:
        with open("/proc/self/mem", "r+b", 0) as memory:
            memory.seek(self.main.address + self._place(chance, self.main))
            memory.write(chance.randbytes(33))

    def hash(self) -> str:
        return " ".join(area.hash()[:12] for area in self.areas)


class Child:
    """A forked process, which has the memory as it was then and goes on changing its own."""

    def __init__(self, memory: Memory) -> None:
        ours, theirs = os.pipe()
        back, answer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(theirs)
            while word := os.read(ours, 100):
                what, seed = word.split()
                if what == b"change":
                    chance = random.Random(-int(seed))
                    for way in (memory._write, memory._read, memory._forget, memory._move, memory._zero):
                        way(chance)
                os.write(answer, memory.hash().encode())
            os._exit(0)
        os.close(ours)
        os.close(answer)
        self._orders, self._back = theirs, back

    def ask(self, what: str) -> str:
        os.write(self._orders, what.encode())
        return os.read(self._back, 1000).decode()

    def end(self) -> None:
        os.close(self._orders)
        os.close(self._back)
        os.waitpid(self.pid, 0)


def main() -> None:
    memory, child = Memory(), None
    for line in sys.stdin:
        words = line.split()
        if words[1] == "change":
            seed = int(words[2])
            memory.change(seed)
            if child is not None and seed % 3 == 0:
                child.end()
                child = None
            if child is None:
                child = Child(memory)
            child.ask(f"change {seed}")
            memory.change(seed + 1000)
        said = memory.hash() + " | " + (child.ask("hash 0") if child is not None else "")
        with open("answer.new", "w") as f:
            f.write(f"{words[0]} {said}")
        os.rename("answer.new", "answer")


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main()
