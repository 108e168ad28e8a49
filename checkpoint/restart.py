"""Going on from an image: its files into the spool, then criu's restore up to the gate. Shipped; no shim."""

from __future__ import annotations

import os
import socket

from checkpoint import criu
from checkpoint.collect import Collector
from checkpoint.dump import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CONVERSE_S = 600  # for a hung criu, and for the permission to go on


class RestartError(Exception):
    """One sentence: why the image could not be restored here; nothing of it runs."""


class Arriving:
    """The spool as the image's files come."""

    def __init__(self, spool: str) -> None:
        self._directory = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._collector = Collector(self._directory)
        self.complete = False

    def receive(self, payload: bytes | memoryview) -> None:
        """Takes one payload of the store. Raises ConversationError, OSError."""
        self._collector.receive(payload)
        if self._collector.complete:
            self._collector.close()
            os.close(self._directory)
            self.complete = True


def keys(pipes: dict[int, int], tty: tuple[int, int] | None) -> dict[int, str]:
    """How criu knows what the tree held from outside: {number the job knew it under (-1: its terminal): key}.

    `pipes`: {number: inode of the old pipe}; `tty`: st_rdev and st_dev of the old terminal.
    """
    found = {number: criu.pipe_key(inode) for number, inode in pipes.items()}
    if tty is not None:
        found[-1] = criu.tty_key(*tty)
    return found


def restore(sock: socket.socket, request: bytes, spool: str, kept: str, gate: Callable[[], bool]) -> int:
    """Run criu's restore; the root's pid. `gate` decides, when all is built and nothing runs.

    `kept`: where criu's log goes if it fails. Raises RestartError.
    """
    open_gate: list[bool] = []

    def notified(told: criu.Answer) -> bool:
        if told.script != "post-restore":
            return True
        open_gate.append(gate())
        return open_gate[0]

    sock.settimeout(CONVERSE_S)
    try:
        answer = criu.converse(sock, request, notified)
    except (criu.CriuError, OSError) as e:
        raise RestartError(failure("the restart", spool, kept)) from e
    if open_gate == [False]:
        raise RestartError("the job may not go on here: it goes on elsewhere")
    if not answer.success:
        raise RestartError(failure("the restart", spool, kept))
    return answer.pid
