"""``rexec --checkpoint CMD`` and ``rexec restart``: from the command line to the job's end."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoint.submit.store import Store
from checkpoint.wire.manifest import Manifest
from remoteio.errors import RexecError
from remoteio.submit.export.changes import Changes
from remoteio.wire import frames
from shim.cli.say import tell
from shim.submit import faults
from shim.submit.foreground.console import Console, Interrupted
from shim.submit.foreground.own_streams import die_like, let_go
from shim.submit.hosts import config
from shim.submit.job import file_rollback, placement_events, placement_steps
from shim.submit.job.logout import killed_at_logout
from shim.submit.job.placement_events import Result
from shim.submit.job.record import ANY, Job, JobError, Record, create, packed
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.job.supervisor import JobSupervisor
from shim.wire.job_spec import JobSpec
from shim.wire.owner_policy import named_policy, parse_duration

KEEP = 2  # images


class SubmitError(RexecError):
    """The job cannot be submitted as asked: one sentence."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of a job that can be checkpointed. `on`: as --on gave it, None: hosts.toml decides."""

    on: str | None
    owner: str
    every: float
    keep: int
    detach: bool


def parse_every(text: str | None) -> float:
    """Seconds, as State.every of shim/submit/job/placement_events.py has them. Raises PolicyError for what is no
    duration.
    """
    if text is None:
        return 0.0
    return placement_steps.NEVER if text == "never" else parse_duration(text, "--every")


def names(on: str | None) -> tuple[str, ...]:
    """The hosts that --on means: HOST,HOST… or any. Raises HostsError for a name that is none."""
    known = config.load()
    if on is None:
        return (ANY,) if known.hosts else (config.LOCAL,)
    if on == ANY:
        return (ANY,)
    return tuple(config.resolve(name.strip(), known).name for name in on.split(","))


def submit(spec: JobSpec, wanted: Wanted, *, quiet: bool) -> int:
    """Run the job; returns the exit status, or ends by the job's own signal. Raises RexecError."""
    if wanted.owner:
        named_policy(wanted.owner, dict(config.load().owners))
    record = Record(
        id=0,
        command=tuple(os.fsdecode(word) for word in spec.argv),
        cwd=os.fsdecode(spec.cwd),
        created=time.time(),
        hosts=names(wanted.on),
        owner=wanted.owner,
        every=wanted.every,
        keep=wanted.keep,
        detached=wanted.detach,
        tty=bool(spec.tty),
        spec=packed(spec),
    )
    job = create(record)
    return _supervise(job, quiet=quiet, force=False)


def restart(job: Job, number: int | None, on: str | None, *, detach: bool | None, force: bool, quiet: bool) -> int:
    """Go on from an image, in the foreground or detached. Raises RexecError."""
    record = job.read()
    if job.supervised():
        raise SubmitError(
            f"job {job.id} has its supervisor: say `rexec vacate {job.id}` to move it, or `rexec attach {job.id}`"
        )
    image = _image(job, number)
    found = file_rollback.look(image, Changes.of(record.after, image.number).since(image.number))
    if found.changed and not force:
        raise SubmitError(
            f"{found.changed[0].clause} since image {image.number} was made: put it back, or say --force to go on all "
            "the same"
        )
    record = replace(
        record, image=image.number, status=None, code=0, reason="", held=False, why="", since=0.0,
        phase=record.phase if record.phase in placement_events.ACTING else placement_events.Phase.CHOOSING,
        hosts=names(on) if on is not None else record.hosts, detached=record.detached if detach is None else detach,
    )  # fmt: skip
    if record.detached and not quiet:
        for named in found.both:  # the supervisor, which does it, has nobody to tell
            tell(f"{named.clause} since image {image.number} was made: see `rexec log {job.id}` for what is kept")
    if record.tty and not record.detached and not os.isatty(0):
        raise SubmitError(f"job {job.id} has a terminal: run this in one, or say --detach")
    before = job.read().detached
    job.write(record)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return _supervise(job, quiet=quiet, force=force, image=image, files_whole=before)


def _image(job: Job, number: int | None) -> Manifest:
    with Store().open(str(job.id), number) as image:
        return image.manifest


