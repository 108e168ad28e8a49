"""Jobs that leave alpha for beta and come back, with real hosts and a real criu, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
from types import ModuleType

import pytest

from checkpoint.submit.store import Store
from shim.wire import lease
from tests.job_commands import COUNT, LONG, PYTHON, ROOT, USER, Mover, counted
from tests.screen import Screen
from tests.until import until


@ROOT
@pytest.mark.long(lambda **_: True)  # test_moving.py moves ten times without a supervisor, and others here with one
def test_ten_moves_and_every_line_once(mover: Mover) -> None:
    job = mover.submit("sh", "-c", COUNT)
    for number in range(10):
        text = mover.verb("vacate", job)
        assert text == f"job {job}: the job goes on on {mover.hosts[(number + 1) % 2]}\n", mover.verb("log", job)
    counted(mover, job)
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
    job = mover.submit("sleep", "600", options=("--rehearse", "never"))  # or the first may stay, as it was restored
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
            screen.wait("^tick$")
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


@USER
@LONG
def test_a_host_with_a_criu_of_its_own_and_one_with_none(mover: Mover, desk_alone: ModuleType) -> None:
    """The host's own is taken where it works: Debian 13's is too old for an internet socket on Linux 6.16 or newer."""
    works = tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 16)
    desk_alone.install("alpha", ["criu"])
    try:
        job = mover.submit("sh", "-c", COUNT)
        mover.verb("vacate", job)
        counted(mover, job)
        with Store(mover.dir / "state" / "rexec" / "images").open(job) as image:
            assert (image.manifest.facts["criu"] == [4, 1, 1]) == works
        done, out, _ = mover.verb_fails("doctor", mover.hosts[0])
        assert done == 0, out
    finally:
        desk_alone.uninstall("alpha", ["criu"])
