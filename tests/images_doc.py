"""The table of messages in docs/images.md, made from the code. `python -m tests.images_doc` writes it anew."""

from __future__ import annotations

from pathlib import Path

from checkpoint.wire.image_wire import MESSAGES
from tests.protocol_doc import filled

FILE = Path(__file__).parent.parent / "docs" / "images.md"


def render(text: str) -> str:
    """`text` with the table as the code has it."""
    rows = ["| from | message | fields |", "|---|---|---|"]
    rows += [f"| {who} | `{letter.decode()}` {name} | {fields} |" for letter, (name, who, fields) in MESSAGES.items()]
    return filled(text, {"messages": "\n".join(rows)})


if __name__ == "__main__":
    FILE.write_text(render(FILE.read_text()))
