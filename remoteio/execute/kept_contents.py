"""Execute side: keeps what was read of files here, on this host's disk, for the runs that come after. Shipped.

Home names each version of a file that may be kept (``wire.leases``: KEPT): what has the same name has the same
contents. A file here for each version, named by a hash of that name::

    a sum of 16 bytes for each page of 4,096, zero where the page is not there | padding to a page | the pages

Both go by the version's name, which is nowhere on this disk: the sum is keyed with it, and has the page's number in it;
and the page is encrypted with a key that is made of it. Who has the disk, but was not told the name, can neither read
nor forge what is there.

Nothing is taken that has not its sum: so it is no matter in which order what was written comes to the disk, who else
writes the same version at the same time (he writes the same), and whether somebody ends in the middle, or removes the
file. That needs no lock, no sync and no renaming.

What was used last stays, within a limit (`_prune`). A disk that is full, or a file that is not as it should be, is no
error of the job's: home has the contents.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict, deque

try:
    from _blake2 import blake2b  # hashlib would import OpenSSL
except ImportError:
    from hashlib import blake2b

PAGE, SUM = 4096, 16
_NEVER = bytes(SUM)
MOST = 2 << 30
"""Bytes kept here, for all runs together; but no more than a SHARE of those and what is free beside them."""
SHARE = 10  # a tenth
MOST_FILES = 4096
MOST_WAITING = 64 << 20
"""Bytes that wait to be written, beyond which what is read is not kept: the disk is slower than the link."""
_OPEN = 64  # files
_LOOK = 32 << 20  # bytes written, after which others may have to go
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_SETTLED = 1.0  # seconds that an ending agent gives its disk: the run waits for its end


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Apply = Callable[[memoryview, int], None]  # encrypts or decrypts in place what stands at that offset
    Encrypting = Callable[
        [], "Callable[[bytes], Apply] | None"
    ]  # finds what makes that of a key; None: it cannot be had


class _File:
    """A file that is closed when nobody has it any more: one that is read may be removed, or be one too many."""

    __slots__ = ("apply", "fd")

    def __init__(self, fd: int, apply: Apply) -> None:
        self.fd, self.apply = fd, apply

    def __del__(self) -> None:
        os.close(self.fd)


class KeptContents:
    """Keeps contents in the directory `path`; "": nowhere.

    Threads: any. `_lock` guards what is open and what waits; no disk is waited for under it. One thread writes. A file
    is closed when the last who works with it lets go of it.
    """

    def __init__(self) -> None:
        self.path = ""
        self._encrypting: Encrypting = lambda: None
        self._with: Callable[[bytes], Apply] | None = None
        self._at = -1
        self._lock = threading.Condition()
        self._open: OrderedDict[bytes, _File] = OrderedDict()  # by version
        self._waiting: deque[tuple[bytes, int, int, bytes | memoryview]] = deque()  # version, size, offset, contents
        self._bytes = 0  # of these, and of what is being written
        self._writes = False  # the thread is there
        self._since = _LOOK  # bytes written since others were removed

    def use(self, path: str, encrypting: Encrypting) -> None:
        """Keep in that directory, which is made when there is something to keep, what is encrypted by that; it is asked
        for when it is needed, as most runs keep nothing."""
        self.path, self._encrypting = path, encrypting

    def read(self, version: bytes, size: int, offset: int, count: int) -> bytes | None:
        """Read what a file of `size` bytes has at `offset`; None: not all of it is kept. `offset` lies at a page."""
        end = min(offset + count, size)
        try:
            file, sums = self._kept(version, size, offset, end)
            if file is None:
                return None
            data = bytearray(end - offset)
            whole = os.preadv(file.fd, [data], _base(size) + offset) == len(data)
            file.apply(memoryview(data), offset)
        except OSError:
            return None
        if whole and _sums(version, offset // PAGE, data) == sums:
            return bytes(data)
        self._remove(version)
        return None

    def has(self, version: bytes, size: int, offset: int, count: int) -> bool:
        """Say whether all of that is kept, as far as its sums tell."""
        try:
            return self._kept(version, size, offset, min(offset + count, size))[0] is not None
        except OSError:
            return False

    def _kept(self, version: bytes, size: int, offset: int, end: int) -> tuple[_File | None, bytes]:
        """Find the file that has all of that, and its sums. Raises OSError."""
        if not self.path or size > MOST // 2 or offset % PAGE or offset >= end or (end % PAGE and end != size):
            return None, b""
        file = self._file(version, size, False)
        if file is None:
            return None, b""
        first, many = offset // PAGE, (end - offset + PAGE - 1) // PAGE
        sums = os.pread(file.fd, many * SUM, first * SUM)
        return (None if len(sums) < many * SUM or _NEVER in sums else file), sums

    def keep(self, version: bytes, size: int, offset: int, data: bytes | memoryview) -> None:
        """Have the whole pages among `data` written, which a file of `size` bytes has at `offset`, by and by."""
        if offset + len(data) != size:
            data = data[: len(data) - len(data) % PAGE]
        if not self.path or offset % PAGE or not data or size > MOST // 2:
            return
        with self._lock:
            if self._bytes + len(data) > MOST_WAITING:
                return
            self._bytes += len(data)
            self._waiting.append((version, size, offset, data))
            if self._writes:
                self._lock.notify_all()
                return
            self._writes = True
        try:
            threading.Thread(target=self._write_all, name="kept", daemon=True).start()
        except RuntimeError:  # no thread can be had: nothing is kept
            self.path = ""

    def settle(self) -> None:
        """Wait until all that is to be kept is written; but not for a disk that does not take it."""
        with self._lock:
            self._lock.wait_for(lambda: not self._bytes or not self.path, _SETTLED)

    def _write_all(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: bool(self._waiting))
                part = self._waiting.popleft()
            try:
                self._write(*part)
            except OSError:  # the disk is full, or the directory not ours: this run keeps nothing more
                self.path = ""
                self._remove(part[0])
            with self._lock:
                self._bytes -= len(part[3])
                self._lock.notify_all()

    def _write(self, version: bytes, size: int, offset: int, data: bytes | memoryview) -> None:
        """Write the pages, and then their sums. Raises OSError."""
        if not self.path:
            return
        if self._since >= _LOOK:
            self._since = 0
            self._prune()
        file = self._file(version, size, True)
        if file is not None:
            sums, encrypted = _sums(version, offset // PAGE, data), memoryview(bytearray(data))
            file.apply(encrypted, offset)
            _put(file.fd, encrypted, _base(size) + offset)
            _put(file.fd, sums, offset // PAGE * SUM)
            self._since += len(data)

    # the files; `_at` is set once, by whoever is first

    def _directory(self, make: bool) -> int:
        """Open the directory, which must be ours alone. Raises OSError."""
        if self._at < 0:
            if make:
                os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
                try:
                    os.mkdir(self.path, 0o700)
                except FileExistsError:
                    pass  # what it is, is looked at below
            at = os.open(self.path, _DIRECTORY)
            st = os.fstat(at)
            if st.st_uid != os.geteuid() or st.st_mode & 0o77:
                os.close(at)
                raise PermissionError("%s belongs, or is open, to others: nothing is kept in it" % self.path)
            with self._lock:
                if self._at < 0:
                    self._at = at
                else:
                    os.close(at)
        return self._at

    def _file(self, version: bytes, size: int, make: bool) -> _File | None:
        """Open the file of a version; None: there is none that is as it should be. Raises OSError."""
        with self._lock:
            file = self._open.get(version)
            if file is not None:
                self._open.move_to_end(version)
        if file is not None and (not make or os.fstat(file.fd).st_nlink):
            return file  # else another agent has removed it, and it is made anew
        at, name = self._directory(make), name_of(version)
        if self._with is None:
            self._with = self._encrypting()
            if self._with is None:
                raise OSError("nothing encrypts here: nothing is kept")
        apply = self._with(_key(version))
        try:
            file = _File(os.open(name, _FLAGS | (os.O_CREAT if make else 0), 0o600, dir_fd=at), apply)
        except FileNotFoundError:
            return None
        st, whole = os.fstat(file.fd), _base(size) + size
        if make and not st.st_size:
            os.ftruncate(file.fd, whole)
        elif st.st_size != whole or not stat.S_ISREG(st.st_mode):
            if st.st_size:  # else another agent is making it
                os.unlink(name, dir_fd=at)
            return None
        os.utime(file.fd)
        with self._lock:
            self._open[version] = file
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return file

    def _remove(self, version: bytes) -> None:
        """Remove what is wrong of a version: another agent that has it open goes on with what it has."""
        with self._lock:
            self._open.pop(version, None)
        try:
            os.unlink(name_of(version), dir_fd=self._at)
        except OSError:
            return  # another has removed it; or it may not be, and is found wrong again

    def _prune(self) -> None:
        """Remove what was used longest ago, beyond the limit. Raises OSError."""
        at, found, used = self._directory(True), [], 0
        for name in os.listdir(at):
            try:
                st = os.stat(name, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                continue  # another agent removes as well
            found.append((st.st_mtime_ns, name, st.st_blocks * 512))
            used += st.st_blocks * 512
        disk = os.fstatvfs(at)
        most, left = min(MOST, (disk.f_bavail * disk.f_frsize + used) // SHARE) - _LOOK, len(found)
        for _, name, size in sorted(found):
            if used <= most and left < MOST_FILES:
                return
            try:
                os.unlink(name, dir_fd=at)
            except FileNotFoundError:
                pass  # as above
            used, left = used - size, left - 1


def name_of(version: bytes) -> str:
    """Name the file of a version."""
    return blake2b(version, digest_size=16).hexdigest()


def _key(version: bytes) -> bytes:
    """Make the key of a version's pages."""
    return blake2b(version, digest_size=32, person=b"pages").digest()


def _sums(version: bytes, first: int, data: bytes | bytearray | memoryview) -> bytes:
    """Sum up each page of `data`, the first of which has that number."""

    def of(at: int) -> bytes:
        salt = (first + at // PAGE).to_bytes(8, "little")
        return blake2b(data[at : at + PAGE], digest_size=SUM, key=version, salt=salt).digest()

    return b"".join([of(at) for at in range(0, len(data), PAGE)])


def _base(size: int) -> int:
    """Where the pages of a file of `size` bytes begin."""
    pages = (size + PAGE - 1) // PAGE
    return (pages * SUM + PAGE - 1) // PAGE * PAGE


def _put(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of it. Raises OSError."""
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
