"""A job that can be checkpointed, for whoever has its number: what it is doing, what it can be told, its end.

A handle holds nothing open. What it says it reads anew each time from the job's directory
(shim/submit/job/record.py); what it asks, the job's supervisor does, over its control socket.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from checkpoint.errors import CheckpointError
from remoteio.errors import RexecError
from remoteio.inotify import IN_CLOSE_WRITE, IN_MODIFY, Inotify
from shim.submit.api import arguments, errors, host_reports, job_report, revived
from shim.submit.api.job_report import JobReport, state
from shim.submit.hosts import config, survey
from shim.submit.job import control_socket, detached, end_stopped, record, submission
from shim.submit.job.events import Event, Kind, read_events
from shim.submit.job.phase import Phase

Progress = Callable[[int, int, int], None]


_AGAIN = 0.5  # seconds


class Job:
    """A job that can be checkpointed. Threads: any method may be called by any thread.

    Every method raises JobError where the job is not there, or its record cannot be read.
    """

    __slots__ = ("_directory",)

    def __init__(self, directory: record.Job) -> None:
        self._directory = directory

    def __repr__(self) -> str:
        return f"Job({self.id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    @property
    def id(self) -> int:
        """The number by which `rexec` knows it."""
        return self._directory.id

    @property
    def path(self) -> Path:
        """The directory that holds all that is kept of it but its images."""
        return self._directory.path

    @property
    def log(self) -> Path:
        """The file of its events, one JSON object a line."""
        return self._directory.log

    @property
    def stdout(self) -> Path:
        """The file that has what it wrote to standard output, each byte once wherever it ran."""
        return self.path / "stdout"

    @property
    def stderr(self) -> Path:
        """The file that has what it wrote to standard error."""
        return self.path / "stderr"

    @property
    def state(self) -> str:
        """What it is doing, in a word of JobReport.state."""
        return self.report().state

    @property
    def host(self) -> str:
        """The host it is on, or was on last; empty: it has been on none."""
        return self.report().host

    def report(self) -> JobReport:
        """Read where it stands, all at once."""
        return job_report.read(self._directory)[0]

    # what it can be told

    def checkpoint(self, progress: Progress | None = None) -> str:
        """Save it as an image now; returns once that is committed, with what the supervisor says of it.

        `progress` is called now and then with how many bytes are dealt with, of how many, and how many were sent.
        This and the next four raise RequestRefused with a sentence where it could not be done, ControlError where the
        job has no supervisor, JobError where it has ended.
        """
        return self._ask("checkpoint", progress)

    def vacate(self, to: str | None = None, progress: Progress | None = None) -> str:
        """Have it leave its host and go on elsewhere, or on the host `to`; returns once it runs again or is parked.

        A host that neither hosts.toml nor the job's own list has is asked first: where no job can run there, or it is
        not there at all, the job stays where it is. That takes 20 s at most.
        """
        if to is None:
            return self._ask("vacate", progress, host="")
        must_live(self._directory)
        known = config.load()
        host = config.resolve(arguments.host(to, "to") or "", known)
        if host.name not in (config.LOCAL, *(each.name for each in known.hosts), *self._directory.read().hosts):
            found = host_reports.report_of(survey.ask(host, batch=True), known)
            if not found.usable:
                raise errors.RequestRefused(f"job {self.id} stays where it is: {found.why}")
        return self._ask("vacate", progress, host=host.name)

    def hold(self, progress: Progress | None = None) -> str:
        """Save it as an image, and have it run nowhere until `release`."""
        return self._ask("hold", progress)

    def release(self, *, force: bool = False) -> str:
        """Have it go on, if it is held; if it is parked, look for a host at once.

        `force`: go on though files of it were changed since its image in a way that cannot be undone.
        """
        return self._ask("release", None, force=force)

    def kill(self) -> str:
        """End it by SIGKILL, wherever it is, and though it has no supervisor. Its images stay."""
        must_live(self._directory)
        return self._ask("kill", None) if self._directory.supervised() else end_stopped.end(self._directory)

    def restart(
        self, image: int | None = None, *, hosts: str | Sequence[str] | None = None, force: bool = False
    ) -> tuple[str, ...]:
        """Go on from its last image, or that one, in the background; for a job that has ended or lost its supervisor.

        Returns a sentence for each file that stays as it is, with a copy kept, since the job's changes to it after the
        image could not be told from others'. `hosts`: where it may run from now on; None: as before. `force`: as for
        `release`. Raises SubmitError where it has a supervisor, or no image at all, or its files forbid it; ImageError
        where there is no such image.
        """
        number = None if image is None else arguments.whole(image, "image", 1)
        on = arguments.hosts(hosts)
        names = None if on is None else submission.host_names(on)
        try:
            resumed = submission.resume(self._directory, number, names, detach=True, force=force)
        except CheckpointError as error:
            raise errors.ImageError(str(error)) from error
        detached.start(self._directory, resumed=resumed, force=force)
        return revived.kept(self._directory, resumed)

    def resume(self) -> tuple[str, ...]:
        """Have it supervised again, in the background: it goes on where it runs, if it does, else from its last image.

        Returns once that is known; its log says which of the two, and why. Returns, and raises, what `restart` does.
        """
        return revived.revive(self._directory)().kept

    # its end, and what happened before

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended and all its output is where it belongs; its exit status, or -N for signal N.

        Raises WaitTimeout after `timeout` seconds, JobStopped where its supervisor ends before it (or has), JobFailed
        where it has no status of its own.
        """
        until = None if timeout is None else time.monotonic() + arguments.seconds(timeout, "timeout")
        self._await_supervisor(until)
        report = self.report()
        if report.ended is None:
            raise errors.JobStopped(f"job {self.id} has no supervisor: {report.why}")
        if report.returncode is None:
            raise errors.JobFailed(report.why, report.code)
        return report.returncode

    def events(self, *, follow: bool = False) -> Iterator[Event]:
        """Read what happened to it, in order; with `follow` go on, as it happens, until it has ended.

        Raises EventLogError where the log cannot be read.
        """
        if not follow:
            yield from read_events(self.log)[0]
            return
        offset = 0
        with _watch(self.log, IN_MODIFY) as watch:
            while True:
                happened, offset = read_events(self.log, offset)
                yield from happened
                if any(event.kind in (Kind.END, Kind.ABORT) for event in happened):
                    return
                watch.wait(None)

    def _await_supervisor(self, until: float | None) -> None:
        # Whoever holds the lock, open for writing, closes it with its end, however that comes.
        try:
            watch = _watch(self.path / "lock", IN_CLOSE_WRITE)
        except FileNotFoundError:
            return  # there has never been one
        with watch:
            while self._directory.supervised():
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise errors.WaitTimeout(f"job {self.id} has not ended in time: it is {self.state}")
                # The close is told before the lock goes (__fput of fs/file_table.c): who looks in between looks again.
                watch.wait(_AGAIN if left is None else min(left, _AGAIN))

    def _ask(self, what: str, progress: Progress | None, **more: object) -> str:
        must_live(self._directory)
        for answer in control_socket.ask(self._directory.control, do=what, **more):
            how_far = answer.get("progress")
            if isinstance(how_far, list) and progress is not None:
                done, of, sent = map(int, how_far)
                progress(done, of, sent)
            if "done" in answer:
                if answer["done"] is not True:
                    raise errors.RequestRefused(f"job {self.id}: {answer.get('text', '')}")
                return str(answer.get("text", ""))
        raise AssertionError("control_socket.ask ends with an answer that has `done`")


