"""Submit side: what a host says in frames, checked once, as each arrives. Pure.

Everything raises ProtocolError (ShapeError, FrameError) for what no execute side of ours sends.
"""

from __future__ import annotations

import signal
from typing import Any, NamedTuple

from remoteio.printable import printable
from remoteio.submit.export.once import Asked, Opened
from remoteio.wire import frames
from remoteio.wire.link import Window
from shim.submit.shapes import NATURAL, ShapeError, decoded, flag, number, one_of, table, text, whole
from shim.wire import job_messages, network
from shim.wire.rendezvous import Whereabouts

_EXECUTE = frozenset(kind for kind, (_, sender, _) in frames.KINDS.items() if sender != "submit")
_UNGREETED = frozenset((frames.HELLO, frames.FAIL, frames.PING, frames.NEWS))
_SIZES = {
    frames.STARTED: 0, frames.PING: 0, frames.EXIT: 4, frames.CREDIT: 5, frames.CLOSED: 1, frames.STOPPED: 1,
}  # fmt: skip
_FAILURES = (frames.NOT_NOW, 125, 126, 127)
_MOST_RANGES = 340  # lines of a uid_map: user_namespaces(7)
_MOST_ID = (1 << 32) - 1
_MOST_U64 = (1 << 64) - 1
_MOST_CREDIT = max(Window.SIZE, Window.IMAGE)
_MOST_NEWS = 1 << 16  # bytes
_SERIAL = whole(0, (1 << 32) - 1)
_SECONDS = number(0, 1e12)
# signal(7): these never end a process, so no wait status of an ended one has them
_HARMLESS = frozenset(
    (
        signal.SIGCHLD, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGURG,
        signal.SIGWINCH,
    )
)  # fmt: skip

_NEWS = table(
    {
        "news": one_of(
            job_messages.FROZEN, job_messages.THAWED, job_messages.LEAVING, job_messages.DUMPING, job_messages.DUMPED,
            job_messages.REFUSED, job_messages.HELD, job_messages.MOVED, job_messages.DEAD, job_messages.RESTORED,
            job_messages.CRIU, job_messages.CLOSES, job_messages.UNABLE, job_messages.TOLD,
        )
    },
    {
        "serial": _SERIAL, "why": text(), "source": text(100), "at": _SECONDS, "frozen_us": whole(), "bytes": whole(),
        "seconds": _SECONDS, "need": text(100), "at_once": flag,
    },
)  # fmt: skip


class Hello(NamedTuple):
    """Who the host is: its own name, its clock (ns since 1970), the ids mapped there, and those that the job sees.

    `network`, `resolver`: which network it is in, and its resolv.conf, if any, as shim/wire/network.py has them;
    `door`: where another stream joins its agent, None: nowhere.
    """

    host: str
    time_ns: int
    uids: list[tuple[int, int]]
    gids: list[tuple[int, int]]
    shown: tuple[int, int] | None
    network: bytes = b""
    resolver: bytes | None = None
    door: Whereabouts | None = None


class News(NamedTuple):
    """One of shim/wire/job_messages.py, by its name there; `serial` 0, `why` "", `at_once` False where it has none."""

    what: str
    serial: int
    why: str
    at_once: bool = False


def due(kind: int, size: int, greeted: bool, behind: bool = False) -> None:
    """Check that the host may send such a frame now. `greeted`: HELLO has come; `behind`: AFTER may (no `--sync`)."""
    name = frames.KINDS[kind][0]
    if kind not in _EXECUTE:
        raise ShapeError(f"it sends {name}, which only the submit side says")
    if (kind == frames.HELLO) == greeted and (greeted or kind not in _UNGREETED):
        raise ShapeError(f"it sends {name} {'twice' if greeted else 'before HELLO'}")
    if kind == frames.AFTER and not behind:
        raise ShapeError(f"it sends {name}, which nothing that waits for each change does")
    if size != _SIZES.get(kind, size):
        raise ShapeError(f"{name} has {size} bytes, not {_SIZES[kind]}")


def hello(payload: bytes | memoryview) -> Hello:
    """Return a HELLO's payload."""
    fields = frames.unpack_fields(payload)
    for name, least, most in (("host", 1, 1), ("time", 1, 1), ("uids", 0, _MOST_RANGES), ("gids", 0, _MOST_RANGES)):
        if not least <= len(fields.get(name, [])) <= most or (name not in fields):
            raise ShapeError(f"HELLO has not {least} to {most} of {name}")
    shown = [_decimal(item, "an id shown") for item in fields.get("shown", [])]
    if len(shown) not in (0, 2):
        raise ShapeError(f"HELLO has {len(shown)} ids shown, not none or two")
    where, resolver = fields.get("network", []), fields.get("resolver", [])
    if len(where) > 1 or len(resolver) > 1 or any(len(item) > network.LARGEST for item in where + resolver):
        raise ShapeError("HELLO has more than one network or resolv.conf, or a longer one than there is")
    return Hello(
        printable(fields["host"][0].decode("utf-8", "surrogateescape"), 255) or "the host",
        _decimal(fields["time"][0], "the time", NATURAL),
        [_range(item) for item in fields["uids"]],
        [_range(item) for item in fields["gids"]],
        (shown[0], shown[1]) if shown else None,
        b"".join(where),
        resolver[0] if resolver else None,
        Whereabouts.unpack(fields["door"]) if fields.get("door") else None,
    )


