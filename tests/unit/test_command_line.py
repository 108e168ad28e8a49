"""What a command that fails says, and its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shim.cli import main
from shim.cli.say import FAILED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["images", "rm", "7"], "job 7 has no image: see `rexec images`"),
        (["images", "verify", "../7"], "there is no job '../7': '../7' is not a plain file name"),
        (["kill", "7"], "there is no job 7: see `rexec jobs`"),
    ],
)
def test_a_failure_is_one_sentence_whichever_package_it_comes_of(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["rexec", *words])
    monkeypatch.setattr("shim.submit.protect.import_only_ours", lambda: None)  # this process is the tests'
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == FAILED
    assert capsys.readouterr().err == f"rexec: {said}\n"


@pytest.mark.parametrize("words", [["jobs", "--json"], ["images", "--json"], ["--help"], ["completion", "bash"]])
def test_what_cannot_be_printed_is_one_sentence_too(words: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", "from shim.cli.main import main; main()", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        )  # fmt: skip
    said = "standard output cannot be written: No space left on device; make room there, or send it elsewhere"
    assert (ended.returncode, ended.stderr) == (FAILED, f"rexec: {said}\n")
