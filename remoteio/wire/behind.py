"""AFTER: requests in their order, where the job's kernel is answered before home has done them. Pure. Shipped.

::

    u64 number | u64 after | one FUSE request

A change that the relay has answered already has a number, from 1 on, each one more than the last; all else that is sent
while such a change is not known to be done has the number 0. `after` is the number of the change that must be done
before: of a numbered one, the one less. So home does the changes in the job's order, and nothing that came after a
change before it, in whatever order the frames arrive: large ones are overtaken by small ones.

Which files may be changed so is home's word, in bits of the reply to OPEN and CREATE that linux/fuse.h has no use for,
and the kernel is not told.
"""

from __future__ import annotations

import struct

from remoteio.errors import ProtocolError
from remoteio.wire import fuse_abi as abi
from remoteio.wire.makes import OPS

HEAD = struct.Struct("=QQ")
MAY_WRITE = 1 << 31  # among the flags of struct fuse_open_out: home has room for what is written by this handle
MAY_SET = 1 << 30  # and the file is the user's own: he may set its mode and times
MAY_OWN = 1 << 29  # and give it to whom it belongs already: its ids are shown as they are
BESIDE = 1 << 28  # it lies beside a file that is locked: what is written to it tells nobody that a lock was given up
WORDS = MAY_WRITE | MAY_SET | MAY_OWN | BESIDE

SAME, OTHERS = 1, 2
"""What the last word of the reply to a numbered write says: the file was as the job's last change left it, or others
had changed it since; 0: that is not known."""

WHOLE = b"the file"
"""Body of the reply to a SETLK or SETLKW: the whole file is locked, for writing, for who asked.

Nobody at home has it open. The kernel is not told; the relay locks and unlocks for that process of the job from then
on, until it tells home which locks there are, by a SETLK that is numbered for each.
"""

SAME_FILE = b"the same"
"""In place of WHOLE: nor has anybody else had it open, or changed it, since the job was last told so. So nobody can
have had a lock on it since, and what is known of files holds that a lock would else have told of."""

SAME_LARGE = b"the same, and large"
"""As SAME_FILE, of a file so large that it is not dropped, nor written out, where it is locked and unlocked."""

LOCKS = b"/"
"""In place of a name in a BREAK: somebody at home has opened that file, and the locks on it are home's again."""

CHANGES = frozenset((abi.WRITE, abi.SETATTR, abi.UNLINK, abi.RMDIR, abi.RENAME2, abi.SETLK, abi.OPEN)) | OPS
"""What may be answered before it is done."""

ROOM = 1024
"""Changes that are answered and not known to be done, at the most."""

ROOM_SIZE = 8 << 20
"""Bytes of those, at the most: three times what a link of 1 Gbit/s has under way over 20 ms, as home answers late."""

SMALL = 4096
"""Bytes of a request from which on it waits on the host for ROOM_SENT: signals, names and lines of a log do not."""

ROOM_SENT = 16 << 20
"""Bytes of requests that are not SMALL, in order and not answered by home, from which on the next one waits."""

MOST_HELD = 4096
"""Requests that wait at home for a change before them: as many as wait for locks. A program waits for each."""

MOST_HELD_BYTES = ROOM_SENT + MOST_HELD * SMALL + (4 << 20)
"""Bytes of those: what is SMALL beside ROOM_SENT, and the one with which each thread of the relay goes beyond it."""


def split(payload: bytes | memoryview) -> tuple[int, int, bytes | memoryview]:
    """Part the payload of an AFTER frame: its number, what it comes after, the request. Raises ProtocolError."""
    if len(payload) < HEAD.size + abi.ARGS:
        raise ProtocolError("a request in order has %d bytes, which is less than its header" % len(payload))
    number, after = HEAD.unpack_from(payload)
    if number and number != after + 1:
        raise ProtocolError("change %d comes after %d, and not after the one before" % (number, after))
    return number, after, payload[HEAD.size :]
