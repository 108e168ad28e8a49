"""The tables of docs/protocol.md, made from the code. `python -m tests.protocol_doc` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

from remoteio.execute import relay
from remoteio.wire import frames, fuse_abi

FILE = Path(__file__).parent.parent / "docs" / "protocol.md"


def tables() -> dict[str, str]:
    """The body of each generated part, by its name."""
    kinds = ["| kind | name | sent by | payload |", "| --- | --- | --- | --- |"]
    kinds += [f"| {n} | {name} | {who} | {what} |" for n, (name, who, what) in _rows()]
    by_relay = {fuse_abi.RELEASE, fuse_abi.RELEASEDIR}
    by_nobody = {*fuse_abi.NO_REPLY, fuse_abi.OPENED}
    columns = ("opcode", "operation", "fixed arguments", "names", "effect", "reply")
    operations = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for op, (name, size, names, changes) in sorted(fuse_abi.OPERATIONS.items()):
        reply = "none" if op in by_nobody else "by the relay" if op in by_relay else "by the export"
        operations.append(f"| {op} | {name} | {size} bytes | {names} | {changes} | {reply} |")
    limits = [
        "| what | value |",
        "| --- | --- |",
        f"| largest payload of a frame | {frames.MAX_PAYLOAD >> 20} MiB |",
        f"| largest read or write | {fuse_abi.MAX_WRITE >> 20} MiB |",
        f"| a frame is large, and waits behind small ones, from | {frames.LARGE >> 10} KiB |",
        f"| threads that read /dev/fuse | {relay.READERS} |",
        f"| FUSE version spoken | {fuse_abi.MAJOR}.31 to {fuse_abi.MAJOR}.{fuse_abi.MINOR} |",
    ]
    return {"kinds": "\n".join(kinds), "operations": "\n".join(operations), "limits": "\n".join(limits)}


def _rows() -> list[tuple[object, tuple[str, str, str]]]:
    """The kinds of frames, with those that are a range in one row."""
    extra = frames.EXTRA
    alone = [(n, row) for n, row in sorted(frames.KINDS.items()) if n not in extra]
    return [*alone, (f"{extra[0]} to {extra[-1]}", frames.KINDS[extra[0]])]


def filled(text: str, tables: dict[str, str]) -> str:
    """`text` with every generated part as `tables` has it: what stands between `<!-- NAME -->` and `<!-- end -->`."""
    for name, body in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.S)
        assert pattern.search(text), name
        text = pattern.sub(lambda found, body=body: found[1] + body + found[2], text)  # type: ignore[misc]
    return text


def render(text: str) -> str:
    """`text` with every generated part as the code has it."""
    return filled(text, tables())


if __name__ == "__main__":
    FILE.write_text(render(FILE.read_text()))
