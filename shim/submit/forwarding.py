"""Ports that lead over a job's link, at home: what --forward asks for, and who carries it."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Sequence

from remoteio.errors import RexecError
from remoteio.wire.link import Link
from shim.wire.forwarder import Forwarder
from shim.wire.forwards import LOOPBACK, MOST_FORWARDS, Forward, Side

HERE, ANY = "here", "any"
_LOCALHOST = "127.0.0.1"
_UNUSUAL = range(20000, 30000)  # of these hardly any is taken, and the kernel gives none by itself


class ForwardError(RexecError):
    """What --forward says cannot be meant: one sentence."""


def forwards(asked: Sequence[str]) -> list[Forward]:
    """Read what --forward says, [here:]PORT[:PORT] each. Raises ForwardError."""
    found = [_forward(text) for text in asked]
    if len({_port_here(each) for each in found}) != len(found):
        raise ForwardError("--forward names a port of this machine twice")
    if len({(each.at_home, each.listen) for each in found}) != len(found):
        raise ForwardError("--forward names a port of the job's twice")
    if len(found) > MOST_FORWARDS:
        raise ForwardError(f"--forward is said {len(found)} times: {MOST_FORWARDS} ports can be forwarded")
    return found


def variables(found: Sequence[Forward]) -> list[bytes]:
    """Return what the job has in its environment to find them by: REXEC_FORWARD_PORT=ADDRESS:PORT each."""
    sides = [(_port_here(each), each.target if each.at_home else each.listen) for each in found]
    return [b"REXEC_FORWARD_%d=%s:%d" % (here, address.encode(), port) for here, (address, port) in sides]


def _port_here(forward: Forward) -> int:
    return (forward.listen if forward.at_home else forward.target)[1]


def _forward(text: str) -> Forward:
    match = re.fullmatch(r"(here:)?(any|\d{1,5})(?::(any|\d{1,5}))?", text, re.ASCII)
    ends = [] if match is None else [match[2], match[3] or match[2]]
    here = match is not None and match[1] is not None
    if not ends or ends[0 if here else 1] == ANY or not all(each == ANY or 0 < int(each) < 65536 for each in ends):
        raise ForwardError(
            f"--forward {text:.80}: say PORT for a port here that the job finds at its own, PORT:PORT or any:PORT "
            "where that is another; with here: in front the first is opened here, and the job listens at the second"
        )
    listen, target = (_address(each) for each in ends)
    return Forward(here, listen, target)


def _address(port: str) -> tuple[str, int]:
    """Where a port is; `any`: at an address of the loopback interface that nobody else has, it may be trusted."""
    if port != ANY:
        return _LOCALHOST, int(port)
    chance = random.SystemRandom()
    address = ".".join(str(chance.randrange(1, 255)) for _ in range(3))
    return LOOPBACK + address, chance.choice(_UNUSUAL)


def forwarder(found: list[Forward]) -> Forwarder:
    """Make this end of them, which listens. Raises RexecError."""
    made = Forwarder(Side(found, True, frozenset((os.geteuid(),))))
    made.listen()
    return made


class JobForwards:
    """Has the ports of a job that moves: open here as long as it lives, and leading to wherever it is.

    Threads: as of Forwarder; `begin` is called by one generation after the other.
    """

    def __init__(self, found: list[Forward], fail: Callable[[BaseException], None]) -> None:
        """Raises RexecError: one cannot be opened here."""
        self._made = forwarder(found) if found else None
        self._link: Link | None = None
        if self._made is not None:
            self._made.start(fail)

    def begin(self, link: Link) -> None:
        """Have them lead over that link; what led over another is reset."""
        if self._made is not None:
            self._link = link
            self._made.begin(link)

    def put(self, link: Link, payload: bytes | memoryview) -> None:
        """Take a FORWARD frame of the link's. Raises ProtocolError."""
        if self._made is not None and payload and link is self._link:
            self._made.put(payload)

    def close(self) -> None:
        """Close them: the job is over. What it sent last is written."""
        if self._made is not None:
            self._made.stop()
            self._made.done.wait()
