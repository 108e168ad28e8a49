"""`rexec CMD` whose host, or whose own program, goes wrong: status 125 and one sentence. In a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HOST = """
import os, socket, sys, threading, time
from shim.cli import program, run
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from tests.agents import Wire

def host(end):
    link = Link(end.fileno(), end.fileno())
    try:
        while not link.receive():
            pass
        {says}
        while True:
            link.receive()
    except LinkClosed:
        return

def hello(**changed):
    fields = {{"host": [b"x"], "time": [b"%d" % time.time_ns()], "uids": [], "gids": [], **changed}}
    return frames.pack_fields({{name: items for name, items in fields.items() if items is not None}})

ours, theirs = socket.socketpair()
threading.Thread(target=host, args=(theirs,), daemon=True).start()
run.connect_first = lambda on, **_: (Host("alpha", "alpha"), Wire("alpha", ours), Facts((3, 11), "have", ""))
sys.argv = ["rexec", "--on", "alpha", *{options}, "true"]
{breaks}
program.main()
"""
ROOT = Path(__file__).parents[2]


def ended(says: str, breaks: str = "", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    program = HOST.format(says=says, breaks=breaks, options=list(options))
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "says",
    [
        "link.send(frames.HELLO, hello(uids=None))",
        "link.send(frames.HELLO, hello(time=[b'9' * 400]))",
        "link.send(frames.HELLO, hello()); link.send(frames.EXIT, b'\\x7f\\x13\\0\\0')",
        "link.send(frames.HELLO, hello()); link.send(frames.EXIT, (126).to_bytes(4, 'little'))",
        "link.send(frames.HELLO, hello()); link.send(frames.EXIT, (19).to_bytes(4, 'little'))",
        "link.send(frames.HELLO, hello()); link.send(frames.EXIT, b'\\xff\\xff\\xff\\xff')",
        "link.send(frames.FAIL, b'\\xff\\xff\\xff\\xfftext')",
        "link.send(frames.FUSE, bytes(40))",
        "os.write(theirs.fileno(), b'\\xff' * 64)",
    ],
)
def test_a_host_that_misbehaves(says: str) -> None:
    done = ended(says)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("rexec: alpha misbehaves: ")
    assert done.stderr.count("\n") == 1


def test_a_host_that_moves_the_cursor(tmp_path: Path) -> None:
    done = ended("link.send(frames.FAIL, (125).to_bytes(4, 'little') + b'no\\x1b[2J\\nrexec: all is well')")
    assert (done.returncode, done.stderr) == (125, "rexec: no\\x1b[2J\\x0arexec: all is well\n")


@pytest.mark.parametrize(
    "where",
    ["host_session.HostSession._greet", "host_session.HostSession._answer", "plain_run.PlainRun.end"],
)
def test_an_error_of_our_own(where: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    asks = "from remoteio.wire import fuse_abi as abi; link.send(frames.FUSE, abi.request(abi.GETATTR, 1, bytes(16)))"
    done = ended(
        f"link.send(frames.HELLO, hello()); {asks}; link.send(frames.EXIT, bytes(4))",
        f"import shim.submit.host_session, shim.submit.plain_run; shim.submit.{where} = lambda *_: 1 // 0",
        ("--json-log", str(log)),
    )
    assert done.returncode == 125
    assert done.stderr.startswith("rexec: an error of rexec's own while it served alpha ended the job: ZeroDivision")
    assert done.stderr.count("\n") == 1
    assert "Traceback (most recent call last)" in log.read_text()


def test_nobody_need_read_what_rexec_says() -> None:
    program = "from shim.cli.say import tell; tell('text'); print('on')"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=full, timeout=60
        )
    assert done.stdout == b"on\n"
