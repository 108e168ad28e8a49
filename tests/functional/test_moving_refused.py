"""What cannot be saved, and where: it is said by name, and the job runs on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.execute.init.tree_control import CRIU_PIDS
from tests.mover_as_user import COUNT, PYTHON, Make, Run, begun, killed, more


def test_what_cannot_be_dumped_is_named_and_runs_on(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        script = (
            "import os, time\nf = os.open('/dev/fuse', os.O_RDWR)\ni = 0\n"
            "while True: i += 1; print(i, flush=True); time.sleep(.01)"
        )
        mover = make(PYTHON, "-c", script)
        at = begun(mover)
        more(mover)
        refused = at.checkpoint(1)
        assert "(/dev/fuse), a device that CRIU cannot save" in refused["why"]
        more(mover)
        at.order("vacate", 2)
        assert "/dev/fuse" in at.wait("refused")["why"]
        more(mover)
        killed(mover, at)

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
        at = begun(mover)
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
        killed(mover, at)

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
        at = begun(mover)
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
        at = begun(mover)
        more(mover)
        for serial, order in enumerate(("checkpoint", "vacate"), 1):
            at.order(order, serial)
            why = at.wait("refused")["why"]
            assert why == "the job's first process cannot do its part: [Errno 17] clone3: File exists"
            more(mover)
        killed(mover, at)

    run(body)


def test_a_full_store_leaves_it_running(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", COUNT)
        at = begun(mover)
        more(mover)
        for order, serial in (("vacate", 2), ("checkpoint", 3)):  # 1 is that of the move
            at.full = True
            at.order(order, serial)
            assert at.wait("refused")["why"] == "the store is full"
            more(mover)
        at.full = False
        at = at.move("local")
        more(mover)
        killed(mover, at)

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
        at = begun(mover)
        assert "No space left on device" in at.checkpoint(1)["why"]
        at.type(b"word\n")
        assert os.waitstatus_to_exitcode(at.end()) == 7
        assert mover.out == b"word\n"

    run(body)
