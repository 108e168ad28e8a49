"""Reads the part of TOML that a flat table of plain values needs. Pure; shipped: tomllib came with Python 3.11.

A line has `key = value`: a string in one line, a number, true or false, or a list of such in one line. What it accepts
means the same as TOML; what is TOML and more than that is refused, with its line.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Plain = Union[str, int, float, bool]

_LINE = re.compile(r"[ \t]*(?:([A-Za-z0-9_-]+)[ \t]*=[ \t]*(.*?))?[ \t]*", re.DOTALL)
# one value, whatever follows; a string's escapes are those that stand for the character itself
_VALUE = re.compile(r"\"((?:[^\"\\]|\\[\"\\])*)\"|'([^']*)'|(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?(?![\w.+-])|(true|false)\b")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_REST = re.compile(r"[ \t]*(?:#.*)?", re.DOTALL)
_MOST_DIGITS = 18  # of 64 bits


class TomlError(ValueError):
    """Say which line cannot be read, and what may stand there."""


def parse(text: str) -> dict[str, Plain | list[Plain]]:
    """Read such a table. Raises TomlError."""
    found: dict[str, Plain | list[Plain]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line[:-1] if line.endswith("\r") else line
        if any((c < " " and c != "\t") or c == "\x7f" for c in line):
            raise TomlError("line %d has a control character" % number)
        if _REST.fullmatch(line):
            continue
        match = _LINE.fullmatch(line)
        if match is None or match.group(1) is None:
            raise TomlError("line %d is no `key = value`: there are no tables in it" % number)
        if match.group(1) in found:
            raise TomlError("line %d sets %s once more" % (number, match.group(1)))
        found[match.group(1)] = _value(match.group(2), number)
    return found


def _value(text: str, number: int) -> Plain | list[Plain]:
    value: Plain | list[Plain]
    value, at = _items(text, number) if text.startswith("[") else _plain(text, 0, number)
    if not _REST.fullmatch(text, at):
        raise _wrong(number)
    return value


def _items(text: str, number: int) -> tuple[list[Plain], int]:
    values: list[Plain] = []
    at = _skip(text, 1)
    while text[at : at + 1] != "]":
        value, at = _plain(text, at, number)
        values.append(value)
        comma = _COMMA.match(text, at)
        at = _skip(text, at) if comma is None else comma.end()
        if comma is None and text[at : at + 1] != "]":
            raise _wrong(number)
    return values, at + 1


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    return at


def _plain(text: str, at: int, number: int) -> tuple[Plain, int]:
    match = _VALUE.match(text, at)
    if match is None or text.startswith(('"""', "'''"), at):
        raise _wrong(number)
    double, single, whole, fraction, word = match.groups()
    if double is not None:
        return re.sub(r"\\(.)", r"\1", double), match.end()
    if single is not None:
        return single, match.end()
    if word is not None:
        return word == "true", match.end()
    if len(whole.lstrip("-")) > _MOST_DIGITS:
        raise _wrong(number)
    return (int(whole) if fraction is None else float(whole + fraction)), match.end()


def _wrong(number: int) -> TomlError:
    return TomlError(
        'line %d has no value that is known here: write "text", a number, true, false, or [a list] in one line' % number
    )
