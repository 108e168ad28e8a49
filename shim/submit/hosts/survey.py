"""Ask hosts for their facts (``shim/execute/probe.py``), several at once, each within a deadline."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from remoteio.errors import HostMisbehaves, ProtocolError, RexecError, named
from remoteio.submit.transport.stream import Stream
from shim.submit.hosts import facts as host_facts
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host
from shim.submit.hosts.connect import connect
from shim.submit.shapes import ShapeError, decoded

DEADLINE_SECONDS = 20.0
_PINGS = 8
_LINE_BYTES = 1 << 16
_PARALLEL = 32


class SurveyError(RexecError):
    """A host did not say what it was asked."""


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a host: ``error`` if it could not be asked, else the rest.

    ``connected`` is how long the start took, ``latency`` the median of round trips, ``clock`` how far the host's clock
    is ahead of ours, all in seconds; ``facts`` is the table of ``shim.execute.probe.facts``.
    """

    host: Host
    error: str = ""
    started: Facts | None = None
    connected: float = 0.0
    latency: float = 0.0
    clock: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


def ask_all(hosts: Sequence[Host], deadline: float = DEADLINE_SECONDS) -> list[Report]:
    """Ask all hosts at once, for no password; a report of each, in order."""
    if not hosts:
        return []
    with ThreadPoolExecutor(min(len(hosts), _PARALLEL)) as pool:
        return list(pool.map(lambda host: ask(host, batch=True, deadline=deadline), hosts))


def ask(host: Host, *, batch: bool, deadline: float = DEADLINE_SECONDS) -> Report:
    """Ask one host; ``deadline`` holds for the connection and again for the answers, in seconds."""
    began = time.monotonic()
    try:
        stream, started = connect(host, "shim.execute.probe:main", batch=batch, deadline=deadline)
        connected = time.monotonic() - began
        try:
            until = time.monotonic() + deadline
            trips = [_ping(stream, until) for _ in range(_PINGS)]
            facts = host_facts.facts(_asked(stream, b"f", until))
        finally:
            stream.close()
    except RexecError as error:
        return Report(host, error=str(error))
    except ProtocolError as error:
        return Report(host, error=str(HostMisbehaves(host.name, error)))
    except Exception as error:  # the boundary: one host of many, which is passed over
        return Report(host, error=f"an error of rexec's own while asking {host.name}: {named(error)}; please report it")
    # The quickest round trip leaves the least room for the clocks' difference.
    _, clock = min(trips)
    latency = sorted(trip for trip, _ in trips)[_PINGS // 2]
    return Report(host, "", started, connected, latency, clock, facts)


def _ping(stream: Stream, until: float) -> tuple[float, float]:
    sent, here = time.perf_counter(), time.time()
    there = host_facts.time(_asked(stream, b"t", until))
    trip = time.perf_counter() - sent
    return trip, there - (here + trip / 2)


def _asked(stream: Stream, what: bytes, until: float) -> object:
    poll = select.poll()
    poll.register(stream.read_fd, select.POLLIN)
    line = b""
    try:
        os.write(stream.write_fd, what)
        while not line.endswith(b"\n"):
            if not poll.poll(max(0, int((until - time.monotonic()) * 1000))):
                raise SurveyError(
                    f"{stream.destination} did not answer in time; see whether it is busy or out of memory"
                )
            piece = os.read(stream.read_fd, _LINE_BYTES)
            if not piece:
                raise stream.failure()
            line += piece
            if len(line) > _LINE_BYTES:
                raise ShapeError(f"its answer has more than {_LINE_BYTES} bytes")
    except ConnectionError as error:
        raise stream.failure() from error
    return decoded(line, "its answer")
