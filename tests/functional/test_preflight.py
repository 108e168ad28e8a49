"""What CRIU cannot save is found in real processes and named."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.execute import live_sockets, preflight
from shim.execute.init.removed_names import RemovedNames
from tests.desk_hosts import SUBMIT_UID, SUBMIT_USER
from tests.reachable import AsUser

libc = ctypes.CDLL(None, use_errno=True)
IO_URING_SETUP = 425
Place = Callable[[str], Path]
REACH = preflight.Reach(rootless=False)
told: list[int] = []  # the pipe end that a child of the held process must close too


def held(what: Callable[[], object]) -> list[str]:
    """The obstacles of a child that did what and waits, with the pid taken out."""
    ready, write = os.pipe()
    told[:] = [write]
    pid = os.fork()
    if pid == 0:
        kept = None
        try:
            os.closerange(3, write)  # what other tests have left open is none of its
            os.closerange(write + 1, os.sysconf("SC_OPEN_MAX"))
            kept = what()
            os.close(write)
            signal.pause()
        finally:
            os._exit(kept is None)
    os.close(write)
    os.read(ready, 1)
    os.close(ready)
    try:
        return [line.replace(str(pid), "PID") for line in preflight.obstacles(preflight.look(pid), REACH)]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_nothing_is_held_against_a_plain_process() -> None:
    assert held(lambda: [os.open("/dev/null", os.O_RDWR), socket.socketpair(), os.memfd_create("x")]) == []


def test_io_uring_is_named() -> None:
    def ring() -> object:
        fd = libc.syscall(IO_URING_SETUP, 4, (ctypes.c_char * 120)())
        assert fd >= 0
        return os.dup2(fd, 77)

    found = held(ring)
    assert any(
        "has descriptor 77 (anon_inode:[io_uring]), of kind io_uring, which CRIU cannot save" in f for f in found
    )
    assert all(f.endswith("`sysctl -w kernel.io_uring_disabled=2` was said") for f in found)
    assert all(f.startswith("process PID (") for f in found)


def test_a_device_is_named() -> None:
    if not os.access("/dev/fuse", os.R_OK):
        pytest.fail("this machine has no /dev/fuse, which the tests need")
    (only,) = held(lambda: os.open("/dev/fuse", os.O_RDWR))
    assert only.endswith(" (/dev/fuse), a device that CRIU cannot save")


def test_a_traced_process_is_named() -> None:
    (only,) = held(lambda: libc.ptrace(0, 0, 0, 0) or os)  # PTRACE_TRACEME
    assert only.endswith(f"is traced by process {os.getpid()}: end the debugger or strace first")


def test_a_namespace_of_a_child_is_named() -> None:
    def parent() -> object:
        ready, inner = os.pipe()
        if os.fork() == 0:
            os.close(told[0])
            libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            libc.unshare(0x4000000)  # CLONE_NEWUTS
            os.close(inner)
            signal.pause()
        os.close(inner)
        os.read(ready, 1)
        return os.close(ready) or os

    found = held(parent)
    assert len(found) == 1
    assert "is in a uts namespace of its own" in found[0]


def test_a_connection_out_of_the_tree_is_told() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as client, listener.accept()[0]:
        me = os.getpid()
        both = preflight.look(me)[:1]
        rows = live_sockets.tcp(me)
        found = live_sockets.connections(both, rows, rows)
        assert [connection.other for connection in found] == [live_sockets.WITHIN] * 2
        for fd in list(both[0].descriptors):
            if fd.number != client.fileno() and fd.target.startswith("socket:"):
                both[0].descriptors.remove(fd)
        (only,) = live_sockets.connections(both, rows, rows)
        assert only.other == live_sockets.OUTSIDE
        assert only.words.startswith(f"the TCP connection that is descriptor {client.fileno()} of process")
        (only,) = live_sockets.connections(both, [], rows)
        assert only.other == live_sockets.WITHIN, "whoever accepts all the time loses none of his connections"


def test_a_process_that_may_not_be_looked_at_is_no_obstacle(place: Place, as_user: AsUser) -> None:
    """As soon as its memory is gone, the kernel gives its /proc/PID/fd to root."""
    at = place(SUBMIT_USER) / "10"
    (at / "task" / "10").mkdir(parents=True)
    (at / "task" / "10" / "children").write_text("")
    (at / "status").write_text("Name:\tsh\nState:\tR (running)\nPid:\t10\nTracerPid:\t0\n")
    (at / "fd").mkdir(mode=0)
    (at / "maps").touch()

    def look() -> None:
        assert preflight.look(10, str(at.parent)) == []
        proc = os.open(at.parent, os.O_RDONLY)
        assert RemovedNames([], proc).lost([10]) == []
        os.close(proc)

    as_user(SUBMIT_UID, look)
