"""Protobuf's wire format, as CRIU writes its messages and images in it. Pure; shipped.

Source: protobuf.dev/programming-guides/encoding. A message is a row of records, each a tag and a value. The tag is a
varint, number << 3 | wire type: the field's number, its name being known to the .proto file only, and how the value is
laid out, so that a reader can pass over a field that it does not know. A varint has seven bits a byte, the lowest
first, the top bit saying that more follow. Of a field that is not repeated the last record counts; one that is missing
has its default. A negative int32 is written as the 64 bits of its two's complement.
"""

from __future__ import annotations

from checkpoint.errors import CheckpointError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Fields = dict[int, list["int | bytes"]]

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5  # wire types; 3 and 4, a group's ends, are not written since proto2
_ALL_BITS = (1 << 64) - 1


class ProtobufError(CheckpointError):
    """The bytes are no message; the text is the rest of a sentence about it: "is cut short"."""


def encode(fields: Iterable[tuple[int, int | bool | str | bytes]]) -> bytes:
    """Write a message of (number, value): integers and booleans as varints, str and bytes with their length."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            _put(out, number << 3 | _VARINT)
            _put(out, value & _ALL_BITS)
        else:
            raw = value.encode() if isinstance(value, str) else value
            _put(out, number << 3 | _LEN)
            _put(out, len(raw))
            out += raw
    return bytes(out)


def decode(raw: bytes) -> Fields:
    """Read a message as {number: values in their order}; a varint is an int, all else bytes. Raises ProtobufError.

    A message within it is among the bytes: whether they are one, only the .proto file says.
    """
    fields: Fields = {}
    for number, value, _ in _records(raw):
        fields.setdefault(number, []).append(value)
    return fields


def records(raw: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """Yield (number, value, the bytes of both) of each record, to write a message anew. Raises ProtobufError."""
    start = 0
    for number, value, end in _records(raw):
        yield number, value, raw[start:end]
        start = end


def _records(raw: bytes) -> Iterator[tuple[int, int | bytes, int]]:
    at = 0
    while at < len(raw):
        tag = raw[at]
        if tag < 0x80:  # as nearly all are: a long pagemap has a hundred thousand
            at += 1
        else:
            tag, at = _take(raw, at)
        kind = tag & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _take(raw, at)
        else:
            if kind == _LEN:
                size, at = _take(raw, at)
            elif kind in (_I64, _I32):
                size = 8 if kind == _I64 else 4
            else:
                raise ProtobufError(f"has a field of the unknown wire type {kind}")
            value = raw[at : at + size]
            if len(value) != size:
                raise ProtobufError("is cut short")
            at += size
        yield tag >> 3, value, at


def integer(fields: Fields, number: int) -> int | None:
    """Read a field that is a varint; None if it is missing, or is none."""
    value = fields[number][-1] if number in fields else None
    return value if isinstance(value, int) else None


def content(fields: Fields, number: int) -> bytes:
    """Read a field that is a text, a message or bytes; b"" if it is missing, or is none of these."""
    value = fields[number][-1] if number in fields else b""
    return value if isinstance(value, bytes) else b""


def _put(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _take(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(raw):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _ALL_BITS, at
        shift += 7
        if shift == 70:
            raise ProtobufError("has a number of more than 64 bits")
    raise ProtobufError("is cut short")
