"""What people do with their projects works in a job, and what is kept from it is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import Combo

HERE = pytest.mark.where(lambda combo: combo == "local-user")

GIT = """
set -e
export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=n@n GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=n@n
cd project
echo more >>file; git add file; git commit -qm second; git branch -q other; git stash list; git gc -q
echo x >f2; git add f2; git stash -q; git stash pop -q; git commit -qm third; git rebase -q other; git reset -q --hard
! git config core.fsmonitor ./evil 2>../refused
! touch .git/hooks/pre-commit
cd ..
git clone -q project clone
git -C clone config user.name me
touch clone/.git/hooks/pre-commit clone/.envrc
git init -q new; git -C new config user.name me
mv new project/moved; git -C project/moved config user.name you
! python3 -c 'import os; os.rename("project", "clone/project")' 2>>refused
"""


def project(combo: Combo) -> Path:
    """A repository of the user's, that was there before the job."""
    home = combo.dir / "home"
    made = (
        f"mkdir {home} && cd {home} && git init -q -b main project && cd project && echo text >file && git add file &&"
        " git -c user.name=n -c user.email=n@n commit -qm first && echo secret >../.netrc && echo alias >../.bashrc"
    )
    subprocess.run(["sh", "-c", made], check=True, user=combo.uid, env={"PATH": os.environ["PATH"], "HOME": "/nowhere"})
    return home


@HERE
def test_git_in_a_project_and_in_what_the_job_makes(combo: Combo) -> None:
    home = project(combo)
    before = (home / "project/.git/config").read_bytes()
    done = combo.run(["sh", "-c", GIT], env={"HOME": str(home)}, options=["--cd", str(home)])
    assert done.returncode == 0, done.stderr
    assert (home / "project/.git/config").read_bytes() == before
    told = (home / "refused").read_bytes()
    assert b"Read-only file system" in told and b"Invalid cross-device link" in told
    assert not (home / "project/.git/hooks/pre-commit").exists()
    assert (home / "clone/.git/hooks/pre-commit").exists()
    assert b"you" in (home / "project/moved/.git/config").read_bytes()


@HERE
def test_scopes_of_the_command_line(combo: Combo) -> None:
    home = project(combo)
    see = ["sh", "-c", "cat .netrc; ls -A; echo x >>.bashrc; echo x >project/new && rm project/new"]
    env = {"HOME": str(home)}

    def run(*options: str) -> tuple[list[str], int]:
        done = combo.run(see, env=env, options=["--cd", str(home), *options])
        words = done.stdout.decode().split()
        return [word for word in words if word != ".cache"], done.stderr.count(b"\n")

    assert run() == ([".bashrc", "project"], 2)
    assert run("--read", str(home / ".netrc"), "--write", str(home / ".bashrc")) == (
        ["secret", ".bashrc", ".netrc", "project"], 0,
    )  # fmt: skip
    assert run("--hide", str(home / "project"))[0] == [".bashrc"]
    own = ["sh", "-c", f"ls -A {home}; echo x >/tmp/mine && ls /tmp; ls /var/tmp/.. >/dev/null"]
    done = combo.run(own, env=env, options=["--cd", str(home / "project"), "--only"])
    assert done.stdout.decode().split() == ["project", "mine"], done.stderr


@HERE
def test_how_much_a_job_may_add(combo: Combo) -> None:
    """It is told as by its own disk quota; who runs it, by the option. A file is removed, and there is room again."""
    job = "head -c 3M /dev/zero >big; rm big; head -c 1500k /dev/zero >fits && ls"
    log = combo.dir / "log"
    done = combo.run(["sh", "-c", job], options=["--disk", "2M", "-v", "--json-log", str(log)])
    assert b"Disk quota exceeded" in done.stderr and done.stdout.split() == [b"fits", b"log"]
    (said,) = [line for line in done.stderr.decode().splitlines() if "--disk" in line]
    assert "the job was kept from adding more than 2.0 MiB to the files here (" in said and "/big" in said
    rows = [row for row in map(json.loads, log.read_text().splitlines()) if row["event"] == "refused"]
    assert [row["option"] for row in rows if row["to"] == "add"] == ["--disk SIZE"]


@HERE
def test_a_virtual_environment_of_a_project(combo: Combo) -> None:
    """What is installed in it by a job is; what python would run by itself at each start is not."""
    venv = combo.dir / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run(["chown", "-R", str(combo.uid), venv], check=True)
    (site,) = (venv / "lib").glob("python*/site-packages")
    job = (
        f"mkdir {site}/package {site}/package-1.dist-info && echo 'x = 5' >{site}/package/__init__.py &&"
        f" {venv}/bin/python -c 'import package; print(package.x)'; rm -r {site}/package-1.dist-info;"
        f" touch {site}/evil.pth {site}/sitecustomize.py; python3 -m venv --without-pip new &&"
        " cd new/lib/python*/site-packages && touch fine.pth"
    )
    done = combo.run(["sh", "-c", job])
    assert done.stdout == b"5\n"
    assert not list(site.glob("*.pth")) and not (site / "sitecustomize.py").exists()
    assert list(combo.dir.glob("new/lib/python*/site-packages/fine.pth"))
    assert done.stderr.count(b"Read-only file system") == 2, done.stderr
