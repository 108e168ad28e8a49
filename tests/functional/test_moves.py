"""Jobs that leave alpha for beta and come back, with real hosts and a real criu, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from checkpoint.submit.store import Store
from shim.wire import lease
from tests.job_commands import COUNT, PYTHON, ROOT, USER, Mover, kill_ssh, lines, supervisors
from tests.screen import Screen
from tests.until import until


@ROOT
@pytest.mark.long(lambda **_: True)  # test_moving.py moves ten times without a supervisor, and others here with one
def test_ten_moves_and_every_line_once(mover: Mover) -> None:
    job = mover.submit("sh", "-c", COUNT.format(n=300, pause=0.05))
    for number in range(10):
        text = mover.verb("vacate", job)
        assert text == f"job {job}: the job goes on on {mover.hosts[(number + 1) % 2]}\n", mover.verb("log", job)
    assert mover.ended(job) == "exit 3"
    assert mover.path(job, "stdout").read_text() == lines(300)
    assert mover.job(job)["moves"] == 10


@USER
def test_input_through_a_pipe_and_its_end(mover: Mover) -> None:
    script = "import sys\nfor line in sys.stdin: print(line.strip()[::-1], flush=True)\nprint('end')"
    process = mover.foreground(PYTHON, "-c", script)
    with process:
        assert process.stdin is not None and process.stdout is not None
        for n in range(3):
            process.stdin.write(b"abc%d\n" % n)
            process.stdin.flush()
            assert process.stdout.readline() == b"%dcba\n" % n
            mover.verb("vacate", "1")
        process.stdin.write(b"last")
        out, err = process.communicate(timeout=60)
    assert out == b"tsal\nend\n" and process.returncode == 0, err


@USER
def test_held_and_released_and_killed(mover: Mover) -> None:
    job = mover.submit("sleep", "600")
    assert "parked" in mover.verb("hold", job)
    assert mover.job(job)["state"] == "held"
    mover.verb("release", job)
    mover.running(job)
    mover.verb("kill", job)
    assert mover.ended(job) == "signal 9"


@USER
def test_a_lost_link_goes_back_to_the_last_image(mover: Mover) -> None:
    """ssh is killed; what the job says again is not said twice, and what it wrote to a file since is cut back."""
    out = mover.dir / "numbers"
    job = mover.submit(
        "sh",
        "-c",
        f"exec 5>>{out}; " + COUNT.format(n=150, pause=0.05).replace("echo line $i", "echo line $i; echo line $i >&5"),
    )
    mover.verb("checkpoint", job)
    seen = out.read_text()
    until(lambda: len(out.read_text()) > len(seen) + 40, "it writes on")
    kill_ssh(mover)
    until(lambda: mover.job(job)["generation"] >= 2, "another generation", within=30)
    assert mover.ended(job) == "exit 3"
    assert mover.path(job, "stdout").read_text() == lines(150)
    assert out.read_text() == lines(150)
    log = mover.verb("log", job, "--condor")
    assert all(f"\n{number} (" in "\n" + log for number in ("000", "001", "003", "022", "024", "005")), log


NAMES = """
import mmap, os, time
names = ["/etc/hosts", "/etc/resolv.conf"]
held = [open(name) for name in names]
told = [file.read() for file in held]
mapped = [mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) for file in held]
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
for file, text, pages, name in zip(held, told, mapped, names):
    file.seek(0)
    print(len(text), len(file.read()), len(pages), len(open(name).read()), os.stat(name).st_nlink)
"""


@USER
def test_a_job_that_holds_a_file_of_its_network_moves(mover: Mover) -> None:
    """Each host has a resolv.conf of its own, and all are of one length."""
    job = mover.submit(PYTHON, "-c", NAMES)
    until(lambda: "ready" in mover.path(job, "stdout").read_text(), "it has them open")
    mover.verb("vacate", job)
    (mover.dir / "go").touch()
    assert mover.ended(job) == "done"
    for line in mover.path(job, "stdout").read_text().splitlines()[1:]:
        assert len(set(line.split()[:4])) == 1 and line.split()[4] == "1"


@USER
def test_restart_after_the_supervisor_died(mover: Mover) -> None:
    job = mover.submit("sh", "-c", COUNT.format(n=100, pause=0.05))
    mover.verb("checkpoint", job)
    for pid in supervisors(mover, job):
        os.kill(pid, signal.SIGKILL)
    until(lambda: mover.job(job)["state"] == "stopped", "it is stopped")
    assert "restart" in str(mover.job(job)["why"])
    status, _, words = mover.verb_fails("vacate", job)
    assert (
        status == 125
        and words == f"rexec: job {job} has no supervisor: `rexec restart {job}` goes on from its last image\n"
    )
    mover.verb("restart", job)
    assert mover.ended(job) == "exit 3"
    assert mover.path(job, "stdout").read_text() == lines(100)


@USER
def test_killed_on_its_host_it_goes_on_from_its_image_elsewhere(mover: Mover, desk: ModuleType) -> None:
    """As when that host's memory runs out."""
    job = mover.submit("sh", "-c", COUNT.format(n=60, pause=0.05))
    mover.verb("checkpoint", job)
    seen = mover.path(job, "stdout").read_text()
    until(lambda: len(mover.path(job, "stdout").read_text()) > len(seen) + 40, "it says more")
    jobs = [pid for pid, line in desk.processes("alpha").items() if "line $i" in line]
    (init,) = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in jobs}
    os.kill(init, signal.SIGKILL)
    assert mover.ended(job) == "exit 3"
    assert mover.path(job, "stdout").read_text() == lines(60)
    assert (mover.job(job)["moves"], mover.job(job)["generation"]) == (1, 2)
    assert "its memory may have run out" in mover.verb("log", job)


