"""What a process holds on to of its memory: remoteio/syscalls.py."""

from __future__ import annotations

import subprocess
import sys

PLACES = """
import ctypes, os, threading
from remoteio import syscalls
%s
together = threading.Barrier(5)
def take():
    held = bytearray(2000)
    together.wait()
for _ in range(4):
    threading.Thread(target=take).start()
libc, fd = ctypes.CDLL(None), os.memfd_create("told")
libc.fdopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fdopen(fd, b"w"))
libc.malloc_info(0, file)
libc.fflush(file)
together.wait()
print(os.pread(fd, 1 << 16, 0).count(b"<heap nr="))
"""

FREED = """
import os, resource
from remoteio import syscalls
def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
many = [bytearray(50_000) for _ in range(1000)]
lid = many.pop()  # what lies above it goes back by itself
del many
before = held()
syscalls.give_back()
print(before - held())
"""


def said(program: str) -> int:
    return int(subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE).stdout)


def test_threads_share_one_place_for_memory() -> None:
    assert said(PLACES % "syscalls.one_arena()") == 1
    assert said(PLACES % "") > 1, "this libc has one place in any case, so nothing is tested here"


def test_what_was_freed_is_given_back() -> None:
    assert said(FREED) > 40_000_000
