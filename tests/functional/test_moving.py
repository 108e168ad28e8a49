"""The execute side of a job that can be checkpointed, for real: dumped, moved, restored; root and an ordinary user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.execute.init.tree_control import CRIU_PIDS
from tests.mover import Placement, until
from tests.mover_as_user import COUNT, PYTHON, Make, Run, counted, more


@pytest.mark.long(lambda uid: not uid)
def test_each_line_once_through_ten_moves(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", COUNT)
        at = mover.place("local")
        at.wait("started")
        for _ in range(10):
            more(mover)
            at = at.move("local")
        more(mover)
        at.order("kill", 0)
        assert at.end() == 9
        counted(mover)

    run(body)


def test_checkpoints_while_it_runs_and_restart_from_the_last(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", COUNT)
        at = mover.place("local")
        at.wait("started")
        for serial in (1, 2, 3):
            more(mover)
            assert at.checkpoint(serial)["what"] == "committed"
        more(mover)
        at.close()  # the host is lost; what it said after the image is dropped
        at = mover.place("local", mover.image)
        at.go()
        more(mover, 100)
        at.order("kill", 0)
        assert at.end() == 9
        counted(mover)

    run(body)


def test_unread_input_and_exit_status(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        script = "read a; echo got $a; while [ ! -e go ]; do sleep .05; done; cat; exit 7"
        mover = make("/bin/sh", "-c", script)
        at = mover.place("local")
        at.wait("started")
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
        at = mover.place("local")
        at.wait("started")
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
        at = mover.place("local")
        at.wait("started")
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
        at.order("kill", 0)
        at.end()
        counted(mover)

    run(body)


def test_a_terminal_job(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/bash", "--norc", "-i", tty=True)
        at = mover.place("local")
        at.wait("started")

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


def test_what_cannot_be_dumped_is_named_and_runs_on(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        script = (
            "import os, time\nf = os.open('/dev/fuse', os.O_RDWR)\ni = 0\n"
            "while True: i += 1; print(i, flush=True); time.sleep(.01)"
        )
        mover = make(PYTHON, "-c", script)
        at = mover.place("local")
        at.wait("started")
        more(mover)
        refused = at.checkpoint(1)
        assert "(/dev/fuse), a device that CRIU cannot save" in refused["why"]
        more(mover)
        at.order("vacate", 2)
        assert "/dev/fuse" in at.wait("refused")["why"]
        more(mover)
        at.order("kill", 0)
        at.end()
        counted(mover)

    run(body)


NAMELESS = {
    "fifo": 'os.mkfifo("f"); os.dup2(os.open("f", os.O_RDWR), 77); os.unlink("f")',
    "socket": 's = socket.socket(socket.AF_UNIX); s.bind(os.getcwd() + "/s"); s.listen(); os.unlink("s")',
    "path": 'open("p", "w"); os.dup2(os.open("p", os.O_PATH), 77); os.unlink("p")',
    "link": 'os.symlink("x", "l"); os.dup2(os.open("l", os.O_PATH | os.O_NOFOLLOW), 77); os.unlink("l")',
    "directory": 'os.mkdir("d"); os.chdir("d"); os.rmdir("../d")',
}


@pytest.mark.parametrize("what", NAMELESS)
def test_what_has_no_name_any_more_is_no_end(run: Run, uid: int, what: str) -> None:
    """The kernel calls it stale: home has neither a name nor an open file for it, but for a directory."""

    def body(make: Make, home: Path) -> None:
        script = (
            f"import os, socket, time\n{NAMELESS[what]}\ni = 0\n"
            "while True: i += 1; print(i, flush=True); time.sleep(.01)"
        )
        mover = make(PYTHON, "-c", script)
        at = mover.place("local")
        at.wait("started")
        more(mover)
        for serial, order in enumerate(("checkpoint", "vacate"), 1):
            at.order(order, serial)
            heard = at.wait("committed", "refused")
            if what == "directory" or (what, uid > 0) == ("socket", True):
                # home keeps the directory open; of the socket CRIU does not ask for its file: it may not
                assert heard["what"] == "committed"
                break
            if not uid and what != "socket":
                assert "has descriptor 77 (" in heard["why"]
                assert heard["why"].endswith("which CRIU cannot look at: Stale file handle")
            else:
                assert "was removed, and CRIU cannot look at it" in heard["why"]
            more(mover)
        at.order("kill", 0)
        assert at.end() == 9
        counted(mover)

    run(body)


TAKEN = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from remoteio.syscalls import fork_as
if fork_as(int(sys.argv[2])) == 0:
    time.sleep(1000)
i = 0
while True:
    i += 1; print(i, flush=True); time.sleep(.01)
"""


