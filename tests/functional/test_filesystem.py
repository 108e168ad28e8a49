"""A complete filesystem: a program that asks all a local one answers gets the same answers under rexec.

What is asked is in filesystem_program.py; here it is run directly and on each host, as root and as an ordinary user.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import COMBOS
from tests.functional import filesystem_program as program
from tests.leftovers import nothing_left_on
from tests.program import Combo, Rexec

PYTHON = "/usr/bin/python3"
# In a user namespace the kernel itself refuses what names an id it does not map: docs/consistency.md.
ROOTLESS = {"access_is_asked": {"EINVAL": "EPERM", "EOVERFLOW": "EPERM"}}
Answers = Callable[[str], tuple[dict[str, Any], dict[str, Any], bool]]


def _read(run: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    assert (run.returncode, run.stderr) == (0, b""), run.stderr.decode()
    return {answer["case"]: answer for answer in map(json.loads, run.stdout.splitlines())}


@pytest.fixture(scope="module")
def answers(desk: ModuleType, rexec: Rexec) -> Iterator[Answers]:
    """answers(combination): what each case says here and under rexec, with all ids there or not. One run serves all."""
    made = []

    @functools.cache
    def ask(name: str) -> tuple[dict[str, Any], dict[str, Any], bool]:
        as_user, on = COMBOS[name]
        top = Path(tempfile.mkdtemp(prefix="desk-place-", dir="/var/tmp"))
        made.append(top)
        copy = shutil.copy(program.__file__, top)
        for part in (top, top / "here", top / "there"):
            part.mkdir(exist_ok=True)
            shutil.chown(part, as_user, as_user)
        combo = Combo(rexec, as_user=as_user, on=on, dir=top)
        here = _read(combo.here([PYTHON, copy, top / "here"]))
        with nothing_left_on(on):
            return here, _read(combo.run([PYTHON, copy, top / "there"], timeout=280)), combo.mapped

    yield ask
    for top in made:
        subprocess.run(["chmod", "-R", "u+rwx", top], check=True)
        shutil.rmtree(top)


def _in_rootless_words(value: object, words: dict[str, str]) -> object:
    if isinstance(value, list):
        return [_in_rootless_words(part, words) for part in value]
    return words.get(value, value) if isinstance(value, str) else value


@pytest.mark.timeout(300)  # the first of a combination runs all cases
@pytest.mark.parametrize("case", program.CASES)
@pytest.mark.parametrize("name", COMBOS)
def test_the_same_answers_as_without_rexec(answers: Answers, name: str, case: str) -> None:
    here, there, mapped = answers(name)
    assert "failed" not in here[case], here[case]["failed"]
    assert case in there, f"no answer; the last one is of {list(there)[-1:]}"
    assert "failed" not in there[case], there[case]["failed"]
    words = {} if mapped else ROOTLESS.get(case, {})
    assert _in_rootless_words(there[case]["value"], words) == here[case]["value"]
