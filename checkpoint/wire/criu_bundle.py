"""criu with its loader and libraries in one directory, cached by the hash of its contents.

The layout of a bundle: `ld.so`, `criu`, `lib/SONAME …` and the empty directory `none` (criu's plug-in directory).
All criu runs are from a bundle, the host's own criu too: inside the job's root neither criu's libraries nor its
loader are the host's.

Shipped: runs on the execute host.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
import tempfile

from checkpoint.durable import sync_directory
from checkpoint.errors import CheckpointError
from checkpoint.wire import elf

LOADER, LIBRARY_DIRS, PROGRAM, EMPTY_DIR = "ld.so", ["lib"], "criu", "none"
CONF = "/etc/ld.so.conf"


class BundleError(CheckpointError):
    """One sentence: why a bundle of criu cannot be used."""


def pack(files: dict[str, bytes]) -> tuple[bytes, str]:
    """Make a tar of {name: content}, the same bytes for the same contents, and its hash (hex, BLAKE2b-128)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(files[name]), 0o755
            tar.addfile(member, io.BytesIO(files[name]))
    archive = out.getvalue()
    return archive, digest(archive)


def digest(archive: bytes) -> str:
    """Name a bundle by the bytes of its archive: BLAKE2b-128, in hexadecimal."""
    return hashlib.blake2b(archive, digest_size=16).hexdigest()


def directory(cache: str, wanted: str) -> str:
    """Name the directory where the bundle of that hash is kept."""
    return os.path.join(cache, "criu-" + wanted)


def present(cache: str, wanted: str) -> bool:
    """Tell whether the bundle is unpacked there, by this user. It gets its name only when it is whole."""
    try:
        st = os.lstat(directory(cache, wanted))
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(st.st_mode) and st.st_uid == os.geteuid() and not st.st_mode & 0o022


def record(path: str, text: str) -> None:
    """Write a small file beside a bundle whole, whoever else does at the same time. Raises OSError."""
    fd, work = tempfile.mkstemp(prefix=".record-", dir=os.path.dirname(path))
    try:
        with open(fd, "w") as f:
            f.write(text)
        os.replace(work, path)
    except OSError:
        os.unlink(work)
        raise


def unpack(archive: bytes, wanted: str, cache: str) -> str:
    """Unpack a packed bundle under cache and return its directory. Raises BundleError if it is not what was wanted."""
    if digest(archive) != wanted:
        raise BundleError("the criu bundle arrived damaged; run the command again")
    target = directory(cache, wanted)
    if present(cache, wanted):
        return target
    os.makedirs(cache, mode=0o700, exist_ok=True)
    work = tempfile.mkdtemp(prefix=".criu-", dir=cache)
    try:
        os.mkdir(os.path.join(work, "lib"))
        os.mkdir(os.path.join(work, EMPTY_DIR))
        try:
            _extract(archive, work)
        except tarfile.TarError as e:
            raise BundleError(f"the criu bundle is damaged ({e}); run the command again") from None
        for path in (work, os.path.join(work, "lib"), os.path.join(work, EMPTY_DIR)):
            os.chmod(path, 0o755)  # criu may be another user's, if its login is root
        for path in (os.path.join(work, "lib"), work):
            sync_directory(path)  # the name says that it is whole, also after a power cut
        try:
            os.rename(work, target)
        except OSError:
            if not os.path.isdir(target):
                raise
            if not present(cache, wanted):  # else another run was first: its bundle has the same bytes
                raise BundleError(f"{target} is another user's, or others may write to it; remove it") from None
    finally:
        if os.path.isdir(work):
            shutil.rmtree(work)
    return target


def _extract(archive: bytes, work: str) -> None:
    """Write the files of an archive into `work`. Raises BundleError, TarError, OSError."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            top, _, name = member.name.partition("/")
            known = member.name in (LOADER, PROGRAM) or (top == "lib" and name and "/" not in name)
            # Nothing but plain files, whose bytes are all in the archive: a sparse one may say any size.
            plain = member.type == tarfile.REGTYPE and known and name not in (".", "..")
            content = tar.extractfile(member) if plain else None
            if content is None:
                raise BundleError(f"the criu bundle has the unexpected member {member.name!r:.80}; it is not used")
            with open(os.path.join(work, member.name), "wb") as f:
                shutil.copyfileobj(content, f)
                os.fchmod(f.fileno(), 0o755)
                f.flush()
                os.fsync(f.fileno())


def gather(program: str, library_dirs: list[str], loader_root: str = "") -> dict[str, bytes]:
    """Read the files of a bundle of that criu: {name in the bundle: content}. Raises ElfError, OSError.

    loader_root is put before the loader's path, for a criu that is unpacked in a private directory.
    """
    loader, libraries = elf.closure(program, library_dirs)
    if not loader:
        raise BundleError(f"{program} is statically linked; rexec knows only the dynamically linked criu")
    sources = {PROGRAM: program, LOADER: loader_root + loader}
    sources.update({"lib/" + soname: path for soname, path in libraries.items()})
    out = {}
    for name, path in sources.items():
        with open(path, "rb") as f:
            out[name] = f.read()
    return out


def system_library_dirs() -> list[str]:
    """List the directories that the host's loader searches: ld.so.conf and its includes, then the built-in ones."""
    import glob

    out: list[str] = []

    def read(path: str) -> None:
        if not os.path.exists(path):
            return
        with open(path) as f:
            for line in f:
                words = line.split("#")[0].split()
                if words[:1] == ["include"]:
                    for pattern in words[1:]:
                        for found in sorted(glob.glob(os.path.join(os.path.dirname(path), pattern))):
                            read(found)
                elif words:
                    out.append(words[0])

    read(CONF)
    machine = os.uname().machine
    return [
        *out,
        f"/lib/{machine}-linux-gnu",
        f"/usr/lib/{machine}-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ]


def adopt(program: str, cache: str) -> str:
    """Make a bundle of the host's own criu and return its directory. Raises BundleError, ElfError, OSError."""
    return unpack(*pack(gather(program, system_library_dirs())), cache)
