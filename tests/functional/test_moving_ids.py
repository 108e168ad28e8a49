"""Which user a job is, and what it may do, wherever it goes on; real hosts, logins with and without subordinate ids."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import apart
from tests.job_commands import PYTHON, Mover, here
from tests.mover_as_user import Make, Run, begun
from tests.program import newuidmap
from tests.until import until

STATUS = "grep -E '^(Uid|Gid|Cap(Inh|Prm|Eff|Amb))' /proc/self/status"
OWN = "while [ ! -e go{n} ]; do sleep .05; done; id -un; " + STATUS + "; echo {n} >file{n}"
SEEN = "rexecuser\n" + "".join(f"{kind}:" + "\t1600" * 4 + "\n" for kind in ("Uid", "Gid"))
POWERLESS = "".join(f"Cap{name}:\t{0:016x}\n" for name in ("Inh", "Prm", "Eff", "Amb"))
GIT = ("git", "-c", "user.name=me", "-c", "user.email=me@home", "-C")
USER = pytest.mark.where(lambda uid, **_: uid)


@pytest.fixture
def single() -> Iterator[None]:
    """A machine without newuidmap: its logins can give a job one id."""
    with apart.hidden(newuidmap()):
        yield


@pytest.mark.parametrize("mover", ["user", "fewer", "mapped by root", "mapped", "more"], indirect=True)
@pytest.mark.long(lambda mover: mover in ("mapped", "more"))
def test_the_job_is_its_user_and_may_do_nothing_more(mover: Mover) -> None:
    """Whatever ids the logins can map, through a checkpoint and two moves; criu beside it has all capabilities.

    To git a file is changed if the number of its owner is another than in the index.
    """
    with tarfile.open(mover.dir / "strangers.tar", "w") as archive:
        for name, owner in (("roots", 0), ("strangers", 12345)):
            member = tarfile.TarInfo(name)
            member.uid = member.gid = owner
            archive.addfile(member)
    here(mover, "git", "init", "-q", "work")
    here(mover, "sh", "-c", "echo text >work/text")
    here(mover, *GIT, "work", "add", ".")
    here(mover, *GIT, "work", "commit", "-qm", "text")
    unpack = "tar xf strangers.tar && git -C work diff-index --quiet HEAD && git -C work status -s && echo clean"
    job = mover.submit("sh", "-c", "; ".join([*(OWN.format(n=n) for n in range(3)), unpack, "exit 3"]))
    for n, leave in enumerate(("checkpoint", "vacate", "vacate")):
        mover.verb(leave, job)
        (mover.dir / f"go{n}").touch()
    assert mover.ended(job) == "exit 3", mover.job(job)["why"]
    assert mover.job(job)["moves"] == 2
    assert mover.path(job, "stdout").read_text() == (SEEN + POWERLESS) * 3 + "clean\n"
    for name in ("file0", "file1", "file2", "roots", "strangers"):
        assert (mover.dir / name).stat().st_uid == 1600
    here(mover, "git", "-C", "work", "diff-index", "--quiet", "HEAD")


@pytest.mark.parametrize("mover", ["mapped"], indirect=True)
def test_a_process_that_forbids_being_looked_at(mover: Mover) -> None:
    """The kernel gives its /proc entries to uid 0 of the namespace, which is not the login there."""
    script = "import ctypes, time\nassert ctypes.CDLL(None).prctl(4, 0) == 0\nprint('ready', flush=True)\n"
    job = mover.submit(PYTHON, "-c", script + "time.sleep(600)")
    until(lambda: mover.path(job, "stdout").read_text(), "it is ready")
    mover.verb("vacate", job)
    assert mover.job(job)["moves"] == 1


WITHOUT_ROOT = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
semaphores = libc.semget(77, 3, 0o1600)
assert libc.semctl(semaphores, 1, 16, 5) == 0
limits = open("/proc/sys/kernel/sem").read()
print("ready", flush=True)
sys.stdin.readline()
assert libc.semget(77, 0, 0) == semaphores and libc.semctl(semaphores, 1, 12) == 5
assert open("/proc/sys/kernel/sem").read() == limits
assert "/proc/sys/" not in open("/proc/self/mountinfo").read()
assert libc.prctl(4, 0) == 0
print("hidden", flush=True)
sys.stdin.readline()
assert libc.prctl(4, 1) == 0
print("seen", flush=True)
sys.stdin.readline()
"""


@USER
def test_what_the_kernel_gives_to_uid_0_alone_where_there_is_none(run: Run, single: None) -> None:
    """The limits of System V IPC, which criu writes; and a process that forbids being looked at: refused by name."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", WITHOUT_ROOT)
        at = begun(mover)
        until(lambda: mover.out, "it is ready")
        at = at.move("local")
        at.type(b"\n")
        until(lambda: b"hidden" in mover.out or mover.err, "nothing is said")
        assert not mover.err, mover.err
        assert "(python3) forbids being looked at" in at.checkpoint(1)["why"]
        at.type(b"\n")
        until(lambda: b"seen" in mover.out, "nothing is said")
        assert at.checkpoint(2)["what"] == "committed"
        at.type(b"\n")
        assert at.end() == 0

    run(body)


@USER
def test_a_job_that_has_begun_as_uid_0_in_name_stays_so(run: Run, uid: int, single: None) -> None:
    """As those did whose login had no subordinate ids: there are images of them."""

    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", "id -u; echo >first; read a; id -u; echo >second", strike="ids:zero:1")
        at = begun(mover)
        until(lambda: mover.out, "it is ready")
        at = at.move("local").move("local")
        at.type(b"\n")
        assert at.end() == 0
        assert mover.out == b"0\n0\n" and not mover.err
        assert {(home / name).stat().st_uid for name in ("first", "second")} == {uid}

    run(body)
