"""A real C program as its authors released it, within a Python package: fetched once by pip, known by its hash."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from tests import netns
from tests.desk_root import CACHE, DeskError, call, locked

PACKAGE, VERSION = "zlib-ng", "1.0.0"
SHA256 = "c753cea73f9e803c246e9bf01a59eb652897ed8a19334ada0f968394c7f61650"
ARCHIVE = "zlib_ng-1.0.0.tar.gz"
INSIDE = "zlib_ng-1.0.0/src/zlib_ng/zlib-ng"
# Portable code alone: a third of the work, and the same on every processor.
CONFIGURE = ("./configure", "--prefix=/usr", "--without-optimizations")


def unpack(into: Path) -> Path:
    """Unpack the sources of zlib-ng below `into`; the directory they are in. Raises DeskError."""
    call(["tar", "-C", into, "--no-same-owner", "-xzf", _archive(), INSIDE])
    made = into / INSIDE
    (made / ".git").unlink()  # of a submodule, and so of a repository that is not there
    return made


def _archive() -> Path:
    kept = CACHE / ARCHIVE
    with locked(CACHE / "lock"):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="source-") as scratch:
                (_download(Path(scratch)) / ARCHIVE).rename(kept)
    if hashlib.sha256(kept.read_bytes()).hexdigest() != SHA256:
        raise DeskError(f"{kept} is not {PACKAGE} {VERSION} as its authors released it; remove it and try again")
    return kept


def _download(scratch: Path) -> Path:
    (scratch / "wanted").write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--no-binary", PACKAGE, "--require-hashes", "-d", str(scratch), "-r", str(scratch / "wanted")]
    try:
        with netns.outside():
            call(pip, log=CACHE / "source.log")
    except DeskError as error:
        raise DeskError(
            f"the sources of {PACKAGE} {VERSION}, which tests build, cannot be had with pip; see that pip reaches its "
            f"index here: {error}"
        ) from error
    return scratch
