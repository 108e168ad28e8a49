"""Requests for files that a host is to be refused, hundreds of them over one link that lasts."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator

from remoteio.wire import frames
from remoteio.wire import fuse_abi as abi
from tests.fault.hostile import Wire, report
from tests.hostile import whatever

Attempt = tuple[str, int, int, bytes]  # what it is, operation, node, arguments
SECRET = b"SECRET"  # what the files say that no host is to read
HIDDEN = (
    (b"", b".ssh"), (b"/.config", b"rexec"), (b"/.local/state", b"rexec"), (b"/.cache", b"rexec"),
    (b"/.local/share/rexec", b"criu"),
)  # fmt: skip
KERNELS = {
    b"/proc": (b"self", b"thread-self", b"1", b"kcore", b"sysrq-trigger", b"sys", b"%d" % os.getppid()),
    b"/sys": (b"kernel", b"fs", b"power"),
    b"/dev": (b"mem", b"kmem", b"null", b"tty", b"ptmx", b"shm", b"sda", b"fuse"),
}
WILD = (0, 1 << 31, 99_999, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NAMES = (
    b"..", b".", b"a/b", b"/etc/passwd", b"../.ssh/config", b"a\0b", b"x" * 256, b"x" * 4000, b".ssh/config",
)  # fmt: skip
NAMING = (abi.LOOKUP, abi.CREATE, abi.MKNOD, abi.MKDIR, abi.SYMLINK, abi.UNLINK, abi.RMDIR, abi.LINK, abi.RENAME)


def attempt_all(wire: Wire, attempts: Iterable[Attempt]) -> None:
    """Make each attempt, and tell of it; one that is not refused has succeeded."""
    attempts = list(attempts)
    answers = wire.ask_all([each[1:] for each in attempts])
    for (text, op, _, _), (error, body) in zip(attempts, answers, strict=True):
        absent = op == abi.LOOKUP and not error and not abi.ENTRY.unpack_from(body)[0]
        name = errno.errorcode.get(error, str(error)) if error else "absent" if absent else ""
        report(f"{text}: {abi.OPERATIONS.get(op, (f'operation {op}',))[0]}", name, not name)


def by_name(what: str, node: int, name: bytes, own: int) -> Iterator[Attempt]:
    """Every request that makes, finds, takes or loses that name; `own`: a file of the job's."""
    for op in NAMING:
        for _, arguments in whatever(op, [node], [], [name]):
            if op not in (abi.LINK, abi.RENAME):
                yield what, op, node, arguments
    yield what, abi.LINK, node, abi.LINK_IN.pack(own) + name + b"\0"


def moved(what: str, a: tuple[int, bytes], b: tuple[int, bytes]) -> Iterator[Attempt]:
    """Rename `a` to `b` and `b` to `a`, in each way there is."""
    for (parent, name), (target, new) in ((a, b), (b, a)):
        names = name + b"\0" + new + b"\0"
        yield what, abi.RENAME, parent, abi.RENAME_IN.pack(target) + names
        for flags in (1, 2, 4, 7):
            yield what, abi.RENAME2, parent, abi.RENAME2_IN.pack(target, flags, 0) + names


def of_hidden(wire: Wire, project: int, own: int) -> Iterator[Attempt]:
    home = wire.walk(wire.home)
    for above, name in HIDDEN:
        parent, what = wire.walk(wire.home + above), f"~{above.decode()}/{name.decode()}"
        yield from by_name(what, parent, name, own)
        yield from moved(what, (parent, name), (project, b"own"))
        yield from moved(what, (parent, name), (project, b"new"))
    for name in (b".config", b".local", b".cache"):
        yield from moved(f"the way, ~/{name.decode()}", (home, name), (project, b"dir"))
        yield f"the way, ~/{name.decode()}", abi.RMDIR, home, name + b"\0"
        yield f"the way, ~/{name.decode()}", abi.UNLINK, home, name + b"\0"


def of_the_kernel(wire: Wire, own: int) -> Iterator[Attempt]:
    for path, names in KERNELS.items():
        node = wire.walk(path)
        for name in names:
            yield from by_name(f"{path.decode()}/{name.decode()}", node, name, own)