def job(number: int | str) -> Job:
    """Find the job of that number. Raises JobError."""
    return Job(record.find(str(number)))


def jobs() -> list[Job]:
    """Find all jobs, the oldest first; those that have ended too, until `rexec images rm` removes them."""
    return [Job(directory) for directory in record.every()]


def must_live(directory: record.Job) -> None:
    """Raise JobError if the job has ended."""
    found = directory.read()
    if found.phase == Phase.ENDED and not directory.supervised():
        raise record.JobError(f"job {directory.id} has ended: {state(found, False)}")


class _watch:
    """Watches a file of a job's; use in a `with`. Raises FileNotFoundError; RexecError where it cannot be watched."""

    def __init__(self, path: Path, mask: int) -> None:
        try:
            self._inotify = Inotify()
        except OSError as error:
            raise RexecError(
                f"{path} cannot be watched: {error.strerror}; raise fs.inotify.max_user_instances"
            ) from error
        try:
            self._inotify.add(str(path), mask)
        except BaseException:
            self._inotify.close()
            raise

    def __enter__(self) -> _watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    def wait(self, timeout: float | None) -> None:
        """Wait until something has happened to it, `timeout` seconds at most."""
        poll = select.poll()
        poll.register(self._inotify.fileno(), select.POLLIN)
        poll.poll(None if timeout is None else timeout * 1000)
        self._inotify.read()
