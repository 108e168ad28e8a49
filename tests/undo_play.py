"""A job and another program at work in one tree, for tests of undoing: the job through an export, the other beside it.

Of each moment there is a model: a copy of the tree as it was, in which only the other has gone on.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from remoteio.submit.export.changes import Changes
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.written_files import WrittenFiles
from remoteio.submit.undo.journal import Journal
from remoteio.submit.undo.watch import Watch
from remoteio.wire import fuse_abi as abi
from shim.submit.job import undo_plan
from shim.submit.job.undo_files import Undoing, Undone
from tests.hostile import Host, Refused

NAMES = ("a", "b", "c", "e/a", "e/b", "e", "n", "n/a")  # the job's; e is there from the beginning
OTHERS = ("x1", "x2", "d/x1", "d/x2")
JOB = (
    "create", "append", "append", "write", "cut", "open", "unlink", "rename", "exchange", "link", "symlink", "mkdir",
    "rmdir", "chmod", "attribute", "times", "log", "both", "punch", "hold",
)  # fmt: skip
OTHER = ("make", "grow", "drop", "swap", "log", "log", "both")
Step = tuple[int, int, int, int]


class Job:
    """Asks an export of `top` for what a job does; what fails there fails."""

    def __init__(self, top: Path, journal: Journal) -> None:
        ids = ShownIds(os.geteuid(), os.getegid(), frozenset())
        self.watch = Watch(journal)
        self.host = Host(Export(ids, str(top), WrittenFiles(Changes(), self.watch)))

    def place(self, name: str) -> tuple[int, bytes]:
        """(node of the directory, last part of the name)."""
        directory, _, last = name.rpartition("/")
        return self.host.walk(directory) if directory else abi.ROOT_ID, os.fsencode(last)

    def write(self, name: str, data: bytes, at: int = -1, flags: int = os.O_WRONLY) -> None:
        """Open, write at `at` (-1: at the end, by O_APPEND) and close."""
        flags |= os.O_APPEND if at < 0 else 0
        handle = self.host.open(self.host.walk(name), flags)
        where = max(at, 0)
        try:
            self.host.ask(abi.WRITE, 1, abi.WRITE_IN.pack(handle, where, len(data), 0, 0, flags, 0) + data)
        finally:
            self.host.ask(abi.RELEASE, 1, abi.RELEASE_IN.pack(handle, 0, 0, 0))

    def create(self, name: str, data: bytes = b"") -> None:
        node, last = self.place(name)
        body = self.host.ask(abi.CREATE, node, abi.CREATE_IN.pack(os.O_WRONLY, 0o644, 0, 0) + last + b"\0")
        handle = abi.OPEN_OUT.unpack_from(body, abi.ENTRY.size + abi.ATTR.size)[0]
        self.host.ask(abi.WRITE, 1, abi.WRITE_IN.pack(handle, 0, len(data), 0, 0, 0, 0) + data)
        self.host.ask(abi.RELEASE, 1, abi.RELEASE_IN.pack(handle, 0, 0, 0))

    def setattr(self, name: str, valid: int, size: int = 0, mode: int = 0, mtime: int = 0) -> None:
        body = abi.SETATTR_IN.pack(valid, 0, 0, size, 0, mtime, mtime, 0, 0, 0, 0, mode, 0, 0, 0, 0)
        self.host.ask(abi.SETATTR, self.host.walk(name), body)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        node, last = self.place(old)
        other, name = self.place(new)
        args = abi.RENAME2_IN.pack(other, flags, 0) + last + b"\0" + name + b"\0"
        self.host.ask(abi.RENAME2, node, args)

    def unlink(self, name: str, op: int = abi.UNLINK) -> None:
        node, last = self.place(name)
        self.host.ask(op, node, last + b"\0")

    def link(self, old: str, new: str) -> None:
        node, last = self.place(new)
        self.host.ask(abi.LINK, node, abi.LINK_IN.pack(self.host.walk(old)) + last + b"\0")

    def symlink(self, target: str, new: str) -> None:
        node, last = self.place(new)
        self.host.ask(abi.SYMLINK, node, last + b"\0" + target.encode() + b"\0")

    def mkdir(self, name: str) -> None:
        node, last = self.place(name)
        self.host.ask(abi.MKDIR, node, abi.MKDIR_IN.pack(0o755, 0) + last + b"\0")

    def punch(self, name: str, at: int, length: int) -> None:
        handle = self.host.open(self.host.walk(name), os.O_RDWR)
        try:
            self.host.ask(abi.FALLOCATE, 1, abi.FALLOCATE_IN.pack(handle, at, length, 3, 0))
        finally:
            self.host.ask(abi.RELEASE, 1, abi.RELEASE_IN.pack(handle, 0, 0, 0))

    def do(self, step: Step) -> None:
        """One of JOB, or nothing where that fails."""
        what, a, b, n = step
        name, other = NAMES[a % len(NAMES)], NAMES[b % len(NAMES)]
        data = bytes([97 + n % 26]) * (1 + n * 37 % 9000)
        try:
            {
                "create": lambda: self.create(name, data), "append": lambda: self.write(name, data),
                "write": lambda: self.write(name, data, n * 97), "open": lambda: self.write(name, data, 0, 0o1001),
                "cut": lambda: self.setattr(name, abi.FATTR_SIZE, n * 61), "unlink": lambda: self.unlink(name),
                "rename": lambda: self.rename(name, other), "exchange": lambda: self.rename(name, other, 2),
                "link": lambda: self.link(name, other), "symlink": lambda: self.symlink("somewhere", name),
                "mkdir": lambda: self.mkdir(name), "rmdir": lambda: self.unlink(name, abi.RMDIR),
                "chmod": lambda: self.setattr(name, abi.FATTR_MODE, mode=0o700 + n % 64),
                "attribute": lambda: self.host.ask(
                    abi.SETXATTR, self.host.walk(name), abi.SETXATTR_IN.pack(1, 0) + b"user.k%d\0%d" % (n % 2, n % 10)
                ),
                "times": lambda: self.setattr(name, abi.FATTR_MTIME, mtime=1000 + n),
                "log": lambda: self.write("log", b"job %d\n" % n), "both": lambda: self.write("both", data[:4000], n),
                "hold": lambda: self.host.open(self.host.walk(name), os.O_RDWR),
                "punch": lambda: self.punch(name, n * 50, 5000),
            }[JOB[what % len(JOB)]]()  # fmt: skip
        except Refused:
            return


def other(top: Path, step: Step) -> None:
    """What another program does, in its own files and in two that the job has, too: one of OTHER."""
    what, a, b, n = step
    path, second = top / OTHERS[a % len(OTHERS)], top / OTHERS[b % len(OTHERS)]
    try:
        kind = OTHER[what % len(OTHER)]
        if kind == "make":
            path.write_bytes(b"others %d" % n)
        elif kind == "grow":
            with path.open("ab") as file:
                file.write(b"%d" % n)
        elif kind == "drop":
            path.unlink()
        elif kind == "swap":
            path.rename(second)
        elif kind == "log":
            with (top / "log").open("ab") as file:
                file.write(b"other %d\n" % n)
        else:
            with (top / "both").open("r+b") as file:
                file.seek(8192 + n)
                file.write(b"%d" % n)
    except FileNotFoundError:
        return


def planted(top: Path) -> Path:
    """The tree at the beginning."""
    for name in ("d", "e"):
        (top / name).mkdir(parents=True)
    for name in ("a", "e/b", "d/x1", "log"):
        (top / name).write_bytes(name.encode() * 1500)
    (top / "both").write_bytes(b"." * 20000)
    (top / "b").symlink_to("a")
    os.link(top / "a", top / "c")
    return top


class Play:
    """A tree, the job in it and the other, and a model of each moment."""

    def __init__(self, top: Path, limit: int = 1 << 30) -> None:
        self.top, self.models = planted(top / "tree"), top / "models"
        self.models.mkdir()
        self.kept = top / "kept"
        self.journal = Journal(str(top / "undo"), limit, lost=self.lost)
        self.job = Job(self.top, self.journal)
        self.moments = 0

    def lost(self, why: str) -> None:
        raise AssertionError(why)

    def moment(self) -> int:
        """An image is made; its number."""
        self.moments += 1
        self.journal.mark(self.moments)
        self.journal.bind(self.moments, self.moments)
        shutil.copytree(self.top, self.models / str(self.moments), symlinks=True, copy_function=_copy)
        for group in _linked(self.top):
            first, *rest = (self.models / str(self.moments) / each.relative_to(self.top) for each in group)
            for each in rest:
                each.unlink()
                os.link(first, each)
        return self.moments

    def other(self, step: Step) -> None:
        for tree in (self.top, *self.models.iterdir()):
            other(tree, step)

    def undo(self, image: int) -> Undone:
        """What a supervisor does that goes on from that image; nothing of the job runs."""
        self.job.host.export.inodes.close_all()
        self.journal.close()
        self.journal = Journal(str(self.top.parent / "undo"))
        plan = undo_plan.plan(self.journal, image)
        assert plan is not None
        undoing = Undoing(self.journal, plan, image, f"job1-image{image}", self.kept)
        undone = undoing.run()
        self.journal.begin(image)
        undoing.end()
        self.job = Job(self.top, self.journal)
        return undone


def _copy(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=False)


def _linked(top: Path) -> list[list[Path]]:
    found: dict[int, list[Path]] = {}
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink():
            found.setdefault(path.stat().st_ino, []).append(path)
    return [group for group in found.values() if len(group) > 1]


def tree(top: Path, timed: bool = True) -> dict[str, object]:
    """What is there, but for what is named as kept beside; with the times of what the job alone has written."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if ".job1-image" in name:
            continue
        st = path.lstat()
        own = timed and name not in ("log", "both") and "x" not in name
        facts: list[object] = [stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode)]
        if stat.S_ISREG(st.st_mode):
            attributes = {each: os.getxattr(path, each) for each in os.listxattr(path) if each.startswith("user.")}
            facts += [path.read_bytes(), attributes, st.st_mtime_ns if own else 0]
        elif stat.S_ISLNK(st.st_mode):
            facts += [os.readlink(path)]
        found[name] = facts
    for number, group in enumerate(_linked(top)):
        for path in group:
            found[f"{path.relative_to(top)} is"] = number
    return found
