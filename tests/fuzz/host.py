"""Targets: what a host says, as the submit side takes it in."""

from __future__ import annotations

import os

from remoteio.errors import ProtocolError
from remoteio.printable import printable
from remoteio.submit.export.ordered import Ordered
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import frames
from shim.submit import host_frames, names, spent
from shim.submit.foreground import cost
from shim.submit.hosts import ad, bootstrap, checks, config, survey
from shim.submit.hosts import facts as host_facts
from shim.submit.hosts.matching import Matching
from shim.submit.job import image_head, next_host, placement, placement_actions
from shim.submit.job import placement_events as events
from shim.submit.shapes import decoded
from shim.wire import forwards, job_messages
from shim.wire.job_spec import JobSpec
from tests.fuzz.target import pieces, target

SPEC = JobSpec(
    argv=[b"true"], env=[b"A=b"], cwd=b"/", uid=1000, gid=1000, groups=[1000], umask=0o22, hostname=b"here", limits=[],
    scratch=[], stdio=[0, 1, 2], tty=[],
)  # fmt: skip
_HOST = config.Host("far", "far")
_HOSTS = config.Hosts((_HOST,), {"lazy": {"max_load": 0.5, "hours": ["22:00-07:00"], "min_free_memory": "2G"}})
_WANTS = Matching('Memory > 1 && Disk > 1 && Machine == "far" && Kernel > "6"', "LoadAvg * KeyboardIdle")
_ST = os.stat("/")


@target(ProtocolError)
def host_frame(data: bytes) -> None:
    """Any frame but FUSE: the kind, whether HELLO has come, the payload."""
    if len(data) < 2 or data[0] not in frames.KINDS:
        return
    kind, greeted, payload = data[0], bool(data[1] & 1), data[2:]
    host_frames.due(kind, len(payload), greeted, bool(data[1] & 2))
    if kind == frames.AFTER:
        Ordered().take(kind, payload)
    elif kind == frames.HELLO:
        hello = host_frames.hello(payload)
        ids = ShownIds(1000, 1000, frozenset(), hello.uids or None, hello.gids or None, hello.shown)
        ids.of(_ST)
        names.of_network(SPEC, hello.network, hello.resolver)
        assert hello.host.isprintable()
    elif kind == frames.EXIT:
        os.waitstatus_to_exitcode(host_frames.exit_status(payload))
    elif kind == frames.FAIL:
        assert host_frames.failure(payload)[1].isprintable()
    elif kind == frames.SPENT:
        cost.sentence(spent.spent(payload), 1.0)
    elif kind == frames.CREDIT:
        host_frames.credit(payload)
    elif kind == frames.NEWS:
        assert host_frames.news(payload, greeted).why.isprintable()


class _Nobody:
    """The link's other end."""


@target(ProtocolError)
def forwarded(data: bytes) -> None:
    """FORWARD frames, as home takes them: nothing but what was named is connected to, and no more is kept than may be.

    Messages: the frames; an empty one has home open a connection of its own.
    """
    there = forwards.Forward(False, ("127.0.0.1", 1), ("127.0.0.1", 2))
    here = forwards.Forward(True, ("127.0.0.1", 3), ("127.0.0.1", 4))
    made = forwards.Connections(forwards.Side([there, here], True, frozenset()), _Nobody(), 0)
    for message in pieces(data):
        if not message:
            made.open(here)
            continue
        about = made.take(message)
        assert about is None or about.forward is (here if about.number % 2 else there)
        assert len(made.known) - made.ours() <= forwards.TWICE
        assert all(len(each.out) <= each.owed <= forwards.WINDOW for each in made.known.values())


@target(bootstrap.BootstrapError)
def stage_answer(data: bytes) -> None:
    """The line with which the first stage answers."""
    assert bootstrap.parse_answer(data).detail.isprintable()


@target(ProtocolError)
def clock_answer(data: bytes) -> None:
    host_facts.time(decoded(data, "its answer"))


