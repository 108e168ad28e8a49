"""The peers' own files, fetched with the usual clients (apt-get, pip) and kept in a cache between runs.

Debian packages are resolved against the execute host's own dpkg status, without a network or apt there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from tests import netns
from tests.bench.process import must
from tests.desk_root import archive

OUTRUN = "outrun==1.1.0"


def debian_packages(cache: Path, names: list[str], status: bytes, suites: list[str]) -> list[Path]:
    """The .deb files of `names` and of what they need beyond `status` (a dpkg status file), newest of `suites`."""
    key = hashlib.sha256(status + repr((names, suites)).encode()).hexdigest()[:16]
    kept = cache / f"debs-{key}"
    if not kept.exists():
        mirror = archive()
        apt = cache / f"apt-{os.getpid()}"
        for part in ("state/lists/partial", "cache/archives/partial"):
            (apt / part).mkdir(parents=True)
        (apt / "status").write_bytes(status)
        (apt / "sources.list").write_text("".join(f"deb {mirror} {suite} main\n" for suite in suites))
        get = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "-o", "Dir::Etc::sourceparts=/dev/null"]
        for option, name in (
            ("Dir::State", "state"),
            ("Dir::Cache", "cache"),
            ("Dir::State::status", "status"),
            ("Dir::Etc::sourcelist", "sources.list"),
        ):
            get += ["-o", f"{option}={apt / name}"]
        install = ["install", "-y", "--no-install-recommends", "--download-only", *names]
        with netns.outside():
            must([*get, "update"], f"apt-get update for Debian {' and '.join(suites)} failed")
            must([*get, *install], f"{' '.join(names)} cannot be had from {mirror}")
        (apt / "cache/archives").rename(kept)
        shutil.rmtree(apt)
    return sorted(kept.glob("*.deb"))


def outrun_for_host(cache: Path, python: str, machine: str) -> Path:
    """A directory of outrun and its modules for the host's `python` ("3.11") and `machine` ("x86_64")."""
    kept = cache / f"outrun-{python}-{machine}"
    if not kept.exists():
        fresh = cache / f"outrun-{os.getpid()}"
        pip: list[str | Path] = [sys.executable, "-m", "pip", "install", "-q", "--target", fresh, "--only-binary=:all:"]
        pip += ["--python-version", python, "--platform", f"manylinux2014_{machine}"]
        pip += ["--platform", f"manylinux_2_28_{machine}", OUTRUN]
        with netns.outside():
            must(pip, f"{OUTRUN} for python {python} on {machine} cannot be had with pip")
        fresh.rename(kept)
    return kept
