"""A process makes a userfaultfd and is as it was: its descriptors, its calls, its first thread's and the others'."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpoint.execute import page_scans, traced, written_pages
from checkpoint.execute.followed import Followed, _Followed
from tests.until import until

HEAD = """
import ctypes, os, select, signal, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def say(text): os.write(1, text.encode() + b"\\n")
"""
# Its first thread waits for a child that has its memory's copy, as vfork(2) has it wait: nothing interrupts that.
NOT_TO_BE_STOPPED = """
def wait():
    poll, events = select.epoll(), ctypes.create_string_buffer(12)
    poll.register(0, select.EPOLLIN)
    say(f"waits {threading.get_native_id()}")
    got = libc.epoll_wait(poll.fileno(), events, 1, -1)
    say(f"has waited {got}")
    libc.kill(child[0], signal.SIGKILL)
    os._exit(0)
child = (ctypes.c_int * 1)()
stack = ctypes.create_string_buffer(1 << 16)
threading.Thread(target=wait).start()
CLONE_VFORK, CLONE_PARENT_SETTID = 0x4000, 0x100000
top = (ctypes.addressof(stack) + (1 << 16)) & ~15
libc.clone(ctypes.cast(libc.sleep, ctypes.c_void_p), ctypes.c_void_p(top),
           CLONE_VFORK | CLONE_PARENT_SETTID | signal.SIGCHLD, ctypes.c_void_p(600), child)
"""
# A thread with a table of descriptors of its own, in which the next number is one that the process has a pipe by.
WITH_ITS_OWN = """
def own():
    libc.unshare(0x400)
    os.close(9)
    say("waits")
    threading.Event().wait()
for number in range(3, 9):
    os.dup2(0, number)
r, w = os.pipe()
os.dup2(w, 9)
threading.Thread(target=own, daemon=True).start()
os.read(0, 1)
"""


@contextmanager
def running(text: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + text], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def asleep(pid: int, thread: int, state: str) -> None:
    stat = Path(f"/proc/{pid}/task/{thread}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == state, f"{thread} is not in {state}")


def test_where_a_thread_cannot_be_stopped_the_others_calls_are_not_interrupted() -> None:
    with running(NOT_TO_BE_STOPPED) as process:
        said = line(process)
        assert said.startswith("waits ")
        asleep(process.pid, process.pid, "D")
        asleep(process.pid, int(said.split()[1]), "S")
        assert written_pages.obtain(process.pid) is None
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        assert line(process) == "has waited 1"
        process.wait()


def test_a_descriptor_of_the_process_is_not_taken_for_that_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(pid: int, stops: dict[int, int], within: float | None = None) -> None:
        really(pid, stops, within)
        stops[pid] = signal.SIGURG  # its first thread was just about to be given that

    really = traced.stop
    monkeypatch.setattr(traced, "stop", stop)
    with running(WITH_ITS_OWN) as process:
        assert line(process) == "waits"
        before = os.listdir("/proc/self/fd")
        assert written_pages.obtain(process.pid) is None
        assert os.listdir("/proc/self/fd") == before


def test_where_it_is_forbidden_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(fd: int, request: int, fields: bytearray) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(written_pages, "fcntl", SimpleNamespace(ioctl=forbidden))
    with running("say('waits'); os.read(0, 1)") as process:
        assert line(process) == "waits"
        before = os.listdir("/proc/self/fd"), os.listdir(f"/proc/{process.pid}/fd")
        assert not written_pages.supported()
        assert written_pages.obtain(process.pid) is None
        assert (os.listdir("/proc/self/fd"), os.listdir(f"/proc/{process.pid}/fd")) == before


def test_what_only_looks_protected_is_protected_anew() -> None:
    size = 64 * 4096
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    start = libc.mmap(None, ctypes.c_size_t(size), 3, 0x22, -1, ctypes.c_long(0))
    where = [(start, start + size)]
    ctypes.memset(start, 1, size)
    uffd = written_pages.syscall("userfaultfd", written_pages._USERFAULTFD, written_pages._FLAGS)
    try:
        assert written_pages._begin(uffd)
        with open("/proc/self/pagemap", "rb", 0) as pagemap:
            assert written_pages.protect(uffd, pagemap.fileno(), where, []) == where
            assert written_pages.protect(uffd, pagemap.fileno(), where, []) == []
            marked = [(start + 4096, start + 3 * 4096)]
            assert written_pages.protect(uffd, pagemap.fileno(), where, marked) == marked
            assert written_pages.clean(pagemap.fileno()) == (where, [])
    finally:
        os.close(uffd)
        libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(size))


AS_CRIU = (0x24, 0x24, 0x18, 0x98)  # no file's, no zero page; there or swapped out


def asked(start: int, end: int, anonymous: bool) -> tuple[list[tuple[int, int, int]], int]:
    """What the kernel answers to criu's question, of this process."""
    fields = (written_pages.SCAN.size, 0, start, end, 0, 0, 64, 0, *AS_CRIU)
    with open("/proc/self/pagemap", "rb", 0) as pagemap:
        return page_scans.ask_kernel(pagemap.fileno(), fields, anonymous)


def test_of_anonymous_memory_criu_is_answered_the_same_without_a_look_at_each_page(tmp_path: Path) -> None:
    """Written, only read, given back, never touched; and of a file, of which it is another answer."""
    size, libc = 64 * 4096, ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    path = tmp_path / "file"
    path.write_bytes(b"1" * size)
    start = libc.mmap(None, ctypes.c_size_t(size), 3, 0x22, -1, ctypes.c_long(0))
    with path.open("rb") as file:
        mapped = libc.mmap(None, ctypes.c_size_t(size), 3, 0x2, file.fileno(), ctypes.c_long(0))
    own = _Followed(os.getpid(), -1)
    followed = Followed()
    followed._processes[1] = own
    try:
        assert libc.madvise(start, size, 15) == 0  # MADV_NOHUGEPAGE
        ctypes.memset(start, 1, 20 * 4096)
        assert libc.madvise(start + 4 * 4096, 4096, 4) == 0  # MADV_DONTNEED
        assert ctypes.string_at(start + 30 * 4096, 4096) == bytes(4096)
        ctypes.memset(start + 40 * 4096, 2, 4096)
        ctypes.memset(mapped, 2, 4096)
        assert ctypes.string_at(mapped, size)[4096:] == b"1" * (size - 4096)
        found = asked(start, start + size, True)
        assert found == asked(start, start + size, False)
        pages = {page for first, last, _ in found[0] for page in range((first - start) // 4096, (last - start) // 4096)}
        assert pages == {*range(20), 40} - {4}
        assert asked(mapped, mapped + size, True) != asked(mapped, mapped + size, False)
        assert followed.anonymous(1, start, start + size) and followed.anonymous(1, start + 4096, start + 2 * 4096)
        assert not followed.anonymous(1, mapped, mapped + 4096) and not followed.anonymous(2, start, start + size)
        assert not followed.anonymous(1, start, max(end for _, end in written_pages.areas(os.getpid())) + 4096)
    finally:
        libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(size))
        libc.munmap(ctypes.c_void_p(mapped), ctypes.c_size_t(size))
