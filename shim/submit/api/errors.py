"""The failures that a program can tell apart. Each is a RexecError, whose text is a sentence for a person."""

from __future__ import annotations

from remoteio.errors import RexecError as RexecError  # the base of them all


class ArgumentError(RexecError, ValueError):
    """What was handed in is none of what is allowed; nothing has been done."""


class CannotStart(RexecError):
    """The host was reached, and the command could not be started, or was lost, there.

    code    the status that `rexec` ends with: 126 it cannot be executed, 127 it was not found, 125 all else
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class CommandFailed(RexecError):
    """A command ended with another status than 0, where `check` forbids that.

    returncode      its exit status, or -N where signal N ended it
    stdout, stderr  what it wrote, as far as that was kept
    """

    def __init__(self, what: str, returncode: int, stdout: bytes | None = None, stderr: bytes | None = None) -> None:
        how = f"was ended by signal {-returncode}" if returncode < 0 else f"ended with status {returncode}"
        super().__init__(f"{what} {how}")
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


class JobFailed(RexecError):
    """A job has no status of its own: it was lost, or could never be started. `code` as in CannotStart."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class JobStopped(RexecError):
    """A job has no supervisor, and will not end by itself: `restart` goes on from its last image."""


class RequestRefused(RexecError):
    """A job's supervisor could not do what it was asked; the job goes on as before."""


class WaitTimeout(RexecError, TimeoutError):
    """A job had not ended when the time was over; it goes on."""


class ImageError(RexecError):
    """A job's image is not there, or is damaged."""
