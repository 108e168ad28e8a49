"""Execute side: two changes of a file's mode, ids and times, one right after the other, as one. Pure. Shipped.

``tar`` and ``cp -p`` set these of each file by three calls. None of them is seen at home before the next, if they are
all answered before they have been sent.
"""

from __future__ import annotations

from remoteio.wire import fuse_abi as abi

_WHO = slice(24, 32)  # of a request: the ids of who asks
# bits of `valid`, and the fields of struct fuse_setattr_in that hold what they are for
_FIELDS = (
    (abi.FATTR_MODE, (11,)),
    (abi.FATTR_UID, (13,)),
    (abi.FATTR_GID, (14,)),
    (abi.FATTR_ATIME, (5, 8)),
    (abi.FATTR_MTIME, (6, 9)),
    (abi.FATTR_FH, (2,)),
)
_ALL = sum(bit for bit, _ in _FIELDS) | abi.FATTR_ATIME_NOW | abi.FATTR_MTIME_NOW | abi.FATTR_KILL_SUIDGID
# what is not so any more, once another of its kind is set
_UNSETS = ((abi.FATTR_ATIME, abi.FATTR_ATIME_NOW), (abi.FATTR_MTIME, abi.FATTR_MTIME_NOW))


def joined(first: bytes | memoryview, second: bytes | memoryview) -> bytes | None:
    """Return the SETATTR, with the number of the first, that does what the two do; None: they are not to be joined."""
    one, two = (list(abi.SETATTR_IN.unpack_from(each, abi.ARGS)) for each in (first, second))
    if (one[0] | two[0]) & ~_ALL or first[_WHO] != second[_WHO]:
        return None
    for bit, now in _UNSETS:
        if two[0] & bit:
            one[0] &= ~now
    one[0] |= two[0]
    for bit, fields in _FIELDS:
        if two[0] & bit:
            for at in fields:
                one[at] = two[at]
    return bytes(first[: abi.ARGS]) + abi.SETATTR_IN.pack(*one)
