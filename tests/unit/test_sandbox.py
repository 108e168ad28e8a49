"""What a restricted thread may not, and how its filter of system calls is assembled."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from remoteio.submit.sandbox import landlock, seccomp, threads
from remoteio.submit.sandbox.threads import Outside
from remoteio.syscalls import check, libc

ALLOW, REFUSED, ABSENT = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
PID, X86, ARM = 4711, 0xC000003E, 0xC00000B7


def decided(machine: str, number: int, first: int = 0, second: int = 0, architecture: int | None = None) -> int:
    """What the filter returns for a call: the few instructions that it has, as linux/filter.h has them."""
    arch = {"x86_64": X86, "aarch64": ARM}[machine] if architecture is None else architecture
    data = struct.pack("<iIQ6Q", number, arch, 0, first, second, 0, 0, 0, 0)
    code = list(struct.iter_unpack("=HBBI", seccomp.program(machine, PID)))
    assert len(code) < 4096  # BPF_MAXINSNS
    at = accumulator = 0
    while True:
        op, true, false, value = code[at]
        at += 1
        if op == 0x06:
            return int(value)
        if op == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[op]
            at += true if holds else false


@pytest.mark.parametrize(
    ("machine", "number", "first", "second", "verdict"),
    [
        ("x86_64", 59, 0, 0, REFUSED), ("aarch64", 221, 0, 0, REFUSED), ("x86_64", 221, 0, 0, ALLOW),
        ("x86_64", 41, 0, 0, REFUSED), ("aarch64", 198, 0, 0, REFUSED), ("x86_64", 425, 0, 0, REFUSED),
        ("x86_64", 0, 0, 0, ALLOW), ("x86_64", 257, 0, 0, ALLOW), ("aarch64", 56, 0, 0, ALLOW),
        ("x86_64", 56, 0x3D0F00, 0, ALLOW), ("x86_64", 56, 17, 0, REFUSED), ("aarch64", 220, 17, 0, REFUSED),
        ("x86_64", 435, 0, 0, ABSENT), ("aarch64", 435, 0, 0, ABSENT), ("x86_64", 0x40000000 + 59, 0, 0, ABSENT),
        ("x86_64", 234, PID, 0, ALLOW), ("x86_64", 234, 1, 0, REFUSED), ("x86_64", 62, PID, 0, REFUSED),
        ("x86_64", 16, 1, 0x5412, REFUSED), ("x86_64", 16, 1, 0x1_0000_5412, REFUSED), ("x86_64", 16, 1, 0x5413, ALLOW),
        ("aarch64", 29, 1, 0x541C, REFUSED), ("x86_64", 157, 4, 0, REFUSED), ("x86_64", 157, 15, 0, ALLOW),
    ],
)  # fmt: skip
def test_the_filter_of_system_calls(machine: str, number: int, first: int, second: int, verdict: int) -> None:
    assert decided(machine, number, first, second) == verdict


def test_calls_of_another_architecture_are_refused() -> None:
    assert decided("x86_64", 11, architecture=0x40000003) == REFUSED  # execve of i386


def in_a_thread(what: Callable[[], None]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            what()
        except BaseException as e:
            raised.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_a_thread_writes_where_it_may_and_nowhere_else(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    mine.mkdir()
    others.mkdir()
    (others / "file").write_text("1")

    def run() -> None:
        assert threads.restrict([bytes(mine)]) == []
        (mine / "file").write_text("2")
        (mine / "file").rename(mine / "moved")
        assert (others / "file").read_text() == "1"
        for refused in (
            lambda: (others / "file").write_text("2"), lambda: (others / "new").mkdir(), (others / "file").unlink,
            lambda: (mine / "moved").rename(others / "moved"), lambda: (mine / "link").hardlink_to(others / "file"),
        ):  # fmt: skip
            with pytest.raises(OSError) as e:
                refused()
            assert e.value.errno in (errno.EACCES, errno.EXDEV)

    in_a_thread(run)
    (others / "file").write_text("2")


@pytest.mark.parametrize("version", range(1, 8))
def test_what_each_version_of_landlock_holds(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for no more than a kernel of that version knows: then it holds just that."""
    mine, others = tmp_path / "mine", tmp_path / "others"
    mine.mkdir()
    others.write_text("1")
    monkeypatch.setattr(landlock, "version", lambda: version)
    tcp, abstract = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    abstract.bind("\0rexec-test-%d" % os.getpid())
    abstract.listen()
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: others.open("r+b").close(),
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "truncate": lambda: os.truncate(others, 0),
        "tcp": lambda: socket.create_connection(tcp.getsockname()).close(),
        "abstract": lambda: _connected(abstract.getsockname()),
    }
    refused = set()

    def run() -> None:
        check(libc.prctl(38, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
        assert landlock.restrict([bytes(mine)]) is (version >= landlock.OLDEST)
        for name, attempt in attempts.items():
            if version >= landlock.OLDEST or name != "execute":
                try:
                    attempt()
                except PermissionError:
                    refused.add(name)

    in_a_thread(run)
    tcp.close()
    abstract.close()
    since = {"write": 2, "execute": 2, "truncate": 3, "tcp": 4, "abstract": 6}
    assert refused == {name for name, first in since.items() if version >= first}


def _connected(address: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(address)


def test_what_a_restricted_thread_may_not_another_does_for_it() -> None:
    outside = Outside()

    def run() -> None:
        threads.restrict([b"/"])
        with pytest.raises(PermissionError):
            subprocess.run(["true"], check=True)
        assert outside(lambda: subprocess.run(["true"], check=True).returncode) == 0
        with pytest.raises(FileNotFoundError):
            outside(lambda: Path("/no/such/file").read_text())

    in_a_thread(run)
    outside.close()
    with pytest.raises(OSError, match="session is over"):
        outside(list)
