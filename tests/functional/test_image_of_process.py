"""A real process, dumped by CRIU, kept by the store, and restored from what the store gives back.

criu is the bundle that rexec itself would bring; the test is run as root.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.submit.store import Store
from checkpoint.wire import criu_bundle
from checkpoint.wire.manifest import PAGE
from tests.images import contents, restore, save

SIZE = 64 << 20

JOB = """
import mmap, os, random, signal, sys
memory = mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(memory), 1 << 20):
    memory[at : at + (1 << 20)] = os.urandom(1 << 20)
pages = len(memory) // 4096
for line in open(sys.argv[2]):
    for page in random.sample(range(pages), pages // 100) if line == "touch\\n" else ():
        memory[page * 4096 : page * 4096 + 4096] = os.urandom(4096)
    with open(sys.argv[3], "a") as out:
        out.write(line)
"""


class Job:
    """The process: says each line it is given after doing it; `touch` changes one page in a hundred."""

    def __init__(self, directory: Path) -> None:
        self.orders, self.said = directory / "orders", directory / "said"
        os.mkfifo(self.orders)
        script = directory / "job.py"
        script.write_text(JOB)
        self.said.touch()
        process = subprocess.Popen(
            [sys.executable, script, str(SIZE), self.orders, self.said],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.process, self.pid = process, process.pid
        # Opened for both, so that the job never sees the end of its orders between two of them.
        self.pen = os.open(self.orders, os.O_RDWR)

    def order(self, line: str) -> None:
        os.write(self.pen, line.encode() + b"\n")
        deadline = time.monotonic() + 60
        while not self.said.read_text().endswith(line + "\n"):
            assert time.monotonic() < deadline, f"the job did not do {line}"
            time.sleep(0.02)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.process.poll()
    if Path(f"/proc/{job.pid}").exists():
        os.kill(job.pid, signal.SIGKILL)
    os.close(job.pen)
    job.process.wait()


Criu = Callable[..., None]


@pytest.fixture
def criu(criu_dir: str) -> Criu:
    """Runs criu with arguments."""
    program = [
        f"{criu_dir}/{criu_bundle.LOADER}",
        "--library-path",
        f"{criu_dir}/lib",
        f"{criu_dir}/{criu_bundle.PROGRAM}",
    ]

    def run(*arguments: object) -> None:
        done = subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_a_process_goes_on_from_files_that_the_store_gave_back(tmp_path: Path, job: Job, criu: Criu) -> None:
    store = Store(tmp_path / "store")
    job.order("hello")
    costs = []
    for number in (1, 2):
        directory = tmp_path / f"dump-{number}"
        directory.mkdir()
        criu("dump", "-t", job.pid, "-D", directory, "--shell-job", *(["--leave-running"] if number == 1 else []))
        image, sent, disk = save(store, "job", directory)
        costs.append((sent / image.size, disk / image.size))
        if number == 1:
            job.order("touch")
    assert max(costs[1]) <= 0.03
    assert store.verify("job") == []
    job.process.wait()
    for number in (1, 2):
        restore(store, "job", number, tmp_path / f"again-{number}")
        assert contents(tmp_path / f"again-{number}") == contents(tmp_path / f"dump-{number}")
    criu("restore", "-D", tmp_path / "again-2", "--shell-job", "-d")
    job.order(f"world {random.random()} {PAGE}")
