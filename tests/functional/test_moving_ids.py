"""The ids of a job that moves between logins: kept where they can be given, refused by name where not."""

from __future__ import annotations

import tarfile

import pytest

from tests.job_commands import PYTHON, Mover
from tests.until import until

OWN = "while [ ! -e go{n} ]; do sleep .05; done; id -u; echo {n} >file{n}"


@pytest.mark.parametrize(
    ("mover", "uid"), [("mapped", 1600), ("mapped by root", 1600), ("more", 0)], indirect=["mover"]
)
def test_the_job_keeps_its_ids(mover: Mover, uid: int) -> None:
    """Its user's own wherever the logins can give it that; through a checkpoint and two moves."""
    with tarfile.open(mover.dir / "strangers.tar", "w") as archive:
        for name, owner in (("roots", 0), ("strangers", 12345)):
            member = tarfile.TarInfo(name)
            member.uid = member.gid = owner
            archive.addfile(member)
    unpack = "tar xf strangers.tar && echo unpacked" if uid else "true"
    job = mover.submit("sh", "-c", "; ".join([*(OWN.format(n=n) for n in range(3)), unpack, "exit 3"]))
    for n, leave in enumerate(("checkpoint", "vacate", "vacate")):
        mover.verb(leave, job)
        (mover.dir / f"go{n}").touch()
    assert mover.ended(job) == "exit 3", mover.job(job)["why"]
    assert mover.job(job)["moves"] == 2
    assert mover.path(job, "stdout").read_text() == f"{uid}\n" * 3 + ("unpacked\n" if uid else "")
    for name in ("file0", "file1", "file2", *(("roots", "strangers") if uid else ())):
        assert (mover.dir / name).stat().st_uid == 1600


@pytest.mark.parametrize("mover", ["fewer"], indirect=True)
def test_a_login_that_cannot_give_the_job_its_ids_is_refused_by_name(mover: Mover) -> None:
    job = mover.submit("sleep", "600")
    said = mover.verb("vacate", job)
    assert "the job cannot go on on beta-alice: the job has its user's own id" in said
    assert "65536 subordinate ids and newuidmap (`rexec doctor` says how)" in said
    assert mover.job(job)["state"] == "parked"


@pytest.mark.parametrize("mover", ["mapped"], indirect=True)
def test_a_process_that_forbids_being_looked_at(mover: Mover) -> None:
    """The kernel gives its /proc entries to uid 0 of the namespace, which is not the login there."""
    script = "import ctypes, time\nassert ctypes.CDLL(None).prctl(4, 0) == 0\nprint('ready', flush=True)\n"
    job = mover.submit(PYTHON, "-c", script + "time.sleep(600)")
    until(lambda: mover.path(job, "stdout").read_text(), "it is ready")
    mover.verb("vacate", job)
    assert mover.job(job)["moves"] == 1


SCRATCH = "cd scratch; echo mine >f; chmod 400 f; echo x >/dev/shm/x; while [ ! -e ../go ]; do sleep .05; done; "


@pytest.mark.long(lambda mover: mover == "mapped by root")
@pytest.mark.parametrize("mover", ["mapped", "mapped by root"], indirect=True)
def test_scratch_comes_along(mover: Mover) -> None:
    """Its files are the job's user's, whichever id that is on the host."""
    (mover.dir / "scratch").mkdir()
    job = mover.submit(
        "sh", "-c", SCRATCH + "cat f /dev/shm/x; stat -c '%u %a %n' . f /dev/shm/x",
        options=("--scratch", str(mover.dir / "scratch")),
    )  # fmt: skip
    for _ in range(2):
        mover.verb("vacate", job)
    (mover.dir / "go").touch()
    assert mover.ended(job) == "done", mover.verb("log", job)
    assert mover.path(job, "stdout").read_text() == "mine\nx\n1600 700 .\n1600 400 f\n1600 644 /dev/shm/x\n"
    assert mover.job(job)["moves"] == 2
