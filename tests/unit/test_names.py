"""What a job finds in /etc in place of what is right on this machine alone."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from shim.submit import names
from shim.submit.foreground import description
from shim.wire import network
from shim.wire.job_spec import JobSpec

NOBODYS = 54321  # no line of /etc/passwd or /etc/group has it


@pytest.mark.parametrize(
    "before, after",
    [
        ("127.0.0.1 localhost\n127.0.1.1 home\n", None),  # as Debian has it
        ("::1 Home localhost\n", None),
        ("127.0.0.1 localhost\n192.0.2.7 home.example.org home # mine\n", "127.0.0.1 localhost\n127.0.1.1 home.example.org home\n"),  # noqa: E501
        ("2001:db8::7 HOME\n10.0.0.9 printer", "127.0.1.1 HOME\n10.0.0.9 printer\n"),
        # it is asked for in the home's network: then it is the home's address
        ("127.0.0.1 localhost\n#192.0.2.7 home", "127.0.0.1 localhost\n#192.0.2.7 home\n127.0.1.1 home\n"),
        ("", "127.0.1.1 home\n"),
        ("garbage home\n", None),
    ],
)  # fmt: skip
def test_the_own_name_is_at_an_address_that_every_machine_has(before: str, after: str | None) -> None:
    assert names.hosts(before.encode(), b"home").decode() == (before if after is None else after)


@pytest.fixture
def spec() -> JobSpec:
    made = description.describe(["true"], directory=None, env=[], scratch=[], stdio=[0, 1, 2])
    made.uid, made.gid, made.groups = NOBODYS, NOBODYS + 1, [NOBODYS + 1, NOBODYS + 2, 0, NOBODYS + 3]
    return made


def test_a_user_that_no_file_names_is_asked_for_here(spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def user(uid: int) -> pwd.struct_passwd:
        assert uid == NOBODYS
        return pwd.struct_passwd(("zoë", "*", uid, NOBODYS + 1, "Zoë\nX", "/home/zoë", "/bin/sh"))

    def group(gid: int) -> grp.struct_group:
        if gid == NOBODYS + 3:
            raise KeyError(gid)
        assert gid > NOBODYS, "those that /etc/group has are not asked for"
        return grp.struct_group((f"g{gid - NOBODYS}", "*", gid, ["zoë", "max"]))

    monkeypatch.setattr(pwd, "getpwuid", user)
    monkeypatch.setattr(grp, "getgrgid", group)
    found = names.of_users(spec)
    with open("/etc/passwd", "rb") as f, open("/etc/group", "rb") as g:
        users, groups = f.read(), g.read()
    assert found == {
        b"passwd": users + f"zoë:x:{NOBODYS}:{NOBODYS + 1}:Zoë X:/home/zoë:/bin/sh\n".encode(),
        b"group": groups + f"g1:x:{NOBODYS + 1}:zoë,max\ng2:x:{NOBODYS + 2}:zoë,max\n".encode(),
    }


def test_users_that_the_files_name_or_nobody_knows_change_nothing(spec: JobSpec) -> None:
    assert names.of_users(spec) == {}
    spec.uid, spec.gid, spec.groups = 0, 0, [0, 0]
    assert names.of_users(spec) == {}


def test_in_this_machine_s_network_names_are_as_here(spec: JobSpec) -> None:
    assert names.of_network(spec, network.name(), b"nameserver 192.0.2.1\n") == {}
    assert b"resolv.conf" not in names.of_network(spec, b"", network.resolver())
    assert b"resolv.conf" not in names.of_network(spec, b"another", None)


def test_a_resolv_conf_is_as_long_as_that_of_other_hosts(spec: JobSpec) -> None:
    """A program that has it open is restored only where it is as long as it was."""
    shown = [
        names.of_network(spec, b"another", text)[b"resolv.conf"] for text in (b"", b"search x", b"nameserver ::1\n")
    ]
    assert {len(text) for text in shown} == {4096}
    assert shown[1].startswith(b"search x\n\n")


def test_a_network_has_one_name_and_another_has_another() -> None:
    assert network.name() == network.name() != b""
    assert os.readlink("/proc/self/ns/net").encode() in network.name()
