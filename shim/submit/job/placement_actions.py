"""What placement.py has done about a job: what is carried out by supervisor.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from shim.submit.job.events import Kind


@dataclass(frozen=True, slots=True)
class Result:
    """The job's end: `status` as waitpid(2) gives it, or None and rexec's own exit `code` and `reason`."""

    status: int | None
    code: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Choose:
    turn: int
    image: int
    wanted: str
    avoid: tuple[tuple[str, str], ...]
    driven: frozenset[str]


@dataclass(frozen=True, slots=True)
class Connect:
    generation: int
    host: str


@dataclass(frozen=True, slots=True)
class Start:
    """START, with the image or without."""

    generation: int
    image: int


@dataclass(frozen=True, slots=True)
class Order:
    generation: int
    what: str
    serial: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rehearse:
    generation: int
    host: str
    image: int


@dataclass(frozen=True, slots=True)
class Close:
    generation: int


@dataclass(frozen=True, slots=True)
class Reply:
    token: int
    done: bool
    text: str


@dataclass(frozen=True, slots=True)
class Log:
    kind: Kind
    fields: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """`forget`: its images too; only the clock wanted them, in case a host is lost."""

    result: Result
    forget: bool = False


@dataclass(frozen=True, slots=True)
class Leave:
    """End this process, but not the job; `why`: a sentence on what becomes of it."""

    why: str


Action = Choose | Connect | Start | Order | Rehearse | Close | Reply | Log | Finish | Leave
