"""docs/security.md promises nothing without a module that keeps it and a test that shows it; all it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "security.md").read_text()
COLUMNS = "| who | may | may not | enforced by | tested by |"
_FILE = re.compile(r"`((?:remoteio|checkpoint|shim|tests|docs)/[\w/.-]+?\.(?:py|md))(?:::(\w+))?`")


@cache
def _functions(file: str) -> frozenset[str]:
    """The functions of a module, by the names that pytest has for tests."""
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _rows() -> list[list[str]]:
    """The cells of each row of the tables that have these columns."""
    found, within = [], False
    for line in DOC.splitlines():
        if within and line.startswith("|") and not line.startswith("| ---"):
            found.append([cell.strip() for cell in line.strip("|").split(" | ")])
        within = line.startswith("|") and (within or line == COLUMNS)
    return found


def test_every_module_and_test_that_it_names_exists() -> None:
    named = _FILE.findall(DOC)
    assert named
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or test in _functions(file), f"{file}::{test}"


def test_every_row_has_a_module_that_enforces_it_and_a_test() -> None:
    rows = _rows()
    assert len(rows) > 10
    for row in rows:
        assert len(row) == 5, row
        _, _, may_not, by, tested = row
        modules = [file for file, _ in _FILE.findall(by)]
        assert may_not and modules and all(file.split("/")[0] != "tests" for file in modules), row
        tests = _FILE.findall(tested)
        assert tests and all(file.startswith("tests/") and test for file, test in tests), row
