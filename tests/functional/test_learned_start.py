"""A command that is started again, and is told ahead what it looked up the last time, finds what is there now."""

from __future__ import annotations

import pytest

from tests.program import Combo

pytestmark = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "root-root", "local-root"))

LOOK = ["sh", "-c", "cat data; cat new; readlink link; ls; test -e gone && echo there; exec /bin/true"]


def test_a_command_that_is_started_again_finds_what_is_there_now(combo: Combo) -> None:
    env = {"XDG_CACHE_HOME": str(combo.dir.parent / f"{combo.dir.name}-cache")}
    top = combo.dir

    def seen() -> tuple[int, bytes]:
        done = combo.run(LOOK, env=env)
        here = combo.here(LOOK)
        assert (done.returncode, done.stdout) == (here.returncode, here.stdout)
        return done.returncode, done.stdout

    (top / "data").write_text("first\n")
    (top / "link").symlink_to("data")
    (top / "gone").write_text("soon\n")
    seen()
    (top / "data").unlink()
    (top / "data").write_text("second, and longer\n")
    (top / "new").write_text("made\n")
    (top / "link").unlink()
    (top / "link").symlink_to("new")
    (top / "gone").unlink()
    _, out = seen()
    assert out.startswith(b"second, and longer\nmade\nnew\n") and b"there" not in out
    (top / "new").unlink()
    (top / "data").rename(top / "gone")
    _, out = seen()
    assert out.startswith(b"new\n") and out.endswith(b"there\n")
