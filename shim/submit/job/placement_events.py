"""What placement.py decides about: where a job stands, and what can happen to it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Action, Result
from shim.wire import job_messages


@dataclass(frozen=True, slots=True)
class Dump:
    """One dump under way, from its order, or the news that it began by itself, to its end.

    serial     its number, which all that is said of it carries
    leaves     the job leaves its host with it
    tokens     who asked for it
    committed  its image is durable; where the job leaves, nothing of it goes on there any more
    owner      the owner of the host drives the job away, and how that showed; empty: nobody does
    at_once    that owner wants its memory back at once
    returns    the job goes on where it was though its image is durable, and why; empty: it does not
    """

    serial: int
    leaves: bool
    tokens: tuple[int, ...] = ()
    committed: bool = False
    owner: str = ""
    at_once: bool = False
    returns: str = ""


@dataclass(frozen=True, slots=True)
class Wants:
    """What the user has said of the job.

    every     seconds between images; 0: the first one only; NEVER: none by the clock
    patient   the job waits for a host even before it has ever run
    images    the images are wanted: they outlive a job that ends well
    rehearse  an image is restored beside the job, to know whether that can be moved
    host      where the user sent it, until it is there
    held      it is to be parked, and to stay so
    killing   it is to die
    leave_by  this process is to end by then (monotonic seconds), the job saved and parked if that can be; inf: no
    waiting   tokens of those who wait for the job to run again, or to be parked
    later     what was asked for while it could not be done
    """

    every: float = 0.0
    patient: bool = False
    images: bool = False
    rehearse: bool = False
    host: str = ""
    held: bool = False
    killing: bool = False
    leave_by: float = inf
    waiting: tuple[int, ...] = ()
    later: tuple[Ask, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """The newest generation.

    generation  its number; 0: there was none yet
    host        its host, while there is something of it there, or may be
    live        it may be acting
    by          when its host must have shown that it does what it was told (monotonic seconds); inf: told nothing
    doubted     the host has been given DOUBT seconds more
    anyway      the job is to run there though no images can be made of it
    away        since when it is out of touch (monotonic seconds); inf: it is not
    """

    generation: int = 0
    host: str = ""
    live: bool = False
    by: float = inf
    doubted: bool = False
    anyway: bool = False
    away: float = inf


@dataclass(frozen=True, slots=True)
class Source:
    """The generation that the job leaves: its tree stands still there, and goes on or is killed only when told to.

    generation  its number
    host        its host
    dump        with which it leaves, committed
    frozen      it stood still for its host's owner already
    tried       a host was given the image since, and could not go on from it
    away        as of Place
    """

    generation: int
    host: str
    dump: Dump
    frozen: bool = False
    tried: bool = False
    away: float = inf


@dataclass(frozen=True, slots=True)
class Images:
    """What is saved of the job, and what is being saved.

    newest    number of the image to go on from; 0: there is none
    serial    of the last dump that was ordered
    dump      the one under way
    due       when the clock wants the next one (monotonic seconds)
    failures  how often one could not be made
    restored  number of the newest image that a host has restored, to go on or in a rehearsal; 0: none was
    kinds     of resources in the newest image; `tried`: one with these that is or was rehearsed (`movable`, `obstacle`)
    """

    newest: int = 0
    restored: int = 0
    kinds: frozenset[str] = frozenset()
    tried: int = 0
    movable: bool = False
    obstacle: str = ""
    serial: int = 0
    dump: Dump | None = None
    due: float = inf
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Search:
    """The search for a host.

    turn    number of the last look; what answers an older one is late
    avoid   where the job is not to go, and why: (host, why); those that could not go on with it until it is parked,
            those that it was told to leave until it runs elsewhere, or its user says otherwise
    driven  hosts whose owner made it leave: they are asked whether they are idle even where the user named them
    misses  how often in a row hosts were tried and none could go on with it, or not for long
    unable  a host that can run the job, but cannot make images of it; empty: none was met
    """

    turn: int = 0
    avoid: tuple[tuple[str, str], ...] = ()
    driven: frozenset[str] = frozenset()
    misses: int = 0
    unable: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """Where the job stands.

    phase   what may be running: see Phase
    why     what it waits for, or why it stands still, left or was lost
    until   LOST, LEFT, PARKED: when a Tick changes the phase (monotonic seconds)
    began   it has run
    last    the highest number that a generation was given
    source  CHOOSING, STARTING: what the job leaves, until it goes on elsewhere; None: nothing is left of it anywhere
    result  ENDED: how
    """

    phase: Phase = Phase.CHOOSING
    why: str = ""
    until: float = 0.0
    began: bool = False
    last: int = 0
    wants: Wants = Wants()
    place: Place = Place()
    source: Source | None = None
    images: Images = Images()
    search: Search = Search()
    result: Result | None = None


# what happens


@dataclass(frozen=True, slots=True)
class Chosen:
    turn: int
    host: str


@dataclass(frozen=True, slots=True)
class NoHost:
    """`hopeless`: waiting will not help. `nowhere`: the job cannot go on from its image, on whichever host."""

    turn: int
    why: str
    hopeless: bool = False
    nowhere: bool = False


@dataclass(frozen=True, slots=True)
class SlotFree:
    """A host that it waited for has slots for the job, which are the job's now."""


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
    """Its link has ended. `unfit`: it would come to the same again: the next host is to be another.

    `stays`: seconds for which the job may go on there all the same; 0: at most until it misses its link.
    """

    generation: int
    why: str
    unfit: bool = False
    stays: float = 0.0


AWAY, JOINED, GONE = "away", "joined", "gone"


@dataclass(frozen=True, slots=True)
class Touch:
    """Its link has no stream (AWAY), has one again (JOINED); or nothing of it is left on its host (GONE), though its
    link did not say so, and may not have ended yet."""

    generation: int
    what: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class News:
    """One of shim/wire/job_messages.py, by its name there."""

    generation: int
    what: str
    serial: int = 0
    why: str = ""
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    generation: int
    serial: int
    image: int
    size: int = 0
    kinds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """`movable`: None: that was not shown, and `why` not; empty: it was dropped."""

    generation: int
    image: int
    movable: bool | None
    why: str = ""


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
class Taken:
    """A generation that an earlier supervisor has left goes on, `serial` being its last dump; or does not, and why."""

    generation: int
    serial: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Quit:
    """This process is told to end."""


Event = (
    Chosen | NoHost | Connected | Unreached | Began | Exited | Failed | Closed | News | Committed | Stirs | Ask | Heavy
    | Fault | Quit | Tick | Rehearsed | Touch | Taken | SlotFree
)  # fmt: skip

Steps = tuple[State, list[Action]]


def gone(event: Event) -> int | None:
    """Tell of which generation nothing acts any more, if the event says so."""
    if isinstance(event, (News, Touch)):
        return event.generation if event.what in (job_messages.MOVED, job_messages.DEAD, GONE) else None
    return event.generation if isinstance(event, (Exited, Failed)) else None
