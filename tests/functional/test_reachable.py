"""The ordinary user runs the project wherever the checkout is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.reachable import ROOT

INSIDE = """
import sys
from pathlib import Path

sys.path[0] = str(Path.cwd())  # as pytest has it
from shim.submit.hosts import bootstrap
from tests import reachable
from tests.desk_hosts import SUBMIT_UID

def body():
    assert bootstrap.collect(bootstrap.shipped()).source
    import paramiko.agent, tests.mover
    assert not Path(tests.mover.__file__).is_relative_to(Path.cwd())

copy = reachable.make(Path(sys.argv[1]))
assert reachable.ROOT == Path.cwd() != copy.checkout
copy.as_user(SUBMIT_UID, body)
"""


def test_a_checkout_that_is_closed_to_all_others(own: Path) -> None:
    closed = own / "closed"
    closed.mkdir(mode=0o700)
    for name in ("remoteio", "checkpoint", "shim", "tests"):
        shutil.copytree(ROOT / name, closed / name)
    argv = [sys.executable, "-c", INSIDE, own / "elsewhere"]
    done = subprocess.run(argv, cwd=closed, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
