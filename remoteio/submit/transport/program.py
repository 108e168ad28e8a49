"""Byte streams that a program other than ssh carries: what an engine has for an exec into its own job."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

from remoteio.submit import programs
from remoteio.submit.transport.ssh import ProcessStream, spawn
from remoteio.submit.transport.stream import TransportError


class ProgramStream(ProcessStream):
    """A stream that such a program carries, in a session of its own: what it starts ends with it.

    The thread that opened it has to live as long as the stream, as with ssh (ProcessStream).
    """

    _explain: Callable[[str], TransportError]
    _refused = 0

    def explained(self, refused: int, explain: Callable[[str], TransportError]) -> ProgramStream:
        """Have its failures told by `explain`, from what was said. `refused`: the status that says it got nowhere."""
        self._refused, self._explain = refused, explain
        return self

    def wait(self, timeout: float | None) -> int | None:
        status = super().wait(timeout)
        return 255 if status == self._refused else status

    def failure(self) -> TransportError:
        self.wait(1.0)
        return self._explain(self.stderr_tail())

    def _end(self) -> None:
        # by the signal at which it takes away what it has written for the connection: keys, a control file
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)


def open_program(
    destination: str, argv: Sequence[str], refused: int, explain: Callable[[str], TransportError]
) -> ProgramStream:
    """Run `argv`, whose standard input and output are the stream. See ProgramStream. Raises TransportError."""
    setpriv = programs.find("setpriv")
    if setpriv is not None:
        argv = [setpriv, "--pdeathsig", "TERM", "--", *argv]
    return ProgramStream(destination, *spawn(list(argv), session=True)).explained(refused, explain)
