"""Byte streams that a program other than ssh carries: what an engine has for an exec into its own job."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from remoteio.submit import programs
from remoteio.submit.transport.ssh import ProcessStream, spawn
from remoteio.submit.transport.stream import TransportError

# Ends with the program's status, and by SIGTERM has all end that the program has started: at that signal it takes away
# what it has written for the connection, keys and a control file. A program in the background has no input but by name.
_CARRIES = """
trap 'trap : TERM; kill 0' TERM
exec 3<&0
"$@" <&3 3<&- & exec 3<&-
wait $!; status=$?
kill -0 $! 2>/dev/null && { wait $!; status=$?; }
exit $status
"""


class ProgramStream(ProcessStream):
    """A stream that such a program carries, in a session of its own: what it starts ends with it, or with us.

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

    def _outlived(self) -> None:
        # condor_ssh_to_job's proxy spins for ever where its connection broke with something still to be written
        os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self) -> None:
        self._process.terminate()  # _CARRIES passes it on


def open_program(
    destination: str, argv: Sequence[str], refused: int, explain: Callable[[str], TransportError]
) -> ProgramStream:
    """Run `argv`, whose standard input and output are the stream. See ProgramStream. Raises TransportError."""
    setpriv = programs.find("setpriv")
    dies = [] if setpriv is None else [setpriv, "--pdeathsig", "TERM", "--"]
    carries = [*dies, "sh", "-c", _CARRIES, "sh", *argv]
    return ProgramStream(destination, *spawn(carries, session=True)).explained(refused, explain)
