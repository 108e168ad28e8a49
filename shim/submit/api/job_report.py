"""Where a job with --checkpoint stands, as its record tells it: for a handle of it, and for who lists all jobs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from shim.submit.hosts.redial import told
from shim.submit.job.phase import Phase
from shim.submit.job.record import Job, Record


@dataclass(frozen=True, slots=True)
class SavedImage:
    """The last image of a job: its number, when it was made (seconds since 1970), its size in bytes."""

    number: int
    at: float
    size: int


@dataclass(frozen=True, slots=True)
class JobReport:
    """Where a job stood when it was asked after.

    id          its number
    state       in a word: choosing, starting, running, frozen, left, lost, parked, held, stopped, done, "exit N",
                "signal N" or failed; `rexec jobs --help` says what each means
    why         what it waits for, or why it failed or stopped
    host        the host it is on, or was on last; empty: it has been on none
    command     its words
    directory   where it was started
    hosts       where it may run, in order; ("any",): all of hosts.toml
    owner       the owner policy that was asked for; empty: each host's own
    created     when it was submitted, in seconds since 1970, as are all times
    ended       when it ended; None: it has not
    run_time    seconds that it has run on hosts
    image       its last image; None: it has none
    moves       how often it went on from an image
    movable     an image with its kinds of resources was restored; False: one could not be; None: that is not known
    obstacle    why one could not be; else empty
    generation  how often it was placed on a host
    detached    its supervisor is a process of its own
    terminal    it has a terminal
    returncode  its exit status, or -N where signal N ended it; None: it has not ended, or has none (failed)
    code        of a job that failed: as in JobFailed; else 0
    away        since when its host is out of touch; 0: it is not
    batch       of which job of which batch it is, such as "b7.3"; empty: of none
    """

    id: int
    state: str
    why: str
    host: str
    command: tuple[str, ...]
    directory: str
    hosts: tuple[str, ...]
    owner: str
    created: float
    ended: float | None
    run_time: float
    image: SavedImage | None
    moves: int
    movable: bool | None
    obstacle: str
    generation: int
    detached: bool
    terminal: bool
    returncode: int | None
    code: int
    away: float
    batch: str


def read(directory: Job) -> tuple[JobReport, os.stat_result]:
    """Read where a job stands, all at once, and what the file of its record is. Raises JobError."""
    found, file = directory.read_file()
    ended = file.st_mtime if found.phase == Phase.ENDED else None
    return report_of(found, ended is None and directory.supervised(), time.monotonic(), ended), file


def state(found: Record, supervised: bool) -> str:
    """Say in a word of JobReport.state what a job is doing. Pure."""
    if found.phase == Phase.ENDED:
        if found.status is None:
            return "failed"
        number = found.status & 0x7F
        return f"signal {number}" if number else "done" if found.status == 0 else f"exit {found.status >> 8}"
    held = found.held and found.phase == Phase.PARKED
    if not supervised and not (held and found.batch):  # one of a batch that is held has none, as it needs none
        return "stopped"
    return "held" if held else found.phase


def report_of(found: Record, supervised: bool, now: float, ended: float | None) -> JobReport:
    """Make the report of a record. Pure. `now`: monotonic seconds."""
    word = state(found, supervised)
    running = max(now - found.since, 0.0) if found.since and word != "stopped" else 0.0
    return JobReport(
        id=found.id,
        state=word,
        why=_why(word, found),
        host=found.host,
        command=found.command,
        directory=found.cwd,
        hosts=found.hosts,
        owner=found.owner,
        created=found.created,
        ended=ended,
        run_time=found.ran + running,
        image=SavedImage(found.image, found.saved, found.saved_size) if found.saved else None,
        moves=found.moves,
        movable=True if found.movable else False if found.obstacle else None,
        obstacle=found.obstacle,
        generation=found.generation,
        detached=found.detached,
        terminal=found.tty,
        returncode=None if found.status is None else os.waitstatus_to_exitcode(found.status),
        code=found.code,
        away=0.0 if word == "stopped" else found.away,
        batch=found.batch,
    )


def _why(word: str, found: Record) -> str:
    if word == "failed":
        return found.reason
    if word == "stopped":
        resume = f"`rexec resume {found.id}` has it go on where it is, or from its last image"
        left = resume if found.image else found.without_image()
        return f"{found.reason}; {left}" if found.reason else left
    if found.away:
        at = time.strftime("%H:%M:%S", time.localtime(found.away))
        wait = f"the job goes on there, and waits for what it needs of here up to {told(found.lease)}"
        if found.one_host and time.time() - found.away > found.lease:
            wait = "the job stands still there since its lease was over, and goes on when the host is back"
            if found.image:
                wait += f"; `rexec kill {found.id}` and `rexec restart {found.id} --on HOST` go on from its last image"
        return f"out of touch with {found.host} since {at}: {wait}"
    if word == "held" and found.batch:
        return f"it is held: `rexec release {found.batch}` lets it go on"
    return found.why
