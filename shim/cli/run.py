"""``rexec CMD``: from the command line to the job's end.

It runs the job as shim.run does (connect_first, PlainRun, to_the_end) and does not call that, which changes nothing of
the process that it is called in, where this gives all of it to the job: docs/decisions/python-door.md.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from remoteio.errors import RexecError
from remoteio.wire import frames
from shim.cli.say import tell
from shim.submit.desk.wanted import FOR_SLOTS, Wanted
from shim.submit.foreground import description, inherited
from shim.submit.foreground.own_streams import Signalled, die_like, fill, raise_signals
from shim.submit.foreground.progress import Waiting
from shim.submit.foreground.terminal import in_foreground
from shim.submit.hosts.connect import connect_first
from shim.submit.hosts.kept import Kept
from shim.submit.scope import JobRights, Scope, with_tmp
from shim.wire import terminal_state
from shim.wire.job_spec import JobSpec

if TYPE_CHECKING:
    from remoteio.submit.transport.stream import Stream
    from remoteio.wire.session_link import SessionLink
    from shim.submit.desk.place import Place
    from shim.submit.hosts.bootstrap import Facts
    from shim.submit.hosts.config import Host
    from shim.submit.hosts.dialler import Dialler
    from shim.submit.plain_run import RunResult
    from shim.submit.refusals_told import Told
    from shim.submit.spent import Spent

    _Reached = tuple[Host, Stream, Facts]

Log = Callable[..., None]
ANYWHERE = Wanted()
_MOST_UNASKED = 512 << 10  # bytes: they fit into the socket to ssh (_SOCKET_BYTES), whatever that does
_LEAST_FILES = 256  # beside those of the job: limits.py


def run(
    spec: JobSpec, on: str | None, asked: Scope, lease: int, keep: int, wanted: Wanted = ANYWHERE,
    *, sync: bool, verbose: bool, quiet: bool, json_log: str | None,
) -> int:  # fmt: skip
    """Run the job, wherever `on` says, with what is `asked` of the files here.

    `lease`: seconds; `keep`: so long a connection is kept for the next run; `sync`: it waits for each change of a file;
    `wanted`: its slots and of which hosts, where `on` names several.

    Returns the exit status, or ends by the job's own signal. Raises RexecError.
    """
    raise_signals()
    kept = Kept(keep, served=True)
    log = _json_lines(json_log) if json_log else _nothing
    try:
        with place(spec, on, wanted, quiet) as found:
            ended = to_end(
                spec, found or on, asked, lease, kept, _foreground, _nothing if quiet else tell, log,
                sync=sync, verbose=verbose, quiet=quiet,
            )  # fmt: skip
    except Signalled as signalled:
        return die_like(signalled.number, group=False)
    if ended.status is None:
        tell(ended.reason)
        return ended.code
    return die_like(ended.status, ended.keys)


class Job(Protocol):
    """One run on one host; it is made as ForegroundRun is, whose words these are."""

    lacks: str
    cost: Spent | None

    def run(self, *, lingers: bool) -> RunResult:
        """See ForegroundRun."""

    def never_was(self) -> None:
        """See ForegroundRun."""

    def refused(self) -> Told:
        """See ForegroundRun."""

    def leaves(self, held: Callable[[int], None]) -> None:
        """See ForegroundRun."""


def _foreground(
    link: SessionLink, spec: JobSpec, say: Callable[[str], None], log: Log, rights: JobRights, dialler: Dialler | None,
    since_ns: int,
) -> Job:  # fmt: skip
    from shim.submit.foreground.run import ForegroundRun

    return ForegroundRun(link, spec, say, log, rights, dialler, since_ns, served=dialler is None)


def place(spec: JobSpec, on: str | None, wanted: Wanted, quiet: bool) -> AbstractContextManager[Place | None]:
    """Make what finds a slot on one of several hosts; None: `on` names one."""
    from shim.submit.hosts import config

    hosts = config.several(on)
    if not hosts and wanted != ANYWHERE:
        raise RexecError(f"{FOR_SLOTS} are for slots: say --on any, or name several hosts")
    if not hosts:
        return nullcontext()
    from shim.submit.desk.line import in_short
    from shim.submit.desk.place import Place

    command = in_short([os.fsdecode(word) for word in spec.argv])
    return Place(hosts, wanted, command, lambda line: nullcontext() if quiet else Waiting(line))


def _reach(where: Place | str | None, say: Callable[[str], None], reach: Callable[[str | None], _Reached]) -> _Reached:
    """Reach the host `where`, or one after the other on which there is a slot. Raises RexecError."""
    if where is None or isinstance(where, str):
        return reach(where)
    while True:
        host = where.take()
        try:
            return reach(host.name)
        except RexecError as e:
            say(f"passing over {host.name}: {e}")
            where.failed(host, str(e))


def to_end(
    spec: JobSpec, where: Place | str | None, asked: Scope, lease: int, kept: Kept, make: Callable[..., Job],
    say: Callable[[str], None], log: Log, *, sync: bool, verbose: bool, quiet: bool,
) -> RunResult:  # fmt: skip
    """Run the job on a host that takes it, and say how it was. `make`: as ``_foreground``. Raises RexecError."""
    offer = _Offer(spec, asked, lease, sync)

    def reach(on: str | None) -> _Reached:
        return connect_first(
            on,
            passed_over=say,
            meanwhile=lambda: _prepare(spec, served=offer.served),
            first=offer.first,
            take=kept.take,
            connecting=lambda host: nullcontext() if quiet else Waiting(f"connecting to {host.name}"),
        )

    while True:
        since_ns = time.time_ns()
        host, stream, facts = _reach(where, say, reach)
        _tell_reached(host.name, facts, verbose, say, log)
        began = time.monotonic()
        link, dialler, granted = offer.made(host, stream)
        job, ended = _serve(
            make(link, spec, say, log, JobRights(granted, sync=sync), dialler, since_ns), log, host, stream
        )
        if not ended.not_now or where is None or isinstance(where, str):
            break
        job.never_was()
        log("refused", host=host.name, why=ended.reason)
        where.refused(host, ended.reason)
    job.leaves(kept.hold)
    kept.leave(stream)
    _tell_ended(host.name, job, ended, time.monotonic() - began, link, verbose, say, log)
    return ended


def _serve(job: Job, log: Log, host: Host, stream: Stream) -> tuple[Job, RunResult]:
    from shim.submit.plain_run import to_the_end

    ended = to_the_end(
        lambda: job.run(lingers=stream.lingers), host, stream, lambda trace: log("failed", traceback=trace)
    )
    if job.cost is not None and job.cost.line:
        from shim.submit.hosts import trips

        trips.learn_line(host, job.cost.line)
    return job, ended


class _Offer:
    """A job, as it is sent to a host that has been reached: to one after the other, until one takes it."""

    def __init__(self, spec: JobSpec, asked: Scope, lease: int, sync: bool) -> None:
        self._spec, self._asked, self._lease, self._scratch, self._sync = spec, asked, lease, spec.scratch, sync
        self._made: tuple[Stream, SessionLink, Dialler | None, Scope] | None = None

    @property
    def served(self) -> bool:
        """Whether it was offered to a resident last."""
        return self._made is not None and self._made[0].served

    def first(self, host: Host, stream: Stream) -> bytes:
        """Return what is sent before the agent has said a word: START, unless it could have to wait for one to fit."""
        link, _, granted = self.made(host, stream)
        told = frames.frame(frames.START, self._spec.pack())
        if stream.served:
            from shim.submit import resident_words

            link.sent = len(told)
            return resident_words.Offer(granted, self._sync, self._lease, resident_words.around()).pack() + told
        if len(told) > _MOST_UNASKED:
            return b""
        link.sent = len(told)
        return told

    def made(self, host: Host, stream: Stream) -> tuple[SessionLink, Dialler | None, Scope]:
        """Return what the run has there: its link, who dials it (None: not this process), and what the job has of the
        files here."""
        if self._made is None or self._made[0] is not stream:
            from remoteio.wire.session_link import SessionLink
            from shim.submit.hosts import trips

            spec, granted = self._spec, self._asked.on(host.trust, host.disk)
            spec.host, spec.scratch = os.fsencode(host.name), with_tmp(granted, self._scratch, spec.cwd)
            trip, spec.line = trips.known(host)
            spec.trip = stream.trip or trip
            link = SessionLink(stream.read_fd, stream.write_fd)
            dialler = None
            if not stream.served:
                from shim.submit.hosts.dialler import Dialler

                dialler = Dialler(host, link, self._lease)
                dialler.describe(spec)
            self._made = stream, link, dialler, granted
        return self._made[1:]


def _tell_reached(host: str, facts: Facts, verbose: bool, say: Callable[[str], None], log: Log) -> None:
    python = ".".join(map(str, facts.python))
    log("reached", host=host, python=python, runtime=facts.runtime)
    if facts.runtime == "memory":
        from shim.submit.hosts.checks import KEEP_RUNTIME

        say(f"{host} could not keep the runtime ({facts.note}), so each run sends it again: there, {KEEP_RUNTIME}")
    elif verbose:
        say(f"{host} answers with python {python}, the runtime was {_RUNTIME[facts.runtime]}")


def _tell_ended(
    host: str, job: Job, ended: RunResult, seconds: float, link: SessionLink, verbose: bool,
    say: Callable[[str], None], log: Log,
) -> None:  # fmt: skip
    from shim.submit import spent
    from shim.submit.foreground import cost
    from shim.submit.units import size

    _tell_refused(job.refused(), say if verbose or os.isatty(2) else _nothing, log)
    log("ended", **_outcome(ended), seconds=seconds, received=link.received, sent=link.sent, **spent.row(job.cost))
    if verbose:
        if job.lacks:
            say(job.lacks)
        say(f"{size(link.received)} came from {host}, {size(link.sent)} went there")
    if job.cost is not None and (verbose or os.isatty(2)):
        told = cost.sentence(job.cost, seconds) if verbose else cost.mostly_waited(job.cost, seconds)
        if told:
            say(told)


def _tell_refused(refused: Told, say: Callable[[str], None], log: Log) -> None:
    for row in refused.rows:
        log("refused", **row)
    for sentence in refused.sentences:
        say(sentence)


def _prepare(spec: JobSpec, *, served: bool) -> None:
    """Read the modules that serve a job: a fifth of a short run's time, and ssh has to be waited for anyway."""
    import_module("shim.submit.foreground.run")
    if served:
        import_module("shim.submit.served_session")
        return
    import_module("shim.submit.host_session")
    import_module("shim.submit.learned_starts")
    if spec.trip:
        import_module("remoteio.submit.export.pushing")
    from shim.submit import personal

    personal.prepare()