@target(ProtocolError)
def facts_answer(data: bytes) -> None:
    """What a host says of itself; then all that is made of it: the doctor's lines, and a place in the choice."""
    told = host_facts.facts(decoded(data, "its answer"))
    report = survey.Report(_HOST, "", bootstrap.Facts((3, 11, 2), "have", ""), 0.1, 0.01, 0.0, told)
    for check in checks.checks(report):
        assert check.text.isprintable() and check.mend.isprintable()
    assert all(line.isprintable() for line in ad.lines(ad.of(report)))
    _WANTS.look(ad.of(report)), _WANTS.rank(ad.of(report))
    for owner in ("", "lazy", "none"):
        choose = placement_actions.Choose(turn=0, image=0, wanted="", avoid=(), driven=frozenset())
        next_host.choose_host(choose, next_host.AllowedHosts(("any",), owner), _HOSTS, None, lambda hosts: [report])


@target(ProtocolError)
def image_head_said(data: bytes) -> None:
    """The head of an image alone; with its files it is in `image_offered`."""
    image_head.parsed(data)


@target()
def shown_text(data: bytes) -> None:
    for text in (data.decode("utf-8", "surrogateescape"), data.decode("utf-16-le", "replace"), data.decode("latin-1")):
        assert printable(text).isprintable() and len(printable(text, 40)) <= 400


@target(ProtocolError)
def placement_news(data: bytes) -> None:
    """A job's way, while its hosts say what they like: a letter each, and what the host says, if it says something."""
    home = _Home()
    for message in pieces(data):
        event = home.event(message[:1], message[1:])
        if event is not None:
            home.step(event)


class _Home:
    """What this machine adds to a job's way: it answers what it is asked, and tells of a link while there is one."""

    def __init__(self) -> None:
        self._now = 0.0
        self._choose: placement_actions.Choose | None = None
        self._connect: placement_actions.Connect | None = None
        self._linked = -1  # generation
        self._announced: list[int] = []  # serials of dumps, by the host
        self._tokens = 0
        self.state, actions = placement.begin(events.State(), 0.0)
        self._act(actions)

    def step(self, event: events.Event) -> None:
        self._now += 1.0
        self.state, actions = placement.step(self.state, event, self._now)
        placement.check(self.state)
        placement.deadline(self.state)
        self._act(actions)

    def _act(self, actions: list[placement_actions.Action]) -> None:
        for action in actions:
            if isinstance(action, placement_actions.Choose):
                self._choose = action
            elif isinstance(action, placement_actions.Connect):
                self._connect = action

    def event(self, letter: bytes, rest: bytes) -> events.Event | None:
        """What happens; None: it cannot happen now."""
        number = rest[0] if rest else 0
        if not letter:
            return None
        if letter in b"c0" and self._choose is not None:
            turn, self._choose = self._choose.turn, None
            return events.Chosen(turn, "far") if letter == b"c" else events.NoHost(turn, "none", bool(number & 1))
        if letter in b"CU" and self._connect is not None:
            generation, self._connect = self._connect.generation, None
            if letter == b"U":
                return events.Unreached(generation, "it is off")
            self._linked, self._announced = generation, []
            return events.Connected(generation)
        if letter == b"a":
            self._tokens += 1
            words = ("checkpoint", "vacate", "hold", "release", "kill")
            return events.Ask(words[number % 5], self._tokens, "near" if number & 64 else "")
        if self._linked >= 0 and letter in b"nxfBziIs":
            return self._by_host(letter, rest, number)
        return {b"H": events.Heavy(), b"q": events.Quit(), b"t": events.Tick()}.get(letter)

    def _by_host(self, letter: bytes, rest: bytes, number: int) -> events.Event | None:
        generation = self._linked
        if letter == b"n":
            said = host_frames.news(rest, greeted=True)
            if said.what in (job_messages.LEAVING, job_messages.DUMPING):
                self._announced.append(said.serial)
            return events.News(generation, said.what, said.serial, said.why)
        if letter == b"x":
            return events.Exited(generation, host_frames.exit_status(rest[:4].ljust(4, b"\0")))
        if letter == b"f":
            return events.Failed(generation, *host_frames.failure(b"\x7d\0\0\0" + rest))
        if letter in b"iI":
            serial = self._announced[number % len(self._announced)] if self._announced else self.state.images.serial
            return events.Committed(generation, serial, self.state.images.newest + 1)
        if letter == b"z":
            self._linked = -1
            return events.Closed(generation, "it closed the link", unfit=bool(number & 1))
        return events.Began(generation) if letter == b"B" else events.Stirs(generation)


TARGETS = (host_frame, forwarded, stage_answer, clock_answer, facts_answer, image_head_said, shown_text, placement_news)
