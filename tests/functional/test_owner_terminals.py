"""A key really typed on a pty is noticed, by root and by a user who may not read that terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.inotify import Inotify
from shim.execute.owner.terminals import TerminalSource
from tests.until import soon

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a private devpts needs root")

TIOCSPTLCK = 0x40045431  # asm-generic/ioctls.h; not in Python's termios


class Devpts:
    """A /dev with a devpts instance of its own, so that nobody else's keys are seen."""

    def __init__(self, dev: Path) -> None:
        self.dev = dev
        (dev / "pts").mkdir()
        options = "newinstance,ptmxmode=0666,mode=0620"
        subprocess.run(["mount", "-t", "devpts", "-o", options, "devpts", dev / "pts"], check=True)
        os.mknod(dev / "ptmx", 0o20666, os.makedev(5, 2))

    def open(self) -> Terminal:
        return Terminal(self.dev / "ptmx", self.dev / "pts")


class Terminal:
    """A pty of that devpts: `master` is the person's end, `slave` the shell's."""

    def __init__(self, ptmx: Path, pts: Path) -> None:
        before = set(os.listdir(pts))
        self.master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY)
        (name,) = set(os.listdir(pts)) - before
        self.path = pts / name
        fcntl.ioctl(self.master, TIOCSPTLCK, struct.pack("i", 0))
        self.slave = os.open(self.path, os.O_RDWR | os.O_NOCTTY)

    def type(self, keys: bytes = b"x\n") -> None:
        os.write(self.master, keys)
        assert os.read(self.slave, 100) == keys

    def close(self) -> None:
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def devpts(tmp_path: Path) -> Iterator[Devpts]:
    made = Devpts(tmp_path)
    try:
        yield made
    finally:
        subprocess.run(["umount", "-l", tmp_path / "pts"], check=True)


@pytest.fixture
def terminal(devpts: Devpts) -> Iterator[Terminal]:
    opened = devpts.open()
    yield opened
    opened.close()


def wait_for(source: TerminalSource, seconds: float) -> tuple[str | None, float]:
    """What poll() noticed within so many seconds, and when, driven as the agent drives it."""
    assert source.interval is not None
    end = time.monotonic() + seconds
    fileno = source.fileno()
    while time.monotonic() < end:
        select.select([] if fileno is None else [fileno], [], [], source.interval)
        touched = source.poll(time.monotonic())
        if touched is not None:
            return touched, time.monotonic()
    return None, time.monotonic()


def let_a_pause_pass(*paths: Path) -> None:
    """Puts the coarse times of terminals an hour back: what a pause of more than eight seconds does."""
    for path in paths:
        os.utime(path, (time.time() - 3600, time.time() - 3600))


def test_every_key_is_noticed_and_most_within_100_ms(devpts: Devpts, terminal: Terminal) -> None:
    """All would be, if this process never waited for a processor itself."""
    terminal.type()
    source = TerminalSource(time.monotonic(), str(devpts.dev))
    try:
        assert source.absent() is None
        source.poll(time.monotonic())
        late = []
        for _ in range(20):
            typed = time.monotonic()
            terminal.type(b"k\n")
            touched, noticed = wait_for(source, 10.0)
            assert touched == str(terminal.path)
            late.append(noticed - typed)
        assert sorted(late)[10] < 0.1, late
    finally:
        source.close()


def test_output_is_not_input(devpts: Devpts, terminal: Terminal) -> None:
    source = TerminalSource(time.monotonic(), str(devpts.dev))
    try:
        source.poll(time.monotonic())
        for _ in range(10):
            os.write(terminal.slave, b"output\n")
            os.read(terminal.master, 100)
        assert wait_for(source, 0.5)[0] is None
    finally:
        source.close()


def test_a_new_terminal_is_input_and_so_are_its_keys(devpts: Devpts) -> None:
    source = TerminalSource(time.monotonic(), str(devpts.dev))
    try:
        opened = devpts.open()
        assert wait_for(source, 10.0)[0] == str(opened.path)
        opened.type()
        assert wait_for(source, 10.0)[0] == str(opened.path)
        opened.close()
        source.poll(time.monotonic())
        assert wait_for(source, 0.3)[0] is None
    finally:
        source.close()


def test_idle_time_is_that_of_the_newest_terminal(devpts: Devpts, terminal: Terminal) -> None:
    os.utime(terminal.path, (time.time() - 3600, time.time() - 3600))
    os.utime(devpts.dev / "ptmx", (time.time() - 7200, time.time() - 7200))
    os.utime(devpts.dev / "pts/ptmx", (time.time() - 7200, time.time() - 7200))
    now = time.monotonic()
    source = TerminalSource(now, str(devpts.dev))
    try:
        last = source.last_input(now)
        assert last is not None
        assert min(3600.0, now) == pytest.approx(now - last, abs=2.0)
    finally:
        source.close()


def watch_as_stranger(dev: Path, report: int, exhausted: bool) -> None:
    """Runs in a forked child: what nobody (the user) notices goes to `report`, a line each.

    exhausted: the user has no inotify instance left (a desktop full of file watchers).
    """
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    taken = []
    with contextlib.suppress(OSError):
        while exhausted:
            taken.append(Inotify())
    source = TerminalSource(time.monotonic(), str(dev))
    os.write(report, b"ready\n")
    while True:
        touched, noticed = wait_for(source, 30.0)
        os.write(report, f"{touched} {noticed}\n".encode())


@pytest.mark.parametrize(
    ("reader", "exhausted"),
    [(True, False), (False, False), (True, True)],
    ids=["read-by-a-shell", "typed-ahead", "no-inotify-left"],
)
def test_an_unreadable_terminal_shows_the_first_key_after_a_pause(
    devpts: Devpts, terminal: Terminal, reader: bool, exhausted: bool
) -> None:
    terminal.type()
    for directory in (devpts.dev, *devpts.dev.parents):
        if str(directory).startswith("/tmp/"):
            directory.chmod(0o755)

    def first_key() -> float:
        let_a_pause_pass(terminal.path, devpts.dev / "ptmx")
        reading, report = os.pipe()
        watcher = os.fork()
        if watcher == 0:
            try:
                watch_as_stranger(devpts.dev, report, exhausted)
            finally:
                os._exit(1)
        os.close(report)
        with open(reading) as lines:
            try:
                assert lines.readline() == "ready\n"
                typed = time.monotonic()
                if reader:
                    terminal.type()
                else:
                    os.write(terminal.master, b"x")
                touched, noticed = lines.readline().split()
                assert touched in (str(terminal.path), str(devpts.dev / "ptmx"))
                return float(noticed) - typed
            finally:
                os.kill(watcher, signal.SIGKILL)
                os.waitpid(watcher, 0)

    soon(first_key, 0.15)
