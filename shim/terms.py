"""What shim/placement.py decides about: where a job stands, what can happen to it, and what can be done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from shim.events import Kind


class Phase(StrEnum):
    """The comment says what may be running."""

    CHOOSING = "choosing"  # nothing; a host is being looked for
    STARTING = "starting"  # nothing, or a fresh job
    RUNNING = "running"
    FROZEN = "frozen"  # the job stands still for its host's owner
    LEFT = "left"  # nothing; the last words of the old host are awaited
    LOST = "lost"  # perhaps the old generation, until its lease is over
    PARKED = "parked"  # nothing
    ENDED = "ended"


ACTING = (Phase.STARTING, Phase.RUNNING, Phase.FROZEN, Phase.LOST)  # in which a generation may be acting


@dataclass(frozen=True, slots=True)
class Dump:
    """One under way: its serial, whether the job leaves with it, who asked (`tokens`), and if it is committed."""

    serial: int
    leaves: bool
    tokens: tuple[int, ...] = ()
    committed: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The job's end: `status` as waitpid(2) gives it, or None and rexec's own exit `code` and `reason`."""

    status: int | None
    code: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """`image`: the number of the image to go on from, 0: none. `live`: the newest generation may be acting.

    `patient`: the job waits for a host even before it has ever run. `avoid`: where it is not to go in this round of
    choosing, and why; `driven`: hosts whose owner made it leave; `wanted`: where the user sent it.
    `why`: what it waits for, or why it left or was lost. `until`: when a Tick changes the phase.
    `every`: seconds between images, 0: the first one only, or NEVER; `due`: when the next one is, by the clock.
    `leave_by`: this process is to end by then, the job saved and parked if that can be; inf: it is not.
    `by`: when the host must have shown that it does what it was told, inf: nothing; `doubted`: it has got DOUBT more.
    `misses`: how often in a row hosts were tried and none could go on with it, or not for long.
    `failures`: how often it could not be made; `asked`: the user wanted an image that there is.
    `unable`: a host that can run the job, but cannot make images of it; `anyway`: it runs, or is to run, on such a one.
    """

    phase: Phase = Phase.CHOOSING
    generation: int = 0
    host: str = ""
    image: int = 0
    live: bool = False
    began: bool = False
    patient: bool = False
    held: bool = False
    killing: bool = False
    why: str = ""
    until: float = 0.0
    serial: int = 0
    dump: Dump | None = None
    waiting: tuple[int, ...] = ()  # who waits for the job to run again, or to be parked
    later: tuple[Ask, ...] = ()  # what was asked for while it could not be done
    every: float = 0.0
    due: float = inf
    failures: int = 0
    misses: int = 0
    asked: bool = False
    unable: str = ""
    anyway: bool = False
    leave_by: float = inf
    by: float = inf
    doubted: bool = False
    turn: int = 0
    wanted: str = ""
    avoid: tuple[tuple[str, str], ...] = ()
    driven: frozenset[str] = frozenset()
    result: Result | None = None
    leaving: str = ""  # while a dump is under way: that the owner drives the job away, and how


# what happens


@dataclass(frozen=True, slots=True)
class Chosen:
    turn: int
    host: str


@dataclass(frozen=True, slots=True)
class NoHost:
    """`hopeless`: waiting will not help."""

    turn: int
    why: str
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Connected:
    generation: int


@dataclass(frozen=True, slots=True)
class Unreached:
    generation: int
    why: str


@dataclass(frozen=True, slots=True)
class Began:
    generation: int


@dataclass(frozen=True, slots=True)
class Exited:
    generation: int
    status: int


@dataclass(frozen=True, slots=True)
class Failed:
    generation: int
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """`unfit`: it would come to the same again: the next host is to be another."""

    generation: int
    why: str
    unfit: bool = False


@dataclass(frozen=True, slots=True)
class News:
    """One of shim/orders.py, by its name there."""

    generation: int
    what: str
    serial: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Committed:
    generation: int
    serial: int
    image: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class Stirs:
    """Bytes of an image have come or gone."""

    generation: int


@dataclass(frozen=True, slots=True)
class Ask:
    """The user wants: "checkpoint", "vacate" (perhaps to `host`), "hold", "release" or "kill"; answer to `token`."""

    what: str
    token: int
    host: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    pass


@dataclass(frozen=True, slots=True)
class Heavy:
    """So much has come since the last image, and is kept to be given again, that a new image is wanted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something went wrong here that changes nothing for the job."""

    text: str


@dataclass(frozen=True, slots=True)
class Quit:
    """This process is told to end."""


Event = (
    Chosen | NoHost | Connected | Unreached | Began | Exited | Failed | Closed | News | Committed | Stirs | Ask | Heavy
    | Fault | Quit | Tick
)  # fmt: skip

# what is to be done


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


Action = Choose | Connect | Start | Order | Close | Reply | Log | Finish | Leave
Steps = tuple[State, list[Action]]