def of_ids(own: int, handle: int) -> Iterator[Attempt]:
    """Nodes and handles that were never given out: 0 to 2 are open in rexec itself."""
    for op, (_, size, names, _) in abi.OPERATIONS.items():
        if op in abi.UNANSWERED or op in (abi.INIT, abi.SETLKW):
            continue
        arguments = bytes(size) + b"n\0" * names
        for node in WILD:
            yield f"node {node:#x}", op, node, arguments
    by_handle = {abi.READ, abi.WRITE, abi.FLUSH, abi.FSYNC, abi.READDIR, abi.READDIRPLUS, abi.GETLK, abi.SETLK,
                 abi.FALLOCATE, abi.LSEEK, abi.COPY_FILE_RANGE, abi.FSYNCDIR}  # fmt: skip
    for op in sorted(by_handle):
        for number in (0, 1, 2, *WILD[1:]):
            arguments = number.to_bytes(8, "little") + bytes(abi.OPERATIONS[op][1] - 8)
            yield f"handle {number:#x}", op, own, arguments
    for number in (0, 1, 2):
        size = abi.FATTR_SIZE | abi.FATTR_FH
        yield f"handle {number}", abi.SETATTR, own, abi.SETATTR_IN.pack(size, 0, number, *[0] * 13)
        yield f"handle {number}", abi.COPY_FILE_RANGE, own, abi.COPY_IN.pack(handle, 0, own, number, 0, 9, 0)


def of_names(project: int, own: int) -> Iterator[Attempt]:
    for name in NAMES:
        what = f"the name {name[:20]!r}"
        yield from by_name(what, project, name, own)
        yield what, abi.RENAME, project, abi.RENAME_IN.pack(project) + b"own\0" + name + b"\0"
        if b"\0" not in name:
            yield what, abi.RENAME, project, abi.RENAME_IN.pack(project) + name + b"\0own\0"


def of_numbers(own: int, handle: int) -> Iterator[Attempt]:
    large = 1 << 63
    for offset, size in ((0, (1 << 20) + 1), (0, (1 << 32) - 1), (large, 1), ((1 << 64) - 1, 1)):
        yield f"{size} bytes at {offset:#x}", abi.READ, own, abi.READ_IN.pack(handle, offset, size, 0, 0, 0, 0)
    for offset, size in ((0, 5), (0, 3), (0, (1 << 32) - 1), (large, 4), ((1 << 64) - 1, 4)):
        arguments = abi.WRITE_IN.pack(handle, offset, size, 0, 0, 0, 0) + b"EVIL"
        yield f"4 bytes called {size}, at {offset:#x}", abi.WRITE, own, arguments
    for mode, offset, length in ((1 << 31, 0, 1), (0, large, 1), (0, 0, large), (3, 0, 0), (0, 0, (1 << 64) - 1)):
        yield f"mode {mode:#x}", abi.FALLOCATE, own, abi.FALLOCATE_IN.pack(handle, offset, length, mode, 0)
    for whence in (5, 99, 1 << 31):
        yield f"whence {whence}", abi.LSEEK, own, abi.LSEEK_IN.pack(handle, 0, whence, 0)
    yield "a size of 8 EiB", abi.SETATTR, own, abi.SETATTR_IN.pack(abi.FATTR_SIZE, 0, 0, large, *[0] * 12)
    yield "flags", abi.COPY_FILE_RANGE, own, abi.COPY_IN.pack(handle, 0, own, handle, 0, 9, 1)
    for op in (abi.GETLK, abi.SETLK):
        for start, end, kind in ((large, 0, 1), (9, 0, 1), (0, 9, 77), (0, (1 << 64) - 1, 0), (0, 9, (1 << 32) - 1)):
            yield (
                f"a lock of {start:#x} to {end:#x}, {kind}",
                op,
                own,
                abi.LK_IN.pack(handle, 7, start, end, kind, 1, 0, 0),
            )
    for op in (7, 19, 37, *range(54, 120), 4096, (1 << 32) - 1):
        yield "that is none", op, own, bytes(64)


