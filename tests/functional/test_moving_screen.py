"""Moving jobs as a person has them on a screen: an editor, and a window that is closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.job_commands import LONG, USER, Mover, out, vacate
from tests.screen import Screen
from tests.until import until


@pytest.fixture
def screen(mover: Mover) -> Iterator[Screen]:
    made = Screen(mover.user, mover.dir)
    for name, value in mover.env.items():
        made.run(f"export {name}={value}")
    made.run(f'rexec() {{ {mover.rexec.path} "$@"; }}')
    yield made
    made.close()


@LONG
def test_vim_moved_with_unsaved_text_and_attached_again(mover: Mover, screen: Screen) -> None:
    hosts = ",".join(mover.hosts)
    screen.run(f"rexec --checkpoint --tty --detach --on {hosts} --owner none -- vim -u NONE -N poem")
    mover.running("1")
    screen.type("clear; rexec attach 1")
    screen.wait(r"^~")
    screen.key("i")
    screen.type("the first line")
    vacate(mover, "1")
    screen.type("the second line")
    screen.wait(r"^the second line")
    screen.key("~", ".")
    screen.wait(r"^rexec: detached; job 1 goes on$")
    vacate(mover, "1")
    screen.resize(70, 20)
    screen.type("clear; rexec attach 1")
    screen.wait(r"^the first line\nthe second line\n")
    assert not (mover.dir / "poem").exists()
    screen.key("Escape")
    screen.type(":set columns? lines?")
    screen.wait(r"columns=70\n +lines=20")
    screen.key("Enter")
    screen.type(":wq")
    screen.wait(r"READY>$")
    assert (mover.dir / "poem").read_text() == "the first line\nthe second line\n\n"
    assert mover.ended("1") == "done"
    assert not [path.name for path in mover.dir.iterdir() if path.name.endswith(".swp")]


@USER
def test_vim_in_the_foreground_parked_and_released(mover: Mover, screen: Screen) -> None:
    """What rexec has to say spoils the screen; afterwards the job draws it anew."""
    screen.type(f"clear; rexec --checkpoint --on {','.join(mover.hosts)} --owner none -- vim -u NONE -N poem")
    screen.wait(r"^~")
    screen.key("i")
    screen.type("the first line")
    mover.verb("hold", "1")
    screen.wait(r"rexec: job 1 is parked: it is held")
    mover.verb("release", "1")
    screen.wait(r"\Athe first line\n\n~\n")
    screen.type("the second line")
    screen.key("Escape")
    screen.type(":wq")
    screen.wait(r"READY>$")
    assert (mover.dir / "poem").read_text() == "the first line\nthe second line\n\n"


@USER
def test_the_window_of_attach_is_closed_and_the_job_goes_on(mover: Mover) -> None:
    """Logged out: neither the terminal that it was started in nor the one that looked at it takes it along."""
    screen = Screen(mover.user, mover.dir)
    try:
        for name, value in mover.env.items():
            screen.run(f"export {name}={value}")
        script = "i=0; while [ ! -e go ]; do i=$((i+1)); echo $i; sleep .05; done; exit 4"
        command = f"--checkpoint --detach --on {','.join(mover.hosts)} --owner none -- sh -c '{script}'"
        screen.run(f"{mover.rexec.path} {command}")
        mover.running("1")
        screen.type(f"{mover.rexec.path} attach 1")
        screen.wait(r"^\d+\n\d+$")
    finally:
        screen.close()
    size = len(out(mover, "1"))
    until(lambda: len(out(mover, "1")) > size + 20, "it goes on")
    vacate(mover, "1")
    (mover.dir / "go").touch()
    assert mover.ended("1") == "exit 4"
    numbers = out(mover, "1").split()
    assert numbers == [str(n) for n in range(1, len(numbers) + 1)]
