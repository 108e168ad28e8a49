"""Supervises a job in the background: the main program of the process that shim/submit/job/detached.py starts.

All of it is the main thread's, and the process is this job's alone: so it may have limits, signals and standard streams
of its own.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path

from checkpoint.submit.store import Store
from remoteio.errors import RexecError
from remoteio.wire import frames
from shim.submit import faults, own_code, own_process
from shim.submit.job import record as jobs
from shim.submit.job.detached import Orders
from shim.submit.job.output_file import OutputCount, OutputFile
from shim.submit.job.record import Job, Record
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.job.submission import Resumed
from shim.submit.job.supervisor import JobSupervisor

# What a key, or a terminal's end, sends: it is nothing to one that has no terminal.
_TERMINALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

# no further link: where the file lies, the job may have made one to what it may not write
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def main() -> None:
    """Be what `start` starts, in the background, until the job has ended."""
    own_code.import_only_ours()
    orders = Orders(*json.loads(sys.argv.pop()))
    for fd in (orders.lock, orders.ready):
        os.set_inheritable(fd, False)
    if os.fork():  # nobody's child, and no leader of a session, which a terminal could become the terminal of
        os._exit(0)
    status = 1
    try:
        job = jobs.find(str(orders.job))
        job.locked_by(orders.lock)
        try:
            _supervise(job, orders)
            status = 0
        except faults.SAID as error:
            _say(str(error))
        except BaseException as error:  # else nobody would ever hear of it
            _say(_ended_by(job, error))
    finally:
        os._exit(status)


def _supervise(job: Job, orders: Orders) -> None:
    record = job.read()
    resumed = None
    if orders.image:
        with Store().open(str(job.id), orders.image) as opened:
            resumed = Resumed(opened.manifest, orders.from_files, orders.goes_on, ())
    standard_input = os.dup(0) if orders.input else -1
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each file the job has open is open here
    own_process.settle()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a thread of the program that started us may have blocked some
    for number in _TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    outputs = _outputs(job, record, resumed)
    given = ReplayedInput(job.path, standard_input)
    if standard_input < 0 and not record.tty:
        given.finish()  # nobody will type: as nohup(1) has it
    if resumed is not None:
        given.skip_to(resumed.given)

    def started() -> None:
        os.write(orders.ready, b"1")
        os.close(orders.ready)

    supervisor = JobSupervisor(
        job, outputs, given, patient=True, force=orders.force, take_up=orders.take_up, say=_say, ready=started,
    )  # fmt: skip

    def told_to_end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the second one ends it at once
        supervisor.quit()

    signal.signal(signal.SIGTERM, told_to_end)
    supervisor.run()


def _outputs(job: Job, record: Record, resumed: Resumed | None) -> dict[int, OutputOnce]:
    """Open the files that the job's streams go to: `stdout` and `stderr`, or `terminal`."""
    stdio = record.job_spec().stdio
    names = {frames.STDOUT: (1, "stdout"), frames.STDERR: (2, "stderr")}
    found = {kind: name for kind, (fd, name) in names.items() if fd in stdio}
    outputs = {}
    for kind, name in ({frames.STDOUT: "terminal"} if record.tty else found).items():
        fd = os.open(_target(job.path / name), _FLAGS, 0o600)
        size, count = os.fstat(fd).st_size, OutputCount(job.path, kind)
        # Part of the stream may have gone elsewhere: then the file does not begin where that does.
        taken = count.begins + size if resumed is None or resumed.from_files else resumed.written(kind, count)
        count.begin(taken, taken - size)
        outputs[kind] = OutputOnce(kind, OutputFile(fd, say=_say, count=count), taken=taken)
    return outputs


def _target(path: Path) -> Path:
    """Return the file that a stream goes to: that one, or what it was linked to when the job was submitted."""
    return path.readlink() if path.is_symlink() else path


def _ended_by(job: Job, error: BaseException) -> str:
    """Put on record what ended the supervisor before it supervised anything; a sentence."""
    why = faults.record(job.path / "errors", f"starting the supervisor of job {job.id}", error)
    try:
        job.write(replace(job.read(), reason=why))
    except RexecError as full:
        return f"{why}; {full}"
    return why


def _say(text: str) -> None:
    print("rexec:", text, file=sys.stderr, flush=True)
