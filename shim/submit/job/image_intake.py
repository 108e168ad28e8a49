"""Submit side of one dump: the image as it arrives, into the store, to its commit. A thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from checkpoint.submit.job_images import StoreError
from checkpoint.submit.receiver import Receiver, committed
from checkpoint.submit.store import Store
from checkpoint.submit.transaction import Transaction
from checkpoint.wire.image_wire import AGAIN, FILES
from checkpoint.wire.manifest import ImageFile, Manifest

Describe = Callable[[int, bytes, tuple[ImageFile, ...]], Manifest]


class Intake:
    """One dump. `describe` (number, head, files) makes the manifest; `send` carries our answers; `took` is told of each
    payload's size once it has been dealt with.

    Afterwards `commits(manifest, bytes added)` is called before the other end is told, or `fails(error)`, whatever it
    is that went wrong: nothing does that ends more than this dump.
    """

    def __init__(
        self,
        store: Store,
        job: str,
        *,
        careful: bool,
        describe: Describe,
        send: Callable[[bytes], None],
        took: Callable[[int], None],
        commits: Callable[[Manifest, int], None],
        fails: Callable[[Exception], None],
        keep: int,
        besides: int,
        before: Intake | None,
    ) -> None:
        """`careful`: read back what the image takes from earlier ones, since nothing else of the job will be left; what
        is damaged on the disk is sent again.

        `keep`: images kept, once this is one of them, and the image `besides`. `before`: the intake that is waited for.
        """
        self._keep, self._besides, self._before = keep, besides, before
        self._store, self._job, self._careful = store, job, careful
        self._describe, self._send, self._took, self._commits, self._fails = describe, send, took, commits, fails
        self._queue: queue.SimpleQueue[bytes | memoryview | None] = queue.SimpleQueue()
        self._receiver: Receiver | None = None
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    def put(self, payload: bytes | memoryview) -> None:
        """Take one payload of the other end; never blocks, the window bounds what can be waiting."""
        self._queue.put(payload)

    def abort(self) -> None:
        """Give the dump up, if all of it is not here by now."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait until the dump is committed or given up."""
        self._thread.join()

    def progress(self) -> tuple[int, int, int]:
        """Return (bytes of the image dealt with, of how many, bytes that came over the link)."""
        receiver = self._receiver
        return (0, 0, 0) if receiver is None else (receiver.offered, receiver.size, receiver.received)

    def _run(self) -> None:
        if self._before is not None:
            self._before.join()
            self._before = None
        try:
            with self._store.begin(self._job) as transaction:
                done = self._receive(transaction)
        except Exception as error:  # the boundary: see Generation.serve
            self._fails(error)
            return
        if done:
            try:
                self._store.prune(self._job, self._keep, self._besides)
            except (StoreError, OSError):
                return  # the next one prunes, or `rexec images prune` says what is wrong

    def _receive(self, transaction: Transaction) -> bool:
        receiver = self._take_in(transaction)
        if receiver is not None and self._careful and (bad := transaction.damaged(receiver.files())):
            transaction.forget(bad)
            self._send(AGAIN)
            receiver = self._take_in(transaction)
        if receiver is None:
            return False
        manifest = self._describe(transaction.number, receiver.head, receiver.files())
        transaction.commit(manifest)
        self._commits(manifest, transaction.added)
        self._send(committed(manifest.digest))
        return True

    def _take_in(self, transaction: Transaction) -> Receiver | None:
        """All that is offered, or None: it is given up."""
        receiver = None
        while receiver is None or not receiver.complete:
            payload = self._queue.get()
            if payload is None:
                return None
            if receiver is None:
                if payload[:1] != FILES:
                    self._took(len(payload))
                    continue  # what was left of a dump that was given up
                receiver = self._receiver = Receiver(transaction)
            answers = receiver.receive(payload)
            self._took(len(payload))
            for answer in answers:
                self._send(answer)
        return receiver
