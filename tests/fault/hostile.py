"""An execute host that speaks the protocol by its own bytes and keeps none of its rules; run in place of `ssh`.

``python -m tests.fault.hostile`` is what a program `ssh` of PATH starts, with the link as its input and output:
see hostile_plans.py for what it does then, by $HOSTILE_PLAN. What came of each attempt goes to $HOSTILE_REPORT, a JSON
object a line; tests/fault/test_hostile.py reads them.
"""

from __future__ import annotations

import ast
import json
import os
import re
import select
import time
import zlib
from collections.abc import Iterable
from typing import Any

from remoteio.wire import frames, leases, makes
from remoteio.wire import fuse_abi as abi

Asked = tuple[int, int, bytes]  # operation, node, arguments


class HungUp(Exception):
    """The other end has ended the link."""


class Wire:
    """This host's end of the link: bytes 0 and 1, with frames and requests made here, right or wrong."""

    def __init__(self) -> None:
        self.parameters: dict[str, str] = {}
        self.start: dict[str, list[bytes]] = {}
        self._reader = frames.FrameReader()
        self._unique = 1
        self._pinged = time.monotonic()
        self.replies: dict[int, tuple[int, bytes]] = {}
        self.heard: list[tuple[int, bytes]] = []

    def put(self, data: bytes) -> None:
        """Send these bytes. Raises HungUp."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(1, view) :]
        except OSError as e:
            raise HungUp from e

    def frame(self, kind: int, payload: bytes = b"") -> None:
        self.put(frames.HEADER.pack(len(payload), kind, 0, 0, 0) + payload)

    def stage(self, word: str = "have", detail: str = "", version: str = "3.11.2") -> None:
        """Take the first stage in, and answer it as one that needs nothing."""
        size = int(_all(8))
        text = zlib.decompress(_all(size)).decode()
        found = re.match(r"P = (\{[^\n]*\})\n", text)
        assert found is not None
        self.parameters = ast.literal_eval(found[1])
        self.put("\n{}\t{}\t{}\t{}\n".format(self.parameters["nonce"], version, word, detail).encode())

    def begin(self, **hello: list[bytes]) -> None:
        """Answer the stage, await START and say HELLO."""
        self.stage()
        self.await_start()
        self.hello(**hello)

    def await_start(self) -> None:
        while not self.start:
            self.hear(10)
            for kind, payload in self.heard:
                if kind == frames.START:
                    self.start = frames.unpack_fields(payload)

    def hello(self, **changed: list[bytes]) -> None:
        fields = {"host": [b"evil"], "time": [b"%d" % time.time_ns()], "uids": [], "gids": [], **changed}
        self.frame(frames.HELLO, frames.pack_fields(fields))

    def hear(self, timeout: float) -> None:
        """Take in what comes within `timeout` seconds, once. Raises HungUp."""
        if time.monotonic() - self._pinged > 1:
            self._pinged = time.monotonic()
            self.frame(frames.PING)
        if not select.select([0], [], [], timeout)[0]:
            return
        data = os.read(0, 1 << 18)
        if not data:
            raise HungUp
        for kind, payload in self._reader.feed(data):
            if kind == frames.LEASED:
                kind, _, _, payload = leases.split(payload)
            if kind == frames.GRANTED:
                kind, _, payload = makes.split(payload)
            if kind in (frames.FUSE, frames.KNOWN, frames.ORDERED):
                self._replied(kind, bytes(payload))
            else:
                self.heard.append((kind, bytes(payload)))

    def _replied(self, kind: int, payload: bytes) -> None:
        at = 0
        while at < len(payload):
            size, error, unique = abi.OUT_HEADER.unpack_from(payload, at)
            if unique:
                self.replies[unique] = (-error, payload[at + abi.OUT_HEADER.size : at + size])
                if kind == frames.KNOWN:
                    return
            at += size

    # requests for files

    def send(self, op: int, node: int, arguments: bytes = b"") -> int:
        self._unique += 2
        self.frame(frames.FUSE, abi.request(op, node, arguments, self._unique))
        return self._unique

    def ask(self, op: int, node: int, arguments: bytes = b"") -> tuple[int, bytes]:
        """(errno, body) of the answer."""
        return self.ask_all([(op, node, arguments)])[0]

    def ask_all(self, asked: Iterable[Asked], together: int = 50) -> list[tuple[int, bytes]]:
        """The answers, in order; so many requests are under way at once. What is not answered says (0, b"")."""
        found: list[tuple[int, bytes]] = []
        asked = list(asked)
        for at in range(0, len(asked), together):
            some = asked[at : at + together]
            numbers = [self.send(*each) for each in some]
            for (op, _, _), number in zip(some, numbers, strict=True):
                until = time.monotonic() + 20
                while op not in abi.UNANSWERED and number not in self.replies:
                    assert time.monotonic() < until, f"no answer to {abi.OPERATIONS.get(op, (op,))[0]}"
                    self.hear(1)
                found.append(self.replies.pop(number, (0, b"")))
        return found

    def lookup(self, node: int, name: bytes) -> int:
        """The node of that name, 0: it is not to be seen."""
        error, body = self.ask(abi.LOOKUP, node, name + b"\0")
        return 0 if error else int(abi.ENTRY.unpack_from(body)[0])

    def walk(self, path: bytes) -> int:
        """The node of an absolute path without links, which must be there."""
        node = abi.ROOT_ID
        for name in path.strip(b"/").split(b"/"):
            node = self.lookup(node, name)
            assert node, (path, name)
        return node

    def open(self, node: int, flags: int) -> int:
        error, body = self.ask(abi.OPEN, node, abi.OPEN_IN.pack(flags, 0))
        assert not error, os.strerror(error)
        return int(abi.OPEN_OUT.unpack_from(body)[0])

    def create(self, parent: int, name: bytes) -> tuple[int, int]:
        """(node, handle) of a new file."""
        arguments = abi.CREATE_IN.pack(os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + name + b"\0"
        error, body = self.ask(abi.CREATE, parent, arguments)
        assert not error, os.strerror(error)
        return int(abi.ENTRY.unpack_from(body)[0]), int(
            abi.OPEN_OUT.unpack_from(body, abi.ENTRY.size + abi.ATTR.size)[0]
        )

    @property
    def home(self) -> bytes:
        """The user's home, as the job's environment has it."""
        return next(each[5:] for each in self.start["env"] if each.startswith(b"HOME="))

    def until_over(self, seconds: float) -> None:
        """Hear what comes, and give signs of life, until the other end hangs up."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.hear(0.5)


def report(attempt: str, refusal: str, succeeded: bool) -> None:
    """Tell of an attempt."""
    with open(os.environ["HOSTILE_REPORT"], "a") as file:
        file.write(json.dumps({"attempt": attempt, "refusal": refusal, "succeeded": succeeded}) + "\n")


def _all(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        assert piece
        data += piece
    return data


def main() -> None:
    from tests.fault import hostile_plans

    plan: Any = hostile_plans.PLANS[os.environ["HOSTILE_PLAN"]]
    try:
        plan(Wire())
    except HungUp:
        return


if __name__ == "__main__":
    main()
