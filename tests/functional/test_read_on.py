"""A large file that is read from one end to the other over a long way: as much is under way as the link carries."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

from tests.desk_hosts import SUBMIT_USER
from tests.program import Rexec

SIZE = 12 << 20
ASKED = 128 << 10  # by the kernel at once, of a mount of an ordinary user's


def test_what_is_read_next_is_asked_for_ahead(rexec: Rexec, place: Callable[[str], Path]) -> None:
    directory = place(SUBMIT_USER)
    contents = random.Random(5).randbytes(SIZE)
    (directory / "only").mkdir()
    (directory / "only/file").write_bytes(contents)
    env = {"XDG_CACHE_HOME": str(directory / "cache"), "XDG_STATE_HOME": str(directory / "state")}
    options = ["--keep", "0", "--json-log", directory / "log"]
    # the command line names no file: what it names is sent before it is asked for
    job = ["sh", "-c", 'sha256sum < "$(echo only/*)"']
    done = rexec(job, on="alice@alpha-far100", as_user=SUBMIT_USER, options=options, env=env, cwd=directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0].decode() == hashlib.sha256(contents).hexdigest()
    (ended,) = [e for e in map(json.loads, (directory / "log").read_text().splitlines()) if e["event"] == "ended"]
    assert ended["trips"] < SIZE // ASKED, "the kernel asks as often where nothing is asked for ahead of it"
