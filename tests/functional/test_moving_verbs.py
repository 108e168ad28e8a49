"""What a person says about a job, and what they see: that it is right, and one sentence where it cannot be done."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from checkpoint.submit import obtain_criu
from tests.job_commands import COUNT, LONG, PYTHON, Mover, counted, out, pinned, vacate
from tests.until import until

pytestmark = pytest.mark.where(lambda **params: params["mover"] == "user")
WAIT = "echo begun; while [ ! -e go ]; do sleep .05; done; exit 3"


@LONG
def test_the_log_is_followed_until_the_job_has_ended(mover: Mover) -> None:
    first, second = mover.hosts
    job = mover.submit("sh", "-c", WAIT)
    with mover.rexec.start(
        ["log", "--follow", job], as_user=mover.user, env=mover.env, cwd=mover.dir, stdin=subprocess.DEVNULL
    ) as follower:
        vacate(mover, job)
        mover.verb("hold", job)
        mover.verb("release", job)
        (mover.dir / "go").touch()
        text = follower.communicate(timeout=60)[0].decode()
    shown = [re.sub(r"^\S+ \S+ +", "", line) for line in text.splitlines()]
    shown = [re.sub(r"[\d.]+ [KM]?i?B new", "some new", line) for line in shown]
    assert shown[0] == f"submit      {os.uname().nodename}: sh -c '{WAIT}'"
    assert [line for line in shown[1:] if "image 1," not in line] == [  # it may be saved by itself meanwhile
        f"execute     {first}",
        *(line for line in shown if line.startswith("evict") and first in line),
        f"execute     {second}",
        *(line for line in shown if line.startswith(("checkpoint", "evict")) and second in line),
        "hold        held by its user",
        "release     released by its user",
        f"execute     {first}",
        f"end         {first}: status 3",
    ]
    told = json.loads(mover.verb("report", "--json", job))
    assert told["all"]["told"] == told["all"]["stays"] == 3 and told["all"]["taken"] == 2
    assert told["all"]["cpu"] > 0 < told["all"]["bytes"] and set(told["hosts"]) == {first, second}
    mover.verb("log", "--plot", "life.svg", job)
    names = [each.text for each in ElementTree.parse(mover.dir / "life.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {first, second, "no host", "held", "image"} <= set(names)


@LONG
def test_restarted_from_the_image_that_was_named(mover: Mover) -> None:
    job = mover.submit("sh", "-c", COUNT)
    said = []
    for _ in range(2):
        mover.verb("checkpoint", job)
        said.append(len(out(mover, job)))
        until(lambda: len(out(mover, job)) > said[-1] + 50, "it says more")
    mover.verb("kill", job)
    assert mover.ended(job) == "signal 9"
    images = [line.split()[0] for line in mover.verb("images", job).splitlines()[1:]]
    assert len(images) == 2
    status, _, words = mover.verb_fails("restart", f"{job}/99")
    assert (status, words) == (125, f"rexec: job {job} has no image 99: see `rexec images {job}`\n")
    mover.verb("restart", images[0], "--on", mover.hosts[1])
    mover.running(job)
    assert mover.job(job)["host"] == mover.hosts[1]
    counted(mover, job)
    assert f"restarted by its user, from image {images[0].partition('/')[2]}\n" in mover.verb("log", job)
    status, _, words = mover.verb_fails("vacate", job)
    assert (status, words) == (125, f"rexec: job {job} has ended: exit 3\n")


@LONG
def test_a_job_that_is_parked_for_a_changed_file_is_forced_on_as_it_says(mover: Mover) -> None:
    data = mover.dir / "data.txt"
    script = f"import os,time\nf = open({str(data)!r}, 'w'); f.write('abc'); f.flush()\nprint('ready', flush=True)\n"
    job = mover.submit(PYTHON, "-c", script + "while not os.path.exists('go'): time.sleep(.05)")
    until(lambda: out(mover, job) == "ready\n", "it is ready")
    mover.verb("hold", job)
    (mover.dir / "new").write_text("xyz")
    (mover.dir / "new").rename(data)
    shutil.chown(data, mover.user)
    assert "job is parked" in mover.verb("release", job)
    why = str(mover.job(job)["why"])
    forced = f"`rexec restart {job} --force` goes on all the same"
    assert re.fullmatch(f"{data} has been replaced by another file since image \\d+ was made: {forced}.*", why)
    assert f"parked: {why}" in mover.verb("log", job)
    assert "job is parked" in mover.verb("restart", job)
    assert f"goes on on {mover.hosts[0]}" in mover.verb("restart", job, "--force")
    (mover.dir / "go").touch()
    assert mover.ended(job) == "done"


def test_a_library_that_is_replaced_while_the_job_is_held(mover: Mover) -> None:
    """If it is not kept, what the job has not written to is read anew: of another as large, it would get a mixture."""
    library = mover.dir / "library.so"
    shutil.copy(next(Path("/usr/lib").rglob("libz.so.1")), library)
    shutil.chown(library, mover.user)
    script = f"import ctypes,os,time\nf = ctypes.CDLL({str(library)!r}).compressBound\nprint('ready', flush=True)\n"
    job = mover.submit(PYTHON, "-c", script + "while not os.path.exists('go'): time.sleep(.05)\nprint(f(100))")
    until(lambda: out(mover, job) == "ready\n", "it is ready")
    mover.verb("hold", job)
    until(lambda: str(library) in pinned(mover, job), "it is kept")
    shutil.rmtree(mover.path(job, "pins"))
    shutil.copy(library, mover.dir / "new")
    (mover.dir / "new").rename(library)
    said = mover.verb("release", job)
    why = f"{library}, which the job has mapped, has been replaced by another file since image"
    assert said.startswith(f"job {job}: the job is parked: {why}"), said
    assert f"`rexec restart {job} --force` goes on all the same" in said
    assert f"goes on on {mover.hosts[0]}" in mover.verb("restart", job, "--force")
    (mover.dir / "go").touch()
    assert mover.ended(job) == "done"
    assert out(mover, job) == "ready\n113\n"


def test_sent_to_a_host_that_there_is_not(mover: Mover) -> None:
    job = mover.submit("sh", "-c", WAIT)
    status, _, words = mover.verb_fails("vacate", "--to", "nowhere.invalid", job)
    assert status == 125
    assert words.startswith(f"rexec: job {job} stays where it is: cannot reach nowhere.invalid")
    assert mover.verb("vacate", "--to", mover.hosts[1], job) == f"job {job}: the job goes on on {mover.hosts[1]}\n"
    status, _, words = mover.verb_fails("vacate", "--to", "two words", job)
    assert (status, words) == (
        125, "rexec: 'two words' is no host; name one as for ssh, [user@]host, or `local`\n"
    )  # fmt: skip
    (mover.dir / "go").touch()
    assert mover.ended(job) == "exit 3"


def test_what_a_job_that_runs_has_cost(mover: Mover) -> None:
    busy = "cat /usr/include/stdio.h >/dev/null; echo x >made; echo begun; until [ -e go ]; do :; done"
    job = mover.submit("sh", "-c", busy)
    until(lambda: out(mover, job) == "begun\n", "it has begun")

    def cost() -> dict[str, Any]:
        return dict(json.loads(mover.verb("stat", "--json", job)))

    until(lambda: cost()["cpu"] > 0, "its processor time is told")
    found = cost()
    assert (found["id"], found["host"]) == (int(job), mover.hosts[0])
    assert found["trips"] == sum(each["trips"] for each in found["waits"].values())
    assert found["waits"]["contents"]["bytes"] > 1000 and found["waits"]["changes"]["trips"] >= 2
    shown = mover.verb("stat", job)
    assert shown.startswith(f"job {job} on {mover.hosts[0]}: ") and "\ncontents  " in shown
    mover.verb("hold", job)
    assert mover.verb_fails("stat", job) == (125, "", f"rexec: job {job}: the job is on no host\n")
    (mover.dir / "go").touch()
    mover.verb("release", job)
    assert mover.ended(job) == "done"
    assert mover.verb_fails("stat", job) == (125, "", f"rexec: job {job} has ended: done\n")


def test_where_no_host_can_make_images_the_job_runs_without(mover: Mover) -> None:
    """There is no criu on the hosts, and the one to bring is damaged."""
    first, second = mover.hosts
    (archive,) = (mover.dir / "data" / "rexec" / "criu").glob("criu-*.tar")
    os.truncate(archive, 1000)
    archive.rename(archive.with_name(f"criu-{'0' * 32}.tar"))  # which the hosts have not had before
    archive.with_name(obtain_criu.PIN).write_text("0" * 32)
    with mover.foreground("sh", "-c", "read a; echo $a; exit 3") as job:
        row = until_runs(mover)
        assert row["host"] == first
        status, _, words = mover.verb_fails("checkpoint", str(row["id"]))
        assert status == 125
        assert f"{first} cannot checkpoint a job: it has no criu; " in words
        out_, err = job.communicate(b"word\n", timeout=60)
    assert (job.returncode, out_) == (3, b"word\n")
    assert f"rexec: the job runs on {first} without checkpoints: ".encode() in err
    assert b"is damaged; remove it and run `rexec doctor --fix`\n" in err
    log = mover.verb("log", str(row["id"]))
    assert f"{second}: passed over: " in log and f"{first}: passed over: " not in log
    assert f"rexec: {second}: passed over: ".encode() in err
    assert f"{first}: the job runs without checkpoints: " in log


def until_runs(mover: Mover) -> dict[str, object]:
    def rows() -> list[dict[str, object]]:
        return [row for row in json.loads(mover.verb("jobs", "--json")) if row["state"] == "running"]

    until(lambda: bool(rows()), "the job runs")
    return rows()[0]
