"""An agent that waits for a job has read what the job would have to wait for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WAITS = """
import os
from shim.execute import spare
read_fd, write_fd = os.pipe()
os.close(write_fd)
spare.main(read_fd, 1)
print("libcrypto" in open("/proc/self/maps").read())
"""


@pytest.mark.parametrize("kept", [True, False])
def test_libcrypto_is_loaded_before_there_is_a_job_where_something_is_kept_for_it(kept: bool, tmp_path: Path) -> None:
    if kept:
        (tmp_path / "rexec/contents").mkdir(parents=True)
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", WAITS], env=env) == f"{kept}\n".encode()
