"""An owner.toml on the execute host: which jobs begin there, how low they run, and that they leave when it says so."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.job_commands import USER, Mover, out
from tests.program import Combo, Rexec
from tests.until import HANG, until

LOCAL = pytest.mark.where(lambda combo: combo.startswith("local-"))
CALM = "keyboard = false\nbattery = true\n"  # nobody sits there


def says(directory: Path, text: str) -> dict[str, str]:
    """Have the owner of this machine say so to who has this environment."""
    file = directory / "home/.config/rexec/owner.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent / "new").write_text(text)
    (file.parent / "new").rename(file)
    for path in (directory / "home", *file.parents[:2], file):
        os.chown(path, directory.stat().st_uid, directory.stat().st_gid)
    return {"HOME": str(directory / "home")}


@LOCAL
def test_a_job_runs_as_low_as_the_owner_says(combo: Combo) -> None:
    look = ["sh", "-c", "nice; ionice"]
    done = combo.run(look, env=says(combo.dir, CALM))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"10\nidle\n", b"")
    env = says(combo.dir, CALM + 'nice = 5\nio = "normal"')
    assert combo.run(look, env=env).stdout.split()[0] == b"5"
    lower = combo.rexec.start(["--on", combo.on, "nice"], as_user=combo.as_user, env=env, cwd=combo.dir)
    assert lower.communicate(timeout=HANG) == (b"5\n", b"")


@LOCAL
def test_what_the_owner_does_not_let_begin_is_refused_in_a_sentence(combo: Combo) -> None:
    for text, why in (
        (CALM + 'users = ["nobody"]', f" does not let {combo.as_user} run jobs"),
        (CALM + "max_load = -1", " cannot be used: max_load = -1 is not a number of busy cores; write for example 0.3"),
        ("[owner]", " cannot be used: line 1 is no `key = value`: there are no tables in it"),
    ):
        done = combo.run(["touch", "made"], env=says(combo.dir, text))
        file = f"{combo.dir}/home/.config/rexec/owner.toml"
        owners = "its owner's " if "cannot" in why else ""
        assert done.stderr.decode() == f"rexec: local lets no job begin now: {owners}{file}{why}\n"
        assert done.returncode == 125 and not (combo.dir / "made").exists()
    env = says(combo.dir, "")
    with combo.rexec.start(["hosts", "--json"], as_user=combo.as_user, env=env) as asked:
        (local,) = (each for each in json.loads(asked.communicate(timeout=HANG)[0]) if each["name"] == "local")
    assert local["owner"] == f"{combo.dir}/home/.config/rexec/owner.toml" and local["usable"]


_SLOTS = """
mkfifo hold said
"$0" --on local sh -c 'echo in; cat' <hold >said &
exec 3>hold 4<said
read in <&4
"$0" --on local true; echo $?
exec 3>&-
wait
"$0" --on local true; echo $?
"""


def test_there_are_no_more_jobs_than_the_owner_says(rexec: Rexec, place: Callable[[str], Path]) -> None:
    made = place("root")
    env = {**says(made, CALM + "slots = 1"), "PATH": "/usr/bin:/bin", "REXEC_KEEP": "0", "XDG_CONFIG_HOME": str(made)}
    # slots are the machine's: in a network of its own no other test is in the way
    argv = ["unshare", "--net", "sh", "-c", _SLOTS, rexec.path]
    done = subprocess.run(argv, cwd=made, env=env, capture_output=True, text=True, timeout=HANG, check=False)
    why = "there may be no more than 1 jobs at a time, by its owner, and so many there are"
    assert (done.stdout, done.stderr) == ("125\n0\n", f"rexec: local lets no job begin now: {why}\n")


_WAITS = """
mkfifo hold said
"$0" --on local sh -c 'echo in; cat' <hold >said &
exec 3>hold 4<said
read in <&4
mkfifo log
exec 5<>log
XDG_STATE_HOME=$PWD/other "$0" --on local,local --json-log log sh -c 'read line; echo $line' <<- end >told 3>&- &
	once
	end
while read line <&5; do case $line in *refused*) break;; esac; done
exec 3>&-
wait
cat told
"""


@pytest.mark.long(lambda **_: True)
def test_a_run_of_a_desk_that_was_refused_waits_and_has_its_input_whole(
    rexec: Rexec, place: Callable[[str], Path]
) -> None:
    made = place("root")
    env = {**says(made, CALM + "slots = 1"), "PATH": "/usr/bin:/bin", "REXEC_KEEP": "0", "XDG_CONFIG_HOME": str(made)}
    argv = ["unshare", "--net", "sh", "-c", _WAITS, rexec.path]
    done = subprocess.run(argv, cwd=made, env=env, capture_output=True, text=True, timeout=HANG, check=False)
    assert (done.stdout, done.stderr) == ("once\n", "")


@pytest.mark.long(lambda **_: True)
@USER
def test_a_job_leaves_when_the_owner_says_so_and_comes_back_lower(mover: Mover) -> None:
    mover.hosts = ("local", "local")
    mover.env.update(says(mover.dir, CALM + "nice = 3"))
    job = mover.submit("sh", "-c", "until [ -e end ]; do nice; sleep .05; done; exit 3")
    until(lambda: "3\n3\n" in out(mover, job), "it runs low")
    says(mover.dir, CALM + 'linger = "0"\nusers = []')
    until(lambda: mover.job(job)["state"] == "parked", "it has left")
    why = f"owner.toml does not let {mover.user} run jobs"
    until(lambda: why in mover.verb("log", job), "its log says why")
    says(mover.dir, CALM + "nice = 12")

    def goes_on() -> bool:
        mover.verb_fails("release", job)  # it looks at once, unless it is just looking, with what was said before
        return "12\n12\n" in out(mover, job)

    until(goes_on, "it goes on")
    (mover.dir / "end").touch()
    assert mover.ended(job) == "exit 3"
    assert set(out(mover, job).split()) == {"3", "12"}
