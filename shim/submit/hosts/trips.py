"""Remembers how far hosts are, and which lines are narrow, so that a run knows it before its host has said a word.

The keeper measures the way (keeper.py), and agents what the line carries (remoteio/execute/pace.py). A host is asked
for under the name by which ssh knows it: where that leads to a nearer one the next time, the host finds out by itself,
and sends for no more.
"""

from __future__ import annotations

import contextlib
import os
import threading

from checkpoint.submit import xdg
from remoteio.wire.pushed import FAR
from shim.submit.hosts.config import Host

HOSTS = 64  # that are remembered
NARROW = 12_000_000  # bytes a second: what is wider is not remembered, as nothing waits for long on it
_ALIKE = 4  # a fourth more or less is the same line
_LINE = 400  # bytes
_HEAD = "rexec trips 2"


def known(host: Host) -> tuple[int, int]:
    """Tell how many microseconds a round trip to it took the last time, 0: that is not known, or it was near; and how
    many bytes its line carried in a second, 0: that is not known, or it was wide."""
    trip, line = _read().get(_name(host), (0, 0))
    # it may be far today: who is told nothing measures it
    return trip if trip >= FAR * 1e6 else 0, line


def learn(host: Host, trip: int) -> None:
    """Remember how far it is; where that cannot be done, the next first run finds out."""
    found = _read()
    _, line = found.pop(_name(host), (0, 0))
    _write({**found, _name(host): (trip, line)})


def learn_line(host: Host, line: int) -> None:
    """Remember how many bytes the line to it carried in a second, if it is known how far it is."""
    found, name = _read(), _name(host)
    trip, before = found.get(name, (0, 0))
    line = line if line < NARROW else 0
    if trip and abs(line - before) * _ALIKE > before:
        _write({**found, name: (trip, line)})


def _write(found: dict[str, tuple[int, int]]) -> None:
    rows = [f"{trip} {line} {name}" for name, (trip, line) in list(found.items())[-HOSTS:]]
    with contextlib.suppress(OSError, RuntimeError):
        path = xdg.cache() / "trips"
        xdg.make(path.parent)
        work = path.with_name(f"trips.{threading.get_native_id()}")
        with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write("\n".join([_HEAD, *rows]) + "\n")
        os.replace(work, path)


def _name(host: Host) -> str:
    """The destination and its options, as one word."""
    return ascii((host.ssh, host.options))[:_LINE]


def _read() -> dict[str, tuple[int, int]]:
    try:
        with open(xdg.cache() / "trips", encoding="ascii") as file:
            head, *rows = file.read(HOSTS * 2 * _LINE).split("\n")
    except (OSError, RuntimeError, UnicodeDecodeError):
        return {}
    found = {}
    for row in rows if head == _HEAD else ():
        trip, _, rest = row.partition(" ")
        line, _, name = rest.partition(" ")
        if name and all(each.isdecimal() and len(each) < 10 for each in (trip, line)):
            found[name] = int(trip), int(line)
    return found
