"""What Python does to its own environment as it starts is not the job's."""

from __future__ import annotations

import subprocess
import sys

import pytest

TOLD = "import os; from shim.cli.program import as_given; as_given(); print(os.environ.get('LC_CTYPE'))"


@pytest.mark.parametrize("given", [None, "C", "C.UTF-8"])
def test_the_locale_is_as_it_was_given(given: str | None) -> None:
    env = {} if given is None else {"LC_CTYPE": given}
    done = subprocess.run([sys.executable, "-c", TOLD], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(given)
