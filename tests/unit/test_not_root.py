"""Where the login is root and the job an ordinary user's, uid 0 of the job's namespace is not the host's."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.execute.init import idmap, namespaces
from shim.wire.job_spec import CheckpointSpec, JobSpec

USER = 1600


def plan_of(uid: int) -> namespaces.Plan:
    checkpoint = CheckpointSpec("1", 1, '["none", null]', False, b"", "")
    return namespaces.Plan(
        JobSpec([b"true"], [], b"/", uid, uid, [], 0o22, b"here", [], [], [], [], checkpoint=checkpoint)
    )


def tried(what: Callable[[], object]) -> str:
    try:
        what()
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    return ""


def as_criu(plan: namespaces.Plan, files: dict[str, str]) -> dict[str, str]:
    """What becomes of opening each file to write, as criu is: uid 0 with every capability in the job's namespace."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            namespaces.make(plan)
            namespaces.begin("/nowhere", [], plan)
            found = {name: tried(lambda at=at: os.close(os.open(at, os.O_WRONLY))) for name, at in files.items()}
            found["mode of a device"] = tried(lambda: os.chmod("/dev/null", 0o666))
            found["own"] = tried(lambda: os.close(os.open("/proc/self/timens_offsets", os.O_WRONLY)))
            found["id"] = str(os.getuid())
            status = Path("/proc/self/status").read_text()
            found["capabilities"] = status.partition("CapEff:")[2].split()[0]
            os.write(write, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as f:
        said = f.read()
    os.waitpid(child, 0)
    return dict(json.loads(said))


def test_it_has_no_right_to_what_is_root_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces.mount, "read_further_ahead", lambda where: None)
    of_kernel = (str(path) for path in Path("/sys/kernel").iterdir() if path.is_file() and path.stat().st_mode & 0o200)
    files = {"sysctl": "/proc/sys/kernel/core_pattern", "sysfs": next(of_kernel), "file": "/etc/passwd"}
    found = as_criu(plan_of(USER), files)
    assert found.pop("capabilities").strip("0") != ""
    assert found == {
        "sysctl": "EACCES", "sysfs": "EACCES", "file": "EACCES", "mode of a device": "EPERM", "own": "", "id": "0"
    }  # fmt: skip


def test_every_other_id_is_itself() -> None:
    plan = plan_of(USER)
    assert plan.uids == plan.gids == [(0, idmap.SPARE, 1), (1, 1, idmap.SPARE - 1)]
    assert not plan_of(0).apart and plan_of(0).uids == [idmap.ALL], "root at both ends is root there"
