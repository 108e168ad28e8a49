"""The placement of a job under cut, late and repeated events: never two generations acting, never a job forgotten.

The world here is the execute hosts and the network: agents that act, links that are cut at any moment, events that
arrive late. What may act is known to the world, not to the state machine.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shim.submit.job import placement, placement_events, placement_steps
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import (
    Action,
    Choose,
    Close,
    Connect,
    Finish,
    Leave,
    Log,
    Order,
    Rehearse,
    Reply,
    Start,
)
from shim.submit.job.placement_events import (
    Ask,
    Began,
    Chosen,
    Closed,
    Committed,
    Connected,
    Event,
    Exited,
    Failed,
    News,
    NoHost,
    Quit,
    Rehearsed,
    SlotFree,
    State,
    Tick,
    Touch,
    Unreached,
    Wants,
)
from shim.wire import job_messages, lease
from tests.placement_agent import Agent

_STAYS = 20.0  # seconds that a job goes on where its host is given up
# What ends the job is rare, or the rest would seldom be met.
ASKS = ["checkpoint", "vacate"] * 8 + ["hold", "release"] * 4 + ["kill"]
WHAT = ["began", "restored", "own", "step", "no", "fail", "unable"] * 4 + ["exit", "dead"]


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state = State()
        self.agents: dict[int, Agent] = {}
        self.coming: list[Event] = []  # events under way, per link in order
        self.to_choose: list[Choose] = []
        self.to_connect: list[int] = []
        self.connected: set[int] = set()
        self.rehearsing: list[Rehearse] = []
        self.images = 0
        self.asked: set[int] = set()
        self.replied: list[int] = []
        self.finished = 0
        self.own_serial = 1000
        self.left = False  # the supervisor

    @initialize(every=st.sampled_from([0.0, 3.0, placement_steps.NEVER]), patient=st.booleans(), rehearse=st.booleans())
    def begin(self, every: float, patient: bool, rehearse: bool) -> None:
        wants = Wants(every=every, patient=patient, rehearse=rehearse)
        self.take(placement.begin(replace(self.state, wants=wants), self.now))

    def take(self, steps: tuple[State, list[Action]]) -> None:
        self.state, actions = steps
        placement.check(self.state)
        for action in actions:
            self.perform(action)

    def perform(self, action: Action) -> None:
        if isinstance(action, Choose):
            self.to_choose.append(action)
        elif isinstance(action, Connect):
            self.to_connect.append(action.generation)
        elif isinstance(action, Start):
            assert action.generation in self.connected and action.generation not in self.agents
            self.agents[action.generation] = Agent(action.generation, action.image, self.state.place.anyway)
        elif isinstance(action, Order):
            self.ordered(self.agents[action.generation], action)
        elif isinstance(action, Rehearse):
            assert 0 < action.image <= self.images and self.state.wants.rehearse
            self.rehearsing.append(action)
        elif isinstance(action, Close):
            if action.generation in self.agents:
                self.hush(self.agents[action.generation])
        elif isinstance(action, Reply):
            assert action.token in self.asked, "an answer to what nobody asked"
            assert action.token not in self.replied, "two answers to one question"
            self.replied.append(action.token)
        elif isinstance(action, Leave):
            assert not self.left
            self.left = True
            saved = "is saved" in action.why
            assert not saved or (
                self.state.images.newest == self.images and not any(a.acting for a in self.agents.values())
            )
            for agent in self.agents.values():
                self.hush(agent)
        elif isinstance(action, Finish):
            self.finished += 1
            for agent in self.agents.values():
                self.hush(agent)

    def ordered(self, agent: Agent, order: Order) -> None:
        if agent.silent is not None or agent.over or agent.deaf:
            return  # it never arrives
        if agent.away:
            agent.unheard.append(order)
            return
        if order.what == job_messages.GO:
            assert agent.ready
            agent.acting, agent.ready = True, False
            assert not any(
                other.held and not other.over and other.silent is None and not other.deaf and not other.told_to_end
                for other in self.agents.values()
            ), "what it left is not told before"
        elif order.what == job_messages.END:
            if agent.held:
                self.die(agent)
                self.coming.append(News(agent.generation, job_messages.MOVED, order.serial))
        elif order.what == job_messages.THAW:
            assert agent.held and agent.dumping is not None and agent.dumping[0] == order.serial
            agent.acting, agent.held, agent.dumping = True, False, None
            self.coming.append(News(agent.generation, job_messages.REFUSED, order.serial, order.why))
        elif order.what == job_messages.KILL:
            self.die(agent)
            self.coming.append(Exited(agent.generation, 9))
        elif agent.dumping is None and agent.acting:
            agent.dumping, agent.committed = (order.serial, order.what == job_messages.VACATE), False
        else:
            self.coming.append(News(agent.generation, job_messages.REFUSED, order.serial, "busy"))

    def die(self, agent: Agent) -> None:
        agent.acting = agent.ready = agent.held = False
        agent.over = True
        agent.dumping = None

    def hush(self, agent: Agent) -> None:
        if agent.silent is None:
            agent.silent = self.now

    def feed(self, event: Event) -> None:
        if not self.left:
            self.take(placement.step(self.state, event, self.now))

    # the network and the hosts

    @rule(host=st.sampled_from(["alpha", "beta"]), found=st.booleans())
    def choose(self, host: str, found: bool) -> None:
        if self.to_choose:
            asked = self.to_choose.pop(0)
            barred = dict(asked.avoid)
            ok = found and host not in barred
            self.feed(Chosen(asked.turn, host) if ok else NoHost(asked.turn, "none"))

    @rule(up=st.booleans())
    def connect(self, up: bool) -> None:
        if self.to_connect:
            generation = self.to_connect.pop(0)
            self.connected.add(generation)
            self.feed(Connected(generation) if up else Unreached(generation, "down"))

    @rule(which=st.integers(0, 9))
    def arrive(self, which: int) -> None:
        """One event under way arrives; those of one generation keep their order."""
        if self.coming:
            event = self.coming[which % len(self.coming)]
            first = next(e for e in self.coming if _of(e) == _of(event))
            self.coming.remove(first)
            self.feed(first)

    @rule(which=st.integers(0, 9))
    def arrive_twice(self, which: int) -> None:
        if self.coming:
            first = next(e for e in self.coming if _of(e) == _of(self.coming[which % len(self.coming)]))
            self.feed(first)

    @rule()
    def all_goes_well(self) -> None:
        """So that the rare cases are met far on, too: everything that is under way arrives, and succeeds."""
        for _ in range(4):
            for _ in self.agents:
                self.in_touch(0)
            self.choose("alpha", True)
            self.choose("beta", True)
            self.connect(True)
            for agent in [agent for agent in self.agents.values() if not agent.over and agent.silent is None]:
                if agent.dumping is not None:
                    self.coming += self.dump(agent, agent.dumping, "step")
                elif agent.acting and not agent.image:
                    self.coming.append(Began(agent.generation))
                elif agent.image and not agent.acting and not agent.held:
                    agent.ready = True
                    self.coming.append(News(agent.generation, job_messages.RESTORED))
            while self.coming:
                self.arrive(0)

    @rule(which=st.integers(0, 9))
    def cut(self, which: int) -> None:
        alive = [agent for agent in self.agents.values() if agent.silent is None]
        if alive:
            agent = alive[which % len(alive)]
            self.hush(agent)
            agent.stays = lease.AGENT
            self.coming.append(Closed(agent.generation, "cut"))

    @rule(which=st.integers(0, 9), after=st.integers(0, 2))
    def out_of_touch(self, which: int, after: int) -> None:
        """A stream ends that another may take the place of: at once, when it is missed, or when it was given up."""
        alive = [agent for agent in self.agents.values() if agent.silent is None and not agent.away]
        if alive:
            agent = alive[which % len(alive)]
            agent.away = True
            if after:
                self.coming.append(Touch(agent.generation, placement_events.AWAY, "it is cut"))
            if after == 2:
                self.give_up(0)

    @rule(which=st.integers(0, 9))
    def in_touch(self, which: int) -> None:
        """Another stream joins: what was said and ordered meanwhile comes, in order."""
        for agent in [agent for agent in self.agents.values() if agent.away and agent.silent is None][which:][:1]:
            agent.away = False
            if agent.over and not agent.unsaid:
                self.hush(agent)
                self.coming += [Closed(agent.generation, "gone"), Touch(agent.generation, placement_events.GONE)]
                continue
            self.coming += [Touch(agent.generation, placement_events.JOINED), *agent.unsaid]
            orders, agent.unheard, agent.unsaid = agent.unheard, [], []
            for order in orders:
                self.ordered(agent, order)

    @rule(which=st.integers(0, 9))
    def give_up(self, which: int) -> None:
        """No other stream is made any more, and the job may be there for its lease."""
        for agent in [agent for agent in self.agents.values() if agent.away and agent.silent is None][which:][:1]:
            self.hush(agent)
            agent.stays = _STAYS
            self.coming.append(Closed(agent.generation, "cut", stays=_STAYS))

    @rule(which=st.integers(0, 9))
    def found_gone(self, which: int) -> None:
        """A host of a link that has ended has what is left of the job ended, and says so."""
        for agent in [agent for agent in self.agents.values() if agent.silent is not None and agent.stays][which:][:1]:
            self.die(agent)
            self.coming.append(Touch(agent.generation, placement_events.GONE))

    @rule(which=st.integers(0, 19))
    def deafen(self, which: int) -> None:
        for agent in [agent for agent in self.agents.values() if not agent.over][which : which + 1]:
            agent.deaf = True

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.5, 16.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for agent in self.agents.values():
            if agent.silent is not None and self.now - agent.silent >= (agent.stays or lease.AGENT):
                self.die(agent)
        due = placement.deadline(self.state)
        if due is not None and self.now >= due:
            self.feed(Tick())

    @rule()
    def slot(self) -> None:
        """It is said to have got the slots that it waited for, whether it waits or not."""
        self.feed(SlotFree())

    @rule(which=st.integers(0, 9), what=st.sampled_from(WHAT))
    def act(self, which: int, what: str) -> None:
        """An agent does something, and says so if its link holds."""
        alive = [agent for agent in self.agents.values() if not agent.over]
        if not alive:
            return
        agent = alive[which % len(alive)]
        said: list[Event] = []
        if agent.held and what in ("restored", "fail"):
            return
        if what == "began" and agent.acting and not agent.image:
            agent.begun = True
            said.append(Began(agent.generation))
        elif what == "restored" and agent.image and not agent.acting:
            agent.ready = True
            said.append(News(agent.generation, job_messages.RESTORED))
        elif what == "fail" and not agent.acting:
            self.die(agent)
            said.append(Failed(agent.generation, 125, "it cannot be restored there"))
        elif what == "unable" and agent.acting and not agent.begun and not agent.anyway:
            self.die(agent)
            said.append(News(agent.generation, job_messages.UNABLE, 0, "it has no criu"))
        elif what == "dead" and (agent.dumping is None or agent.held):
            self.die(agent)
            said.append(News(agent.generation, job_messages.DEAD, 0, "its memory ran out"))
        elif what == "exit" and agent.acting and agent.dumping is None:
            self.die(agent)
            said.append(Exited(agent.generation, 0))
        elif what == "own" and agent.acting and agent.dumping is None:
            self.own_serial += 1
            agent.dumping, agent.committed = (self.own_serial, True), False
            said.append(News(agent.generation, job_messages.LEAVING, self.own_serial, "the owner is back"))
        elif agent.dumping is not None:
            said += self.dump(agent, agent.dumping, what)
        if agent.away:
            agent.unsaid += said
        elif agent.silent is None:
            self.coming += said

    def dump(self, agent: Agent, dumping: tuple[int, bool], what: str) -> list[Event]:
        serial, leaves = dumping
        if agent.held:
            return []  # until it is told
        if what == "no":
            agent.dumping = None
            return [News(agent.generation, job_messages.REFUSED, serial, "no")]
        if agent.silent is not None or (agent.away and not agent.committed):
            return []
        if not agent.committed:
            self.images += 1
            agent.committed = True
            kinds = frozenset({str(self.images // 2)})
            committed: list[Event] = [Committed(agent.generation, serial, self.images, 0, kinds)]
            if not leaves:
                agent.dumping = None
            return committed
        agent.held, agent.acting = True, False
        return [News(agent.generation, job_messages.HELD, serial)]

    @rule(movable=st.sampled_from([True, False, None]), again=st.booleans())
    def rehearsed(self, movable: bool | None, again: bool) -> None:
        """What a rehearsal shows changes what is known of the images, and nothing of where the job is."""
        if not self.rehearsing or self.left:
            return
        begun = self.rehearsing[0] if again else self.rehearsing.pop(0)
        before = self.state
        event = Rehearsed(begun.generation, begun.image, movable, "" if movable else "it cannot be restored")
        after, actions = placement.step(before, event, self.now)
        placement.check(after)
        assert replace(after, images=before.images) == before
        assert not actions or [type(action) for action in actions] == [Log]
        assert (after.images.newest, after.images.dump, after.images.due) == (
            before.images.newest, before.images.dump, before.images.due,
        )  # fmt: skip
        self.state = after

    # the person

    @rule(what=st.sampled_from(ASKS), host=st.sampled_from(["", "beta"]))
    def ask(self, what: str, host: str) -> None:
        token = len(self.asked) + 1
        self.asked.add(token)
        self.feed(Ask(what, token, host if what == "vacate" else ""))

    @rule(sure=st.integers(0, 20))
    def quit(self, sure: int) -> None:
        if sure == 0 or self.state.wants.leave_by < inf:  # rare, as it ends all else
            self.feed(Quit())

    # what must hold

    @invariant()
    def never_two(self) -> None:
        acting = [agent.generation for agent in self.agents.values() if agent.acting]
        assert len(acting) <= 1, acting

    @invariant()
    def never_forgotten(self) -> None:
        """There is always something that will go on by itself, or it is held, or it has ended."""
        state = self.state
        if self.left:
            return
        assert self.finished == (state.phase == Phase.ENDED)
        if state.wants.leave_by < inf:
            assert state.phase == Phase.ENDED or self.now <= state.wants.leave_by + 700.0
        if state.phase == Phase.CHOOSING:
            assert any(asked.turn == state.search.turn for asked in self.to_choose)
        elif state.phase == Phase.STARTING:
            assert state.place.generation in self.to_connect or state.place.generation in self.agents
        # What is out of touch is dialled, which ends by itself.
        dumping = state.phase in (Phase.RUNNING, Phase.FROZEN) and state.place.away == inf
        dumping = dumping and (state.images.dump is not None or state.wants.killing)
        if dumping or state.phase in (Phase.LOST, Phase.LEFT) or (state.phase == Phase.PARKED and not state.wants.held):
            assert placement.deadline(state) is not None

    @invariant()
    def what_stands_still_is_not_forgotten(self) -> None:
        """It is kept until another goes on, or it has been told what becomes of it."""
        if self.left or self.finished:
            return
        source = self.state.source.generation if self.state.source is not None else 0
        saying = [event.generation for event in self.coming if isinstance(event, News) and event.what == "held"]
        for agent in self.agents.values():
            if agent.held and agent.silent is None and not (agent.deaf or agent.away):
                assert agent.generation == source or agent.generation in saying

    @rule()
    def vacated(self) -> None:
        """So that this is met often: what runs leaves, and stands still."""
        self.ask("vacate", "")
        for agent in self.agents.values():
            for _ in range(2):
                if agent.dumping is not None and agent.silent is None and not agent.away:
                    self.coming += self.dump(agent, agent.dumping, "step")
        while self.coming:
            self.arrive(0)

    @rule()
    def no_host_can_go_on_with_it(self) -> None:
        """So that this is met, too: a vacate, and whoever is given the image fails, until there is no host left."""
        self.vacated()
        while self.to_choose or self.to_connect:
            barred = dict(self.to_choose[0].avoid) if self.to_choose else {}
            left = [host for host in ("alpha", "beta") if host not in barred]
            self.choose(left[0] if left else "", bool(left))
            self.connect(True)
            for agent in self.agents.values():
                if (
                    agent.image
                    and not (agent.acting or agent.over or agent.held or agent.away)
                    and agent.silent is None
                ):
                    self.die(agent)
                    self.coming.append(Failed(agent.generation, 125, "it cannot be restored"))
            while self.coming:
                self.arrive(0)

    @invariant()
    def every_question_is_answered_in_the_end(self) -> None:
        if self.state.phase == Phase.ENDED:
            assert self.asked == set(self.replied)

    @invariant()
    def nothing_is_lost_that_was_committed(self) -> None:
        if self.state.phase in (Phase.CHOOSING, Phase.PARKED) and self.images:
            assert self.state.images.newest > 0 or not self.state.began


def _of(event: Event) -> int:
    return getattr(event, "generation", 0)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
