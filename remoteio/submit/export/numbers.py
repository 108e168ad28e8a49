"""Submit side: the inode numbers that a job sees, which must tell apart the files of all filesystems by themselves.

A job sees one filesystem, with one ``st_dev``. Two files that share a number would be one for tar, rsync, cp and the
dynamic linker. The files of one filesystem, where the job works, keep the numbers that they have here: git's index
knows files by them (their lower 32 bits), and would be out of date on either machine. Those of all others are put where
a 32-bit program can still read them (stat(2) says EOVERFLOW for more than 32 bits): blocks of them, as they are met,
into the upper half of 32 bits. Where that does not go, the device is folded into the upper bits.

What the host had to tell of before it was made here (wire/makes.py) keeps the number that was told, as long as the
job runs, above all those blocks.
"""

from __future__ import annotations

import threading

from remoteio.wire.makes import INODES

KEPT = 1 << 31  # numbers below it are of the filesystem that keeps its own
_BLOCK = 16  # bits: numbers of one block, which are moved together
_SLOTS = INODES - KEPT >> _BLOCK
_MOST = _SLOTS * 3 // 4  # slots in use; a search among more takes long
MOST_TOLD = 1 << 16  # files and directories whose numbers were told before they were made: some 150 bytes each
_BEYOND = 1 << 47  # added to a number of the filesystem that keeps its own, where it is another one's


class Numbers:
    """Gives the files of all filesystems numbers of their own. Threads: any."""

    def __init__(self, device: int) -> None:
        """The filesystem of that st_dev keeps its numbers."""
        self.device = device
        self._lock = threading.Lock()
        self._bases: dict[tuple[int, int], int] = {}  # by device and block
        self._taken: set[int] = set()
        self._tags: dict[int, int] = {}
        self.told: dict[int, tuple[int, int]] = {}  # by number here: the device, and the number that was told

    def shown(self, dev: int, ino: int) -> int:
        """Return the number to show for the file of that number on that device."""
        if ino in self.told and self.told[ino][0] == dev:
            return self.told[ino][1]
        if dev == self.device:
            return ino if ino < KEPT or ino >> 32 else ino + _BEYOND
        block = ino >> _BLOCK
        base = self._bases.get((dev, block))
        if base is None:
            base = self._place(dev, block)
        return base | ino & (1 << _BLOCK) - 1 if base else ino ^ self._tag(dev) << 48

    def tell(self, dev: int, ino: int, told: int) -> None:
        """Show the file that was made with that number as `told`; it was told so before."""
        self.told[ino] = dev, told

    def _place(self, dev: int, block: int) -> int:
        """Where a block goes; 0: there is no room. By its number: the same for the next job, unless two want one."""
        with self._lock:
            found = self._bases.get((dev, block))
            if found is None:
                found = 0
                if len(self._taken) < _MOST and not block >> 48 - _BLOCK:
                    slot = (dev * 0x9E3779B1 + block * 0x85EBCA6B >> 7) % _SLOTS
                    while slot in self._taken:
                        slot = (slot + 1) % _SLOTS
                    self._taken.add(slot)
                    found = KEPT | slot << _BLOCK
                    self._bases[dev, block] = found
            return found

    def _tag(self, dev: int) -> int:
        with self._lock:
            tag = self._tags.get(dev)
            if tag is None:
                taken = set(self._tags.values())
                tag = (dev * 0x9E3779B1 >> 8) % 0xFFFF + 1
                while tag in taken:
                    tag = tag % 0xFFFF + 1
                self._tags[dev] = tag
            return tag
