"""An rexec that is killed leaves somebody who has its job ended; one that ends otherwise does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim.submit.hosts import orphaned
from shim.submit.hosts.config import Host
from shim.submit.hosts.dialler import Agent
from shim.wire.rendezvous import Whereabouts
from tests.until import until

# How rexec has it, but that who would dial writes down what it is given.
_RUN = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from shim.submit.hosts import orphaned
from shim.submit.hosts.config import Host
from shim.submit.hosts.dialler import Agent
from shim.wire.rendezvous import Whereabouts

ssh, said, seconds = sys.argv[1:]
orphaned._SOON = 0.01
orphaned.own_code = SimpleNamespace(command=lambda name: ["sh", "-c", 'cat <&"$1" >"$0.new"; mv "$0.new" "$0"', said])
agent = Agent(b"s" * 32, 2400, Whereabouts("/run/x", "vm", "boot", 7, 9) if ssh != "unheard" else None)
with orphaned.ended(SimpleNamespace(host=Host("a", ssh or None, ("-p", "1"), "py"), agent=agent)):
    while ssh == "alice@a" and not any(each.read_text() for each in Path("/proc/self/task").glob("*/children")):
        time.sleep(0.01)  # until the shell is there
    if ssh != "alice@a":
        time.sleep(0.5)  # there is to be none
    print("runs", flush=True)
    time.sleep(float(seconds))
"""


def _started(said: Path, ssh: str, seconds: float) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", _RUN, ssh, str(said), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"runs\n"
    return process


def test_where_rexec_is_killed_somebody_dials_its_host(tmp_path: Path) -> None:
    with _started(tmp_path / "said", "alice@a", 60) as process:
        assert not (tmp_path / "said").exists()
        process.kill()
    until((tmp_path / "said").exists, "it is told how the agent is asked")
    assert json.loads((tmp_path / "said").read_bytes()) == _row()


def _row() -> dict[str, object]:
    host = ["a", "alice@a", ["-p", "1"], "py"]
    return {"host": host, "secret": "73" * 32, "lease": 2400, "door": ["/run/x", "vm", "boot", "7", "9"]}


@pytest.mark.parametrize(
    ("ssh", "kill"), [("alice@a", 0), ("", signal.SIGKILL), ("condor:1.0", signal.SIGKILL), ("unheard", signal.SIGKILL)]
)
def test_else_nobody_does(tmp_path: Path, ssh: str, kill: int) -> None:
    """It has ended in order, or it is an engine's or this machine's own, or no agent was heard of."""
    with _started(tmp_path / "said", ssh, 60 if kill else 0.1) as process:
        if kill:
            os.kill(process.pid, kill)
    time.sleep(0.5)
    assert not (tmp_path / "said").exists()


def test_who_dials_has_that_agent_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shim.submit.hosts import ending

    (tmp_path / "told").write_text(json.dumps(_row()))
    asked: list[tuple[Host, Agent]] = []
    monkeypatch.setattr(ending, "end", lambda host, agent, reach, over: asked.append((host, agent)))
    monkeypatch.setattr(orphaned.own_code, "import_only_ours", lambda: None)
    monkeypatch.setattr(sys, "argv", ["rexec", str(os.open(tmp_path / "told", os.O_RDONLY))])
    orphaned.main()
    ((host, agent),) = asked
    assert host == Host("a", "alice@a", ("-p", "1"), "py")
    assert (agent.secret, agent.lease) == (b"s" * 32, 2400)
    assert agent.where is not None and agent.where.pack() == Whereabouts("/run/x", "vm", "boot", 7, 9).pack()
