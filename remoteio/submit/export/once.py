"""Have what a job's kernel asked for done once, though the process that it asked was killed in between. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from remoteio.errors import RexecError
from remoteio.wire import fuse_abi as abi

# What may be done once more, though it may have been done: all that changes nothing, and what changes nothing twice. To
# set a size, by SETATTR or O_TRUNC, is not of these: it would cut off what others have added in between.
_AGAIN = frozenset(op for op, (_, _, _, changes) in abi.OPERATIONS.items() if changes == abi.READS) | {
    abi.OPEN, abi.WRITE,
}  # fmt: skip
_O_TRUNC, _O_APPEND = 0o1000, 0o2000  # asm-generic/fcntl.h
_NOT_AGAIN = {abi.OPEN: _O_TRUNC, abi.WRITE: _O_APPEND}  # but with these flags


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


def check_asked(asked: Iterable[Asked]) -> None:
    """Raise Unfit if something may have been done that must not be done twice, and nobody knows whether it was."""
    for each in asked:
        if each.op not in _AGAIN or each.flags & _NOT_AGAIN.get(each.op, 0):
            name = abi.OPERATIONS[each.op][0] if each.op in abi.OPERATIONS else str(each.op)
            raise Unfit(f"it had asked for a change ({name}) of which it is not known whether it was made")


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
