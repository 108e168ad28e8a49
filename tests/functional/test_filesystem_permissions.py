"""Permission is this machine's: the job may do what its user may do here, no more and no less, root there or not."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NO_NEWUIDMAP
from tests.desk_hosts import SUBMIT_GROUP, SUBMIT_USER
from tests.program import Combo

PYTHON = "/usr/bin/python3"
STRANGER = 12345  # an id that no user namespace of the execute host maps
USERS = ["local-user", NO_NEWUIDMAP, "user-root", "user-alice"]

PROGRAM = """
import errno, json, os, stat, subprocess
def says(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "fine"
def put(name, mode="w"):
    with open(name, mode) as f:
        f.write("x")
def shape(name):
    st = os.stat(name)
    return oct(st.st_mode), st.st_uid, st.st_gid
out = {}
FILES = "group", "root", "stranger", "secret", "readable"
out["write"] = [says(put, name, "a") for name in FILES]
out["open"] = [says(open, name) for name in FILES]
out["asked"] = [os.access(name, how) for name in FILES for how in (4, 2, 1)]
out["read"] = open("readable").read()
out["sticky"] = [says(os.unlink, "sticky/root"), says(os.rename, "sticky/root", "sticky/mine")]
out["sticky"] += [says(put, "sticky/own"), says(os.unlink, "sticky/own")]
out["setgid"] = says(put, "setgid/f"), says(os.mkdir, "setgid/d"), shape("setgid/f"), shape("setgid/d")
out["closed"] = says(put, "rootdir/f"), says(os.listdir, "closed"), says(os.listdir, "listable")
out["inside"] = says(open, "listable/f"), says(open, "passable/f"), says(os.listdir, "passable")
out["names"] = sorted(os.listdir("listable"))
for umask in (0o022, 0o077, 0):
    os.umask(umask)
    for top in ("plain", "default"):
        put(f"{top}/f{umask}"), os.mkdir(f"{top}/d{umask}"), os.mkfifo(f"{top}/p{umask}")
        os.close(os.open(f"{top}/x{umask}", os.O_CREAT | os.O_WRONLY, 0o755))
        out[f"{top} {umask}"] = [shape(f"{top}/{kind}{umask}") for kind in "fdpx"]
out["acl"] = says(put, "acl", "a"), says(put, "denied", "a"), says(open, "denied")
out["tmp"] = oct(os.stat("/tmp").st_mode)
os.chmod("own", 0o2755)
device = stat.S_IFCHR | 0o666, os.makedev(1, 3)
out["chmod"] = shape("own")[0], says(os.chown, "own", -1, GROUP), says(os.mknod, "null", *device)
out["foreign"] = says(os.unlink, "secret")
print(json.dumps(out))
"""


def stage(top: Path) -> None:
    """What somebody else, mostly root, has left in the user's directory."""
    group = grp.getgrnam(SUBMIT_GROUP).gr_gid
    user = pwd.getpwnam(SUBMIT_USER)
    for name, mode, uid, gid in (
        ("group", 0o664, 0, group), ("root", 0o644, 0, 0), ("stranger", 0o666, STRANGER, STRANGER),
        ("secret", 0o600, STRANGER, 0),
        ("readable", 0o644, STRANGER, STRANGER), ("acl", 0o600, 0, 0), ("denied", 0o644, 0, 0),
        ("own", 0o644, user.pw_uid, user.pw_gid),
    ):  # fmt: skip
        (top / name).write_text("text")
        os.chown(top / name, uid, gid)
        (top / name).chmod(mode)
    for name, mode, uid, gid in (
        ("sticky", 0o1777, 0, 0), ("setgid", 0o2775, 0, group), ("rootdir", 0o755, 0, 0), ("closed", 0o700, 0, 0),
        ("listable", 0o744, 0, 0), ("passable", 0o711, 0, 0), ("plain", 0o755, user.pw_uid, user.pw_gid),
        ("default", 0o755, user.pw_uid, user.pw_gid),
    ):  # fmt: skip
        (top / name).mkdir()
        os.chown(top / name, uid, gid)
        (top / name).chmod(mode)
    (top / "sticky/root").touch()
    (top / "listable/f").touch()
    (top / "passable/f").touch()
    subprocess.run(["setfacl", "-d", "-m", f"u:{STRANGER}:rwx,g::rx,o::-", top / "default"], check=True)
    subprocess.run(["setfacl", "-m", f"u:{SUBMIT_USER}:rw", top / "acl"], check=True)
    subprocess.run(["setfacl", "-m", f"u:{SUBMIT_USER}:-", top / "denied"], check=True)


def plainly(value: Any, mapped: bool) -> Any:
    """The answer; where ids are not mapped, without the group of a file, which is nobody's there."""
    if (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[0], str)
        and value[0].startswith("0o")
        and not mapped
    ):
        return value[:2]
    if isinstance(value, list):
        return [plainly(part, mapped) for part in value]
    if isinstance(value, dict):
        return {key: plainly(part, mapped) for key, part in value.items()}
    return value


