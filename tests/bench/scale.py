"""`python -m tests.bench.scale`: memory and processor at home for many jobs, and of both ends for many files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

import click
import psutil

from tests import apart, desk
from tests.bench.contenders import CHECKOUT
from tests.bench.document import Part, table, write
from tests.bench.ground import load
from tests.bench.process import BenchError
from tests.desk_root import DeskError

REXEC = CHECKOUT / ".venv/bin/rexec"
MIB = 1 << 20
BATCH = 10_000  # files that are there at a time
JOB = ("sh", "-c", "cat hello >/dev/null; echo ready; read word; exit 0")
TOUCHES = """
import os, sys
for line in sys.stdin:
    for entry in os.scandir(line.strip()):
        with open(entry.path, "rb") as file:
            assert file.read() == b"contents"
    print("done", flush=True)
"""


MANY = f"""
import os, resource, sys, threading
from shim import run
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
said, says = os.pipe()
def one(given):
    with open(given, "rb") as stdin, open(os.dup(says), "wb") as stdout:
        if run({JOB!r}, on="alpha", stdin=stdin, stdout=stdout).returncode:
            os._exit(1)
pipes = [os.pipe() for _ in range(int(sys.argv[1]))]
threads = [threading.Thread(target=one, args=[given]) for given, _ in pipes]
for thread in threads:
    thread.start()
with open(said, "rb") as lines:
    for _ in threads:
        lines.readline()
print("ready", flush=True)
sys.stdin.read()
for _, gives in pipes:
    os.close(gives)
for thread in threads:
    thread.join()
"""


@contextmanager
def _running(
    work: Path, command: Sequence[str | Path]
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """Run what has jobs on the desk's alpha until the block ends: it, its input and its output."""
    env = {**os.environ, "REXEC_KEEP": "0"}
    with subprocess.Popen(command, cwd=work, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        yield process, process.stdin, process.stdout
        process.stdin.close()
        if process.wait(120):
            raise BenchError(f"a job of the scale ended with status {process.returncode}; what it said is above")


def _below(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def _memory(pids: list[int]) -> float:
    """The memory (PSS, MiB) of all that runs at home for these, each page that several share in its parts."""
    return sum(each.memory_full_info().pss for pid in pids for each in _below(pid)) / MIB


def _processor(pids: list[int]) -> float:
    """The seconds of processor time that they have used."""
    times = [each.cpu_times() for pid in pids for each in _below(pid)]
    return sum(each.user + each.system for each in times)


def jobs(work: Path, count: int, idle: float, together: bool) -> tuple[float, list[str]]:
    """Measure so many jobs that wait at once, a `rexec` each or of one program: their memory, and what else is said."""
    one: list[str | Path] = [REXEC, "--on", "alpha", "--", *JOB]
    commands: list[list[str | Path]] = [[sys.executable, "-c", MANY, str(count)]] if together else [one] * count
    with ExitStack() as stack:
        began = time.monotonic()
        running = [stack.enter_context(_running(work, command)) for command in commands]
        for _, _, out in running:
            if out.readline() != b"ready\n":
                raise BenchError("a job of the scale did not begin; what it said is above")
        started = time.monotonic() - began
        pids = [process.pid for process, _, _ in running]
        used = _processor(pids)
        began = time.monotonic()
        time.sleep(idle)
        idles = (_processor(pids) - used) / (time.monotonic() - began)
        return _memory(pids), [f"{used / count:.2f}", f"{100 * idles:.1f}", f"{started:.1f}"]


def many(work: Path, counts: Sequence[int], idle: float) -> list[list[str]]:
    """Measure each number of jobs in both ways; the rows of the table."""
    rows = []
    for together, how in ((False, "`rexec` each"), (True, "`shim.run`, one program")):
        first: float | None = None
        for count in counts:
            memory, said = jobs(work, count, idle, together)
            first = memory if count == 1 else first
            more = f"{(memory - first) / (count - 1):.1f}" if first is not None and count > 1 else ""
            rows.append([how, str(count), f"{memory:.1f}", more, *said])
    return rows


def files(work: Path, count: int) -> list[list[str]]:
    """Have one job open and read so many files, all new; rows of what each end had in memory meanwhile."""
    rows = []
    command: list[str | Path] = [REXEC, "--on", "alpha", "--", "/usr/bin/python3", "-c", TOUCHES]
    with _running(work, command) as (process, given, out):
        marks = {1, max(count // BATCH // 10, 1), max(count // BATCH // 2, 1), max(count // BATCH, 1)}
        for number in range(1, max(marks) + 1):
            batch = work / f"batch{number}"
            batch.mkdir()
            for i in range(BATCH):
                (batch / f"{i:05d}").write_bytes(b"contents")
            given.write(f"{batch.name}\n".encode())
            given.flush()
            if out.readline() != b"done\n":
                raise BenchError("the job that reads files has ended; what it said is above")
            shutil.rmtree(batch)
            if number in marks:
                rows.append([f"{number * BATCH:,}", f"{_agent():.1f}", f"{_memory([process.pid]):.1f}"])
    return rows


def _agent() -> float:
    """The memory (MiB) of the agent on the host: the largest of what rexec runs there."""
    there = [psutil.Process(pid) for pid, line in desk.processes("alpha").items() if "python3 -ISc" in line]
    return max(each.memory_full_info().uss for each in there) / MIB


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--jobs", "counts", metavar="N,…", default="1,10,100", help="how many jobs at once; 1,10,100")
@click.option("--files", "touched", type=click.IntRange(0), default=1_000_000, help="how many files; 1000000")
@click.option("--idle", default=10.0, help="seconds for which the waiting jobs' processor time is counted; 10")
@click.option("--write", "document", type=click.Path(path_type=Path), help="write the figures into this document")
def main(counts: str, touched: int, idle: float, document: Path | None) -> None:
    """Measure what many jobs take at home, and what one that touches many files takes at both ends."""
    facts = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": f"{os.cpu_count()} x {os.uname().machine}", "kernel": os.uname().release,
        "python": sys.version.split()[0], "load": load(),
    }  # fmt: skip
    try:
        with ExitStack() as stack:
            stack.enter_context(apart.entered())
            desk.up()
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scale-", dir="/var/tmp")))
            (work / "hello").write_text("hello")
            waiting = many(work, [int(count) for count in counts.split(",")], idle)
            read = files(work, touched) if touched else []
    except (BenchError, DeskError) as failed:
        raise click.ClickException(str(failed)) from failed
    facts["load after"] = load()
    command = " ".join(["python -m tests.bench.scale", *sys.argv[1:]])
    heads = ["", "jobs at once", "MiB at home", "each beyond the first"]
    heads += ["s of processor to begin, each", "% idle", "s until all run"]
    text = [
        f"`{command}` wrote this: jobs that wait for input, on one host over ssh. Memory is that of all that runs here "
        "for them (PSS), and idle what of one processor they take together while they wait.",
        "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".",
        table([heads, *waiting]),
    ]
    if read:
        text.append("One job that opens and reads files, each of them new to it:")
        text.append(table([["files so far", "agent, MiB", "home, MiB"], *read]))
    part = Part("Many jobs, many files", "\n\n".join(text), {})
    click.echo(part.text)
    if document:
        write(document, part)


if __name__ == "__main__":
    main()