def of_kinds(wire: Wire, project: int, own: int) -> Iterator[Attempt]:
    """What is no regular file is not opened here, and what is none is no directory."""
    error, body = wire.ask(abi.MKNOD, project, abi.MKNOD_IN.pack(stat.S_IFIFO | 0o644, 0, 0, 0) + b"fifo\0")
    assert not error
    fifo = abi.ENTRY.unpack_from(body)[0]
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH, os.O_DIRECTORY, os.O_TRUNC):
        yield "a fifo", abi.OPEN, fifo, abi.OPEN_IN.pack(flags, 0)
        yield "a directory", abi.OPEN, project, abi.OPEN_IN.pack(flags, 0)
        yield "a file", abi.OPENDIR, own, abi.OPEN_IN.pack(flags, 0)
    for op in NAMING:
        for _, arguments in whatever(op, [own], [], [b"beneath"]):
            yield "beneath a file", op, own, arguments


def of_links(wire: Wire, project: int, own: int) -> Iterator[Attempt]:
    """Symbolic links that lead to what is hidden, in the place of what was a directory or a file before."""
    for name, target in ((b"to-dir", wire.home + b"/.ssh"), (b"to-file", wire.home + b"/.ssh/id_ed25519")):
        error, body = wire.ask(abi.SYMLINK, project, name + b"\0" + target + b"\0")
        assert not error
        node = abi.ENTRY.unpack_from(body)[0]
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_TRUNC, os.O_DIRECTORY):
            yield "a symbolic link", abi.OPEN, node, abi.OPEN_IN.pack(flags, 0)
            yield "a symbolic link", abi.OPENDIR, node, abi.OPEN_IN.pack(flags, 0)
        yield from by_name("by a symbolic link", node, b"id_ed25519", own)
    error, body = wire.ask(abi.MKDIR, project, abi.MKDIR_IN.pack(0o755, 0) + b"swapped\0")
    assert not error
    swapped = abi.ENTRY.unpack_from(body)[0]
    assert not wire.ask(abi.RENAME, project, abi.RENAME_IN.pack(project) + b"swapped\0was\0")[0]
    assert not wire.ask(abi.SYMLINK, project, b"swapped\0" + wire.home + b"/.ssh\0")[0]
    for name in (b"id_ed25519", b"config"):
        yield "in a directory that became a link", abi.LOOKUP, swapped, name + b"\0"
        yield "in a directory that became a link", abi.UNLINK, swapped, name + b"\0"


def race(wire: Wire, project: int) -> None:
    """A file and a link to a key change places, again and again, while the file is opened; no answer is waited for."""
    node, _ = wire.create(project, b"racer")
    assert not wire.ask(abi.SYMLINK, project, b"key\0" + wire.home + b"/.ssh/id_ed25519\0")[0]
    change = abi.RENAME2, project, abi.RENAME2_IN.pack(project, 2, 0) + b"racer\0key\0"
    asked = [each for _ in range(60) for each in (change, (abi.OPEN, node, abi.OPEN_IN.pack(os.O_RDWR, 0)))]
    for (op, _, _), (error, body) in zip(asked, wire.ask_all(asked), strict=True):
        if op == abi.OPEN:
            data = b""
            if not error:
                handle = abi.OPEN_OUT.unpack_from(body)[0]
                _, data = wire.ask(abi.READ, node, abi.READ_IN.pack(handle, 0, 1000, 0, 0, 0, 0))
                wire.ask(abi.RELEASE, node, abi.RELEASE_IN.pack(handle, 0, 0, 0))
            refusal = errno.errorcode[error] if error else "its own file"
            report("a file that is a link by turns: open", refusal, SECRET in data)


def of_the_program(wire: Wire) -> Iterator[Attempt]:
    """What rexec is made of, to be read and not changed."""
    package = wire.walk(os.fsencode(os.environ["HOSTILE_PACKAGE"]))
    module = wire.lookup(package, b"errors.py")
    assert module and wire.open(module, os.O_RDONLY)
    for op, (_, _, _, changes) in abi.OPERATIONS.items():
        if changes in (abi.READS, abi.CHANGES_OPEN):
            continue
        for node, arguments in whatever(op, [package, module], [], [b"errors.py", b"new"]):
            if op != abi.OPEN or abi.OPEN_IN.unpack(arguments)[0] & (os.O_ACCMODE | os.O_TRUNC):
                yield "rexec's own code", op, node, arguments


