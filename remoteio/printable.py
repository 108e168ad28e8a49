"""Text of others, as it may be shown and logged."""

from __future__ import annotations

MOST = 1000  # characters


def printable(text: str, most: int | None = MOST) -> str:
    r"""Write what a terminal would obey, or cannot show, as escapes, and cut the text to `most` characters.

    Control characters (C0, C1) become ``\x1b``; surrogates, and what else has no picture of its own (line separators,
    direction marks), ``\udc80``. None: the whole text.
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(ord(letter)) for letter in text)


def _escaped(number: int) -> str:
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
