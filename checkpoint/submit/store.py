"""The image store on the submit machine: the images of each job, kept, read, verified, pruned.

The one invariant. **An image is there, by its file `N.image`, only while every chunk that it names can be rebuilt from
the packs (`N.pack`) beside it.** Nothing is written in place, and no file says of others that they are complete: what
is on the disk is the state. So whoever writes can be killed (kill -9, a power cut) at any point, and what it leaves is
one of these, each right as it is:

=====================================  =================================================================================
killed                                 what is there, and what becomes of it
=====================================  =================================================================================
while a pack is written                `N.part`, which nothing refers to. The next writer seals the records that are
                                       whole, and unlinks the rest: they need not be sent again
after it was sealed, before the        packs that no image needs, or that one needs in part. They count as stored only
manifest                               once they have been read back (KnownChunks.has): a patch may refer to what a
                                       prune removed. The next prune removes what is still not needed
while the manifest is written          `N.tmp`, which the next writer unlinks; the packs as above
after the rename to `N.image`, before  after a power cut the old latest image or the new one, whole: the packs and their
the directory is synced                names were durable before. COMMITTED has not been said, so the job has not left
later                                  the new image
in a prune, after some `N.image` were  the images that stay, untouched, and packs that nothing needs. The next prune
unlinked                               starts anew from the manifests there are
in a prune, after a pack was copied    the chunks that are needed twice: the same bytes by the same hash, of which the
                                       newer counts. The copy is durable before the old pack is unlinked
in `rm` of a job                       packs without an image, never an image without packs: the manifests go first
=====================================  =================================================================================

Side by side. Writers (a transaction, rm, prune) exclude one another by `writer.lock`; the kernel lets go of it when
its holder dies. Readers take no part in that: an image is opened, manifest and packs, under a shared `reader.lock`
that only unlinking takes exclusively, and what is open can be read after it was unlinked. A job's directory shares
nothing with another's.

Not taken (docs/decisions/image-store.md has figures): a database, which would have to be repaired after a power cut
beside files that are consistent by themselves; counts of references, which a kill leaves wrong; one file a chunk, whose
names cost more than they hold; one store for all jobs, in which every writer waits for every other.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from checkpoint.submit import xdg
from checkpoint.submit.job_images import JobDirectory, Point, StoreError, disk_error
from checkpoint.submit.packs import PackError, PackReader, PackWriter, pack_numbers
from checkpoint.submit.read_back import GROUP, checked_chunk, damaged, sound_chunk
from checkpoint.submit.transaction import Transaction
from checkpoint.wire.manifest import ImageFile, Manifest, ManifestError, check_name

_THREADS = 2
_AHEAD = 4  # groups being read


def default_root() -> Path:
    """Name the store of this user: `$XDG_STATE_HOME/rexec/images`, by default under `~/.local/state`."""
    return xdg.state() / "images"


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image as `rexec images` lists it; `damage` says why it cannot be used, None if its manifest is whole."""

    job: str
    number: int
    manifest: Manifest | None
    damage: str | None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune removed: image numbers, and bytes given back to the disk."""

    images: tuple[int, ...]
    freed: int


class Image:
    """One committed image, open for reading; can be read even while it is being pruned. Use `with`."""

    def __init__(self, manifest: Manifest, packs: PackReader) -> None:
        self.manifest = manifest
        self._packs = packs
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="rexec-image")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._packs.close()

    def file(self, name: str) -> ImageFile:
        """Find one of its files by name. Raises StoreError if there is none."""
        for file in self.manifest.files:
            if file.name == name:
                return file
        raise StoreError(f"image {self.manifest.number} of job {self.manifest.job} has no file {name}")

    def _group(self, group: list[tuple[int, int, bytes]]) -> list[bytes]:
        # Whoever gets them compares the hashes again.
        return [sound_chunk(self._packs, length, digest) for _, length, digest in group]

    def read_file(self, name: str) -> Iterator[bytes]:
        """Yield the chunks of one of CRIU's files, in order, checked. Raises StoreError."""
        chunks = self.file(name).chunks()
        ahead: deque[Future[list[bytes]]] = deque()
        try:
            for start in range(0, len(chunks), GROUP):
                if len(ahead) == _AHEAD:
                    yield from ahead.popleft().result()
                ahead.append(self._pool.submit(self._group, chunks[start : start + GROUP]))
            while ahead:
                yield from ahead.popleft().result()
        except (PackError, OSError) as error:
            raise StoreError(
                f"image {self.manifest.number} of job {self.manifest.job} cannot be used, because {name} is damaged "
                f"({error}): restart from another image"
            ) from error

    def damaged(self) -> dict[bytes, str]:
        """Map the hash of each chunk that cannot be read back to the name of a file it belongs to."""
        chunks = {digest: (length, file.name) for file in self.manifest.files for _, length, digest in file.chunks()}
        lengths = {digest: length for digest, (length, _) in chunks.items()}
        return {digest: chunks[digest][1] for digest in damaged(self._packs, self._pool, lengths, checked_chunk)}


