"""Tables and help fit a terminal of 80 columns; what goes elsewhere is whole."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios
from pathlib import Path

import click
import pytest

from shim.cli import main, tables
from shim.cli.program import VERBS
from shim.submit import own_code

_LONG = "sh -c 'for i in $(seq 60); do echo $i; sleep 1; done; echo that is all'"
_ROWS = [("ID", "STATE", "SIZE", "COMMAND"), ("1", "running", "3", _LONG), ("2", "held", "12345", "true")]


def test_all_is_there_where_nobody_says_how_wide() -> None:
    assert tables.lines(_ROWS, None, ("SIZE",), right=("SIZE",)) == [
        "ID  STATE     SIZE  COMMAND",
        f"1   running      3  {_LONG}",
        "2   held     12345  true",
    ]


@pytest.mark.parametrize("wide", range(1, 100))
def test_the_last_column_gives_way_and_then_those_that_can_be_spared(wide: int) -> None:
    head, first, second = tables.lines(_ROWS, wide, ("SIZE",))
    assert max(map(len, (head, first, second))) <= max(wide, 14)  # what cannot be spared, and one character
    assert ("SIZE" in head) == (wide >= 20 + 12)
    assert first.endswith(_LONG) if wide >= 20 + len(_LONG) else first.endswith("…")
    assert second.startswith("2   held")


def test_what_is_short_needs_no_room() -> None:
    rows = [("HOST", "KERNEL", "STATE"), ("alpha", "6.12", "ok")]
    assert tables.lines(rows, 20, ("KERNEL",), least=30) == ["HOST   KERNEL  STATE", "alpha  6.12    ok"]


def _said(tmp_path: Path, *words: str, columns: int) -> list[str]:
    """Have rexec say something to a terminal of so many columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    env = {**os.environ, **{f"XDG_{name}_HOME": str(tmp_path) for name in ("CONFIG", "STATE", "CACHE")}}
    try:
        subprocess.run([*own_code.command("shim.cli.program"), *words], stdout=theirs, env=env, check=True)
    finally:
        os.close(theirs)
    with open(ours, "rb") as file:
        said = b""
        try:
            while piece := file.read1():
                said += piece
        except OSError:
            pass  # all is read
    return said.decode().splitlines()


def test_a_terminal_s_width_is_heeded(tmp_path: Path) -> None:
    (tmp_path / "rexec").mkdir()
    (tmp_path / "rexec" / "hosts.toml").write_text('[host.nowhere]\noptions = ["-F", "none"]\nssh = "a.invalid"\n')
    narrow, wide = (_said(tmp_path, "hosts", columns=columns) for columns in (60, 250))
    assert max(map(len, narrow)) == 60 and narrow[1].startswith("nowhere") and narrow[1].endswith("…")
    assert "KERNEL" not in narrow[0] and "KERNEL" in wide[0] and not wide[1].endswith("…")


def _helps(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=80)
    more = command.commands.items() if isinstance(command, click.Group) else ()
    return [
        *command.get_help(context).splitlines(),
        *(line for sub, each in more for line in _helps(each, sub, context)),
    ]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_a_verb_s_help_fits(verb: str) -> None:
    command = main.load(verb) if verb else main.run_command
    assert not [line for line in _helps(command, f"rexec {verb}", None) if len(line) > 80]
