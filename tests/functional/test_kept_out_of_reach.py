"""What a host keeps of files from other runs is nothing that a job there can see."""

from __future__ import annotations

import subprocess

import pytest

from tests.program import Combo, as_login

pytestmark = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "root-root"))

PLANT = 'at=$HOME/.cache/rexec/contents; mkdir -p -m 700 "$at" && echo of another run >"$at/{0}" && echo "$at"'
LOOK = ["sh", "-c", 'echo looks; cat "$1/$2"; ls -a "$1"; echo done', "sh"]


def on_host(combo: Combo, command: str) -> str:
    with as_login(combo.as_user, ["ssh", "-o", "BatchMode=yes", combo.on, command]) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.decode().strip()


def test_what_is_kept_is_out_of_a_job_s_reach(combo: Combo) -> None:
    name = f"planted-{combo.dir.name}"
    at = on_host(combo, PLANT.format(name))
    try:
        assert on_host(combo, f'cat "{at}/{name}"') == "of another run"
        done: subprocess.CompletedProcess[bytes] = combo.run([*LOOK, at, name])
    finally:
        on_host(combo, f'rm "{at}/{name}"')
    assert done.stdout == b"looks\ndone\n"
    assert b"No such file" in done.stderr