class Store:
    """All jobs' images under one directory (mode 0700; files 0600). Every method raises StoreError."""

    def __init__(self, root: Path | None = None, at: Point = lambda point: None, patience: float = 0.0) -> None:
        self.root = root if root is not None else default_root()
        self._at = at
        self._patience = patience

    def _directory(self, job: str, create: bool = False) -> JobDirectory:
        try:
            return JobDirectory(self.root / check_name(job), job, create, self._patience)
        except ManifestError as error:
            raise StoreError(f"there is no job {job!r:.80}: {error}") from None

    def _failed(self, job: str, error: OSError) -> StoreError:
        return StoreError(f"the images of job {job} cannot be used: {disk_error(self.root / job, error)}")

    def jobs(self) -> list[str]:
        """List the jobs that have images, by name."""
        try:
            return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        except FileNotFoundError:
            return []

    def numbers(self, job: str) -> list[int]:
        """List the numbers of a job's images, oldest first."""
        directory = self._directory(job)
        try:
            return directory.numbers()
        finally:
            directory.close()

    def images(self, job: str) -> list[ListedImage]:
        """List the images of a job, oldest first."""
        directory = self._directory(job)
        kept = []
        try:
            for number in directory.numbers():
                try:
                    kept.append(ListedImage(job, number, directory.manifest(number), None))
                except StoreError as error:
                    kept.append(ListedImage(job, number, None, str(error)))
        finally:
            directory.close()
        return kept

    def latest(self, job: str) -> Manifest | None:
        """Read the manifest of the job's latest image; None if it has none."""
        if job not in self.jobs():
            return None
        directory = self._directory(job)
        try:
            numbers = directory.numbers()
            return directory.manifest(numbers[-1]) if numbers else None
        finally:
            directory.close()

    def begin(self, job: str) -> Transaction:
        """Begin a new image of `job`, to be entered with `with`; StoreBusy if another writer is at it."""
        return Transaction(self._directory(job, create=True), self._at)

    def open(self, job: str, number: int | None = None) -> Image:
        """Open image `number` of `job`, by default the latest."""
        directory = self._directory(job)
        try:
            with directory.reading():
                if number is None:
                    number = max(directory.numbers(), default=0)
                return Image(directory.manifest(number), PackReader(directory.fd))
        except OSError as error:
            raise self._failed(job, error) from error
        finally:
            directory.close()

    def verify(self, job: str) -> list[str]:
        """Tell every damage in the job's images, a sentence each; every bit of manifests, packs and chunks is read."""
        directory = self._directory(job)
        try:
            with directory.reading():
                packs = PackReader(directory.fd)
                kept = self.images(job)
            try:
                found = [image.damage for image in kept if image.damage is not None]
                numbers = list(packs.sizes())
                with ThreadPoolExecutor(_THREADS) as pool:
                    for number, damages in zip(numbers, pool.map(packs.check, numbers), strict=True):
                        path = directory.path / f"{number:08d}.pack"
                        found += [f"{path} is damaged: {damage}" for damage in damages]
            finally:
                packs.close()
            for image in kept:
                if image.manifest is not None:
                    found += self._verify_image(job, image.number)
            return found
        except OSError as error:
            raise self._failed(job, error) from error
        finally:
            directory.close()

    def _verify_image(self, job: str, number: int) -> list[str]:
        with self.open(job, number) as image:
            files = sorted(set(image.damaged().values()))
        return [f"image {number} of job {job} cannot be used, because {file} is damaged" for file in files]

    def rm(self, job: str, number: int | None = None) -> None:
        """Remove one image of a job, or the job's images altogether."""
        directory = self._directory(job)
        try:
            with directory.writing():
                if number is None:
                    with directory.unlinking():
                        # The manifests go first: what a kill leaves behind is never an image without its chunks.
                        for each in directory.numbers():
                            directory.remove_image(each)
                        shutil.rmtree(directory.path)
                    return
                if number not in directory.numbers():
                    raise StoreError(f"job {job} has no image {number}: see `rexec images {job}`")
                self._remove(directory, [number])
        except OSError as error:
            raise self._failed(job, error) from error
        finally:
            directory.close()

    def prune(self, job: str, keep: int = 2, besides: int = 0) -> Pruned:
        """Keep the last `keep` images (at least one), and the image `besides`; remove the chunks that others needed."""
        directory = self._directory(job)
        try:
            with directory.writing():
                numbers = directory.numbers()
                return self._remove(directory, [n for n in numbers[: -max(keep, 1)] if n != besides])
        except OSError as error:
            raise self._failed(job, error) from error
        finally:
            directory.close()

    def _remove(self, directory: JobDirectory, numbers: list[int]) -> Pruned:
        staying = [number for number in directory.numbers() if number not in numbers]
        # Read before anything is removed: chunks are never dropped while it is unknown who needs them.
        needed = [directory.manifest(number) for number in staying]
        with directory.unlinking():
            for number in numbers:
                directory.remove_image(number)
                self._at("image removed")
        os.fsync(directory.fd)
        packs = PackReader(directory.fd)
        try:
            return Pruned(tuple(numbers), self._collect(directory, packs, needed))
        except PackError as error:
            raise StoreError(
                f"the images of job {directory.job} cannot be pruned, because a pack is damaged ({error}): "
                f"see `rexec images verify {directory.job}`"
            ) from error
        finally:
            packs.close()

    def _collect(self, directory: JobDirectory, packs: PackReader, needed: list[Manifest]) -> int:
        """Remove packs that nothing needs; move what is needed out of packs that are mostly garbage."""
        live = _closure(packs, {d for manifest in needed for file in manifest.files for _, _, d in file.chunks()})
        in_pack: dict[int, list[bytes]] = {}
        for digest in live:
            in_pack.setdefault(packs.place(digest)[0], []).append(digest)
        freed = 0
        for number, size in packs.sizes().items():
            digests = sorted(in_pack.get(number, []), key=packs.place)
            used = sum(packs.place(digest)[2] for digest in digests)
            if number in packs.damaged or (2 * used >= size and digests):
                continue
            if digests:
                freed -= self._move(directory, packs, digests)
                self._at("pack copied")
            with directory.unlinking():
                os.unlink(f"{number:08d}.pack", dir_fd=directory.fd)
            self._at("pack removed")
            freed += size
        os.fsync(directory.fd)
        return freed

    def _move(self, directory: JobDirectory, packs: PackReader, digests: list[bytes]) -> int:
        writer = PackWriter(directory.fd, max(pack_numbers(directory.fd)) + 1)
        try:
            for digest in digests:
                writer.append([packs.record(digest)])
            writer.seal()
        finally:
            writer.close()
        os.fsync(directory.fd)
        return writer.size


def _closure(packs: PackReader, digests: set[bytes]) -> set[bytes]:
    """The chunks of `digests` that are stored, and all that their patches refer to."""
    live: set[bytes] = set()
    waiting = [digest for digest in digests if digest in packs]
    while waiting:
        digest = waiting.pop()
        if digest not in live:
            live.add(digest)
            record = packs.record(digest)
            if record.is_patch:
                waiting += [source for source in record.patch()[0] if source in packs]
    return live
