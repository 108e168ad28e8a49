"""What a command that fails says, and its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from shim.cli import main, program
from shim.cli.attach import attach
from shim.cli.say import FAILED
from shim.submit.job import record


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["images", "rm", "7"], "job 7 has no image: see `rexec images`"),
        (["images", "verify", "../7"], "there is no job '../7': '../7' is not a plain file name"),
        (["kill", "7"], "there is no job 7: see `rexec jobs`"),
        (["stat", "7"], "there is no job 7: see `rexec jobs`"),
        (
            ["--checkpoint", "--no-sync", "--on", "local", "true"],
            "--no-sync is not for jobs that can be checkpointed: say --checkpoint without it",
        ),
        (
            ["--lease", "long", "true"],
            '--lease = "long" is not a duration; write for example "15m", "10s" or "1h30m".',
        ),
    ],
)
def test_a_failure_is_one_sentence_whichever_package_it_comes_of(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["rexec", *words])
    monkeypatch.setattr("shim.submit.own_code.import_only_ours", lambda: None)  # this process is the tests'
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == FAILED
    assert capsys.readouterr().err == f"rexec: {said}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["log"], "Missing argument 'JOB'. See `rexec jobs`."),
        (["restart"], "Missing argument 'JOB[/IMAGE]'. See `rexec images`."),
        (["hosts", "beta"], "This takes no argument: `rexec doctor beta` shows one host."),
        (["jobs", "1"], "This takes no argument: `rexec log 1` shows what happened to one job."),
    ],
)
def test_what_is_missing_or_too_much_is_told_with_what_helps(words: list[str], said: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        main.load(words[0]).main(words[1:], standalone_mode=False)
    assert caught.value.format_message() == said


def test_whoever_attaches_to_an_ended_job_is_told_where_its_output_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = record.create(
        record.Record(
            id=0, command=("true",), cwd="/", created=1.0, hosts=("local",), owner="", every=0.0, keep=2,
            detached=True, tty=False, spec="", phase="ended", status=0,
        )
    )  # fmt: skip
    (made.path / "stdout").touch()
    with pytest.raises(record.JobError, match=f"^job 1 has ended: done; its output is in {made.path}/stdout$"):
        attach(made)


@pytest.mark.parametrize("words", [["jobs", "--json"], ["images", "--json"], ["--help"], ["completion", "bash"]])
def test_what_cannot_be_printed_is_one_sentence_too(words: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", "from shim.cli.program import main; main()", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        )  # fmt: skip
    said = "standard output cannot be written: No space left on device; make room there, or send it elsewhere"
    assert (ended.returncode, ended.stderr) == (FAILED, f"rexec: {said}\n")
