"""The base of every failure a user can meet. It lies below everything else in this package but printable.py."""

from __future__ import annotations

from remoteio.printable import printable


class RexecError(Exception):
    """One sentence for the user: what failed, why, and what to do. It is shown as ``rexec: <text>``."""


class ProtocolError(Exception):
    """The other end sent what is not agreed: a clause that says what it sent, and what was due."""


class HostMisbehaves(RexecError):
    """A host said what no host of ours says: it alone is to blame, and only what it runs ends with it."""

    def __init__(self, host: str, what: object) -> None:
        super().__init__(f"{host} misbehaves: {what}")


def named(error: BaseException) -> str:
    """Tell of an exception in one line: its kind, where in rexec it was raised, and what it says."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = "" if at is None else f" at {at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}"
    return f"{type(error).__name__}{where} ({printable(str(error), 200)})"
