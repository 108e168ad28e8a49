"""A Parsl worker in a job, and how Parsl begins one: each of its blocks is a job, led to its interchange here."""

from __future__ import annotations

import os
import runpy
import shlex
import sys
import tempfile
from multiprocessing import heap, reduction

import anew
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.launchers.base import Launcher
from parsl.providers import LocalProvider

PYTHON = shlex.quote(sys.executable)
PARTS = "parsl.executors.high_throughput"


class Rexec(Launcher):
    """Has what Parsl would run here run as a job, and begun anew wherever that comes to; `options` are rexec's."""

    def __init__(self, port: int, options: str) -> None:
        super().__init__()
        self.port, self.options, self._master = port, options, anew.listen()

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int, script_dir: str = "") -> str:
        leads = f"--forward any:{self.port} --forward any:{self._master}"
        worker = f"{PYTHON} {shlex.quote(anew.__file__)} {self._master} {shlex.quote(command)}"
        return f"exec rexec --checkpoint {leads} {self.options} -- {worker} </dev/null"


def executor(workers: int, options: str, port: int = 54000) -> HighThroughputExecutor:
    """Have that many workers, each a job; what was lost with one is known `heartbeat_threshold` seconds later."""
    return HighThroughputExecutor(
        label="rexec",
        provider=LocalProvider(
            launcher=Rexec(port, options), init_blocks=workers, min_blocks=workers, max_blocks=workers
        ),
        address="127.0.0.1",
        worker_port=port,
        max_workers_per_node=1,
        heartbeat_period=2,
        heartbeat_threshold=10,
        launch_cmd=DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", f"exec {PYTHON} {shlex.quote(__file__)}"),
        interchange_launch_cmd=[sys.executable, "-m", f"{PARTS}.interchange"],
    )


class _Arena(heap.Arena):
    """The memory that a worker shares with its processes: in a file that keeps its name, or no image has it."""

    def __init__(self, size: int) -> None:
        fd, _ = tempfile.mkstemp(dir="/dev/shm")
        os.ftruncate(fd, size)
        super().__init__(size, fd)


def main() -> None:
    """Be a worker of the interchange at that port of home's."""
    (port,) = (word.partition("=")[2] for word in sys.argv if word.startswith("--port="))
    host, number = anew.home(port)
    sys.argv += ["--addresses", host, "--port", str(number)]  # what is said last counts
    heap.Arena = _Arena
    reduction.register(_Arena, heap.reduce_arena)
    runpy.run_module(f"{PARTS}.process_worker_pool", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