@USER
def test_told_to_end_as_at_a_shutdown_it_saves_the_job_first(mover: Mover) -> None:
    job = mover.submit("sh", "-c", COUNT.format(n=100, pause=0.05))
    until(lambda: mover.path(job, "stdout").read_text().count("\n") > 5, "some lines")
    own = [psutil.Process(pid) for pid in supervisors(mover, job)]
    started = [child for process in own for child in process.children(recursive=True)]
    assert "ssh" in {process.name() for process in started}, "its ssh is told to end too"
    for process in (*own, *started):
        process.terminate()
    until(lambda: mover.job(job)["state"] == "stopped", "the supervisor has ended", within=30)
    assert "the job is saved" in mover.verb("log", job).splitlines()[-1]
    mover.verb("restart", job)
    assert mover.ended(job) == "exit 3"
    assert mover.path(job, "stdout").read_text() == lines(100)


@USER
def test_a_changed_file_is_named(mover: Mover) -> None:
    data = mover.dir / "data.txt"
    script = f"import time\nf=open({str(data)!r},'w'); f.write('abc'); f.flush()\nprint('ready', flush=True)\n"
    script += "time.sleep(600)"
    job = mover.submit(PYTHON, "-c", script)
    until(lambda: mover.path(job, "stdout").read_text(), "it is ready")
    mover.verb("hold", job)
    (mover.dir / "new").write_text("xyz")
    (mover.dir / "new").rename(data)
    shutil.chown(data, mover.user)
    words = mover.verb_fails("release", job)
    assert f"{data} has been replaced by another file since image 1 was made" in str(mover.job(job)["why"]), words
    mover.verb("kill", job)
    status, _, said = mover.verb_fails("restart", job)
    assert status == 125 and said.startswith(f"rexec: {data} has been replaced by another file since image 1")
    mover.verb("restart", "--force", job)
    mover.running(job)


@USER
def test_images_are_listed_verified_and_removed(mover: Mover) -> None:
    job = mover.submit("sleep", "600")
    for _ in range(3):
        mover.verb("checkpoint", job)
    rows = json.loads(mover.verb("images", job, "--json"))
    assert [row["number"] for row in rows] == [2, 3]
    assert mover.verb("images", "verify", job) == f"job {job}: 2 images are whole\n"
    mover.verb("images", "rm", f"{job}/2")
    pack = max((mover.dir / "state" / "rexec" / "images" / job).glob("*.pack"), key=lambda path: path.stat().st_size)
    with pack.open("r+b") as file:
        half = pack.stat().st_size // 2
        byte = os.pread(file.fileno(), 1, half)
        os.pwrite(file.fileno(), bytes((byte[0] ^ 1,)), half)
    status, words, _ = mover.verb_fails("images", "verify", job)
    assert status == 1 and "damaged" in words
    mover.verb("vacate", job)  # what is damaged is sent again
    assert (mover.job(job)["state"], mover.job(job)["moves"]) == ("running", 1)
    mover.verb("kill", job)
    mover.ended(job)
    mover.verb("images", "rm", job)
    assert json.loads(mover.verb("jobs", "--json")) == []