def describe(
    command: Sequence[str],
    directory: str | None,
    env: Sequence[str],
    tty: bool,
    scratch: Sequence[str],
    fds: str | None,
    forward: Sequence[str],
    moves: bool,
) -> JobSpec:
    """Describe the job that the command line asks for, and have room for its files. Raises RexecError.

    `fds`, `moves`: as for ``inherited.for_job``; `forward`: as --forward has it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= most < _LEAST_FILES:
        raise RexecError(f"`ulimit -Hn` is {most} here, and rexec needs {_LEAST_FILES}: raise it where it is set")
    opened = fill()
    if tty and not os.isatty(0):
        raise RexecError("--tty needs a terminal as standard input; without one, leave it out")
    spec = description.describe(
        command, directory=directory, env=[os.fsencode(item) for item in env], scratch=scratch,
        stdio=[fd for fd in opened if not tty or (fd == 2 and not os.isatty(2))], tty=_terminal() if tty else [],
        descriptors=inherited.for_job([os.fsencode(word) for word in command], fds, tty=tty, moves=moves),
        forward=forward,
    )  # fmt: skip
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each file the job has open is open here
    return spec


def _terminal() -> list[int]:
    """The settings of our terminal; in the background they are those of a shell at its prompt, with its own editing."""
    state = terminal_state.read(0)
    return state if in_foreground(0) else terminal_state.sane(state)


_RUNTIME = {
    "waits": "waiting for a job there",
    "stays": "there from the last job, and the files with it",
    "have": "there already",
    "kept": "sent, and kept there",
    "memory": "sent",
}


def _nothing(*_: object, **__: object) -> None:
    """What is said to nobody."""


def _json_lines(path: str) -> Log:
    import json

    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    except OSError as e:
        raise RexecError(f"--json-log {path}: {e.strerror}; name a file that you may write") from e

    def log(event: str, **fields: object) -> None:
        file.write(json.dumps({"time": time.time(), "event": event, **fields}) + "\n")
        file.flush()

    return log


def _outcome(ended: RunResult) -> dict[str, object]:
    if ended.status is None:
        return {"code": ended.code, "reason": ended.reason}
    code = os.waitstatus_to_exitcode(ended.status)
    return {"code": code} if code >= 0 else {"code": 128 - code, "signal": -code}
