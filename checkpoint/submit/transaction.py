"""Adding one image to a job's store: chunks as they arrive, then the commit.

Which files there may be when it is killed, and why each is right, is told in checkpoint/submit/store.py. What this
module adds to it: the manifest is written last, by JobDirectory.write_manifest, after every pack and their names in
the directory are durable (`finish`) and after every chunk that it names has been found (`commit`). So at any moment
before the rename there is no new image, and after it there is a whole one.

Whoever sends the chunks is not trusted: a chunk is compared with its hash before it is written, and what the manifest
needs is looked up in the store itself, not in what the sender says that it has sent.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Self

from checkpoint.submit.job_images import JobDirectory, Point, StoreError, disk_error
from checkpoint.submit.known_chunks import KnownChunks
from checkpoint.submit.pack_queue import THREADS, PackQueue, Patch
from checkpoint.submit.packs import PackError, PackReader
from checkpoint.wire.manifest import ENTRY, ImageFile, Manifest


class Transaction:
    """One image being added; alone among writers. Use `with`: unless committed, no image is added, but the chunks
    that arrived are kept for the next attempt until `prune`.

    Every method raises StoreError: the disk is broken, or full (then what was written is removed), or a chunk did not
    match its hash.

    directory   the job's, which is closed at the end
    number      of the image
    previous    the manifest of the image before it; None: there is none, or it is damaged

    Threads: all methods are called by one thread. It has a pool of its own, for hashing, compressing and fsync(2).
    """

    def __init__(self, directory: JobDirectory, at: Point) -> None:
        self.directory = directory
        self.number = 0
        self.previous: Manifest | None = None
        self._at = at
        self._committed = False
        self._cleanup = ExitStack()
        self._queue: PackQueue
        self._known: KnownChunks

    def __enter__(self) -> Self:
        try:
            with ExitStack() as cleanup:
                cleanup.callback(self.directory.close)
                cleanup.enter_context(self.directory.writing())
                reader = PackReader(self.directory.fd)
                cleanup.callback(reader.close)
                # One thread more than work for hashing: it waits in fsync while packs are sealed. All have ended when
                # the descriptors that they use are closed.
                pool = ThreadPoolExecutor(THREADS + 1, thread_name_prefix="rexec-store")
                cleanup.callback(pool.shutdown, cancel_futures=True)
                self.number = max(self.directory.numbers(), default=0) + 1
                self.previous = self._load_previous()
                self._queue = PackQueue(self.directory.fd, self.directory.job, reader, pool)
                self._known = KnownChunks(reader, self.previous, pool)
                self._cleanup = cleanup.pop_all()
        except OSError as error:
            raise self._refused(error) from error  # nothing has been written yet
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._cleanup:
            if not isinstance(error, StoreError):
                # What has arrived need not come again. The image is lost anyway: a disk that refuses adds nothing.
                with suppress(StoreError), self._on_disk():
                    self._queue.write_all()
            self._queue.close()

    def _load_previous(self) -> Manifest | None:
        if self.number == 1:
            return None
        try:
            return self.directory.manifest(self.number - 1)
        except StoreError:
            return None  # damaged: nothing to compare with, so the new image is stored whole, which mends it

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"the image of job {self.directory.job} was not saved, because {disk_error(self.directory.path, error)}"
        )

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Say in a StoreError what the disk refuses meanwhile; where it is full, give its space back first."""
        try:
            yield
        except PackError as error:
            raise StoreError(f"image {self.number - 1} of job {self.directory.job} is damaged: {error}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and not self._committed:
                self._give_space_back()
            raise self._refused(error) from error

    def _give_space_back(self) -> None:
        """Remove what was written, unless the manifest has got its name: then the image needs it."""
        if self.number in self.directory.numbers():
            return
        for name in os.listdir(self.directory.fd):
            if name.endswith(".tmp"):
                os.unlink(name, dir_fd=self.directory.fd)
        self._queue.remove()

    def check(self) -> None:
        """Assert what holds whenever no method is running."""
        self._queue.check()
        assert self.number > 0 and (self.previous is None or self.previous.number == self.number - 1)
        assert not self._committed or self._queue.sealed, "an image was committed before its chunks were durable"

    @property
    def added(self) -> int:
        """Bytes written to packs."""
        return self._queue.added

    def forget(self, digests: Sequence[bytes]) -> None:
        """Take damaged chunks as lacking, so that they are asked for, and stored whole, again."""
        self._known.forget(digests)

    def damaged(self, files: Sequence[ImageFile]) -> list[bytes]:
        """Find the chunks that an image about to be committed has from earlier ones and that cannot be read back:
        `forget` them and let the sender offer all again."""
        with self._on_disk():
            return self._known.damaged(files)

    def has(self, digest: bytes) -> bool:
        """Tell whether the chunk is stored, or has been put."""
        try:
            return self._known.has(digest)
        except OSError as error:  # not by _on_disk: nothing is written, and this is asked of each chunk
            raise self._refused(error) from error

    def base(self, origin: str, key: int) -> bytes | None:
        """Find the hash of what the previous image has at this place, if it can be compared with."""
        return self._known.base(origin, key)

    def base_pages(self, digests: list[bytes]) -> list[list[bytes]]:
        """Hash the pages of stored chunks; none for a chunk that cannot be read."""
        with self._on_disk():
            return self._known.pages(digests)

    def put(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        """Store (hash, bytes) of whole chunks. They are checked and written a little later."""
        for digest, _ in chunks:
            self._known.add(digest)
        with self._on_disk():
            self._queue.put(chunks, [])

    def put_patches(self, patches: list[Patch]) -> None:
        """Store chunks of which only some pages came."""
        for patch in patches:
            self._known.add(patch.hash)
        with self._on_disk():
            self._queue.put([], [(patch, self._known.forgotten(patch.hash)) for patch in patches])

    def finish(self) -> None:
        """Have all chunks on the disk, durably."""
        with self._on_disk():
            self._queue.seal_all(self._at)
        self.check()

    def commit(self, manifest: Manifest) -> None:
        """Make `manifest` the job's latest image, durably. Its number must be `number` of this transaction."""
        job = self.directory.job
        if (manifest.job, manifest.number) != (job, self.number):
            raise StoreError(f"image {manifest.number} of job {manifest.job} is not image {self.number} of job {job}")
        if self.previous is not None and manifest.generation < self.previous.generation:
            raise StoreError(
                f"the image of job {job} was refused, because generation {manifest.generation} of the job is over: "
                f"generation {self.previous.generation} runs now"
            )
        self.finish()
        for file in manifest.files:
            if not all(self.has(digest) for _, _, digest in ENTRY.iter_unpack(file.table)):
                raise StoreError(f"the image of job {job} was not saved, because chunks of {file.name} are missing")
        self._at("packs durable")
        with self._on_disk():
            self.directory.write_manifest(manifest, self._at)
        self._committed = True
        self.check()
