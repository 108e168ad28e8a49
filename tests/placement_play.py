"""Plays a placement: a state machine, its clock, and what it does at each event."""

from __future__ import annotations

from typing import Any

from shim.submit.job import placement
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Action
from shim.submit.job.placement_events import (
    Began,
    Chosen,
    Committed,
    Connected,
    Event,
    Images,
    State,
    Tick,
    Wants,
)


class Play:
    """A state machine and its clock; `did` are the actions of the last event."""

    def __init__(self, state: State | None = None, *, every: float = 0.0, image: int = 0, images: bool = False) -> None:
        self.now = 0.0
        self.did: list[Action] = []
        before = State(began=image > 0, wants=Wants(every=every, images=images), images=Images(newest=image))
        self.state, _ = placement.begin(state or before, self.now)

    def feed(self, *events: Event) -> list[Action]:
        for event in events:
            self.state, self.did = placement.step(self.state, event, self.now)
            placement.check(self.state)
        return self.did

    def run(self) -> Play:
        """To a job that runs on alpha, for the first time."""
        self.feed(Chosen(self.state.search.turn, "alpha"), Connected(1), Began(1))
        assert self.state.phase == Phase.RUNNING
        return self

    def tick(self) -> list[Action]:
        """Time goes on until something is due, and the Tick is given."""
        due = placement.deadline(self.state)
        assert due is not None
        self.now = max(self.now, due)
        return self.feed(Tick())

    def of(self, kind: type[Any]) -> list[Any]:
        return [action for action in self.did if isinstance(action, kind)]


def saved() -> Play:
    """A job that runs, and has an image."""
    play = Play().run()
    play.tick()
    play.feed(Committed(1, 1, 1))
    return play
