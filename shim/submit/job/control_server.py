"""Those who have something to ask of a job's supervisor, or look on, over its control socket."""

from __future__ import annotations

import queue
import threading
from typing import Protocol

from remoteio.wire import frames
from shim.submit import spent
from shim.submit.job import placement_events
from shim.submit.job.attached_client import Attached
from shim.submit.job.control_socket import Connection
from shim.submit.job.generation import Generation
from shim.submit.job.home import JobHome
from shim.submit.job.placement_events import State
from shim.submit.job.record import Record

_TELL = 0.25  # seconds between words of progress
_HEARD = 10.0  # seconds for which a host is waited for that is asked something


class Subject(Protocol):
    """What the callers of a job need of its supervisor, by any thread."""

    record: Record
    """Its record as of now."""

    state: State
    """Where it is, as of now."""

    home: JobHome
    """Its streams, which those who are attached read and write."""

    def tell(self, event: placement_events.Event) -> None:
        """Give it an event to deal with."""

    def generation(self) -> Generation | None:
        """Return the generation that runs, if one does."""

    def progress(self) -> tuple[int, int, int] | None:
        """Tell how far the image that comes is, as Intake.progress has it."""

    def force(self) -> None:
        """Have its next restart forced."""


class Callers:
    """All of them, each in a thread of its own."""

    def __init__(self, subject: Subject) -> None:
        self._job = subject
        self._tokens = 0
        self._asked: dict[int, queue.SimpleQueue[tuple[bool, str]]] = {}
        self._fewer = threading.Condition()
        self._attached: list[Attached] = []
        self._asking = 0  # who waits for an answer
        self._begun = threading.Event()
        self._taken, self._whence = False, ""

    def handle(self, request: dict[str, object], connection: Connection) -> None:
        """Handle one request, to its end."""
        what = str(request.get("do"))
        if what == "attach":
            self._attach(connection)
        elif what == "whence":
            self._begun.wait()
            connection.say(done=bool(self._whence), text=self._whence, taken=self._taken)
        elif what == "stat":
            self._stat(connection)
        elif what in ("checkpoint", "vacate", "hold", "release", "kill"):
            if what == "release" and request.get("force"):
                self._job.force()
            self._ask(what, str(request.get("host", "")), connection)
        else:
            connection.say(done=False, text=f"there is no request {what!r:.40}")

    def begins(self, taken: bool, whence: str) -> None:
        """Tell whoever asks from where the job goes on: as a clause, and whether that is where it runs.

        Once for all; empty: this process ended before.
        """
        if not self._begun.is_set():
            self._taken, self._whence = taken, whence
            self._begun.set()

    def answer(self, token: int, done: bool, text: str) -> None:
        """Answer whoever asked with that token."""
        with self._fewer:
            asked = self._asked.pop(token, None)
        if asked is not None:
            asked.put((done, text))

    def end(self, kind: int, payload: bytes) -> None:
        """Tell all who are attached the job's end, as a frame."""
        with self._fewer:
            attached = list(self._attached)
        for client in attached:
            client.end(kind, payload)

    def await_gone(self, timeout: float) -> None:
        """Wait until all have taken what was said last."""
        with self._fewer:
            self._fewer.wait_for(lambda: not self._attached and not self._asking, timeout)

    def _ask(self, what: str, host: str, connection: Connection) -> None:
        answer: queue.SimpleQueue[tuple[bool, str]] = queue.SimpleQueue()
        with self._fewer:
            self._tokens += 1
            token = self._tokens
            self._asked[token] = answer
            self._asking += 1
        self._job.tell(placement_events.Ask(what, token, host))
        try:
            self._await_answer(what, answer, connection)
        finally:
            with self._fewer:
                self._asking -= 1
                self._fewer.notify_all()

    def _await_answer(self, what: str, answer: queue.SimpleQueue[tuple[bool, str]], connection: Connection) -> None:
        while True:
            try:
                done, text = answer.get(timeout=_TELL)
            except queue.Empty:
                progress = self._job.progress()
                if progress is not None and what in ("checkpoint", "vacate", "hold"):
                    connection.say(progress=progress)
                continue
            connection.say(done=done, text=text)
            return

    def _stat(self, connection: Connection) -> None:
        generation = self._job.generation()
        if generation is None or not generation.runs:
            connection.say(done=False, text="the job is on no host")
            return
        cost = generation.spent.ask(_HEARD)
        if cost is None:
            connection.say(done=False, text=f"{generation.host} does not answer")
            return
        connection.say(done=True, text="", host=generation.host, cost=spent.row(cost))

    def _attach(self, connection: Connection) -> None:
        job, state = self._job, self._job.state
        if state.result is not None:
            connection.say(done=False, text="the job has ended")
            return
        client = Attached(connection, job.home.outputs, job.home.input, self._forward)
        connection.say(done=True, text="", tty=bool(job.record.tty), phase=str(state.phase), why=state.why)
        with self._fewer:
            self._attached.append(client)
        try:
            client.serve()
        finally:
            with self._fewer:
                self._attached.remove(client)
                self._fewer.notify_all()

    def _forward(self, kind: int, payload: bytes) -> None:
        generation = self._job.generation()
        if generation is not None and kind == frames.SIGNAL:
            generation.signal(payload[0])
        elif generation is not None:
            generation.resize(payload)
