"""Execute side: requests that give back to the submit side what it made, or counted, for nobody. Pure. Shipped."""

from __future__ import annotations

from remoteio.wire import fuse_abi as abi

_ENTRY_OPS = (abi.LOOKUP, abi.MKNOD, abi.MKDIR, abi.SYMLINK, abi.LINK, abi.CREATE, abi.TMPFILE)


def of_reply(op: int, payload: bytes | memoryview) -> tuple[int, bytes]:
    """Tell what the submit side did for a request that nobody waits for any more; raises struct.error.

    The node of which it has counted a lookup, 0: none; and the request that closes what it has opened, empty: nothing.
    """
    nodeid, release = 0, b""
    _, error, _ = abi.OUT_HEADER.unpack_from(payload)
    if not error:
        body = memoryview(payload)[abi.OUT_HEADER.size :]
        if op in _ENTRY_OPS:
            nodeid = abi.ENTRY.unpack_from(body)[0]
            body = body[abi.ENTRY.size + abi.ATTR.size :]
        if op in (abi.OPEN, abi.OPENDIR, abi.CREATE, abi.TMPFILE):
            fh = abi.OPEN_OUT.unpack_from(body)[0]
            release = of_handle(fh)
    return nodeid, release


def of_handle(fh: int) -> bytes:
    """Close what has that handle."""
    return abi.request(abi.RELEASE, 0, abi.RELEASE_IN.pack(fh, 0, 0, 0))


def lookups(op: int, nodeid: int, raw: bytes) -> list[tuple[int, int]]:
    """Read which nodes the kernel gives back by a FORGET or BATCH_FORGET, and how many lookups of each."""
    if op == abi.FORGET:
        return [(nodeid, abi.FORGET_IN.unpack_from(raw, abi.ARGS)[0])]
    pairs = raw[abi.ARGS + abi.BATCH_FORGET_IN.size :]
    return list(abi.FORGET_ONE.iter_unpack(pairs[: len(pairs) // abi.FORGET_ONE.size * abi.FORGET_ONE.size]))


def of_lookups(pairs: list[tuple[int, int]]) -> bytes:
    """Give back so many lookups of each of these nodes."""
    if len(pairs) == 1:
        return abi.request(abi.FORGET, pairs[0][0], abi.FORGET_IN.pack(pairs[0][1]))
    body = b"".join(abi.FORGET_ONE.pack(*pair) for pair in pairs)
    return abi.request(abi.BATCH_FORGET, 0, abi.BATCH_FORGET_IN.pack(len(pairs), 0) + body)
