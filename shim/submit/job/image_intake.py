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
from remoteio.submit.export.room import left_free

_FULL = "it would take the last free space (1 GiB, or 5 %): free some, or remove images with `rexec images prune`, in"
UNTRIED = 2  # images left at least while nobody has seen one of them restored

Describe = Callable[[int, bytes, tuple[ImageFile, ...]], Manifest]


def images_left(keep: int, restored: int) -> int:
    """Tell how many of the newest images stay beside the one that was `restored` last; 0: none was.

    An image stays until a newer one has been restored: beside what is only known to be written there is another.
    """
    return keep if restored else max(keep, UNTRIED)


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
        restored: int,
        before: Intake | None,
    ) -> None:
        """`careful`: read back what the image takes from earlier ones, since nothing else of the job will be left; what
        is damaged on the disk is sent again.

        `keep`: images kept, once this is one of them, and the one that was `restored` last (images_left). `before`: the
        intake that is waited for.
        """
        self._left, self._before = (images_left(keep, restored), restored), before
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
                self._store.prune(self._job, *self._left)
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
        room = left_free(transaction.directory.fd)
        while receiver is None or not receiver.complete:
            payload = self._queue.get()
            if payload is None:
                return None
            if receiver is None:
                if payload[:1] != FILES:
                    self._took(len(payload))
                    continue  # what was left of a dump that was given up
                receiver = self._receiver = Receiver(transaction)
            if receiver.received + len(payload) > room:
                job = transaction.directory.job
                raise StoreError(f"the image of job {job} was not saved, because {_FULL} {transaction.directory.path}")
            answers = receiver.receive(payload)
            self._took(len(payload))
            for answer in answers:
                self._send(answer)
        return receiver
