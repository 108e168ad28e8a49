"""Sources of a real program, as its authors released it and Debian keeps it: downloaded once, verified by apt."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests import netns
from tests.desk_root import CACHE, MIRROR, SUITE, DeskError, call, locked

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def unpack(package: str, into: Path) -> Path:
    """Unpack the upstream tarball of Debian's source `package` below `into`; the directory it made there."""
    call(["tar", "-C", into, "--no-same-owner", "-xf", _tarball(package)])
    (made,) = into.iterdir()
    return made


def _tarball(package: str) -> Path:
    kept = CACHE / f"source-{SUITE}-{package}"
    with locked(CACHE / "lock"):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="source-") as scratch:
                _download(package, Path(scratch))
                unfinished = Path(tempfile.mkdtemp(dir=CACHE, prefix=f"{kept.name}."))
                for file in Path(scratch, "here").iterdir():
                    shutil.copy(file, unfinished)
                unfinished.rename(kept)
    found = sorted(kept.glob("*.orig.tar.*[!c]"))  # beside it may lie its signature, .asc
    if not found:
        raise DeskError(f"{kept} holds no upstream tarball; remove it, so that it is downloaded again")
    return found[0]


def _download(package: str, scratch: Path) -> None:
    """apt-get source, with lists of its own: the machine's sources.list need not name any sources."""
    for name in ("lists/partial", "cache/archives/partial", "here"):
        (scratch / name).mkdir(parents=True)
    (scratch / "sources.list").write_text(f"deb-src [signed-by={KEYRING}] {MIRROR} {SUITE} main\n")
    own = {
        "Dir::Etc::SourceList": scratch / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
    }
    options = [word for key, value in own.items() for word in ("-o", f"{key}={value}")]
    fetch = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", scratch / "here", "apt-get", "-q", *options]
    with netns.outside():
        call(["apt-get", "-q", *options, "update"], log=CACHE / "source.log")
        call([*fetch, "source", "--download-only", package], log=CACHE / "source.log")
