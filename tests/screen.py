"""A terminal with a person at it: tmux, with a shell in it, typed to and read."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from tests.program import as_login
from tests.until import HANG, until


class Screen:
    """A bash of `user` in a terminal of 100 columns and 30 rows, in directory `cwd`, with the prompt `READY> `."""

    def __init__(self, user: str, cwd: Path) -> None:
        self._user, self._cwd, self._name = user, cwd, f"rx-{uuid.uuid4().hex[:8]}"
        # a shell of the user's own starts the server, so that all in it is theirs
        shell = "env PS1='READY> ' HISTFILE= TERM=screen bash --norc --noprofile"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-s", "s", "-x", "100", "-y", "30", shell)
        self.wait(r"READY>$")

    def _tmux(self, *words: str) -> str:
        with as_login(self._user, ["tmux", "-L", self._name, *words], cwd=self._cwd) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
        return out.decode()

    def type(self, text: str) -> None:
        """Type `text` and Enter."""
        self._tmux("send-keys", "-t", "s", "-l", "--", text)
        self.key("Enter")

    def key(self, *names: str) -> None:
        """Press keys by tmux's names: C-c, Escape, Up."""
        self._tmux("send-keys", "-t", "s", *names)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-t", "s", "-x", str(columns), "-y", str(rows))

    def text(self) -> str:
        """What is on the screen, without what trails."""
        return self._tmux("capture-pane", "-p", "-t", "s").rstrip()

    def wait(self, pattern: str, within: float = HANG) -> str:
        """Until the screen shows `pattern` (a regular expression, ^ and $ per line); what it shows then."""
        shown = ""

        def look() -> bool:
            nonlocal shown
            shown = self.text()
            return re.search(pattern, shown, re.MULTILINE) is not None

        try:
            until(look, f"the screen shows {pattern}", within=within)
        except AssertionError as e:
            raise AssertionError(f"{e}; it shows:\n{shown}") from None
        return shown

    def run(self, command: str, within: float = HANG) -> str:
        """Type a command and wait for the next prompt: what it showed."""
        mark = uuid.uuid4().hex[:6]
        self.key("C-l")
        self.type(f"{command}; echo end-{mark}=$?")
        return self.wait(rf"^end-{mark}=\d+$", within)

    def settings(self) -> str:
        """The terminal's settings, as stty has them."""
        self._tmux("clear-history", "-t", "s")
        shown = self.run("clear; stty -a")
        return shown[shown.index("speed") : shown.index("end-")]

    def close(self) -> None:
        with as_login(self._user, ["tmux", "-L", self._name, "kill-server"], cwd=self._cwd) as process:
            process.wait(60)
