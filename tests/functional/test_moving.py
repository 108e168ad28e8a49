"""The execute side of a job that can be checkpointed, for real: dumped, moved, restored; root and an ordinary user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mover import Placement
from tests.mover_as_user import COUNT, PYTHON, Make, Run, begun, killed, more
from tests.until import until


@pytest.mark.long(lambda uid: not uid)
def test_each_line_once_through_ten_moves(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", COUNT)
        at = begun(mover)
        for _ in range(10):
            more(mover)
            at = at.move("local")
        more(mover)
        killed(mover, at)

    run(body)


def test_checkpoints_while_it_runs_and_restart_from_the_last(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", COUNT)
        at = begun(mover)
        for serial in (1, 2, 3):
            more(mover)
            assert at.checkpoint(serial)["what"] == "committed"
        more(mover)
        at.close()  # the host is lost; what it said after the image is dropped
        at = mover.place("local", mover.image)
        at.go()
        more(mover, 100)
        killed(mover, at)

    run(body)


def test_unread_input_and_exit_status(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        script = "read a; echo got $a; while [ ! -e go ]; do sleep .05; done; cat; exit 7"
        mover = make("/bin/sh", "-c", script)
        at = begun(mover)
        at.type(b"first\nsecond\n" + b"x" * 50000 + b"\n")
        until(lambda: mover.out == b"got first\n", "no echo")
        at = at.move("local")
        at.type(b"last\n", end=True)
        at = at.move("local")
        (home / "go").touch()
        assert os.waitstatus_to_exitcode(at.end()) == 7
        assert mover.out == b"got first\nsecond\n" + b"x" * 50000 + b"\nlast\n"

    run(body)


def test_a_pipeline_with_children(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        script = "i=0; while [ ! -e go ]; do i=$((i+1)); echo $i; sleep .01; done | cat | tee copy | (cat; echo end)"
        mover = make("/bin/sh", "-c", script)
        at = begun(mover)
        for _ in range(3):
            more(mover)
            at = at.move("local")
        (home / "go").touch()
        assert at.end() == 0
        *lines, last = mover.out.decode().split()
        assert (lines, last) == ([str(n) for n in range(1, len(lines) + 1)], "end")
        assert (home / "copy").read_text().split() == lines

    run(body)


def test_memory_and_threads(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        script = (
            "import hashlib, os, threading, time\n"
            "data = os.urandom(200 << 20); digest = hashlib.blake2b(data).digest()\n"
            "t = threading.Thread(target=lambda: [time.sleep(.05) for _ in iter(lambda: os.path.exists('go'), True)])\n"
            "t.start(); print('ready', flush=True); t.join()\n"
            "print(hashlib.blake2b(data).digest() == digest, flush=True)\n"
        )
        mover = make(PYTHON, "-c", script)
        at = mover.place("local")
        until(lambda: mover.out == b"ready\n", "it is not ready")
        at = at.move("local")
        (home / "go").touch()
        assert at.end() == 0
        assert mover.out == b"ready\nTrue\n"

    run(body)


UNHASHED = """
import mmap, os, time
held = os.open("held", os.O_RDONLY)
mapped = os.open("mapped", os.O_RDONLY)
page = mmap.mmap(mapped, 0, prot=mmap.PROT_READ)
os.close(mapped)
inodes = [os.stat(name).st_ino for name in ("held", "mapped")]
print("open", flush=True)
while any(os.stat(name).st_ino == inode for name, inode in zip(("held", "mapped"), inodes)):
    time.sleep(.05)
links = [os.readlink(f"/proc/self/fd/{held}"), *(line for line in open("/proc/self/maps") if "mapped" in line)]
print(*("(deleted)" in link for link in links), flush=True)
while not os.path.exists("go"):
    time.sleep(.05)
