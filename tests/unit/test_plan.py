"""Which ids a job's user namespace has, by its login, its user here and the image that it goes on from."""

from __future__ import annotations

import os

import pytest

from shim.execute.init import idmap, namespaces
from shim.wire.job_spec import CheckpointSpec, JobSpec

LOGIN, GROUP = 1500, 1501
RANGES = [(100_000, 65536)]


def spec(uid: int = 1600) -> JobSpec:
    return JobSpec(
        argv=[b"true"], env=[], cwd=b"/", uid=uid, gid=uid, groups=[4, uid, 70_000], umask=0o22, hostname=b"here",
        limits=[], scratch=[], stdio=[], tty=[], checkpoint=CheckpointSpec("1", 1, "", False, b"", "", False),
    )  # fmt: skip


@pytest.fixture(params=["ordinary", "with subordinate ids", "root"])
def login(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind = str(request.param)
    uid, gid = (0, 0) if kind == "root" else (LOGIN, GROUP)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: gid)
    monkeypatch.setattr(os, "getgroups", lambda: [27, gid, 1_000_000])
    monkeypatch.setattr(namespaces, "_ranges", lambda kind: RANGES if request.param == "with subordinate ids" else [])
    monkeypatch.setattr(namespaces, "_tool", lambda name: "/bin/" + name)
    return kind


@pytest.mark.parametrize("image", ["", "own", "both"])
def test_a_job_is_its_user_whatever_its_login_can_map(login: str, image: str) -> None:
    plan = namespaces.Plan(spec(), image)
    assert plan.apart
    assert plan.ids == {"ordinary": "own", "with subordinate ids": "both", "root": "both"}[login]
    assert plan.root == (login != "ordinary")
    if login == "ordinary":
        assert (plan.uids, plan.gids) == ([(1600, LOGIN, 1)], [(1600, GROUP, 1)])
        with open("/proc/sys/kernel/overflowgid") as f:
            strange = int(f.read())
        assert plan.groups(spec()) == [strange, 1600, strange]
    else:
        assert plan.groups(spec()) == [4, 1600]


@pytest.mark.parametrize("image", ["own", "both"])
def test_an_image_of_a_job_of_root_in_name_gives_no_power_over_the_machine(login: str, image: str) -> None:
    """Whoever is root at both ends is root there; a job that has begun otherwise is not, also where the login is."""
    plan = namespaces.Plan(spec(uid=0), image)
    assert plan.apart and plan.ids != idmap.ROOT


def test_an_image_of_uid_0_goes_on_as_that(login: str) -> None:
    if login != "root":  # compat.ids_differ refuses it there
        plan = namespaces.Plan(spec(), "zero")
        assert (plan.ids, plan.uids, plan.gids) == ("zero", [(0, LOGIN, 1)], [(0, GROUP, 1)])
        assert plan.root and plan.single
