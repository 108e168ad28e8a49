"""What a job was refused of the files here, as it is told: refused.py makes it, which most runs need not read."""

from __future__ import annotations

from typing import Any, NamedTuple


class Told(NamedTuple):
    """`rows`, an object of --json-log each, and `sentences` for people."""

    rows: list[dict[str, Any]]
    sentences: list[str]


NOTHING = Told([], [])
