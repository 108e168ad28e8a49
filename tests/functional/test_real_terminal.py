"""An editor and a pager in a terminal, as a person uses them: tmux is the person's terminal and types."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.program import Combo, as_login
from tests.real_programs import EACH
from tests.until import until

WITHIN = 30.0  # seconds for what a person would wait for


class Screen:
    """A tmux of one window, 90 by 25, in which the combination's user has a shell."""

    def __init__(self, combo: Combo, socket: Path) -> None:
        self._combo, self._socket = combo, socket
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "90", "-y", "25", "sh")
        self.tmux("set-option", "-g", "status", "off")
        self.tmux("resize-window", "-x", "90", "-y", "25")

    def tmux(self, *words: str) -> str:
        argv = ["tmux", "-S", self._socket, *words]
        with as_login(self._combo.as_user, argv, cwd=self._combo.dir, stderr=subprocess.PIPE) as process:
            out, err = process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    def type(self, *keys: str) -> None:
        """Keys by tmux's names: `Enter`, `Escape`, `C-c`; or text."""
        self.tmux("send-keys", *keys)

    def shows(self, *texts: str) -> None:
        """Wait until all of `texts` stand on the screen."""
        seen = ""

        def look() -> bool:
            nonlocal seen
            seen = self.tmux("capture-pane", "-p")
            return all(text in seen for text in texts)

        try:
            until(look, f"{texts} on the screen", within=WITHIN)
        except AssertionError as missing:
            raise AssertionError(f"{missing}; it shows:\n{seen}") from None

    def rexec(self, command: str) -> None:
        self.type(f"{self._combo.rexec.path} --on {self._combo.on} -- {command}; echo status=$?", "Enter")


@pytest.fixture
def screen(combo: Combo) -> Iterator[Screen]:
    socket = combo.dir / "tmux"
    yield (made := Screen(combo, socket))
    made.tmux("kill-server")


def settings(screen: Screen, combo: Combo) -> str:
    """What the shell's terminal is set to, its size apart."""
    file = combo.dir / "settings"
    screen.type(f"stty -a >{file}; mv {file} {file}.read", "Enter")
    read = file.with_suffix(".read")
    until(read.exists, "stty's output", within=WITHIN)
    text = read.read_text().partition("\n")[2]
    read.unlink()
    return text


@EACH
def test_vim(combo: Combo, screen: Screen) -> None:
    text = combo.dir / "poem"
    text.write_text("".join(f"line {number}\n" for number in range(1, 200)))
    shutil.chown(text, combo.as_user)
    before = settings(screen, combo)
    screen.rexec("vim -u NONE -N poem")
    screen.shows("line 1\n", "line 20\n", '"poem" 199L')
    screen.type("5GA, changed", "Escape", ":%s/line 7$/seven/", "Enter", "Go", "Ünicode", "Escape")
    screen.shows("Ünicode")
    screen.tmux("resize-window", "-x", "60", "-y", "15")
    screen.type(":set columns? lines?", "Enter")
    screen.shows("columns=60", "lines=15")
    screen.type("Enter", ":wq", "Enter")
    screen.shows("status=0")
    lines = text.read_text().splitlines()
    assert (lines[4], lines[6], lines[-1], len(lines)) == ("line 5, changed", "seven", "Ünicode", 200)
    assert settings(screen, combo) == before
    assert sorted(path.name for path in combo.dir.iterdir()) == ["poem", "tmux"]  # and no swap file


@EACH
def test_less(combo: Combo, screen: Screen) -> None:
    (combo.dir / "long").write_text("".join(f"row {number} of many\n" for number in range(1, 3001)))
    before = settings(screen, combo)
    screen.rexec("less long")
    screen.shows("row 1 of many", "row 24 of many")
    screen.type("Space")
    screen.shows("row 25 of many", "row 48 of many")
    screen.type("/row 1500", "Enter")
    screen.shows("row 1500 of many", "row 1510 of many")
    screen.type("G")
    screen.shows("row 3000 of many", "(END)")
    screen.type("C-z")
    screen.shows("Stopped")
    screen.type("fg; echo over=$?", "Enter")
    screen.shows("row 3000 of many", "(END)")
    screen.type("q")
    screen.shows("over=0")
    assert settings(screen, combo) == before
