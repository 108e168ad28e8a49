"""The log of one job: JSON lines, one event each, and their rendering as an HTCondor job event log.

Format: UTF-8, a JSON object a line, `at` in seconds since 1970 and `kind`, then what the kind has to say; a field that
is empty is left out. Lines are only ever added. A last line without its newline was torn by a crash and does not count.
HTCondor: its manual, "Job Event Log Codes"; JobEventLog of the package htcondor reads the rendering.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path

from remoteio.errors import RexecError

MOST_TOLD = 64 << 20  # bytes of a log; further events of _TOLD, which a host makes at will, are left out


class EventLogError(RexecError):
    """The log of a job cannot be written or read; the text is a sentence that says which, why and what to do."""


class Kind(StrEnum):
    """What can happen to a job. The comment is HTCondor's number."""

    SUBMIT = "submit"  # 000: command, host it was submitted from
    EXECUTE = "execute"  # 001: host
    CHECKPOINT = "checkpoint"  # 003: image, size
    EVICT = "evict"  # 004: host, reason; image if it was checkpointed
    END = "end"  # 005: status or signal
    NOTE = "note"  # 008: reason, free text; the only kind that is no change of state
    ABORT = "abort"  # 009: reason
    SUSPEND = "suspend"  # 010: host, reason, processes
    RESUME = "resume"  # 011: host, reason
    HOLD = "hold"  # 012: reason
    RELEASE = "release"  # 013: reason
    DISCONNECT = "disconnect"  # 022: host, reason
    RECONNECT = "reconnect"  # 023: host: it is in touch again, and the job has gone on there
    LOST = "lost"  # 024: host, reason: it will not come back, the job goes on elsewhere


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    at              seconds since 1970
    host            name of the host it is about
    reason          why, as a clause
    command         SUBMIT: the command as a shell would read it
    image, size     CHECKPOINT, EVICT: the image's name, and how many bytes of it were new
    processes       SUSPEND: how many were frozen
    status, signal  END: exit status, or the signal that ended the job
    cpu, waited, carried  CHECKPOINT, and the end of its stay on a host: what that has cost as far as the host has told:
                    seconds of processor time, seconds that files were waited for, bytes to and fro
    """

    at: float
    kind: Kind
    host: str = ""
    reason: str = ""
    command: str = ""
    image: str = ""
    size: int = 0
    processes: int = 0
    status: int | None = None
    signal: int | None = None
    cpu: float = 0.0
    waited: float = 0.0
    carried: int = 0

    def to_json(self) -> str:
        """Return the event as a line, with its newline."""
        values = {name: value for name, value in asdict(self).items() if value not in ("", None, 0) or name == "status"}
        if self.status is None:
            del values["status"]
        values["at"] = self.at
        # Names of files may hold bytes that are not UTF-8 (surrogates here): ASCII escapes carry them.
        return json.dumps(values, ensure_ascii=True) + "\n"


_NAMES = {field.name for field in fields(Event)}
_TYPES = {
    **dict.fromkeys(("at", "cpu", "waited"), (int, float)),
    **dict.fromkeys(("size", "processes", "status", "signal", "carried"), (int,)),
    **dict.fromkeys(("kind", "host", "reason", "command", "image"), (str,)),
}


def parse_event(line: str) -> Event:
    """Return the event of a line; ValueError says what is wrong with it."""
    values = json.loads(line)
    if not isinstance(values, dict) or not {"at", "kind"} <= values.keys():
        raise ValueError("it is no event")
    for name, value in values.items():
        if name not in _NAMES:
            raise ValueError(f"it has a field {name}, unknown to this version")
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
            raise ValueError(f"its {name} is {value!r}")
    return Event(**{**values, "kind": Kind(values["kind"])})


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Read the whole events from `offset` (bytes) on, and where the next will begin: to follow a log, ask again there.

    EventLogError if the log is not there or a whole line is not an event.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError as error:
        raise EventLogError(f"The job's log {path} cannot be read: {error.strerror}.") from error
    whole, newline, _torn = data.rpartition(b"\n")
    events = []
    for line in whole.split(b"\n") if newline else []:
        try:
            events.append(parse_event(line.decode()))
        except (ValueError, RecursionError) as error:
            text = f"The job's log {path} is damaged at byte {offset}: {error}; mend or remove that line."
            raise EventLogError(text) from error
        offset += len(line) + 1
    return events, offset


_TOLD = frozenset((Kind.NOTE, Kind.SUSPEND, Kind.RESUME))
_FULL = f"no more of what happens to it is written here, but for changes of its place: this is {MOST_TOLD >> 20} MiB"


class EventLog:
    """Appends to a job's log. One writer at a time: the job's supervisor. EventLogError if it cannot be written."""

    __slots__ = ("_fd", "_full", "_path")

    def __init__(self, path: Path) -> None:
        self._path, self._full = path, False
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._drop_torn_line()
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # The name is durable only once its directory is.
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> EventLogError:
        return EventLogError(
            f"The job's log {self._path} cannot be written: {error.strerror}; make room or mend its mode."
        )

    def _drop_torn_line(self) -> None:
        size = os.fstat(self._fd).st_size
        end = size
        while end > 0:
            start = max(end - 4096, 0)
            newline = os.pread(self._fd, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            os.ftruncate(self._fd, end)

    def append(self, event: Event) -> None:
        """Adds an event; when this returns, a change of state is on the disk."""
        size = -1
        try:
            size = os.fstat(self._fd).st_size
            if event.kind in _TOLD and size > MOST_TOLD:
                if self._full:
                    return
                self._full, event = True, Event(event.at, Kind.NOTE, reason=_FULL)
            data = event.to_json().encode()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            if event.kind is not Kind.NOTE:
                os.fsync(self._fd)
        except OSError as error:
            # A full disk may have taken half of the line: the next one must not grow on it.
            if size >= 0:
                with suppress(OSError):  # the same fault: who appends next finds it again
                    os.ftruncate(self._fd, size)
            raise self._failure(error) from error

    def close(self) -> None:
        os.close(self._fd)


# The processor time and the traffic of a job are not counted here, and HTCondor's reader wants their lines.
def _usage(whose: str, indent: str) -> str:
    none = "Usr 0 00:00:00, Sys 0 00:00:00"
    return f"{indent}{none}  -  {whose} Remote Usage\n{indent}{none}  -  {whose} Local Usage\n"


def _traffic(whose: str) -> str:
    return f"\t0  -  {whose} Bytes Sent By Job\n\t0  -  {whose} Bytes Received By Job\n"


def _one_line(text: str) -> str:
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


def _host(event: Event) -> str:
    return _one_line(event.host).replace(" ", "") or "unknown"


def _submit(event: Event) -> str:
    return f"Job submitted from host: <{_host(event)}>\n    {_one_line(event.command)}\n"


def _execute(event: Event) -> str:
    return f"Job executing on host: <{_host(event)}>\n\tSlotName: {_host(event)}\n"


def _checkpoint(event: Event) -> str:
    usage = _usage("Run", "\t")
    return f"Job was checkpointed.\n{usage}\t{event.size}  -  Run Bytes Sent By Job For Checkpoint\n"


def _evict(event: Event) -> str:
    saved = "(1) Job was checkpointed." if event.image else "(0) Job was not checkpointed."
    reason = f"\t{_one_line(event.reason)}\n" if event.reason else ""
    usage = _usage("Run", "\t\t")
    return f"Job was evicted.\n\t{saved}\n{usage}{_traffic('Run')}{reason}"


def _end(event: Event) -> str:
    if event.signal is not None:
        how = f"\t(0) Abnormal termination (signal {event.signal})\n\t(0) No core file\n"
    else:
        how = f"\t(1) Normal termination (return value {event.status or 0})\n"
    usage = _usage("Run", "\t\t") + _usage("Total", "\t\t")
    return f"Job terminated.\n{how}{usage}{_traffic('Run')}{_traffic('Total')}"


def _abort(event: Event) -> str:
    return f"Job was aborted.\n\t{_one_line(event.reason)}\n"


def _suspend(event: Event) -> str:
    return f"Job was suspended.\n\tNumber of processes actually suspended: {event.processes}\n"


def _hold(event: Event) -> str:
    return f"Job was held.\n\t{_one_line(event.reason) or 'Reason unspecified'}\n\tCode 1 Subcode 0\n"


def _release(event: Event) -> str:
    return f"Job was released.\n\t{_one_line(event.reason) or 'Reason unspecified'}\n"


def _disconnect(event: Event) -> str:
    host = _host(event)
    return (
        f"Job disconnected, attempting to reconnect\n    {_one_line(event.reason) or 'the link is down'}\n"
        f"    Trying to reconnect to {host} <{host}>\n"
    )


def _reconnect(event: Event) -> str:
    host = _host(event)
    return f"Job reconnected to {host}\n    startd address: <{host}>\n    starter address: <{host}>\n"


def _lost(event: Event) -> str:
    reason = _one_line(event.reason) or "the host is lost"
    return f"Job reconnection failed\n    {reason}\n    Can not reconnect to {_host(event)}, rescheduling job\n"


_CONDOR = {
    Kind.SUBMIT: (0, _submit),
    Kind.EXECUTE: (1, _execute),
    Kind.CHECKPOINT: (3, _checkpoint),
    Kind.EVICT: (4, _evict),
    Kind.END: (5, _end),
    Kind.NOTE: (8, lambda event: f"{_one_line(event.reason) or 'note'}\n"),
    Kind.ABORT: (9, _abort),
    Kind.SUSPEND: (10, _suspend),
    Kind.RESUME: (11, lambda event: "Job was unsuspended.\n"),
    Kind.HOLD: (12, _hold),
    Kind.RELEASE: (13, _release),
    Kind.DISCONNECT: (22, _disconnect),
    Kind.RECONNECT: (23, _reconnect),
    Kind.LOST: (24, _lost),
}


def condor_log(events: Iterable[Event], job: int) -> str:
    """Write the events as an HTCondor job event log, of cluster `job`, process 0; times are local, as there."""
    parts = []
    for event in events:
        number, text = _CONDOR[event.kind]
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
        parts.append(f"{number:03d} ({job:03d}.000.000) {at} {text(event)}...\n")
    return "".join(parts)
