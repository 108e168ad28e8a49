"""What `make` alone does: it says what there is, and installs nothing; and what it installs when told to."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def test_make_alone_names_every_target() -> None:
    said = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert {line.split()[0] for line in said.splitlines()} == set(phony[1].split()) - {"root"}


@pytest.mark.parametrize(
    ("lock", "extras"), [("run", []), ("dev", ["dev"]), ("bench", ["dev", "bench"]), ("fuzz", ["dev", "fuzz"])]
)
def test_what_make_installs_is_locked_by_its_hash(lock: str, extras: list[str]) -> None:
    """All that pyproject.toml names, and all that what is installed here says it needs; from no address."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wanted += [line for extra in extras for line in project["project"]["optional-dependencies"][extra]]
    entries = (ROOT / f".ci/requirements/{lock}.txt").read_text().replace("\\\n", "").splitlines()
    locked: dict[str, list[str]] = {}
    for entry in entries:
        found = re.fullmatch(r"([a-z0-9-]+)==([\w.]+)(?: ; [^:]+?)?((?: +--hash=sha256:[0-9a-f]{64})+)", entry.rstrip())
        assert found is not None, entry
        locked.setdefault(found[1], []).append(found[2])
    for need in map(Requirement, wanted):
        assert all(need.specifier.contains(version) for version in locked[need.name]), need
    missing = {
        need.name
        for name in locked
        for need in (map(Requirement, _needs(name)))
        if (need.marker is None or need.marker.evaluate({"extra": ""})) and canonicalize_name(need.name) not in locked
    }
    assert not missing


def _needs(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # for another system, or for the benchmarks


def test_make_has_pip_install_nothing_else() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line or "$(PIP)" in line]
    assert len(lines) == 3
    assert "--no-deps" in lines[0] and "--no-build-isolation" in lines[0]
    assert "--require-hashes -r .ci/requirements/$$lock.txt" in lines[1]
    assert lines[2].split() == ["@$(PIP)", "-e", "."]
