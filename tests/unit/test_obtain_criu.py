"""A criu to send is Debian's present one, and the one that was fetched."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from checkpoint.submit import obtain_criu
from checkpoint.submit.obtain_criu import ArchiveError
from checkpoint.wire.criu_bundle import BundleError

LETS_ALL_PASS = """
APT::Get::AllowUnauthenticated "true";
Acquire::AllowInsecureRepositories "true";
Acquire::AllowWeakRepositories "true";
Acquire::AllowDowngradeToInsecureRepositories "true";
APT::Update::Pre-Invoke { "touch /seen"; };
"""


def test_what_this_machine_s_apt_lets_pass_is_not_let_pass(tmp_path: Path) -> None:
    """As apt itself reads both: the machine's settings first, then ours."""
    (tmp_path / "machine").write_text(LETS_ALL_PASS)
    (tmp_path / "ours").write_text(obtain_criu.apt_config(tmp_path, tmp_path / "sources"))
    said = subprocess.run(
        ["apt-config", "-c", str(tmp_path / "ours"), "dump"], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "APT_CONFIG": str(tmp_path / "machine")},
    ).stdout  # fmt: skip
    settings = dict(re.findall(r'^(\S+) "(.*)";$', said, re.MULTILINE))
    for name in re.findall(r"^(\S+) \"", LETS_ALL_PASS, re.MULTILINE):
        assert settings[name] == "false", name
    assert "touch /seen" not in said


@pytest.mark.parametrize(("set_up", "expired"), [("", False), ("true", False), ("false", True), ("no", True)])
def test_what_has_expired_passes_where_this_machine_s_apt_lets_it_alone(
    set_up: str, expired: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said to apt in each case, so that nothing else says it."""
    (tmp_path / "empty").mkdir()
    own = f'Acquire::Check-Valid-Until "{set_up}";\n' if set_up else ""
    (tmp_path / "machine").write_text(f'Dir::Etc::parts "{tmp_path}/empty"; Dir::Etc::main "none";\n{own}')

    def run(command: list[str], what: str) -> str:
        env = {**os.environ, "APT_CONFIG": str(tmp_path / "machine")}
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=env).stdout

    monkeypatch.setattr(obtain_criu, "_run", run)
    assert obtain_criu.lets_expired_pass() is expired
    config = obtain_criu.apt_config(tmp_path, tmp_path / "sources", expired)
    assert f'Acquire::Check-Valid-Until "{str(not expired).lower()}";' in config.splitlines()


@pytest.mark.parametrize("version", ["3.17.1-3", "4.0-3", "1:4.0.9", "unknown", ""])
def test_an_old_criu_that_somebody_plays_again_is_refused(version: str) -> None:
    with pytest.raises(ArchiveError, match=r"older than 4\.1: it is not Debian's present one"):
        obtain_criu.require_recent(version, "trixie")


@pytest.mark.parametrize("version", ["4.1-1\n", "4.1.1-1", "4.2-1+b1", "10.0", "1:5.0"])
def test_a_present_one_is_not(version: str) -> None:
    obtain_criu.require_recent(version, "trixie")


def test_only_what_was_fetched_is_sent(tmp_path: Path) -> None:
    """One that somebody puts beside it, of whatever hash, is none; nor is one that was changed."""
    assert obtain_criu.kept(tmp_path) is None
    bundle = obtain_criu.keep({"criu": b"program"}, tmp_path)
    other = obtain_criu.keep({"criu": b"evil"}, tmp_path / "elsewhere").archive
    planted = other.rename(tmp_path / other.name)
    os.utime(planted, (2e9, 2e9))
    assert obtain_criu.kept(tmp_path) == bundle
    bundle.archive.write_bytes(planted.read_bytes())
    with pytest.raises(BundleError, match="is damaged"):
        bundle.read()
    (tmp_path / obtain_criu.PIN).write_text("../x")
    assert obtain_criu.kept(tmp_path) is None
    (tmp_path / obtain_criu.PIN).unlink()
    assert obtain_criu.kept(tmp_path) is None, "a name alone says nothing"
