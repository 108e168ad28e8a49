"""What the tests of real programs share: who runs them where, and what a build gives."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.program import Combo

PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))  # what the running numpy is built for
EACH = pytest.mark.parametrize("combo", ["root-root", "user-alice", "local-user"], indirect=True)


def well(done: subprocess.CompletedProcess[bytes]) -> bytes:
    """The output of a command that must have succeeded."""
    assert done.returncode == 0, (done.stdout[-2000:] + done.stderr[-4000:]).decode(errors="replace")
    return done.stdout


def give(combo: Combo, *tops: Path) -> None:
    """What root put into the combination's directory becomes its user's."""
    for top in tops:
        for path in (top, *top.rglob("*")):
            os.lchown(path, combo.uid, combo.uid)


def built(tree: Path) -> Mapping[str, str]:
    """Digests of what a build of zlib-ng gives; an archive's members bear times, so it is told by its objects."""
    files = [path for path in tree.rglob("*") if path.suffix in (".o", ".lo", ".pc") or ".so." in path.name]
    return {str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
