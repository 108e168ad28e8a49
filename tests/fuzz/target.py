"""A target of the fuzzer: a function of bytes, and the errors that may come out of what it calls."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_MEMORY = "/dev/shm"  # nothing is written to a disk ten thousand times
SEEDS = Path(__file__).parent / "seeds"


@dataclass(frozen=True)
class Target:
    """One parser under its name; what `function` may raise is in `errors`, the errors that the parser declares."""

    name: str
    function: Callable[[bytes], None]
    errors: tuple[type[Exception], ...]

    def one_input(self, data: bytes) -> None:
        """Try one input. Raises what the parser does not declare: a finding."""
        try:
            self.function(data)
        except self.errors:
            return

    def seeds(self) -> list[Path]:
        """The inputs that are kept: those to begin with, and all that ever were findings."""
        return sorted((SEEDS / self.name).iterdir())


def target(*errors: type[Exception]) -> Callable[[Callable[[bytes], None]], Target]:
    """Make the function a Target of its own name."""
    return lambda function: Target(function.__name__, function, errors)


def pieces(data: bytes) -> list[bytes]:
    """Cut an input into messages, each behind its length in two bytes; the last may be short."""
    found, at = [], 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        found.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return found


def joined(messages: list[bytes]) -> bytes:
    """Make an input of messages."""
    return b"".join(len(message).to_bytes(2, "little") + message for message in messages)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for one input."""
    return tempfile.TemporaryDirectory(prefix="rexec-fuzz-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None)
