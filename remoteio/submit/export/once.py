"""Have what a job's kernel asked for done once, though the process that it asked was killed in between. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from remoteio.errors import RexecError
from remoteio.submit.export.doings import FAILED, OPEN, Doings
from remoteio.submit.export.reply import Frame
from remoteio.wire import fuse_abi as abi
from remoteio.wire.frames import FUSE

# What may be done once more, though it may have been done: all that changes nothing, and what changes nothing twice. To
# set a size, by SETATTR or O_TRUNC, is not of these: it would cut off what others have added in between.
_AGAIN = frozenset(op for op, (_, _, _, changes) in abi.OPERATIONS.items() if changes == abi.READS) | {
    abi.OPEN, abi.WRITE,
}  # fmt: skip
_O_TRUNC, _O_APPEND = 0o1000, 0o2000  # asm-generic/fcntl.h
_NOT_AGAIN = {abi.OPEN: _O_TRUNC, abi.WRITE: _O_APPEND}  # but with these flags
_FLAGS = {abi.OPEN: abi.ARGS, abi.WRITE: abi.ARGS + abi.WRITE_IN.size - 8}  # where these stand in the request
_WORD = struct.Struct("=I")
# What is answered with nothing, with how much was written, or with attributes, which are looked at again. Of the rest
# the answer tells of a node or a handle that the process before this one had made.
_ANSWERED_AGAIN = frozenset((
    abi.WRITE, abi.SETATTR, abi.SETXATTR, abi.REMOVEXATTR, abi.FALLOCATE, abi.UNLINK, abi.RMDIR, abi.RENAME,
    abi.RENAME2,
))  # fmt: skip


class Unfit(RexecError):
    """The job cannot be taken up where it runs: a clause that says why."""


class Opened(NamedTuple):
    """A handle that the job's kernel has: its number, of which node, and the flags with which it was opened."""

    number: int
    node: int
    flags: int


class Asked(NamedTuple):
    """A request that has no answer: its number, the operation, and the flags of an OPEN or a WRITE."""

    unique: int
    op: int
    flags: int


def matters(op: int, flags: int) -> bool:
    """Tell whether a request must not be done twice."""
    return op not in _AGAIN or bool(flags & _NOT_AGAIN.get(op, 0))


def noted(request: abi.Request) -> bool:
    """Tell whether it is noted that a request is done (``doings``): it must not be done twice."""
    at = _FLAGS.get(request.op)
    return matters(request.op, 0 if at is None else _WORD.unpack_from(request.raw, at)[0])


def check_asked(asked: Iterable[Asked], doings: Doings) -> None:
    """Raise Unfit if something may have been done that must not be done twice, and nobody knows whether it was.

    What is not noted in `doings` was not begun, as nobody is left who could begin it.
    """
    for each in asked:
        if matters(each.op, each.flags):
            how = doings.before.get(each.unique, OPEN if each.unique <= doings.unknown else None)
            if how is None or (how != OPEN and (how & FAILED or each.op in _ANSWERED_AGAIN)):
                continue
            name = abi.OPERATIONS[each.op][0] if each.op in abi.OPERATIONS else str(each.op)
            known = "whether it was made" if how == OPEN else "any more what it made"
            raise Unfit(f"it had asked for a change ({name}) of which it is not known {known}")


def how_done(op: int, answer: Frame | None) -> int:
    """Say for ``Doings.done`` how a request was done, from the frame that answers it; OPEN: it was not begun."""
    if answer is None:
        return OPEN
    kind, payload = answer[:2]
    if kind != FUSE:  # more than its own answer, which neither a failure is nor that of an append
        return OPEN if op == abi.WRITE else 0
    _, error, _ = abi.OUT_HEADER.unpack_from(payload)
    if error:
        return FAILED | -int(error)
    return int(abi.WRITE_OUT.unpack_from(payload, abi.OUT_HEADER.size)[0]) if op == abi.WRITE else 0


class Once:
    """Lets each request pass once, of those that are asked again and that a thread of the agent may send late as well.

    No kernel gives a number twice. Threads: the one that receives.
    """

    def __init__(self, uniques: Iterable[int]) -> None:
        self._came = dict.fromkeys(uniques, False)

    def again(self, raw: bytes | memoryview) -> bool:
        """Whether that request has come before."""
        if not self._came or len(raw) < abi.ARGS:
            return False
        unique = abi.IN_HEADER.unpack_from(raw)[2]
        came = self._came.get(unique)
        if came is False:
            self._came[unique] = True
        return bool(came)
