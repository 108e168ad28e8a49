"""Programs that people run at both ends of one tree: what one leaves the other goes on with (docs/consistency.md)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from remoteio.wire.coherence import TTL
from tests.program import Combo
from tests.talk import Talk

pytestmark = [
    pytest.mark.parametrize("combo", ["local-root", "user-alice"], indirect=True),
    pytest.mark.long(lambda combo: combo == "local-root"),
]
ROUNDS = 3
_MAKEFILE = """
CFLAGS = -MMD
told: told.o part.o
-include *.d
"""
_MAIN = """
#include <stdio.h>
#include "value.h"
int part(void);
int main(void) { printf("%d %d\\n", VALUE, part()); return 0; }
"""
_RUN = (
    "def run(*words):\n"
    "    done = subprocess.run(words, capture_output=True)\n"
    "    assert not done.returncode, done.stderr.decode()\n"
    "    return done.stdout.decode()\n"
)


@pytest.fixture
def job(combo: Combo) -> Iterator[Talk]:
    with Talk(combo) as talk:
        talk(_RUN)
        yield talk


def here(combo: Combo, *words: str) -> str:
    """What a command of the same user prints here."""
    done = combo.here(words)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def heard(job: Talk) -> None:
    """Have the job hear of what was done here, by its standard input, and wait for as long as it may not see that."""
    job(f"time.sleep({TTL + 0.05})")


def test_make_sees_headers_that_are_edited_here(combo: Combo, job: Talk) -> None:
    at = combo.dir
    for name, text in (
        ("Makefile", _MAKEFILE), ("told.c", _MAIN), ("value.h", "#define VALUE 0\n"),
        ("part.c", '#include "value.h"\nint part(void) { return VALUE; }\n'),
    ):  # fmt: skip
        (at / name).write_text(text)
    subprocess.run(["chown", "-R", str(combo.uid), at], check=True)
    for k in range(ROUNDS):
        if k % 2:  # as many editors do
            (at / "value.h~").write_text(f"#define VALUE {k}\n")
            (at / "value.h~").rename(at / "value.h")
        else:
            (at / "value.h").write_text(f"#define VALUE {k}\n")
        heard(job)
        job("run('make')")
        assert job("run('./told')") == f"{k} {k}\n"
        assert here(combo, "./told") == f"{k} {k}\n"
        assert here(combo, "make", "-q") == ""


def test_sed_replaces_a_file_at_both_ends_in_turns(combo: Combo, job: Talk) -> None:
    (combo.dir / "text").write_text("0\n")
    os.chown(combo.dir / "text", combo.uid, -1)
    for k in range(1, 2 * ROUNDS, 2):
        job(f"run('sed', '-i', '$a{k}', 'text')")
        here(combo, "sed", "-i", f"$a{k + 1}", "text")
        heard(job)
        wanted = "".join(f"{n}\n" for n in range(k + 2))
        assert job("get('text')") == wanted
        assert job("run('sed', '-n', 'p', 'text')") == wanted


def test_commits_are_made_at_both_ends_in_turns(combo: Combo, job: Talk) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    here(combo, "git", "init", "-q")
    for k in range(ROUNDS):
        (combo.dir / f"here{k}").write_text(f"here {k}\n")
        os.chown(combo.dir / f"here{k}", combo.uid, -1)
        here(combo, "git", "add", ".")
        here(combo, "git", *who, "commit", "-qm", f"here {k}")
        heard(job)
        assert job("run('git', 'status', '--porcelain')") == ""
        job(f"put('there{k}', 'there {k}\\n')")
        job("run('git', 'add', '.')")
        job(f"run('git', {', '.join(map(repr, who))}, 'commit', '-qm', 'there {k}')")
        assert here(combo, "git", "status", "--porcelain") == ""
        assert (combo.dir / f"there{k}").read_text() == f"there {k}\n"
        if k == 1:
            here(combo, "git", "gc", "-q")
    assert here(combo, "git", "log", "--format=%s").split("\n")[:-1] == [
        f"{side} {k}" for k in reversed(range(ROUNDS)) for side in ("there", "here")
    ]
    assert here(combo, "git", "fsck", "--strict") == job("run('git', 'fsck', '--strict')") == ""


def test_a_log_is_rotated_here_while_the_job_writes_it(combo: Combo, job: Talk) -> None:
    job(
        "def logs(seconds):\n"
        "    count, until = 0, time.monotonic() + seconds\n"
        "    while time.monotonic() < until:\n"
        "        with open('log', 'a') as log:\n"
        "            log.write(f'{count}\\n')\n"
        "        count += 1\n"
        "    return count\n"
    )
    job.tell(f"logs({5 * TTL})")
    log, old, deadline = combo.dir / "log", [], time.monotonic() + 60
    while job.quiet(0.05):
        assert time.monotonic() < deadline
        if log.exists() and log.stat().st_size:
            old.append(log.rename(combo.dir / f"log.{len(old)}"))
    count = job.answer()
    found = [int(line) for each in [*old, *([log] if log.exists() else [])] for line in each.read_text().split()]
    assert sorted(found) == list(range(count))
    assert len(old) > 1
