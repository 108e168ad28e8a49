"""From a key on a pty, through the watch and the policy, to FREEZE, THAW and VACATE; and what watching costs."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.execute.owner import step as policy
from shim.execute.owner.seat import EvdevSource, InterruptSource
from shim.execute.owner.sources import OwnerSources, owner_facts
from shim.execute.owner.terminals import TerminalSource
from shim.wire.owner_policy import OwnerPolicy
from tests.until import soon

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a private devpts needs root")


class Desk:
    """A machine with one terminal, in a devpts of its own, and a job under the policy."""

    def __init__(self, dev: Path, linger: float) -> None:
        (dev / "pts").mkdir()
        options = "newinstance,ptmxmode=0666"
        subprocess.run(["mount", "-t", "devpts", "-o", options, "devpts", dev / "pts"], check=True)
        self.pts = dev / "pts"
        (dev / "ptmx").symlink_to("pts/ptmx")
        # cat stands for a shell: a real reader of a real terminal.
        self.master = os.open(dev / "pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        os.set_blocking(self.master, False)
        fcntl.ioctl(self.master, 0x40045431, b"\0\0\0\0")  # TIOCSPTLCK
        slave = os.open(self.pts / "0", os.O_RDWR | os.O_NOCTTY)
        self.shell = subprocess.Popen(["cat"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        now = time.monotonic()
        self.watch = OwnerSources(now, [TerminalSource(now, str(dev)), EvdevSource(now), InterruptSource()])
        self.rules = OwnerPolicy(linger=linger)
        self.state = policy.start(now)

    def type(self) -> float:
        os.write(self.master, b"k\n")
        return time.monotonic()

    def run_until(self, count: int, seconds: float = 20.0) -> list[tuple[str, float]]:
        """Drives watch and policy as the agent does, until so many actions were taken."""
        taken: list[tuple[str, float]] = []
        end = time.monotonic() + seconds
        while len(taken) < count:
            now = time.monotonic()
            assert now < end, taken
            due = policy.deadline(self.rules, self.state)
            waits = [wait for wait in (self.watch.timeout(now), None if due is None else due - now) if wait is not None]
            select.select([self.watch.fileno()], [], [], max(min(waits), 0.0))
            now = time.monotonic()
            events: list[policy.Input | policy.Tick] = [policy.Input(now, name) for name in self.watch.poll(now)]
            for event in [*events, policy.Tick()]:
                self.state, actions = policy.step(self.rules, self.state, event, now)
                taken += [(action.kind, now) for action in actions]
        return taken

    def close(self) -> None:
        self.watch.close()
        self.shell.kill()
        self.shell.wait()
        os.close(self.master)
        subprocess.run(["umount", "-l", self.pts], check=True)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, linger=1.5)
    yield made
    made.close()


def test_one_key_freezes_within_100_ms_and_thaws_after_linger(desk: Desk) -> None:
    def once() -> tuple[float, float]:
        typed = desk.type()
        (freeze, froze_at), (thaw, thawed_at) = desk.run_until(2)
        assert (freeze, thaw) == ("freeze", "thaw")
        assert thawed_at - froze_at >= 1.5
        return froze_at - typed, thawed_at - froze_at

    soon(lambda: once()[0], 0.1)
    soon(lambda: once()[1], 2.0)


def test_a_second_key_vacates(desk: Desk) -> None:
    desk.rules = OwnerPolicy(linger=60.0)  # as long as this test may be held up between two keys

    def once() -> float:
        desk.state = policy.start(time.monotonic())
        desk.type()
        assert [kind for kind, _ in desk.run_until(1)] == ["freeze"]
        while time.monotonic() < desk.state.touched + policy.TOUCH + 0.1:
            select.select([], [], [], 0.05)
        typed = desk.type()
        ((kind, at),) = desk.run_until(1)
        assert kind == "vacate"
        return at - typed

    soon(once, 0.1)


COST = """
import select, time
from shim.execute.owner.sources import OwnerSources
watch = OwnerSources(time.monotonic())
start, used = time.monotonic(), time.process_time()
while time.monotonic() < start + 5:
    select.select([watch.fileno()], [], [], watch.timeout(time.monotonic()))
    watch.poll(time.monotonic())
print((time.process_time() - used) / (time.monotonic() - start))
"""


def test_watching_costs_half_a_percent_of_a_core_at_most() -> None:
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", COST], cwd=root, capture_output=True, text=True, check=True)
    assert float(run.stdout) <= 0.005


def test_the_facts_of_this_machine_name_every_source() -> None:
    facts = owner_facts(time.monotonic())
    assert [row["source"] for row in facts["sources"]] == ["terminals", "evdev", "ps2", "logind", "mutter", "x11"]
    assert all((row["why"] is None) == row["present"] for row in facts["sources"])
    assert (facts["idle"] is None) == (facts["unknown"] is not None)