def test_a_great_many_obstacles_are_said_in_short(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        script = (
            "import os, time\nf = [os.open('/dev/fuse', os.O_RDWR) for _ in range(700)]\ni = 0\n"
            "while True: i += 1; print(i, flush=True); time.sleep(.01)"
        )
        mover = make(PYTHON, "-c", script)
        at = mover.place("local")
        at.wait("started")
        more(mover)
        why = at.checkpoint(1)["why"]
        assert why.count("(/dev/fuse), a device that CRIU cannot save") == 5
        assert why.endswith("; and 695 more")
        more(mover)
        at.order("kill", 0)
        at.end()

    run(body)


@pytest.mark.where(lambda **params: params["uid"] == 0)
def test_what_init_cannot_do_is_no_end(run: Run) -> None:
    """Criu's own number is taken, by a job with root's rights; or there are too many processes, or no memory."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", TAKEN, str(Path(__file__).parents[2]), str(CRIU_PIDS + 1))
        at = mover.place("local")
        at.wait("started")
        more(mover)
        for serial, order in enumerate(("checkpoint", "vacate"), 1):
            at.order(order, serial)
            why = at.wait("refused")["why"]
            assert why == "the job's first process cannot do its part: [Errno 17] clone3: File exists"
            more(mover)
        at.order("kill", 0)
        assert at.end() == 9
        counted(mover)

    run(body)


def test_a_full_store_leaves_it_running(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", COUNT)
        at = mover.place("local")
        at.wait("started")
        more(mover)
        for order, serial in (("vacate", 1), ("checkpoint", 2)):
            at.full = True
            at.order(order, serial)
            assert at.wait("refused")["why"] == "the store is full"
            more(mover)
        at.full = False
        at = at.move("local")
        more(mover)
        at.order("kill", 0)
        at.end()
        counted(mover)

    run(body)


def test_without_a_criu_it_runs_where_it_is_told_to(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        os.environ["XDG_CACHE_HOME"] = str(home / "cache")
        (home / "cache" / "rexec").mkdir(parents=True)
        (home / "cache" / "rexec" / "criu").touch()  # where a directory should be
        mover = make("/bin/sh", "-c", "read a; echo $a; exit 7")
        at = mover.place("local")
        why = at.wait("unable")["why"]
        assert " cannot checkpoint a job: " in why
        at.wait("closed")
        at.close()
        mover.anyway = True
        at = mover.place("local")
        assert at.wait("unable")["why"] == why
        at.wait("started")
        for serial, order in enumerate(("checkpoint", "vacate"), 1):
            at.order(order, serial)
            assert at.wait("refused")["why"] == why
        at.type(b"word\n")
        assert os.waitstatus_to_exitcode(at.end()) == 7
        assert mover.out == b"word\n"

    run(body)


def test_several_at_once_where_criu_was_never_tested(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        os.environ["XDG_CACHE_HOME"] = str(home / "cache")
        movers = [make("/bin/sh", "-c", "read a; echo $a; exit 7") for _ in range(4)]
        placed = [mover.place("local") for mover in movers]
        for at in placed:
            at.wait("started")
            at.type(b"word\n")
        assert [os.waitstatus_to_exitcode(at.end()) for at in placed] == [7] * 4

    run(body)


def test_without_a_place_for_images_it_runs(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", "read a; echo $a; exit 7", strike="spool:none:1")
        at = mover.place("local")
        at.wait("started")
        assert "No space left on device" in at.checkpoint(1)["why"]
        at.type(b"word\n")
        assert os.waitstatus_to_exitcode(at.end()) == 7
        assert mover.out == b"word\n"

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
        at.order("kill", 0)
        at.end()
        counted(mover)

    run(body)