class Standing(NamedTuple):
    """How a job stands that is taken up, as its agent says.

    why      it cannot be, if so
    opened   what its kernel has open
    asked    what that has asked and not been answered
    places   where its processes work
    highest  the number of the last handle
    given    bytes of input that it was given
    serial   of its last dump
    """

    why: str
    opened: list[Opened]
    asked: list[Asked]
    places: list[bytes]
    highest: int
    given: int
    serial: int


def standing(payload: bytes | memoryview) -> Standing:
    """Return a STATE's payload."""
    fields = frames.unpack_fields(payload)
    rows = {name: [_row(item) for item in fields.get(name, [])] for name in ("files", "asked")}
    numbers = [_one(fields, name) for name in ("highest", "stdin", "serial")]
    why = printable(b"; ".join(fields.get("why", [])).decode("utf-8", "replace"))
    opened, asked = [Opened(*row) for row in rows["files"]], [Asked(*row) for row in rows["asked"]]
    return Standing(why, opened, asked, fields.get("places", []), *numbers)


def _row(item: bytes) -> tuple[int, int, int]:
    words = item.split(b" ")
    if len(words) != 3:
        raise ShapeError("a row of STATE is not three numbers")
    first, second, third = (_decimal(word, "of a row of STATE one", _MOST_U64) for word in words)
    return first, second, third


def _one(fields: dict[str, list[bytes]], name: str) -> int:
    found = fields.get(name, [])
    if len(found) != 1:
        raise ShapeError(f"STATE has not one number for {name}")
    return _decimal(found[0], name, NATURAL)


def _range(item: bytes) -> tuple[int, int]:
    words = item.split(b" ")
    if len(words) != 2:
        raise ShapeError("a range of ids is not two numbers")
    return _decimal(words[0], "an id"), _decimal(words[1], "a count of ids")


def _decimal(item: bytes, what: str, most: int = _MOST_ID) -> int:
    if not item.isdigit() or len(item) > 20 or int(item) > most:
        raise ShapeError(f"{what} is {item[:40]!r}, not a number from 0 to {most}")
    return int(item)


def exit_status(payload: bytes | memoryview) -> int:
    """Return an EXIT's: a wait status of a process that has ended, as waitpid(2) gives it."""
    status = int.from_bytes(payload, "little")
    number, code = status & 0x7F, status >> 8
    exited = number == 0 and status & 0x80 == 0 and code <= 0xFF
    killed = 0 < number <= signal.SIGRTMAX and code == 0 and number not in _HARMLESS
    if not exited and not killed:
        raise ShapeError(f"EXIT has {status:#x}, which is no wait status of a process that has ended")
    return status


def failure(payload: bytes | memoryview) -> tuple[int, str]:
    """Return a FAIL's exit code and sentence."""
    code = int.from_bytes(payload[:4], "little")
    if len(payload) < 4 or code not in _FAILURES:
        raise ShapeError(f"FAIL has the exit status {code}, not one of {_FAILURES}")
    return code, printable(bytes(payload[4:]).decode("utf-8", "replace"))


def credit(payload: bytes | memoryview) -> tuple[int, int]:
    """Return a CREDIT's: of which kind of stream how many bytes were taken."""
    kind, count = payload[0], int.from_bytes(payload[1:5], "little")
    if kind not in (frames.STDIN, frames.IMAGE, frames.PUSHED, *frames.EXTRA) or count > _MOST_CREDIT:
        raise ShapeError(f"CREDIT is for {count} bytes of stream {kind}, which were never under way")
    return kind, count


def news(payload: bytes | memoryview, greeted: bool) -> News:
    """Return a NEWS's payload. `greeted`: HELLO has come, and with it all that can be news."""
    if len(payload) > _MOST_NEWS:
        raise ShapeError(f"NEWS has {len(payload)} bytes, more than {_MOST_NEWS}")
    said: dict[str, Any] = _NEWS(decoded(payload, "NEWS"), "NEWS")
    if not greeted and said["news"] not in (job_messages.CRIU, job_messages.UNABLE):
        raise ShapeError(f"it sends the news {said['news']} before HELLO")
    return News(said["news"], said.get("serial", 0), said.get("why", ""), said.get("at_once", False))
