"""Keyboards and mice: what sysfs says of them, events read from them, and what nobody tells of."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.execute.owner.seat import EvdevSource, InterruptSource, input_devices
from shim.execute.owner.source import Source
from shim.execute.owner.sources import NO_SOURCE, OwnerSources

# As they stand in sysfs of a laptop.
KEYBOARD = {
    "name": "AT Translated Set 2 keyboard",
    "phys": "isa0060/serio0/input0",
    "capabilities/key": "402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe",
}
MOUSE = {
    "name": "Logitech USB Mouse",
    "phys": "usb-1/input0",
    "capabilities/key": "70000 0 0 0 0",
    "capabilities/rel": "903",
}
POWER = {"name": "Power Button", "phys": "PNP0C0C/button/input0", "capabilities/key": "10000000000000 0"}
SENSOR = {"name": "Accelerometer", "phys": "", "capabilities/key": "0", "capabilities/abs": "7", "properties": "40"}


class Machine:
    def __init__(self, root: Path) -> None:
        self.sys, self.dev = root / "sys", root / "dev"
        self.dev.mkdir()
        self.count = 0

    def plug(self, device: dict[str, str], *, node: bool = True) -> Path:
        name = f"event{self.count}"
        self.count += 1
        for key, value in device.items():
            path = self.sys / "class/input" / name / "device" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value + "\n")
        if node:
            # A fifo carries the same bytes through the same calls as an event node.
            os.mkfifo(self.dev / name)
        return self.dev / name


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield Machine(tmp_path)


def event(kind: int, code: int, value: int) -> bytes:
    return struct.pack("llHHi", 1, 2, kind, code, value)


def test_who_is_human(machine: Machine) -> None:
    for device in (KEYBOARD, MOUSE, POWER, SENSOR):
        machine.plug(device)
    assert [device.human for device in input_devices(str(machine.sys))] == [True, True, False, False]
    assert input_devices(str(machine.dev)) == []


def test_keys_are_input_and_the_rest_is_not(machine: Machine) -> None:
    node = machine.plug(KEYBOARD)
    machine.plug(POWER)
    source = EvdevSource(0.0, str(machine.dev), str(machine.sys))
    writer = os.open(node, os.O_WRONLY)
    try:
        assert source.absent() is None
        assert source.covers() == {"event0"}
        assert source.poll(1.0) is None
        os.write(writer, event(4, 4, 30) + event(0, 0, 0))
        assert source.poll(2.0) is None
        assert source.last_input(2.0) is None
        os.write(writer, event(4, 4, 30) + event(1, 30, 1) + event(0, 0, 0))
        assert source.poll(3.0) == str(node)
        assert source.last_input(3.5) == 3.0
    finally:
        os.close(writer)
    assert source.poll(4.0) is None
    assert source.absent() == f"no keyboard or mouse below {machine.dev}"
    source.close()


def test_a_mouse_plugged_in_later_is_found(machine: Machine) -> None:
    source = EvdevSource(0.0, str(machine.dev), str(machine.sys))
    assert source.absent() is not None
    machine.plug(MOUSE)
    source.poll(10.0)
    assert source.covers() == {"event0"}
    source.close()


def test_interrupts_are_counted() -> None:
    base = Path("/sys/kernel/irq")
    counted = [
        ((line / "actions").read_text().strip(), sum(map(int, (line / "per_cpu_count").read_text().split(","))))
        for line in (base.iterdir() if base.exists() else [])
    ]
    action, most = max(counted, key=lambda pair: pair[1], default=("", 0))
    if not action or most < 1000:
        pytest.skip("no busy interrupt on this machine")
    # The busiest line stands for the keyboard's: the counting is the same.
    source = InterruptSource(action=action.split(",")[0])
    try:
        assert source.absent() is None
        end = time.monotonic() + 30
        while source.poll(time.monotonic()) is None:
            assert time.monotonic() < end
            os.sync()
        last = source.last_input(0.0)
        assert last is not None
        assert last <= time.monotonic()
    finally:
        source.close()


def test_a_machine_without_that_controller(tmp_path: Path) -> None:
    assert InterruptSource(str(tmp_path)).absent() == "no interrupt of i8042 on this machine"


class Terminals(Source):
    """Stands for the terminals, untouched for a thousand seconds."""

    name = "terminals"

    def __init__(self, why: str | None = None) -> None:
        self.why = why

    def absent(self) -> str | None:
        return self.why

    def poll(self, now: float) -> str | None:
        return None

    def last_input(self, now: float) -> float | None:
        return now - 1000

    def close(self) -> None:
        pass


def watch(machine: Machine, *sources: Source) -> OwnerSources:
    return OwnerSources(5000.0, list(sources), str(machine.sys))


def test_no_source_is_unknown_not_idle(machine: Machine) -> None:
    blind = watch(machine, Terminals("there is no terminal"))
    assert blind.idle(5000.0) is None
    assert blind.blind() == NO_SOURCE
    facts = blind.facts(5000.0)
    assert facts == [{"source": "terminals", "present": False, "why": "there is no terminal", "idle": None}]
    blind.close()


def test_terminals_alone_will_do_where_nothing_is_plugged_in(machine: Machine) -> None:
    machine.plug(POWER)
    server = watch(machine, Terminals())
    assert server.idle(5000.0) == 1000.0
    server.close()


def test_a_keyboard_that_nobody_tells_of_is_unknown(machine: Machine) -> None:
    machine.plug(MOUSE, node=False)
    desktop = watch(machine, Terminals(), EvdevSource(5000.0, str(machine.dev), str(machine.sys)))
    assert desktop.idle(5000.0) is None
    assert desktop.blind() == "Logitech USB Mouse is plugged in there, and no source tells of it"
    desktop.close()


def test_a_keyboard_watched_only_from_now_on_is_idle_from_now_on(machine: Machine) -> None:
    machine.plug(KEYBOARD)
    desktop = watch(machine, Terminals(), EvdevSource(5000.0, str(machine.dev), str(machine.sys)))
    assert desktop.blind() is None
    assert desktop.idle(5030.0) == 30.0
    desktop.close()
