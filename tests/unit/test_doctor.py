"""What the doctor concludes from the facts of a host."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shim.cli.doctor import advice, open_to_others
from shim.cli.hosts import as_data, table, why
from shim.execute import probe
from shim.submit.api.host_reports import HostReport, report_of
from shim.submit.hosts import survey
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.checks import BAD, NOTE, OK, Check, checks
from shim.submit.hosts.config import Host, Hosts
from shim.submit.hosts.survey import Report

GOOD: dict[str, Any] = {
    "hostname": "box",
    "kernel": "6.1.0-18-amd64",
    "arch": "x86_64",
    "cores": 8,
    "memory_total": 16 << 30,
    "memory_available": 12 << 30,
    "load": 0.25,
    "cache_free": 5 << 30,
    "scratch_free": 5 << 30,
    "gpu": False,
    "criu": True,
    "page_size": 4096,
    "cpu_flags": "aes avx2",
    "uid": 1000,
    "login": "alice",
    "fuse": {"error": "", "mode": "0o666"},
    "namespaces": {"step": "", "error": ""},
    "settings": {"user.max_user_namespaces": "96365"},
    "logout": False,
    "id_tools": True,
    "subuid": [[100000, 65536]],
    "subordinate_end": 165536,
    "encrypts": True,
    "subgid": [[100000, 65536]],
    "owner": {"idle": 5.0, "unknown": None, "sources": [], "around": [0.5, 600, False, 8 << 30], "word": None},
    "compat": {},
}


STARTED = Facts((3, 11, 2), "have", "")


def report(started: Facts = STARTED, clock: float = 0.1, **changed: Any) -> Report:
    return Report(Host("box", "alice@box"), "", started, 0.35, 0.0002, clock, {**GOOD, **changed})


def judged(seen: Report) -> HostReport:
    return report_of(seen, Hosts())


def found(what: str, seen: Report) -> Check:
    (check,) = [check for check in checks(seen) if check.what == what]
    return check


def test_a_good_host_is_ok_in_every_line() -> None:
    assert {check.state for check in checks(report())} == {OK}
    assert judged(report()).usable
    assert "reach: as alice in 0.35 s, round trip 0.2 ms" in advice(judged(report()))


def test_a_host_whose_images_would_not_be_encrypted_is_told() -> None:
    check = found("images", report(encrypts=False))
    assert check.state == NOTE and "lies on the disk as it is" in check.text and "libssl" in check.mend
    assert judged(report(encrypts=False)).usable


def test_a_host_that_cannot_be_reached_is_that_and_nothing_else() -> None:
    gone = Report(Host("gone", "gone"), error="cannot reach gone: it is off; switch it on")
    assert [(check.state, check.text) for check in checks(gone)] == [(BAD, gone.error)]
    assert not judged(gone).usable
    assert table([judged(gone), judged(report())]).splitlines()[1].endswith(gone.error)
    assert as_data(judged(gone))["error"] == gone.error and as_data(judged(gone))["python"] is None


def test_what_tells_of_an_owner_is_said_source_by_source() -> None:
    seen = {
        **GOOD["owner"],
        "idle": 65.0,
        "unknown": None,
        "sources": [
            {"source": "terminals", "present": True, "why": None, "idle": 65.0},
            {"source": "x11", "present": False, "why": "no display", "idle": None},
        ],
    }
    said = why(report_of(report(owner=seen), Hosts())).splitlines()
    assert said[0] == "box: its owner has been idle for 1 min (policy: keyboard)"
    assert said[1:3] == ["  terminals  idle for 1 min", "  x11        not there: no display"]
    assert "cannot tell" in why(report_of(report(owner={**seen, "idle": None, "unknown": "it cannot tell"}), Hosts()))
    lacking = judged(report(fuse={"error": "No such file or directory", "mode": ""}))
    assert lacking.why and why(lacking).splitlines()[-1] == f"  `--on any` leaves it out: {lacking.why}"
    row = table([report_of(report(owner=seen), Hosts())]).splitlines()[1]
    assert "keyboard" in row and "1 min" in row


@pytest.mark.parametrize(
    ("owner", "changed", "reason"),
    [
        ("keyboard", {}, "its owner was there 5 s ago, and keyboard waits 900 s"),
        ("keyboard", {"idle": 901.0}, ""),
        ("keyboard", {"idle": None, "unknown": "no source"}, 'no source: set owner = "none" for it if it has no owner'),
        ("night", {}, "it is 10:00 there, and night allows 22:00-07:00"),
        ("night", {"around": [0.5, 1380, False, 8 << 30]}, "others keep 0.5 cores busy there, and night allows 0.3"),
        ("night", {"around": [0.1, 1380, True, 8 << 30]}, "it runs on battery"),
        ("night", {"around": [0.1, 1380, False, 8 << 30]}, ""),
        ("none", {}, ""),
    ],
)
def test_the_condition_that_keeps_a_job_off_is_said(owner: str, changed: dict[str, Any], reason: str) -> None:
    night = {"start_idle": "1s", "hours": "22:00-07:00", "max_load": 0.3}
    host = Host("box", "alice@box", owner=owner)
    seen = replace(report(owner={**GOOD["owner"], **changed}), host=host)
    known = Hosts((host,), {"night": night})
    left = f"`--on any` leaves it out: {reason}"
    assert table([report_of(seen, known)]).endswith(left if reason else "  ok")
    assert why(report_of(seen, known)).splitlines()[-1] == ("  " + left if reason else "  `--on any` may choose it")
    assert as_data(report_of(seen, known))["left_out"] == (reason or None)


def test_what_ends_a_job_that_is_out_of_touch_is_said() -> None:
    assert not [check for check in checks(report()) if check.what == "staying"]
    killed = found("staying", report(logout=True))
    assert killed.state == NOTE and "KillExcludeUsers=root alice" in killed.mend
    waits = {"fs.fuse.default_request_timeout": "0", "fs.fuse.max_request_timeout": "300"}
    ended = found("staying", report(settings=waits))
    assert ended.state == NOTE and "has waited 300 s" in ended.text and "fs.fuse.max_request_timeout=0" in ended.mend
    assert not [check for check in checks(report(settings=dict.fromkeys(waits, "0"))) if check.what == "staying"]
    assert judged(report(logout=True)).usable


@pytest.mark.parametrize(
    ("setting", "bad", "good"),
    [
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ],
)
def test_the_setting_that_forbids_namespaces_is_named(setting: str, bad: str, good: str) -> None:
    failed = {"step": "unshare", "error": "Operation not permitted"}
    check = found("namespaces", report(namespaces=failed, settings={setting: bad}))
    assert check.state == BAD and f"{setting} is {bad}" in check.text and f"sysctl -w {setting}={good}" in check.mend
    check = found("namespaces", report(namespaces=failed, settings={setting: good}))
    assert check.state == BAD and "container or security module" in check.mend


@pytest.mark.parametrize(
    ("what", "changed", "state", "mend"),
    [
        ("/dev/fuse", {"fuse": {"error": "No such file or directory", "mode": ""}}, BAD, "modprobe fuse"),
        ("/dev/fuse", {"fuse": {"error": "Permission denied", "mode": "0o600"}}, BAD, "chmod 666 /dev/fuse"),
        ("/dev/fuse", {"fuse": {"error": "Operation not permitted", "mode": "0o666"}}, BAD, "container"),
        ("namespaces", {"namespaces": {"step": "mount fuse", "error": "no"}}, BAD, "mend /dev/fuse"),
        ("kernel", {"kernel": "5.3.18"}, BAD, "upgrade"),
        ("kernel", {"kernel": "5.4-rc1"}, OK, ""),
        ("ids", {"id_tools": False}, NOTE, "apt-get install uidmap"),
        ("ids", {"subuid": []}, NOTE, "usermod --add-subuids 165536-231071 --add-subgids 165536-231071 alice"),
        ("ids", {"subgid": [[1, 65535]]}, NOTE, "usermod"),
        ("room", {"memory_available": 1 << 20}, NOTE, ""),
        ("runtime", {"cache_free": 1 << 20}, NOTE, "rm -r ~/.cache/rexec"),
        ("runtime", {"started": Facts((3, 9), "memory", "Disk quota exceeded")}, NOTE, "XDG_CACHE_HOME"),
        ("clock", {"clock": -86400.0}, NOTE, "timedatectl"),
    ],
)
def test_each_thing_missing_has_its_line_and_its_mend(what: str, changed: Any, state: str, mend: str) -> None:
    seen = report(**changed)
    check = found(what, seen)
    assert check.state == state and mend in check.mend
    assert judged(seen).usable is (state != BAD)


def test_root_needs_no_subordinate_ids() -> None:
    assert "ids" not in [check.what for check in checks(report(uid=0, id_tools=False, subuid=[]))]


def test_all_is_plain_data() -> None:
    data = json.loads(json.dumps(as_data(judged(report()))))
    assert data["usable"] is True and data["facts"]["cores"] == 8 and data["latency"] == 0.0002


def test_this_machine_can_be_asked() -> None:
    seen = survey.ask(Host("local", None), batch=True, deadline=30)
    assert seen.error == "" and seen.facts["uid"] == os.geteuid()
    assert seen.facts.keys() == GOOD.keys() == probe.facts().keys()
    assert abs(seen.clock) < 1 and 0 < seen.latency < 5


def test_a_host_that_falls_silent_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    mute = tmp_path / "python3"
    mute.write_text("#!/bin/sh\nexec sleep 60\n")
    mute.chmod(0o755)
    seen = survey.ask(Host("mute", None, python=str(mute)), batch=True, deadline=0.5)
    assert "did not start python3 in time" in seen.error


def test_the_probe_ends_with_its_link() -> None:
    ours, theirs = os.pipe(), os.pipe()
    os.write(ours[1], b"t")
    os.close(ours[1])
    assert probe.main(ours[0], theirs[1]) == 0
    assert float(os.read(theirs[0], 100)) > 1e9
    for fd in (ours[0], *theirs):
        os.close(fd)


def test_directories_that_were_left_open_to_others_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("STATE", "DATA", "CACHE"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    (tmp_path / ".local/state/rexec").mkdir(parents=True)
    (tmp_path / ".cache").mkdir()
    assert open_to_others() == []
    for name in (".local", ".local/state"):
        (tmp_path / name).chmod(0o777)
    assert open_to_others() == [str(tmp_path / ".local"), str(tmp_path / ".local/state")]


def test_a_directory_that_cannot_be_entered_is_looked_at_and_nothing_beneath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("STATE", "DATA", "CACHE"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    cache = tmp_path / ".cache"
    cache.mkdir()
    look = Path.stat

    def refused(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if cache in path.parents:
            raise PermissionError(13, "Permission denied", str(path))  # root may enter all
        return look(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refused)
    assert open_to_others() == []
    cache.chmod(0o777)
    assert open_to_others() == [str(cache)]
