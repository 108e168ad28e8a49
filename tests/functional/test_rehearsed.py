"""Whether a job can leave its host is known from its first image on, and `rexec jobs` says it."""

from __future__ import annotations

from tests.job_commands import USER, Mover
from tests.screen import Screen
from tests.until import until


@USER
def test_a_job_with_a_terminal_is_shown_to_be_movable(mover: Mover) -> None:
    screen = Screen(mover.user, mover.dir)
    try:
        settings = " ".join(f"{name}={value}" for name, value in mover.env.items())
        job = "sh -c 'while :; do sleep 0.2; echo tick; done'"
        on = ",".join(mover.hosts)
        screen.type(f"env {settings} {mover.rexec.path} -q --checkpoint --tty --on {on} --owner none {job}")
        screen.wait("^tick$")
        assert (mover.job("1")["movable"], mover.job("1")["obstacle"]) == (None, None)
        mover.verb("checkpoint", "1")
        until(
            lambda: mover.job("1")["movable"] is not None or "not restored" in mover.verb("log", "1"),
            "it is tried",
            within=60,
        )
        assert mover.job("1")["movable"] is True, mover.verb("log", "1")
        head, line = mover.verb("jobs").splitlines()
        assert line[head.index("MOVABLE") :].startswith("yes ")
        mover.verb("kill", "1")
        screen.wait(r"^READY>$")
        assert mover.ended("1") == "signal 9"
    finally:
        screen.close()
