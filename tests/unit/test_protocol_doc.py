"""docs/protocol.md says what the code does; walks name what exists."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests import images_doc, limits_doc, placement_doc, protocol_doc

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("doc", [protocol_doc, placement_doc, images_doc, limits_doc], ids=lambda doc: doc.__name__)
def test_the_tables_are_those_of_the_code(doc: ModuleType) -> None:
    text = doc.FILE.read_text()
    assert doc.render(text) == text, f"run: python -m {doc.__name__}"


@pytest.mark.parametrize("walk", sorted((ROOT / "docs").glob("walk-*.md")), ids=lambda path: path.name)
def test_a_walk_names_what_exists(walk: Path) -> None:
    """Each `file.py: name` of a walk is a definition in that file."""
    steps = re.findall(r"`(\w+/[\w/]+\.py): ([\w.]+)`", walk.read_text())
    assert len(steps) > 5
    for file, name in steps:
        source = (ROOT / file).read_text()
        for part in name.split("."):
            assert re.search(rf"(def|class) {part}\b|^{part}\b.*=", source, re.M), f"{file} has no {part}"
