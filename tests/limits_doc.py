"""The tables of limits in docs/limits.md, made from the code. `python -m tests.limits_doc` writes them anew."""

from __future__ import annotations

from pathlib import Path

from shim.submit.limits import TABLES
from tests.protocol_doc import filled

FILE = Path(__file__).parent.parent / "docs" / "limits.md"


def render(text: str) -> str:
    """`text` with the tables as the code has them."""
    head = ["| what | at most | when it is reached | enforced by |", "| --- | --- | --- | --- |"]
    made = {
        name: "\n".join([*head, *(f"| {row.what} | {row.value()} | {row.full} | `{row.by}` |" for row in rows)])
        for name, rows in TABLES.items()
    }
    return filled(text, made)


if __name__ == "__main__":
    FILE.write_text(render(FILE.read_text()))
