"""Supervises a job that can be checkpointed in the foreground: with this process's streams, terminal and signals."""

from __future__ import annotations

import os
import resource

from remoteio.wire import frames
from shim.cli.say import tell
from shim.submit import own_process
from shim.submit.foreground.console import Console, Interrupted
from shim.submit.foreground.own_streams import die_like, let_go
from shim.submit.job.output_file import OutputCount, OutputFile
from shim.submit.job.placement_actions import Result
from shim.submit.job.record import Job
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.job.submission import Resumed
from shim.submit.job.supervisor import JobSupervisor
from shim.wire.job_spec import JobSpec


def supervise(job: Job, *, quiet: bool, resumed: Resumed | None = None, force: bool = False) -> int:
    """Run a job that this process has locked, to its end; the exit status. Raises RexecError."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each file the job has open is open here
    own_process.settle()
    record = job.read()
    say = (lambda text: None) if quiet else tell
    console = Console(record.tty, say, quiet=quiet)
    try:
        spec = record.job_spec()
        outputs, given = _own_streams(job, spec, resumed, console)
        supervisor = JobSupervisor(
            job, outputs, given, patient=False, force=force, say=say, watch=console.watch, stopped=console.stopped,
        )  # fmt: skip
        console.bind(supervisor)
        result = supervisor.run()
    except Interrupted as interrupted:
        console.close()
        if job.read().image:
            say(f"job {job.id} runs nowhere now: `rexec restart {job.id}` goes on from its last image")
        return die_like(interrupted.number, record.tty)
    finally:
        console.close()
    return _leave(result, record.tty)


def _leave(result: Result, keys: bool) -> int:
    if result.status is None:
        tell(result.reason)
        return result.code
    return die_like(result.status, keys)


def _own_streams(
    job: Job, spec: JobSpec, resumed: Resumed | None, console: Console
) -> tuple[dict[int, OutputOnce], ReplayedInput | None]:
    """This process's own stdin, stdout and stderr as the job's."""
    outputs = {}
    for kind, fd in ((frames.STDOUT, 1), (frames.STDERR, 2)):
        if fd in spec.stdio or (fd == 1 and spec.tty):
            close = let_go(fd) if fd == 1 else os.close  # 2 stays: what we have to say goes there too
            count = OutputCount(job.path, kind)
            taken = 0 if resumed is None else resumed.written(kind, count)
            count.begin(taken)
            file = OutputFile(os.dup(fd), close=close, say=tell, count=count)
            outputs[kind] = OutputOnce(kind, file, taken=taken)
    if not spec.tty and 0 not in spec.stdio:
        return outputs, None
    given = ReplayedInput(job.path, os.dup(0), console.ours)
    if resumed is not None:
        given.skip_to(resumed.given)
    return outputs, given
