"""X11 on the wire, as far as a display is asked for its idle time. Pure. Shipped: bare python3 >= 3.9.

Sources: X Window System Protocol 11 (connection setup, QueryExtension), saver.xml of xcb-proto (QueryInfo), Xau(3) for
authority files. xprintidle and libXss give the same number; neither is needed.
"""

from __future__ import annotations

import struct

REPLY = 32  # bytes of an answer, an event or an error, where no more is announced
_QUERY_EXTENSION, _QUERY_INFO = 98, 1


def cookies(data: bytes, display: str) -> list[bytes]:
    """Return the MIT-MAGIC-COOKIE-1 cookies for a display number in an authority file, but for what is malformed."""
    found: list[bytes] = []
    at = 0
    while at + 2 <= len(data):
        at += 2
        fields = []
        for _ in range(4):
            if at + 2 > len(data):
                return found
            (length,) = struct.unpack_from(">H", data, at)
            fields.append(data[at + 2 : at + 2 + length])
            at += 2 + length
        _address, number, name, cookie = fields
        if name == b"MIT-MAGIC-COOKIE-1" and number in (b"", display.encode()):
            found.append(cookie)
    return found


def setup_request(cookie: bytes) -> bytes:
    """Make the client's first bytes, little endian, protocol 11.0; no cookie: no authorization."""
    name = b"MIT-MAGIC-COOKIE-1" if cookie else b""
    lengths = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie))
    return lengths + name + bytes(-len(name) % 4) + cookie + bytes(-len(cookie) % 4)


def root_window(setup: bytes) -> int:
    """Read the first screen's root window, from the server's answer without its first 8 bytes."""
    (vendor,) = struct.unpack_from("<H", setup, 16)
    formats = setup[21]
    (root,) = struct.unpack_from("<I", setup, 32 + vendor + -vendor % 4 + 8 * formats)
    return int(root)


def query_extension(name: bytes) -> bytes:
    """Make the request for the major opcode of an extension."""
    padded = name + bytes(-len(name) % 4)
    return struct.pack("<BxHHxx", _QUERY_EXTENSION, 2 + len(padded) // 4, len(name)) + padded


def major_opcode(reply: bytes) -> int:
    """Read an extension's major opcode from the answer; 0: the server lacks it."""
    return reply[9] if reply[8] else 0


def query_info(screen_saver: int, window: int) -> bytes:
    """Make MIT-SCREEN-SAVER's request for the idle time; `screen_saver` is the extension's major opcode."""
    return struct.pack("<BBHI", screen_saver, _QUERY_INFO, 2, window)


def idle_seconds(reply: bytes) -> float:
    """Read the idle time from the answer to ``query_info``."""
    return float(struct.unpack_from("<I", reply, 16)[0] / 1000)