@USER
@pytest.mark.parametrize("option", ["--tty", "--no-tty"])
def test_ctrl_z_and_fg_before_and_after_a_move(mover: Mover, option: str) -> None:
    screen = Screen(mover.user, mover.dir)
    try:
        settings = " ".join(f"{name}={value}" for name, value in mover.env.items())
        on = ",".join(mover.hosts)
        job = "sh -c 'while :; do sleep 0.2; echo tick >&2; done'"
        before = screen.settings()
        screen.type(f"env {settings} {mover.rexec.path} -q --checkpoint {option} --on {on} --owner none {job}")
        for pause in (lease.AGENT + 1, 0) if option == "--tty" else (0,):  # longer than the host waits; after a move
            screen.wait("^tick$", within=30)
            screen.key("C-z")
            screen.wait("Stopped")
            screen.wait(r"^READY>$")
            assert screen.settings() == before
            screen.type(f"clear; sleep {pause}; fg")
            screen.wait("^tick$")
            if pause:
                mover.verb("vacate", "1")
                screen.key("C-l")
        screen.key("C-c")
        screen.wait(r"^READY>$")
        assert screen.settings() == before
    finally:
        screen.close()


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


@USER
def test_a_host_with_a_criu_of_its_own_and_one_with_none(mover: Mover, desk_alone: ModuleType) -> None:
    """The host's own is taken where it works: Debian 13's is too old for an internet socket on Linux 6.16 or newer."""
    works = tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 16)
    desk_alone.install("alpha", ["criu"])
    try:
        job = mover.submit("sh", "-c", COUNT.format(n=40, pause=0.1))
        mover.verb("vacate", job)
        assert mover.ended(job) == "exit 3"
        assert mover.path(job, "stdout").read_text() == lines(40)
        with Store(mover.dir / "state" / "rexec" / "images").open(job) as image:
            assert (image.manifest.facts["criu"] == [4, 1, 1]) == works
        done, out, _ = mover.verb_fails("doctor", mover.hosts[0])
        assert done == 0, out
    finally:
        desk_alone.uninstall("alpha", ["criu"])


@USER
def test_a_job_that_ends_while_it_is_saved_ends_once(mover: Mover) -> None:
    """With an image already there; it is saved all the time, and its end swept over the 0.2 s that this takes."""
    script = "echo begun >> said{n}; sleep {for_}; echo ended >> said{n}; exit 7"
    jobs = [
        mover.foreground("sh", "-c", script.format(n=n, for_=2 + n / 25), options=("--every", "1s")) for n in range(8)
    ]
    for job in jobs:
        with job:
            said = job.communicate(timeout=60)
        assert (job.returncode, *said) == (7, b"", b"")
    assert {path.read_text() for path in mover.dir.glob("said*")} == {"begun\nended\n"}


UNLINKED = """
import os, socket, time
server, other = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind(os.getcwd() + "/s")
server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect(server.getsockname())
os.unlink("s")
other.bind(os.getcwd() + "/o")
os.unlink("o")
print("open", flush=True)
while not os.path.exists("go"):
    time.sleep(.02)
accepted, _ = server.accept()
client.send(b"sent")
print(accepted.recv(9), os.path.basename(server.getsockname()), os.path.exists("s"), os.path.exists("o"))
"""


@pytest.mark.parametrize("mover", ["user", "mapped", "mapped by root"], indirect=True)
def test_a_unix_socket_whose_name_was_removed(mover: Mover) -> None:
    """Where CRIU may not ask for its file, it takes root for the owner: home would have to give it to root."""
    job = mover.submit(PYTHON, "-c", UNLINKED)
    until(lambda: mover.path(job, "stdout").read_text() == "open\n", "it is ready")
    for _ in range(2):
        mover.verb("hold", job)
        mover.verb("release", job)
        mover.running(job)
    (mover.dir / "go").touch()
    assert mover.ended(job) == "done", mover.verb("log", job)
    assert mover.path(job, "stdout").read_text() == "open\nb'sent' s False False\n"


RENAMED = """
import os, socket, time
named = socket.socket(socket.AF_UNIX)
named.bind(os.getcwd() + "/r.tmp")
named.listen()
os.chmod("r.tmp", 0o640)
os.rename("r.tmp", "r")
print("open", flush=True)
while not os.path.exists("go"):
    time.sleep(.02)
with socket.socket(socket.AF_UNIX) as client:
    client.connect("r")
print(sorted(name for name in os.listdir(".") if name.startswith("r")), oct(os.stat("r").st_mode))
"""


def test_a_unix_socket_whose_name_was_changed(mover: Mover) -> None:
    """haproxy and supervisord bind to a name for the moment: their clients find them under the other one."""
    job = mover.submit(PYTHON, "-c", RENAMED)
    until(lambda: mover.path(job, "stdout").read_text() == "open\n", "it is ready")
    for _ in range(2):
        mover.verb("vacate", job)
    (mover.dir / "go").touch()
    assert mover.ended(job) == "done", mover.verb("log", job)
    assert mover.path(job, "stdout").read_text() == "open\n['r'] 0o140640\n"


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
