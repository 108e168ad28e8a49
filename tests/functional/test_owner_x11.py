"""Input into a real X server (Xvfb), typed by xdotool, is noticed; with and without its cookie."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from shim.execute.owner.x11 import X11Source
from shim.execute.owner.x11_wire import cookies
from tests.until import soon

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("Xvfb", "xdotool", "xprintidle")),
    reason="needs the packages xvfb, xdotool and xprintidle",
)

COOKIE = bytes(range(16))


def authority(number: str) -> bytes:
    """An authority file with one entry, family wild, in the format of Xau(3)."""
    fields = (b"", number.encode(), b"MIT-MAGIC-COOKIE-1", COOKIE)
    return b"\xff\xff" + b"".join(len(field).to_bytes(2, "big") + field for field in fields)


class Server:
    """An Xvfb on a number it chose itself, its socket alone in `sockets` (other servers of the machine stay out)."""

    def __init__(self, directory: Path, *, cookie: bool) -> None:
        self.sockets = directory / "sockets"
        self.sockets.mkdir()
        self.authority = directory / "authority"
        # Family wild and an empty number fit every display, so the file can be written before the number is known.
        self.authority.write_bytes(authority(""))
        reading, writing = os.pipe()
        # -nolock: its socket, which it takes a number by, is this run's own (apart.py); /tmp/.X0-lock is the machine's
        arguments = ["Xvfb", "-noreset", "-nolock", "-displayfd", str(writing), "-nolisten", "tcp"]
        arguments += ["-screen", "0", "320x200x24"]
        if cookie:
            arguments += ["-auth", str(self.authority)]
        self.process = subprocess.Popen(arguments, pass_fds=[writing], stderr=subprocess.DEVNULL)
        os.close(writing)
        with open(reading) as display:
            self.number = display.readline().strip()
        assert self.number, "Xvfb did not start"
        (self.sockets / f"X{self.number}").symlink_to(f"/tmp/.X11-unix/X{self.number}")

    def run(self, *arguments: str) -> str:
        environment = {**os.environ, "DISPLAY": f":{self.number}", "XAUTHORITY": str(self.authority)}
        return subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True).stdout

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture(params=[False, True], ids=["open", "cookie"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path, cookie=request.param)
    yield started
    started.stop()


def wait_for(source: X11Source, seconds: float) -> tuple[str | None, float]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        select.select([source.fileno()], [], [], source.interval)
        touched = source.poll(time.monotonic())
        if touched is not None:
            return touched, time.monotonic()
    return None, time.monotonic()


def test_keys_and_movements_are_noticed_and_nothing_else(server: Server) -> None:
    server.run("xdotool", "mousemove", "5", "5")
    source = X11Source(time.monotonic(), str(server.sockets))
    try:
        assert source.absent() is None
        assert source.displays() == {f":{server.number}"}
        assert wait_for(source, 0.5)[0] is None
        places = count(50)

        def once(*action: str) -> float:
            server.run("xdotool", *action)
            # xdotool's own run time must not count: the server has the input before xdotool ends.
            ended = time.monotonic()
            touched, noticed = wait_for(source, 10.0)
            assert touched == f"display :{server.number}"
            return noticed - ended

        soon(lambda: once("key", "a"), 0.1)
        soon(lambda: once("mousemove", str(next(places)), "60"), 0.1)
        soon(lambda: once("click", "1"), 0.1)
    finally:
        source.close()


def test_idle_time_is_what_xprintidle_says(server: Server) -> None:
    server.run("xdotool", "key", "b")
    source = X11Source(time.monotonic(), str(server.sockets))
    try:
        assert wait_for(source, 1.0)[0] is None
        before = time.monotonic()
        theirs = int(server.run("xprintidle")) / 1000
        after = time.monotonic()
        last = source.last_input(after)
        assert last is not None
        assert before - theirs - 0.3 < last < after - theirs + 0.3  # however long xprintidle took to start and end
        assert theirs > 0.9
    finally:
        source.close()


def test_a_server_that_ends_makes_the_source_absent(server: Server) -> None:
    source = X11Source(time.monotonic(), str(server.sockets))
    try:
        server.stop()
        assert wait_for(source, 0.3)[0] is None
        assert "display :" in str(source.absent())
    finally:
        source.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize("readable", [True, False], ids=["with-its-cookie", "without"])
def test_another_users_display_needs_its_cookie(tmp_path: Path, readable: bool) -> None:
    started = Server(tmp_path, cookie=True)
    try:
        for directory in (tmp_path, *tmp_path.parents[:-2]):
            directory.chmod(0o755)
        started.authority.chmod(0o644 if readable else 0o600)
        reading, report = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                source = X11Source(time.monotonic(), str(started.sockets))
                os.write(report, str(source.absent()).encode())
            finally:
                os._exit(0)
        os.close(report)
        with open(reading) as answer:
            said = answer.read()
        os.waitpid(child, 0)
        if readable:
            assert said == "None"
        else:
            assert f"display :{started.number} does not admit this user" in said
    finally:
        started.stop()


def test_no_display_at_all(tmp_path: Path) -> None:
    source = X11Source(time.monotonic(), str(tmp_path))
    assert source.absent() == f"no display below {tmp_path}"
    assert source.poll(time.monotonic()) is None
    source.close()


def test_a_torn_authority_file_gives_what_is_whole() -> None:
    whole = authority("7")
    assert cookies(whole, "7") == [COOKIE]
    assert cookies(whole, "8") == []
    assert cookies(whole + whole[:9], "7") == [COOKIE]
