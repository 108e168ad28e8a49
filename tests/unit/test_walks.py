"""The walks in docs/ name what is there: each class and function is in the file that it is said to be in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def names(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """What a module or a class defines, with what each defines in turn."""
    return {node.name: node.body for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))} | {
        target.id: [] for node in body if isinstance(node, ast.Assign) for target in node.targets
        if isinstance(target, ast.Name)
    }  # fmt: skip


def missing(text: str) -> Iterator[str]:
    for file, path in re.findall(r"`([\w/]+\.py)(?:: ([\w.]+))?`", text):
        if not (ROOT / file).is_file():
            yield file
            continue
        body = ast.parse((ROOT / file).read_text()).body
        for name in filter(None, path.split(".")):
            found = names(body)
            if name not in found:
                yield f"{file}: {path}"
                break
            body = found[name]


@pytest.mark.parametrize("walk", sorted((ROOT / "docs").glob("walk-*.md")), ids=lambda path: path.stem)
def test_what_a_walk_names_is_there(walk: Path) -> None:
    text = walk.read_text()
    assert len(re.findall(r"\.py: ", text)) > 10
    assert list(missing(text)) == []


def test_a_name_that_is_gone_is_found() -> None:
    said = (
        "`shim/wire/lease.py` `remoteio/wire/link.py: Link.send` `remoteio/wire/link.py: Link.gone` `remoteio/gone.py`"
    )
    assert list(missing(said)) == ["remoteio/wire/link.py: Link.gone", "remoteio/gone.py"]
