"""A tree of 10,000 files with all that tar and rsync should keep, and what there is to compare of one.

python3 planted_tree.py TREE        plants TREE
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import sys
from collections.abc import Iterator
from pathlib import Path


def odd_names() -> Iterator[bytes]:
    yield from (b" ", b"-rf", b"--", b"a\nb", b"tab\there", b"'\"`$(id)`", b"*?[x]", b"\\back\\slash", b"...", b"~")
    yield from (b"\xff\xfe", b"caf\xe9", "Жук.txt".encode(), "e\u0301".encode(), "é".encode(), b"CON", b"x" * 255)
    yield from (bytes((value,)) for value in range(1, 256) if value not in b"./")


def plant(tree: Path, files: int) -> None:
    """So many files and what goes with them."""
    dice = random.Random(11)
    for number in range(97):
        (tree / f"d{number}").mkdir(parents=True)
    for number in range(files):
        file = tree / f"d{number % 97}/f{number}"
        file.write_bytes(dice.randbytes(dice.randrange(400)))
        if number % 100 == 1 and number % 3:  # not on files made read-only: tar itself, run by their owner, fails there
            os.setxattr(file, "user.kind", b"\0\xff%d" % number)
        if number % 3 == 0:
            file.chmod(dice.choice([0o600, 0o755, 0o444, 0o4755, 0o2755, 0o640]))
        if number % 20 == 0:
            os.link(file, tree / f"d{(number + 1) % 97}" / f"hard{number}")
        if number % 50 == 0:
            os.symlink(f"../nowhere/{number}", tree / f"d{number % 97}" / f"soft{number}")
    for number in range(30):
        with open(tree / f"sparse{number}", "wb") as sparse:
            sparse.seek(number << 20)
            sparse.write(dice.randbytes(5000))
            sparse.truncate((number << 20) + 300_000)
    odd = os.fsencode(tree / "odd")
    os.mkdir(odd)
    for name in odd_names():
        with open(os.path.join(odd, name), "wb") as file:
            file.write(name)
    (tree / "empty").mkdir()
    (tree / "sticky").mkdir()
    os.mkfifo(tree / "fifo")
    for directory, mode in (("sticky", 0o1777), ("empty", 0o2770), ("odd", 0o700)):
        (tree / directory).chmod(mode)
    if os.geteuid() == 0:
        os.chown(tree / "d1/f1", 4321, 1234)
    for top, directories, files in os.walk(os.fsencode(tree), topdown=False):
        for name in (*files, *directories):
            when = dice.randrange(10**9 * 1_600_000_000)
            os.utime(os.path.join(top, name), ns=(when, when), follow_symlinks=False)


def described(tree: Path) -> dict[bytes, tuple[object, ...]]:
    """All there is to compare of a tree, by name; a file's hard links are told by the first of its names."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    top = os.fsencode(tree)
    for directory, directories, files in os.walk(top):
        for name in sorted((*directories, *files)):
            path = os.path.join(directory, name)
            relative, st = os.path.relpath(path, top), os.lstat(path)
            content: object = None
            if stat.S_ISLNK(st.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    content = (st.st_size, hashlib.sha256(file.read()).hexdigest(), st.st_blocks * 512 < st.st_size)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            links = (st.st_nlink, first.setdefault(st.st_ino, relative)) if not stat.S_ISDIR(st.st_mode) else None
            found[relative] = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, links, content, xattrs)
    return found


if __name__ == "__main__":
    plant(Path(sys.argv[1]), int(sys.argv[2]))
