"""What is declared of a limit: see limits.py."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

BYTES = "bytes"
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def in_bytes(number: int) -> str:
    """Write a number of bytes."""
    return next((f"{number / size:.4g} {unit}" for size, unit in _UNITS if number >= size), f"{number} bytes")


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit.

    what    it is of
    where   module and name of its number; or the number in words, where the kernel or the user sets it
    unit    BYTES, or what is counted; "": it is clear
    full    what happens when it is reached
    by      the module that sees to it
    test    file::function
    """

    what: str
    where: str
    unit: str
    full: str
    by: str
    test: str

    def value(self) -> str:
        """Write its number as the docs have it."""
        module, _, name = self.where.partition(":")
        if not name:
            return self.where
        number = getattr(import_module(module), name)
        return in_bytes(number) if self.unit == BYTES else f"{number:,} {self.unit}".rstrip()
