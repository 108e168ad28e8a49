"""``rexec service`` writes a unit that systemd takes up; ``rexec resume``: functional/test_moving_lost.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from remoteio.errors import RexecError
from shim.cli import resume


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a rexec, whose name systemd must not read as anything else."""
    program = tmp_path / 'a "100 %" home' / "rexec"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def systemctl(place: Path, status: int) -> None:
    program = place / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >>{place}/said\n[ {status} = 0 ] || echo no bus >&2\nexit {status}\n')
    program.chmod(0o755)


def call(*words: str) -> str:
    done = CliRunner().invoke(resume.service_command, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_unit_is_written_and_enabled_and_removed(place: Path) -> None:
    systemctl(place, 0)
    assert "is enabled" in call("install")
    unit = place / "config/systemd/user/rexec.service"
    # systemd.service(5), "Command lines": quoted, with each % doubled and each quote escaped
    assert f'ExecStart="{place}/a \\"100 %%\\" home/rexec" resume\n' in unit.read_text()
    assert (place / "said").read_text() == "--user daemon-reload\n--user enable rexec.service\n"
    call("remove")
    assert not unit.exists()
    with pytest.raises(RexecError, match="nothing is to be removed"):
        call("remove")


@pytest.mark.parametrize("there", [True, False])
def test_without_systemd_nothing_is_left_behind(place: Path, there: bool) -> None:
    if there:
        systemctl(place, 1)
    with pytest.raises(RexecError, match="no bus.*crontab" if there else "there is no systemctl.*crontab"):
        call("install")
    assert not (place / "config/systemd/user/rexec.service").exists()
