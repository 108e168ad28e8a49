"""Remembers how far hosts are, so that a first run knows it before its host has said a word.

The keeper measures it (keeper.py). A host is asked for under the name by which ssh knows it: where that leads to a
nearer one the next time, the host finds out by itself, and sends for no more.
"""

from __future__ import annotations

import contextlib
import os
import threading

from checkpoint.submit import xdg
from remoteio.wire.pushed import FAR
from shim.submit.hosts.config import Host

HOSTS = 64  # that are remembered
_LINE = 400  # bytes
_HEAD = "rexec trips 1"


def known(host: Host) -> int:
    """Tell how many microseconds a round trip to it took the last time; 0: that is not known, or it was near."""
    trip = _read().get(_name(host), 0)
    return trip if trip >= FAR * 1e6 else 0  # it may be far today: who takes it for near is never sent anything


def learn(host: Host, trip: int) -> None:
    """Remember it; where that cannot be done, the next first run finds out."""
    found = _read()
    found.pop(_name(host), None)
    found[_name(host)] = trip
    rows = [f"{each} {name}" for name, each in list(found.items())[-HOSTS:]]
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


def _read() -> dict[str, int]:
    try:
        with open(xdg.cache() / "trips", encoding="ascii") as file:
            head, *rows = file.read(HOSTS * 2 * _LINE).split("\n")
    except (OSError, RuntimeError, UnicodeDecodeError):
        return {}
    found = {}
    for row in rows if head == _HEAD else ():
        trip, _, name = row.partition(" ")
        if name and trip.isdecimal() and len(trip) < 10:
            found[name] = int(trip)
    return found
