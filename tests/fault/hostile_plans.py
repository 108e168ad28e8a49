"""What a hostile host does on its link: a plan each, by name. Some keep it to the end and try what they can in it."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import time
from collections.abc import Callable

from remoteio.wire import frames
from remoteio.wire import fuse_abi as abi
from shim.wire import forwards
from tests.fault.hostile import Wire
from tests.fault.hostile_quota import over_the_quota
from tests.fault.hostile_requests import through_the_export

Plan = Callable[[Wire], None]
ESCAPES = b"\x1b[2J\x1b]0;owned\x07\xc2\x9b31m\nrexec: all is well\r"
EXIT_0 = bytes(4)


def then(do: Callable[[Wire], None]) -> Plan:
    """Say HELLO, do that, and wait to be cut off."""

    def plan(wire: Wire) -> None:
        wire.begin()
        do(wire)
        wire.until_over(20)

    return plan


def says(kind: int, payload: bytes = b"") -> Plan:
    return then(lambda wire: wire.frame(kind, payload))


def raw(data: bytes) -> Plan:
    return then(lambda wire: wire.put(data))


def request(op: int, size: int) -> Plan:
    """A request of that operation with so many bytes of arguments, and no name in them."""
    return then(lambda wire: wire.frame(frames.FUSE, abi.request(op, 1, b"\xff" * size, 3)))


def lying(more: int) -> Plan:
    """A request that says another length than it has."""
    data = bytearray(abi.request(abi.GETATTR, 1, bytes(16), 3))
    struct.pack_into("=I", data, 0, len(data) + more)
    return says(frames.FUSE, bytes(data))


def greets(**fields: list[bytes]) -> Plan:
    def plan(wire: Wire) -> None:
        wire.begin(**fields)
        wire.until_over(20)

    return plan


def ungreeted(kind: int, payload: bytes = b"") -> Plan:
    def plan(wire: Wire) -> None:
        wire.stage()
        wire.await_start()
        wire.frame(kind, payload)
        wire.until_over(20)

    return plan


def answers(word: str, detail: str = "", version: str = "3.11.2") -> Plan:
    def plan(wire: Wire) -> None:
        wire.stage(word, detail, version)
        wire.until_over(20)

    return plan


def noise(data: bytes) -> Plan:
    def plan(wire: Wire) -> None:
        wire.put(data)
        wire.until_over(20)

    return plan


def shouts(wire: Wire) -> None:
    """On its standard error too, where ssh would ask for a touch of a key."""
    os.write(2, b"Confirm user presence for key" + ESCAPES + b"\n")
    wire.begin()
    wire.frame(frames.FAIL, (125).to_bytes(4, "little") + b"it failed" + ESCAPES)


def floods(wire: Wire) -> None:
    """Ask for 4 GiB in some kilobytes, and take none of it."""
    wire.begin()
    node, handle = wire.create(wire.walk(wire.start["cwd"][0]), b"large")
    wire.ask(abi.WRITE, node, abi.WRITE_IN.pack(handle, (1 << 20) - 1, 1, 0, 0, 0, 0) + b"x")
    read = abi.READ_IN.pack(handle, 0, 1 << 20, 0, 0, 0, 0)
    asked = b"".join(
        frames.HEADER.pack(abi.ARGS + len(read), frames.FUSE, 0, 0, 0) + abi.request(abi.READ, node, read, 1001 + k)
        for k in range(4096)
    )
    wire.put(asked)
    for _ in range(20):
        time.sleep(0.25)
        wire.frame(frames.PING)
    sys.exit()


def pours(wire: Wire) -> None:
    """Send output that nobody reads, whatever the credit."""
    wire.begin()
    wire.frame(frames.STARTED)
    for _ in range(300):
        wire.frame(frames.STDOUT, bytes(1 << 20))
    wire.until_over(20)


def stays(wire: Wire) -> None:
    """Give signs of life, and nothing else, for ever."""
    wire.begin()
    wire.until_over(60)


def credits(wire: Wire) -> None:
    wire.frame(frames.STARTED)
    while not any(kind == frames.STDIN for kind, _ in wire.heard):
        wire.hear(1)
    wire.frame(frames.CREDIT, bytes([frames.STDIN]) + u32(1 << 20))


def opens(wire: Wire, *numbers: int) -> None:
    for number in numbers:
        wire.frame(frames.FORWARD, forwards.message(forwards.OPEN, number))


def pours_into(wire: Wire, number: int) -> None:
    """Send more than the kernel there has room for: nobody reads at that port."""
    opens(wire, number)
    for _ in range((64 << 20) // forwards.CHUNK):
        wire.frame(frames.FORWARD, forwards.message(forwards.DATA, number) + bytes(forwards.CHUNK))


def asks_for_all(wire: Wire) -> None:
    """Ask for what the job is likely to use, and again, as if there were no end of it."""
    wire.begin()
    for _ in range(1000):
        wire.frame(frames.CREDIT, bytes([frames.PUSHED]) + u32(4 << 20))
    ends_well(wire)


def half(wire: Wire) -> None:
    """Half a file, half a frame, and the end."""
    wire.begin()
    node, handle = wire.create(wire.walk(wire.start["cwd"][0]), b"half")
    wire.ask(abi.WRITE, node, abi.WRITE_IN.pack(handle, 0, 4, 0, 0, 0, 0) + b"half")
    wire.put(frames.HEADER.pack(100, frames.STDOUT, 0, 0, 0) + b"x" * 50)
    sys.exit()


def wrong_clock(wire: Wire) -> None:
    wire.begin(time=[b"%d" % (time.time_ns() + 86_400 * 10**9)])
    ends_well(wire)


def ends_well(wire: Wire) -> None:
    wire.frame(frames.STARTED)
    for kind in (frames.STDOUT, frames.STDERR):
        wire.frame(kind)
    wire.frame(frames.EXIT, EXIT_0)
    wire.until_over(20)


def slow(wire: Wire) -> None:
    """Every byte by itself."""
    put = wire.put

    def drip(data: bytes) -> None:
        for k in range(len(data)):
            put(data[k : k + 1])
            time.sleep(0.002)

    wire.put = drip  # type: ignore[method-assign]
    wire.begin()
    assert wire.walk(wire.start["cwd"][0])
    ends_well(wire)


def no_memory(wire: Wire) -> None:
    wire.begin()
    wire.frame(frames.FAIL, (125).to_bytes(4, "little") + b"the job's first process ended; memory may have run out")
    wire.until_over(20)


def probed(answer: bytes) -> Plan:
    """Answer `rexec hosts` with that, whatever is asked."""

    def plan(wire: Wire) -> None:
        wire.stage()
        while os.read(0, 1):
            wire.put(answer)

    return plan


def probed_facts(facts: object) -> Plan:
    def plan(wire: Wire) -> None:
        wire.stage()
        while what := os.read(0, 1):
            wire.put(json.dumps(time.time() if what == b"t" else facts).encode() + b"\n")

    return plan


def news_raw(*told: bytes) -> Plan:
    def do(wire: Wire) -> None:
        wire.frame(frames.STARTED)
        for payload in told:
            wire.frame(frames.NEWS, payload)

    return then(do)


def news(*told: dict[str, object]) -> Plan:
    return news_raw(*(json.dumps(each).encode() for each in told))


def leaves(*image: bytes) -> Plan:
    """Leave with that image; when it is refused, go on with what nobody says."""

    def do(wire: Wire) -> None:
        wire.frame(frames.STARTED)
        for what in ("leaving", "dumping", "dumped"):
            wire.frame(frames.NEWS, json.dumps({"news": what, "serial": 1}).encode())
        for payload in image:
            wire.frame(frames.IMAGE, payload)
        while not any(kind == frames.ORDER and b'"thaw"' in payload for kind, payload in wire.heard):
            wire.hear(1)
        why = next(payload for kind, payload in wire.heard if kind == frames.ORDER and b'"thaw"' in payload)
        assert b"misbehaves" in why or b"damaged" in why, why
        wire.frame(frames.NEWS, b'{"news": "refused", "serial": 1, "why": "as you say"}')
        wire.frame(frames.EXIT, b"")

    return then(do)


def image_file(name: bytes, size: int = 10) -> bytes:
    return b"F" + struct.pack("<HHQ", len(name), 1, size) + name + b"o"


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


# How a run is to end: by a sentence of rexec's own (125), which says that the host misbehaves.
MISBEHAVES: dict[str, Plan] = {
    "an unknown kind of frame": raw(frames.HEADER.pack(0, 99, 0, 0, 0)),
    "a reserved byte set": raw(frames.HEADER.pack(0, frames.PING, 0, 1, 0)),
    "a frame of 4 GiB": raw(frames.HEADER.pack((1 << 32) - 1, frames.STDOUT, 0, 0, 0)),
    "bytes that are no frames": raw(b"\xff" * 1000),
    "a frame of ours": says(frames.START),
    "HELLO twice": then(lambda wire: wire.hello()),
    "STARTED before HELLO": ungreeted(frames.STARTED),
    "EXIT before HELLO": ungreeted(frames.EXIT, EXIT_0),
    "a request before HELLO": ungreeted(frames.FUSE, abi.request(abi.GETATTR, 1, bytes(16), 3)),
    "HELLO without fields": ungreeted(frames.HELLO),
    "HELLO that lies of its lengths": ungreeted(frames.HELLO, b"\xff" * 64),
    "a time of 400 digits": greets(time=[b"1" + b"0" * 400]),
    "ids that are none": greets(uids=[b"x y"]),
    "ten thousand ranges of ids": greets(uids=[b"0 1"] * 10_000),
    "STARTED with a payload": says(frames.STARTED, b"x"),
    "a status of a process that stopped": says(frames.EXIT, u32(0x137F)),
    "a status of every bit": says(frames.EXIT, u32((1 << 32) - 1)),
    "a status of a signal that ends nothing": says(frames.EXIT, u32(19)),
    "a short status": says(frames.EXIT, b"\0"),
    "a code of a failure that we have not": says(frames.FAIL, u32(7) + b"x"),
    "a failure without a code": says(frames.FAIL),
    "credit for nothing": says(frames.CREDIT, bytes([frames.STDIN]) + u32(1 << 20)),
    "more credit than was used": then(credits),
    "credit for a stream that is none": says(frames.CREDIT, bytes([frames.STDOUT]) + u32(1)),
    "credit of 4 GiB": says(frames.CREDIT, bytes([frames.IMAGE]) + u32((1 << 32) - 1)),
    "a short credit": says(frames.CREDIT, b"\x09"),
    "a change in order that is none": says(
        frames.AFTER, struct.pack("=QQ", 1, 0) + abi.request(abi.READ, 1, bytes(40), 3)
    ),
    "a request of no length": says(frames.FUSE),
    "a request longer than it says": lying(-8),
    "a request shorter than it says": lying(8),
    "a request of 8 MiB": says(frames.FUSE, bytes(8 << 20)),
    "output without credit": pours,
    **{
        f"{name} cut short": request(op, size + 2 * names - 1)
        for op, (name, size, names, _) in abi.OPERATIONS.items()
        if size + names
    },
}
# Of a job that may reach one port of home's, where nobody reads.
FORWARDED: dict[str, Plan] = {
    "a connection to no port that was named": says(frames.FORWARD, forwards.message(forwards.OPEN, 2, 1)),
    "a connection under a number of ours": says(frames.FORWARD, forwards.message(forwards.OPEN, 3)),
    "a connection opened twice": then(lambda wire: opens(wire, 2, 2)),
    "a connection of more than was allowed": then(lambda wire: pours_into(wire, 2)),
    "what is said of no connection": says(frames.FORWARD, b"\1"),
}
# By a sentence of rexec's own.
ENDS: dict[str, Plan] = {
    "2 MiB of noise before the answer": noise(b"Welcome!\n" * (1 << 18)),
    "an answer that is none": answers("mine"),
    "an answer full of escapes": answers("old", ESCAPES.decode("latin-1").replace("\n", ""), "9" * 4000),
    "a python too old": answers("old", version="2.7.18"),
    "the end before START": lambda wire: wire.stage(),
    "the end after HELLO": lambda wire: wire.begin(),
    "half a frame, half a file": half,
    "escapes in each text": shouts,
    "a name full of escapes": greets(host=[ESCAPES], uids=[b"x"]),
    "memory that has run out": no_memory,
}
# Not at all, until its user says so.
LASTS: dict[str, Plan] = {"signs of life for ever": stays}
# As a job does.
WELL: dict[str, Plan] = {
    "a clock of tomorrow": wrong_clock,
    "every byte by itself": slow,
    "all that is likely to be used": asks_for_all,
}
# Of a job that can be checkpointed.
SAVED: dict[str, Plan] = {
    "news deep as the sea": news_raw(b"[" * 60_000),
    "news of no kind": news({"news": "party"}),
    "news with a number without end": news_raw(b'{"news": "dumping", "serial": 1e999}'),
    "news of 5 MiB": news({"news": "thawed", "why": "x" * (5 << 20)}),
    "news by the thousand": news(*[{"news": "thawed", "why": ESCAPES.decode("latin-1")}] * 5000, {"news": ""}),
    "an image that nobody ordered": news({"news": "dumping", "serial": 77}),
    "images that nobody ordered": news({"news": "leaving", "serial": 1}, *[{"news": "dumping", "serial": 1}] * 2),
    "criu asked for twice": news(*[{"news": "criu", "need": "ab"}] * 2),
    "restored, and nothing was sent": ungreeted(frames.NEWS, b'{"news": "restored", "seconds": 1.0}'),
    "an image of garbage": leaves(b"F" + b"\xff" * 1000),
    "an image that goes up": leaves(image_file(b"../../.ssh/config")),
    "an image of 16 EiB": leaves(image_file(b"memory", (1 << 64) - 1)),
    "an image of nothing that is offered": leaves(b"F", b"O" + bytes(4) + b"x" * 100),
    "a head that is none": leaves(b"F", b"E" + hashlib.sha256().digest() + b"[" * 50_000),
}
PROBED: dict[str, Plan] = {
    "an answer deep as the sea": probed(b"[" * 60_000 + b"\n"),
    "an answer that never ends": probed(b"x" * 70_000),
    "no JSON": probed(b"\xff\n"),
    "an object": probed(b"{}\n"),
    "a time without end": probed(b"1e999\n"),
    "facts that are a list": probed_facts([[]]),
    "facts that lack all": probed_facts({}),
}
PLANS: dict[str, Plan] = {
    **MISBEHAVES, **FORWARDED, **ENDS, **LASTS, **WELL, **PROBED, **SAVED, "what it asked for and did not take": floods,
    "the export": through_the_export, "the quota": over_the_quota,
}  # fmt: skip
