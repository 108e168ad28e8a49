"""Submit side of one dump: the image as it arrives, into the store, to its commit. A thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from checkpoint.accept import Receiver, committed
from checkpoint.conversation import FILES, ConversationError
from checkpoint.manifest import Manifest, ManifestError
from checkpoint.store import Store, StoreError
from checkpoint.manifest import ImageFile
from checkpoint.transaction import Transaction

Describe = Callable[[int, bytes, tuple[ImageFile, ...]], Manifest]


class Intake:
    """One dump. `describe` (number, head, files) makes the manifest; `send` carries our answers; `took` is told of each
    payload's size once it has been dealt with.

    Afterwards `commits(manifest, bytes added)` is called before the other end is told, or `fails(why)`.
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
        fails: Callable[[str], None],
    ) -> None:
        """`careful`: read the image back before it is committed, since nothing else of the job will be left."""
        self._store, self._job, self._careful = store, job, careful
        self._describe, self._send, self._took, self._commits, self._fails = describe, send, took, commits, fails
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._receiver: Receiver | None = None
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    def put(self, payload: bytes | memoryview) -> None:
        """One payload of the other end; never blocks, the window bounds what can be waiting."""
        self._queue.put(bytes(payload))

    def abort(self) -> None:
        """The dump is given up, if it is not committed by now; returns when that is settled."""
        self._queue.put(None)
        self._thread.join()

    def progress(self) -> tuple[int, int, int]:
        """(bytes of the image dealt with, of how many, bytes that came over the link)."""
        receiver = self._receiver
        return (0, 0, 0) if receiver is None else (receiver.offered, receiver.size, receiver.received)

    def _run(self) -> None:
        try:
            with self._store.begin(self._job) as transaction:
                self._receive(transaction)
        except (StoreError, ConversationError, ManifestError) as error:
            self._fails(str(error))

    def _receive(self, transaction: Transaction) -> None:
        receiver = None
        while True:
            payload = self._queue.get()
            if payload is None:
                return
            if receiver is None:
                if payload[:1] != FILES:
                    self._took(len(payload))
                    continue  # what was left of a dump that was given up
                receiver = self._receiver = Receiver(transaction)
            answers = receiver.receive(payload)
            self._took(len(payload))
            for answer in answers:
                self._send(answer)
            if receiver.complete:
                break
        files = receiver.files()
        if self._careful and transaction.damaged(files):
            raise StoreError(
                f"the images of job {self._job} are damaged on the disk: see `rexec images verify {self._job}`, and remove "
                f"them with `rexec images rm {self._job}`"
            )
        manifest = self._describe(transaction.number, receiver.head, files)
        transaction.commit(manifest)
        self._commits(manifest, transaction.added)
        self._send(committed(manifest.digest))
