"""The machine's own keyboard and mouse as tellers: evdev, and the interrupts of a PS/2 controller.

Shipped: bare python3 >= 3.9. Sources: linux/input.h, linux/input-event-codes.h, and the kernel's
Documentation/ABI/testing/sysfs-kernel-irq (kernel/irq/N/actions and per_cpu_count, readable by all).
"""

from __future__ import annotations

import os
import select
import struct

from shim.execute.owner.source import LOOK, RESCAN, Source

_EVENT = struct.Struct("llHHi")
EV_KEY, EV_REL, EV_ABS = 1, 2, 3
_INPUT_PROP_ACCELEROMETER = 1 << 6
_BTN_LEFT, _BTN_JOYSTICK, _BTN_TOUCH = 0x110, 0x120, 0x14A
# Power buttons, lid switches and video keys report a few keys; a keyboard reports dozens.
_KEYBOARD_KEYS = 20


class InputDevice:
    """What sysfs says of an input device: its event node's name, its own name, where it is plugged in.

    human: a person moves or presses it: keyboard, mouse, touch screen, joystick; not a power button or a sensor.
    """

    __slots__ = ("event", "human", "name", "phys")

    def __init__(self, event: str, name: str, phys: str, human: bool) -> None:
        self.event = event
        self.name = name
        self.phys = phys
        self.human = human


def input_devices(sys: str = "/sys") -> list[InputDevice]:
    """Return the input devices of the machine; [] where there are none (most servers, containers)."""
    base = os.path.join(sys, "class/input")
    try:
        events = sorted(name for name in os.listdir(base) if name.startswith("event"))
    except FileNotFoundError:
        return []
    devices = []
    for event in events:
        device = os.path.join(base, event, "device")
        keys = _bits(_text(os.path.join(device, "capabilities/key")))
        moves = _bits(_text(os.path.join(device, "capabilities/rel")))
        sensor = _bits(_text(os.path.join(device, "properties"))) & _INPUT_PROP_ACCELEROMETER
        buttons = keys >> _BTN_LEFT & 1 or keys >> _BTN_JOYSTICK & 0xFF or keys >> _BTN_TOUCH & 1
        human = not sensor and bool(bin(keys).count("1") >= _KEYBOARD_KEYS or buttons or moves & 3)
        name, phys = _text(os.path.join(device, "name")), _text(os.path.join(device, "phys"))
        devices.append(InputDevice(event, name, phys, human))
    return devices


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _bits(text: str) -> int:
    """A bitmap as sysfs prints it: words of the kernel's long in hex, highest first, leading zeros dropped."""
    value = 0
    for word in text.split():
        value = value << struct.calcsize("l") * 8 | int(word, 16)
    return value


class EvdevSource(Source):
    """Keys, movements and touches, from every /dev/input/event* that may be read. Grabs nothing."""

    name = "evdev"
    seat = True
    history = False
    interval = RESCAN

    def __init__(self, now: float, dev: str = "/dev/input", sys: str = "/sys") -> None:
        self._dev = dev
        self._sys = sys
        self._epoll = select.epoll()
        self._open: dict[int, str] = {}
        self._last: float | None = None
        self._denied: list[str] = []
        self._scan(now)

    def absent(self) -> str | None:
        if self._open:
            return None
        if self._denied:
            return f"{self._denied[0]} may not be read: add this user to the group input there"
        return f"no keyboard or mouse below {self._dev}"

    def covers(self) -> set[str]:
        """Return the event nodes that are being read."""
        return set(self._open.values())

    def fileno(self) -> int | None:
        return self._epoll.fileno()

    def last_input(self, now: float) -> float | None:
        return self._last

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)
        self._epoll.close()

    def poll(self, now: float) -> str | None:
        touched = None
        for fd, _ in self._epoll.poll(0):
            name = self._open[fd]
            try:
                data = os.read(fd, _EVENT.size * 256)
            except BlockingIOError:
                continue
            except OSError:
                # ENODEV: unplugged.
                data = b""
            if not data:
                self._epoll.unregister(fd)
                os.close(fd)
                del self._open[fd]
                continue
            for offset in range(0, len(data) - _EVENT.size + 1, _EVENT.size):
                if _EVENT.unpack_from(data, offset)[2] in (EV_KEY, EV_REL, EV_ABS):
                    touched = os.path.join(self._dev, name)
        if now - self._scanned >= RESCAN:
            self._scan(now)
        if touched is not None:
            self._last = now
        return touched

    def _scan(self, now: float) -> None:
        self._scanned = now
        self._denied = []
        known = self.covers()
        for device in input_devices(self._sys):
            if not device.human or device.event in known:
                continue
            path = os.path.join(self._dev, device.event)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except PermissionError:
                self._denied.append(path)
            except OSError:
                # Gone again (ENODEV, ENOENT), or no node in this container.
                continue
            else:
                self._open[fd] = device.event
                self._epoll.register(fd, select.EPOLLIN)


class InterruptSource(Source):
    """Counts the interrupts of the PS/2 controller, which every user may read: built-in keyboards and touchpads."""

    name = "ps2"
    seat = True
    history = False
    interval = LOOK

    def __init__(self, sys: str = "/sys", action: str = "i8042") -> None:
        self._last: float | None = None
        self._action = action
        self._counters: dict[int, str] = {}
        base = os.path.join(sys, "kernel/irq")
        try:
            numbers = os.listdir(base)
        except FileNotFoundError:
            numbers = []
        for number in numbers:
            if action in _text(os.path.join(base, number, "actions")).split(","):
                path = os.path.join(base, number, "per_cpu_count")
                self._counters[os.open(path, os.O_RDONLY | os.O_CLOEXEC)] = path
        self._counts = {fd: os.pread(fd, 65536, 0) for fd in self._counters}

    def absent(self) -> str | None:
        return None if self._counters else f"no interrupt of {self._action} on this machine"

    def last_input(self, now: float) -> float | None:
        return self._last

    def close(self) -> None:
        for fd in self._counters:
            os.close(fd)

    def poll(self, now: float) -> str | None:
        touched = None
        for fd, path in self._counters.items():
            count = os.pread(fd, 65536, 0)
            if count != self._counts[fd]:
                self._counts[fd] = count
                touched = path
        if touched is not None:
            self._last = now
        return touched
