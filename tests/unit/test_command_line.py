"""What a command that fails says, and its exit status."""

from __future__ import annotations

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
