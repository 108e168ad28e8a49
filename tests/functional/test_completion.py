"""<TAB> after rexec, in real shells on a real terminal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from shim.submit.job.record import Record, packed
from shim.wire.job_spec import JobSpec
from tests.desk_hosts import SUBMIT_UID, SUBMIT_USER
from tests.program import Rexec
from tests.screen import Screen

SHELLS = {
    "bash": 'eval "$(rexec completion bash)"',
    "zsh": 'zsh -f; PS1="READY> "; autoload -U compinit; compinit -u -d ./dump; eval "$(rexec completion zsh)"',
    "fish": "fish --no-config; function fish_prompt; echo 'READY> '; end; rexec completion fish | source",
}


@pytest.fixture
def home(place: Callable[[str], Path], rexec: Rexec) -> Path:
    """A directory with a job 17, a batch b3, a host nearbox and rexec in bin."""
    made = place(SUBMIT_USER)
    spec = JobSpec([b"x"], [], b"/", 0, 0, [], 0, b"", [], [], [], [])
    record = Record(17, ("sleep", "60"), "/", 1.0, ("alpha",), "", 0.0, 2, True, False, packed(spec), phase="ended")
    for name, text in (
        ("state/rexec/jobs/17/job.json", json.dumps(asdict(record))),
        ("state/rexec/batches/3/batch.json", "{}"),
        ("config/rexec/hosts.toml", '[host.nearbox]\nssh = "alpha"\n'),
    ):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    (made / "bin").mkdir()
    (made / "bin" / "rexec").symlink_to(rexec.path)
    for path in made.rglob("*"):
        os.chown(path, SUBMIT_UID, SUBMIT_UID, follow_symlinks=False)
    return made


@pytest.mark.parametrize("shell", SHELLS)
def test_verbs_jobs_and_hosts(shell: str, home: Path) -> None:
    screen = Screen(SUBMIT_USER, home)
    try:
        screen.type('export XDG_STATE_HOME=$PWD/state XDG_CONFIG_HOME=$PWD/config PATH="$PWD/bin:$PATH" HOME=$PWD')
        for command in SHELLS[shell].split("; "):
            screen.type(command)
        screen.key("C-l")
        for begun, whole in (("rexec att", "rexec attach"), ("rexec attach ", "rexec attach 17")):
            screen.key(begun, "Tab")
            screen.wait(rf"> {whole}\b")
            screen.key("C-u")
        screen.key("rexec --on near", "Tab")
        screen.wait(r"> rexec --on nearbox\b")
    finally:
        screen.close()


def test_a_wrong_hosts_file_is_no_matter_to_one_who_types(home: Path, rexec: Rexec) -> None:
    (home / "config/rexec/hosts.toml").write_text("[")
    asked = {"_REXEC_COMPLETE": "bash_complete", "COMP_WORDS": "rexec\n--on\nn", "COMP_CWORD": "2"}
    env = {**os.environ, **asked, "XDG_CONFIG_HOME": str(home / "config")}
    done = subprocess.run([rexec.path], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize(("verb", "offered"), [("report", "plain,17\nplain,b3\n"), ("stat", "plain,17\n")])
def test_batches_are_offered_to_what_takes_them(verb: str, offered: str, home: Path, rexec: Rexec) -> None:
    asked = {"_REXEC_COMPLETE": "bash_complete", "COMP_WORDS": f"rexec\n{verb}\n", "COMP_CWORD": "2"}
    env = {**os.environ, **asked, "XDG_STATE_HOME": str(home / "state")}
    done = subprocess.run([rexec.path], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, offered)
