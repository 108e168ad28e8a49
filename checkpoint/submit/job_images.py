"""One job's directory in the store: its images' manifests, its packs' names, its locks.

Two locks, so that reading never holds up a checkpoint: `writer.lock` is held, exclusively, by who adds or removes
(StoreBusy for the second); `reader.lock` is held shared for the moment in which a reader opens what it needs, and
exclusively for the moment in which something is unlinked. An open pack can be read after it was unlinked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from checkpoint.durable import sync_directory
from checkpoint.errors import CheckpointError
from checkpoint.submit.packs import salvage
from checkpoint.wire.manifest import Manifest, ManifestError

Point = Callable[[str], None]
"""Called with the name of each step that was just taken; tests kill the process there."""

_AGAIN = 0.05  # seconds between tries for a lock: flock(2) waits for it for ever or not at all
_IMAGE = re.compile(r"(\d{8})\.image")


class StoreError(CheckpointError):
    """The image store cannot do what was asked: one sentence for the user."""


class StoreBusy(StoreError):
    """Another process writes or prunes this job's images."""


def disk_error(path: Path, error: OSError) -> str:
    """Say why the disk refused, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"there is no space left in {path}: free some, or remove old images with `rexec images prune`"
    return f"{path} cannot be used: {error.strerror}"


class JobDirectory:
    """The directory of one job's images, open. Close it."""

    def __init__(self, path: Path, job: str, create: bool, patience: float = 0.0) -> None:
        """`patience`: seconds to wait for another writer. Raises StoreError if there is none, or it cannot be made."""
        self.path = path
        self.job = job
        self._patience = patience
        try:
            if create:
                for parent in (*reversed(path.parents), path):
                    if not parent.is_dir():
                        parent.mkdir(0o700, exist_ok=True)
                        sync_directory(parent.parent)
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StoreError(f"job {job} has no image: see `rexec images`") from None
        except OSError as error:
            raise StoreError(f"the images of job {job} cannot be opened: {disk_error(path, error)}") from error

    def close(self) -> None:
        """Close the directory; whoever has a lock in it lets go of it first."""
        os.close(self.fd)

    @contextmanager
    def _lock(self, name: str, how: int) -> Iterator[None]:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be alone among writers; take in what a dead writer left. Raises StoreBusy, OSError."""
        deadline = time.monotonic() + self._patience
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(self._lock("writer.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise StoreBusy(
                            f"the images of job {self.job} are being written by another rexec: wait until it is done"
                        ) from None
                time.sleep(_AGAIN)
            self._clean_up()
            yield

    def reading(self) -> AbstractContextManager[None]:
        """Keep all files from being unlinked while it is held: for opening files only."""
        return self._lock("reader.lock", fcntl.LOCK_SH)

    def unlinking(self) -> AbstractContextManager[None]:
        """Wait until no reader is between looking and opening, and let none begin while it is held."""
        return self._lock("reader.lock", fcntl.LOCK_EX)

    def _clean_up(self) -> None:
        for name in os.listdir(self.fd):
            if name.endswith(".tmp"):
                os.unlink(name, dir_fd=self.fd)
            elif name.endswith(".part"):
                try:
                    salvage(self.fd, int(name[:8]))
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    os.unlink(name, dir_fd=self.fd)  # nothing refers to it yet: the space is worth more

    def numbers(self) -> list[int]:
        """List the committed images, oldest first."""
        return sorted(int(match[1]) for name in os.listdir(self.fd) if (match := _IMAGE.fullmatch(name)))

    def manifest(self, number: int) -> Manifest:
        """Read an image's manifest. Raises StoreError: there is no such image, or its manifest is damaged."""
        name = f"{number:08d}.image"
        try:
            with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd), "rb") as file:
                manifest = Manifest.from_bytes(file.read())
        except FileNotFoundError:
            raise StoreError(f"job {self.job} has no image {number}: see `rexec images {self.job}`") from None
        except ManifestError as error:
            raise StoreError(
                f"image {number} of job {self.job} cannot be used, because {error}: restart from another image"
            ) from None
        if (manifest.job, manifest.number) != (self.job, number):
            raise StoreError(
                f"{self.path / name} is image {manifest.number} of job {manifest.job}: put it back to its own name"
            )
        return manifest

    def write_manifest(self, manifest: Manifest, at: Point) -> None:
        """Commit the image: after this it is there, whole, whatever happens. Raises OSError."""
        name = f"{manifest.number:08d}"
        fd = os.open(f"{name}.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        with open(fd, "wb") as file:
            file.write(manifest.to_bytes())
            file.flush()
            at("manifest written")
            os.fsync(fd)
        at("manifest synced")
        os.rename(f"{name}.tmp", f"{name}.image", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        at("manifest renamed")
        os.fsync(self.fd)
        at("directory synced")

    def remove_image(self, number: int) -> None:
        """Unlink an image's manifest: it is there no more, whatever happens to its packs. Raises OSError."""
        os.unlink(f"{number:08d}.image", dir_fd=self.fd)