def _supervise(job: Job, *, quiet: bool, force: bool, image: Manifest | None = None, files_whole: bool = True) -> int:
    if not job.lock():
        raise JobError(f"job {job.id} has got another supervisor just now: see `rexec jobs`")
    record = job.read()
    say = (lambda text: None) if quiet else tell
    if record.detached:
        return _detach(job, record, force=force, image=image, files_whole=files_whole, say=say)
    console = Console(record.tty, say)
    try:
        spec = record.job_spec()
        failures: list[Callable[[BaseException], None]] = []
        outputs, given = _own_streams(job, spec, image, console, lambda error: failures[0](error))
        moves = JobSupervisor(
            job, outputs, given, patient=False, force=force, say=say, watch=console.watch, stopped=console.stopped,
        )  # fmt: skip
        failures.append(moves.fail)
        console.bind(moves)
        result = moves.run()
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
    job: Job, spec: JobSpec, image: Manifest | None, console: Console, fail: Callable[[BaseException], None]
) -> tuple[dict[int, OutputOnce], ReplayedInput | None]:
    """This process's own stdin, stdout and stderr as the job's."""
    outputs = {}
    for kind, fd in ((frames.STDOUT, 1), (frames.STDERR, 2)):
        if fd in spec.stdio or (fd == 1 and spec.tty):
            close = let_go(fd) if fd == 1 else os.close  # 2 stays: what we have to say goes there too
            outputs[kind] = OutputOnce(kind, os.dup(fd), fail, taken=_said(image, kind), close=close, say=tell)
    if not spec.tty and 0 not in spec.stdio:
        return outputs, None
    given = ReplayedInput(job.path, os.dup(0), fail, console.ours)
    if image is not None:
        given.skip_to(image.streams.stdin + len(image.streams.stdin_unread))
    return outputs, given


def _said(image: Manifest | None, kind: int) -> int:
    if image is None:
        return 0
    return image.streams.stdout if kind == frames.STDOUT else image.streams.stderr


# detached


def _detach(
    job: Job, record: Record, *, force: bool, image: Manifest | None, files_whole: bool, say: Callable[[str], None]
) -> int:
    """Start the supervisor as a process of its own and say the job's id."""
    warning = killed_at_logout(os.environ.get("USER", ""))
    ready, ours = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        os.close(ready)
        os.setsid()
        if os.fork():
            os._exit(0)
        status = 1
        try:
            status = _stand_alone(job, record, ours, force=force, image=image, files_whole=files_whole)
        except RexecError as error:
            tell(str(error))
        except BaseException as error:  # else nobody would ever hear of it
            tell(_ended_by(job, error))
        finally:
            os._exit(status)
    os.close(ours)
    answer = os.read(ready, 1)
    os.close(ready)
    if not answer:
        words = (job.path / "errors").read_text(errors="replace").strip().splitlines()
        raise SubmitError(
            f"the supervisor of job {job.id} could not start: {words[-1] if words else 'it said nothing'}"
        )
    print(job.id, flush=True)
    if warning:
        say(warning)
    return 0


def _ended_by(job: Job, error: BaseException) -> str:
    """Put on record what ended the supervisor before it supervised anything; a sentence."""
    why = faults.record(job.path / "errors", f"starting the supervisor of job {job.id}", error)
    try:
        job.write(replace(job.read(), reason=why))
    except RexecError as full:
        return f"{why}; {full}"
    return why


def _stand_alone(
    job: Job, record: Record, ready: int, *, force: bool, image: Manifest | None, files_whole: bool
) -> int:
    spec = record.job_spec()
    standard_input = os.dup(0) if 0 in spec.stdio and not record.tty and not os.isatty(0) and image is None else -1
    errors = os.open(job.path / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    for fd, source in ((0, null), (1, errors), (2, errors)):
        os.dup2(source, fd)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    failures: list[Callable[[BaseException], None]] = []

    def fail(error: BaseException) -> None:
        failures[0](error)

    outputs = {}
    for kind, fd, name in ((frames.STDOUT, 1, "terminal" if record.tty else "stdout"), (frames.STDERR, 2, "stderr")):
        if (record.tty and fd == 1) or (fd in spec.stdio and not record.tty):
            outputs[kind] = _file_output(job.path / name, kind, image, files_whole, fail)
    given = ReplayedInput(job.path, standard_input, fail)
    if standard_input < 0 and not record.tty:
        given.finish()  # nobody will type: as nohup(1) has it
    if image is not None:
        given.skip_to(image.streams.stdin + len(image.streams.stdin_unread))

    def started() -> None:
        os.write(ready, b"1")
        os.close(ready)

    moves = JobSupervisor(job, outputs, given, patient=True, force=force, say=tell, ready=started)
    failures.append(moves.fail)

    def told_to_end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the second one ends it at once
        moves.quit()

    signal.signal(signal.SIGTERM, told_to_end)
    moves.run()
    return 0


def _file_output(
    path: Path, kind: int, image: Manifest | None, files_whole: bool, fail: Callable[[BaseException], None]
) -> OutputOnce:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    taken = os.fstat(fd).st_size if files_whole else _said(image, kind)
    return OutputOnce(kind, fd, fail, taken=taken, say=tell)
