"""Declared shapes of what another machine says: plain data as JSON has it, checked once, where it enters. Pure.

A Shape is a function of a value and of what that value is called; it gives the value back, its text printable, or
raises ShapeError. Shapes are made of shapes: ``table({"serial": whole(0, 9)}, {"why": text(1000)})``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from remoteio.errors import ProtocolError
from remoteio.printable import MOST, printable

Shape = Callable[[object, str], Any]
NATURAL = (1 << 63) - 1


class ShapeError(ProtocolError):
    """A value that has not the shape it was declared to have."""


def _wrong(value: object, what: str, due: str) -> ShapeError:
    return ShapeError(f"{what} is {printable(repr(value), 60)}, not {due}")


def decoded(data: bytes | bytearray | memoryview, what: str) -> object:
    """Return the value in a JSON text. Raises ShapeError, however deep it is or long its numbers are."""
    import json  # a plain run has none

    try:
        return json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise ShapeError(f"{what} is no JSON that can be read ({printable(str(error), 100)})") from None


def whole(least: int = 0, most: int = NATURAL) -> Shape:
    """Return a whole number from `least` to `most`."""

    def check(value: object, what: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise _wrong(value, what, f"a whole number from {least} to {most}")
        return value

    return check


def number(least: float, most: float) -> Shape:
    """Return a number from `least` to `most`, whole or not."""

    def check(value: object, what: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise _wrong(value, what, f"a number from {least:g} to {most:g}")
        return value

    return check


def flag(value: object, what: str) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise _wrong(value, what, "true or false")
    return value


def string(value: object, what: str) -> str:
    """Read text as it is: of our own."""
    if not isinstance(value, str):
        raise _wrong(value, what, "text")
    return value


def any_of(*shapes: Shape) -> Shape:
    """Read what one of these shapes says, the first that does."""

    def check(value: object, what: str) -> Any:
        for shape in shapes[:-1]:
            try:
                return shape(value, what)
            except ShapeError:
                continue
        return shapes[-1](value, what)

    return check


def text(most: int = MOST) -> Shape:
    """Read text; made printable, and cut to `most` characters."""

    def check(value: object, what: str) -> str:
        if not isinstance(value, str):
            raise _wrong(value, what, "text")
        return printable(value, most)

    return check


def one_of(*words: str) -> Shape:
    """Read one of these words."""

    def check(value: object, what: str) -> str:
        if not isinstance(value, str) or value not in words:
            raise _wrong(value, what, f"one of {', '.join(words)}")
        return value

    return check


def maybe(shape: Shape) -> Shape:
    """Read null, or what `shape` says."""
    return lambda value, what: None if value is None else shape(value, what)


def listed(item: Shape, most: int, least: int = 0) -> Shape:
    """Return a list of `least` to `most` items."""

    def check(value: object, what: str) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise _wrong(value, what, f"a list of {least} to {most} items")
        return [item(each, f"an item of {what}") for each in value]

    return check


def tuple_of(*items: Shape) -> Shape:
    """Return a list of just these items, in order."""

    def check(value: object, what: str) -> list[Any]:
        if not isinstance(value, list) or len(value) != len(items):
            raise _wrong(value, what, f"a list of {len(items)} items")
        return [item(each, f"an item of {what}") for item, each in zip(items, value, strict=True)]

    return check


def mapping(key: Shape, item: Shape, most: int) -> Shape:
    """Return an object of at most `most` names of the shape `key`, each with an `item`."""

    def check(value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise _wrong(value, what, f"an object of at most {most} names")
        return {key(name, f"a name in {what}"): item(each, f"an item of {what}") for name, each in value.items()}

    return check


def table(needed: Mapping[str, Shape], more: Mapping[str, Shape] | None = None) -> Shape:
    """Return an object with the names of `needed`, and perhaps of `more`, and no other."""
    known = {**needed, **(more or {})}

    def check(value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not needed.keys() <= value.keys() <= known.keys():
            names = ", ".join(needed) + (f", perhaps {', '.join(more)}" if more else "")
            raise _wrong(value, what, f"an object of {names}")
        return {name: known[name](each, f"{what}'s {name}") for name, each in value.items()}

    return check


def digits(most: int = NATURAL) -> Shape:
    """Return a whole number up to `most`, written in text."""

    def check(value: object, what: str) -> str:
        if not isinstance(value, str) or not value.isdecimal() or not value.isascii() or len(value) > 20:
            raise _wrong(value, what, "a number in digits")
        if int(value) > most:
            raise _wrong(value, what, f"at most {most}")
        return value

    return check