print(os.read(held, 10).decode(), page[:].decode(), flush=True)
assert not os.path.exists("held (deleted)")
"""


def test_files_that_the_kernel_wrongly_calls_deleted(run: Run) -> None:
    """Since Linux 6.16 two processes that look up one name at once can bring it about; here home does."""

    def body(make: Make, home: Path) -> None:
        for name in ("held", "mapped"):
            (home / name).write_text(f"this is {name}")
        mover = make(PYTHON, "-c", UNHASHED)
        at = mover.place("local")
        until(lambda: mover.out == b"open\n", "not open")
        for name in ("held", "mapped"):
            (home / name).rename(home / f"{name}.aside")
            (home / name).touch()
        until(lambda: mover.out == b"open\nTrue True\n", f"still named: {bytes(mover.out)!r}")
        refused = at.checkpoint(1)
        assert "was removed or replaced" in refused["why"], refused
        for name in ("held", "mapped"):
            (home / f"{name}.aside").rename(home / name)
        for _ in range(3):
            at = at.move("local")
        (home / "go").touch()
        assert at.end() == 0, mover.err.decode()
        assert mover.out == b"open\nTrue True\nthis is he this is mapped\n"

    run(body)


CONNECTED = """
import os, socket, time
listener = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:
    echo = listener.accept()[0]
    try:
        while data := echo.recv(100):
            echo.sendall(data)
    finally:
        os._exit(0)
client = socket.create_connection(listener.getsockname())
while True:
    try:
        client.sendall(b"%d\\n" % (n := globals().get("n", 0) + 1))
        print(client.recv(100).decode(), end="", flush=True)
    except OSError as e:
        raise SystemExit(f"closed: {type(e).__name__}")
    time.sleep(.01)
"""


def test_connections_within_the_tree(run: Run, uid: int) -> None:
    """Kept as root; an ordinary user may not take one apart, and the job is told that it is closed."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", CONNECTED)
        at = begun(mover)
        more(mover)
        done = at.checkpoint(1)
        assert done["what"] == "committed", done
        more(mover)
        leaving = at
        at = at.move("local")
        closed = [news["why"] for what, news in leaving.seen if what == "closes"]
        assert len(closed) == bool(uid)
        assert all(why.startswith("the TCP connection that is descriptor") for why in closed)
        if uid:
            assert os.waitstatus_to_exitcode(at.end()) == 1
            assert mover.err.startswith(b"closed: ")
            return
        more(mover)
        at = at.move("local")
        more(mover)
        killed(mover, at)

    run(body)


def test_a_terminal_job(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/bash", "--norc", "-i", tty=True)
        at = begun(mover)

        def says(text: bytes) -> None:
            until(lambda: text in mover.out, f"no {text!r} in {bytes(mover.out[-300:])!r}")

        at.type(b"X=kept; PS1='$ '; echo o''ne\n")
        says(b"one\r\n")
        at = at.move("local")
        at.type(b"echo $X t''wo; tty\n")
        says(b"kept two\r\n/dev/pts/0\r\n")
        at.type(b"sleep 100\n")
        until(lambda: b"sleep 100\r\n" in mover.out, "no echo")
        at = at.move("local")
        at.type(b"\x03")
        at.type(b"echo th''ree; exit 3\n")
        says(b"three\r\n")
        assert os.waitstatus_to_exitcode(at.end()) == 3

    run(body)


def test_keys_typed_and_not_yet_read(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        script = 'echo ready; while [ ! -e go ]; do sleep .05; done; read a; read b; echo "<$a|$b>"; exit 4'
        mover = make("/bin/sh", "-c", script, tty=True)
        at = mover.place("local")
        until(lambda: b"ready\r\n" in mover.out, "not ready")
        at.type(b"one\ntw")
        until(lambda: b"one\r\ntw" in mover.out, "no echo")
        assert at.checkpoint(1)["what"] == "committed"
        at = at.move("local")
        at.type(b"o\n")
        at = at.move("local")
        (home / "go").touch()
        until(lambda: b"<one|two>" in mover.out, f"not read: {bytes(mover.out)!r}")
        assert os.waitstatus_to_exitcode(at.end()) == 4
        assert mover.out.count(b"one") == 2

    run(body)


@pytest.mark.usefixtures("desk")
def test_from_alpha_to_beta(run: Run, uid: int) -> None:
    def body(make: Make, home: Path) -> None:
        suffix = "-alice" if uid else ""
        mover = make("/bin/sh", "-c", COUNT)
        at: Placement = mover.place("alpha" + suffix)
        at.wait("started")
        for host in ("beta", "alpha", "beta"):
            more(mover)
            at = at.move(host + suffix)
        more(mover)
        killed(mover, at)

    run(body)
