"""What a job has cost on the host where it runs, told by that when somebody asks, and kept for the job's log."""

from __future__ import annotations

import threading
from collections.abc import Callable

from remoteio.wire import frames
from shim.submit.job.events import Kind
from shim.submit.spent import Spent, spent

_TOLD = frozenset((Kind.CHECKPOINT, Kind.EVICT, Kind.END, Kind.LOST, Kind.ABORT))


class Costs:
    """Keeps what the generation has cost that was the last to tell. Threads: any; `fields` is the supervisor's own."""

    def __init__(self) -> None:
        self._last: tuple[int, Spent] | None = None
        self._runs = 0  # the generation that the log is about; 0: whichever ran when this process began

    def told(self, generation: int, cost: Spent) -> None:
        """Take note of what that generation has cost by now."""
        self._last = generation, cost

    def fields(self, kind: Kind, generation: int) -> dict[str, object]:
        """Return what an event of that kind has to say of it in the log; `generation`: the latest."""
        if kind == Kind.EXECUTE:
            self._runs = generation
        last = self._last
        if last is None or kind not in _TOLD or self._runs not in (0, last[0]):
            return {}
        files = last[1].files
        carried = sum(share.carried for share in files.shares.values()) + files.ahead
        return {"cpu": round(last[1].cpu, 3), "waited": round(files.seconds, 3), "carried": carried}


class SpentSoFar:
    """Asks one host, by a frame; `told` is given what it says of itself or is asked for. Threads: any."""

    def __init__(self, send: Callable[[int], None], costs: Costs, generation: int) -> None:
        """`costs` is told what that generation has cost."""
        self._send, self._costs, self._generation = send, costs, generation
        self._changed = threading.Condition()
        self._last: Spent | None = None
        self._count = 0  # of what was told

    def want(self) -> None:
        """Ask, and wait for nothing."""
        self._send(frames.SPENT)

    def ask(self, within: float) -> Spent | None:
        """Return what the job has cost by now; None: the host has not said so within that many seconds."""
        with self._changed:
            before = self._count
        self.want()
        with self._changed:
            return self._last if self._changed.wait_for(lambda: self._count > before, within) else None

    def told(self, payload: bytes | memoryview) -> None:
        """Take the payload of a SPENT frame. Raises ProtocolError."""
        last = spent(payload)
        self._costs.told(self._generation, last)
        with self._changed:
            self._last, self._count = last, self._count + 1
            self._changed.notify_all()