def of_others(wire: Wire, own: int) -> Iterator[Attempt]:
    """What the user may not do himself."""
    etc, root = wire.walk(b"/etc"), abi.ROOT_ID
    for name, readable in ((b"new", ()), (b"passwd", (abi.LOOKUP, abi.CREATE))):  # what is there may be read
        yield from (each for each in by_name("/etc", etc, name, own) if each[1] not in (abi.LOOKUP, *readable))
    passwd, shadow = wire.lookup(etc, b"passwd"), wire.lookup(etc, b"shadow")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        yield "/etc/passwd", abi.OPEN, passwd, abi.OPEN_IN.pack(flags, 0)
    yield "/etc/shadow", abi.OPEN, shadow, abi.OPEN_IN.pack(os.O_RDONLY, 0)
    yield "/etc/passwd", abi.SETATTR, passwd, abi.SETATTR_IN.pack(abi.FATTR_MODE, *[0] * 10, 0o666, *[0] * 4)
    yield "/", abi.MKDIR, root, abi.MKDIR_IN.pack(0o755, 0) + b"evil\0"
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        yield "a device", abi.MKNOD, root, abi.MKNOD_IN.pack(kind | 0o666, 0x101, 0, 0) + b"mem\0"


def all_handles(wire: Wire, project: int) -> None:
    """Open directories until there is no more room; then others can still be found."""
    answers = wire.ask_all([(abi.OPENDIR, project, abi.OPEN_IN.pack(0, 0))] * 1200)
    errors = {error for error, _ in answers}
    report("more open directories than rexec may have", "EMFILE", errors != {0, errno.EMFILE})
    for error, body in answers:
        if not error:
            wire.send(abi.RELEASEDIR, project, abi.RELEASE_IN.pack(abi.OPEN_OUT.unpack_from(body)[0], 0, 0, 0))
    assert wire.walk(wire.home)


def through_the_export(wire: Wire) -> None:
    """All of these, one after the other; then the job ends well."""
    wire.begin()
    assert not wire.ask(abi.INIT, 0, bytes.fromhex("0700000024000000") + bytes(8))[0]
    project = wire.walk(wire.start["cwd"][0])
    own, handle = wire.create(project, b"own")
    assert not wire.ask(abi.MKDIR, project, abi.MKDIR_IN.pack(0o755, 0) + b"dir\0")[0]
    assert not wire.ask(abi.WRITE, own, abi.WRITE_IN.pack(handle, 0, 4, 0, 0, 0, 0) + b"mine")[0]
    assert wire.ask(abi.READ, own, abi.READ_IN.pack(handle, 0, 100, 0, 0, 0, 0)) == (0, b"mine"), "what it may do"
    attempt_all(wire, of_hidden(wire, project, own))
    attempt_all(wire, of_the_kernel(wire, own))
    attempt_all(wire, of_ids(own, handle))
    attempt_all(wire, of_names(project, own))
    attempt_all(wire, of_numbers(own, handle))
    attempt_all(wire, of_kinds(wire, project, own))
    attempt_all(wire, of_links(wire, project, own))
    attempt_all(wire, of_the_program(wire))
    if int(wire.start["ids"][0]):
        attempt_all(wire, of_others(wire, own))
    race(wire, project)
    all_handles(wire, project)
    for number in (0, 1, 2, 3, 1 << 63):
        wire.send(abi.RELEASE, own, abi.RELEASE_IN.pack(number, 0, 0, 0))  # not answered: what it says is still heard
    assert wire.ask(abi.READ, own, abi.READ_IN.pack(handle, 0, 100, 0, 0, 0, 0)) == (0, b"mine")
    end_well(wire)


def end_well(wire: Wire) -> None:
    """Say that the job ran, and ended with 0."""
    wire.frame(frames.STARTED)
    for kind in (frames.STDOUT, frames.STDERR):
        wire.frame(kind)
    wire.frame(frames.EXIT, bytes(4))
    wire.until_over(20)