@pytest.mark.parametrize("combo", USERS, indirect=True)
def test_the_user_may_do_what_he_may_do_here(combo: Combo, place: Callable[[str], Path]) -> None:
    beside = place(SUBMIT_USER)
    stage(combo.dir), stage(beside)
    program = f"GROUP = {grp.getgrnam(SUBMIT_GROUP).gr_gid}\n{PROGRAM}"
    run = combo.run([PYTHON, "-c", program])
    assert run.returncode == 0, run.stderr.decode()
    here = Combo(combo.rexec, combo.as_user, combo.on, beside).here([PYTHON, "-c", program])
    assert here.returncode == 0, here.stderr.decode()
    there, wanted = (plainly(json.loads(done.stdout), combo.mapped) for done in (run, here))
    if not combo.mapped:  # the kernel's own answers for ids that its namespace does not map: docs/consistency.md
        assert (there["chmod"][1], there["foreign"]) == ("EINVAL", "EOVERFLOW")
        for answers in (there, wanted):
            del answers["chmod"][1], answers["foreign"]
    assert there == wanted
    for name in ("setgid/f", "setgid/d", "default/f0", "default/d63", "plain/f63", *(["own"] if combo.mapped else [])):
        a, b = (combo.dir / name).stat(), (beside / name).stat()
        assert (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid), name


@pytest.mark.parametrize("combo", ["local-root", "root-root", "user-root"], indirect=True)
def test_acls_are_read_and_set_where_every_id_is_mapped(combo: Combo) -> None:
    (combo.dir / "f").touch()
    shutil.chown(combo.dir / "f", combo.as_user)
    done = combo.run(["sh", "-c", f"setfacl -m u:{STRANGER}:rw,g:{SUBMIT_GROUP}:r f && getfacl -n f"])
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == combo.here(["getfacl", "-n", "f"]).stdout
    assert f"user:{STRANGER}:rw-".encode() in done.stdout


@pytest.mark.parametrize("combo", ["user-alice", NO_NEWUIDMAP], indirect=True)
def test_acls_are_out_of_reach_in_a_user_namespace_and_hold_all_the_same(combo: Combo) -> None:
    (combo.dir / "f").write_text("text")
    (combo.dir / "f").chmod(0o600)
    subprocess.run(["setfacl", "-m", f"u:{SUBMIT_USER}:r", combo.dir / "f"], check=True)
    done = combo.run(
        ["sh", "-c", f'cat f; {PYTHON} -c \'import os; os.getxattr("f", "system.posix_acl_access")\'; echo more >>f']
    )
    assert done.stdout == b"text"
    assert b"Operation not supported" in done.stderr
    assert done.stderr.lower().count(b"permission denied") == 1


@pytest.mark.parametrize("options", [[], ["--checkpoint"]], ids=["plain", "checkpoint"])
@pytest.mark.parametrize("combo", ["user-alice"], indirect=True)
def test_what_is_roots_passes_for_the_users_own(combo: Combo, options: list[str]) -> None:
    """Root has no number there, and ssh takes no configuration but root's or one's own: it ended with 255."""
    asked = combo.run(["ssh", "-G", "-l", "me", "localhost"], options=options)
    assert asked.returncode == 0, asked.stderr
    assert b"user me\n" in asked.stdout


@pytest.mark.parametrize("combo", ["user-alice"], indirect=True)
def test_a_checkout_is_clean_there_and_stays_so_here(combo: Combo) -> None:
    """git's index has the numbers of each file's user and group."""
    (combo.dir / "tracked").write_text("x")
    shutil.chown(combo.dir / "tracked", combo.as_user, combo.as_user)
    clean = "git diff-index --quiet HEAD"
    commit = "git -c user.name=n -c user.email=e commit -qm m"
    made = combo.here(["sh", "-c", f"git init -q && git add tracked && {commit} && touch tracked && git status"])
    assert made.returncode == 0, made.stderr
    assert combo.run(["sh", "-c", f"{clean} && git status && {clean}"]).returncode == 0
    assert combo.here(["sh", "-c", clean]).returncode == 0


def test_a_program_that_may_be_executed_and_not_read(combo: Combo) -> None:
    """Mode 0111: the job's kernel must read what it executes, and this user may not, though it is his own."""
    for name, content in ("program", Path("/bin/echo").read_bytes()), ("script", b"#!/bin/sh\necho script\n"):
        (combo.dir / name).write_bytes(content)
        shutil.chown(combo.dir / name, combo.as_user, combo.as_user)
        (combo.dir / name).chmod(0o111)
    before = (combo.dir / "program").stat().st_ctime_ns
    run = ["sh", "-c", "./program runs; cat program >/dev/null; echo $?; ./script; echo $?"]
    here, there = combo.here(run), combo.run(run)
    assert there.stdout.decode() == here.stdout.decode(), there.stderr
    assert there.stdout.startswith(b"runs\n")
    assert (combo.dir / "program").stat().st_ctime_ns == before, "nothing was changed to read it"
