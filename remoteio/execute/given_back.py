"""Execute side: requests that give back to the submit side what it made, or counted, for nobody. Pure. Shipped."""

from __future__ import annotations

from remoteio.wire import fuse_abi as abi

_ENTRY_OPS = (abi.LOOKUP, abi.MKNOD, abi.MKDIR, abi.SYMLINK, abi.LINK, abi.CREATE, abi.TMPFILE)


def of_reply(op: int, payload: bytes | memoryview) -> list[bytes]:
    """Give back what the submit side did for a request that nobody waits for any more; raises struct.error."""
    _, error, _ = abi.OUT_HEADER.unpack_from(payload)
    if error:
        return []
    body, found = memoryview(payload)[abi.OUT_HEADER.size :], []
    if op in _ENTRY_OPS:
        nodeid = abi.ENTRY.unpack_from(body)[0]
        if nodeid:
            found.append(abi.request(abi.FORGET, nodeid, abi.FORGET_IN.pack(1)))
        body = body[abi.ENTRY.size + abi.ATTR.size :]
    if op in (abi.OPEN, abi.OPENDIR, abi.CREATE, abi.TMPFILE):
        fh = abi.OPEN_OUT.unpack_from(body)[0]
        found.append(abi.request(abi.RELEASE, 0, abi.RELEASE_IN.pack(fh, 0, 0, 0)))
    return found


def of_entries(nodes: list[int]) -> bytes:
    """Give back a lookup of each of these nodes, which the kernel never got."""
    pairs = b"".join(abi.FORGET_ONE.pack(nodeid, 1) for nodeid in nodes)
    return abi.request(abi.BATCH_FORGET, 0, abi.BATCH_FORGET_IN.pack(len(nodes), 0) + pairs)
