"""Steps the owner's policy on the execute host: freezes, thaws and sends the job away. Shipped."""

from __future__ import annotations

import json
import os
import select
import threading
import time

from shim.execute.agent.dumping import Dumper
from shim.execute.agent.job_tree import Gone, Mobile
from shim.execute.owner import load, step
from shim.wire import job_messages
from shim.wire.conditions import broken_condition
from shim.wire.owner_policy import NOBODY, OwnerPolicy, parse_owner_policy

LOOK = 5.0  # seconds between looks at the conditions


def parse(text: str) -> OwnerPolicy:
    """The policy of a START frame: JSON of [name, table], null for `none`. Raises PolicyError, ValueError."""
    name, table = json.loads(text)
    return NOBODY if table is None else parse_owner_policy(name, table)


class OwnerGuard:
    """One job's owner watch; `run` never returns."""

    def __init__(self, agent: Mobile, departure: Dumper) -> None:
        self._agent, self._departure = agent, departure
        self._policy = parse(agent.checkpoint.owner)
        self._state = step.start(time.monotonic(), agent.checkpoint.named)
        self._lock = threading.Lock()
        self._load = load.OthersLoad()

    def stays(self) -> None:
        """The job could not leave: it goes on, until the next input."""
        with self._lock:
            if self._state.phase == step.LEAVING:
                self._departure.thaw()
                self._agent.news(job_messages.THAWED, why="it could not be checkpointed")
                self._state = step.start(time.monotonic(), self._agent.checkpoint.named)

    def run(self) -> None:
        """Until the job has ended."""
        if self._policy is NOBODY:
            return
        try:
            self._watch()
        except Gone:
            return  # its end is being told

    def _watch(self) -> None:
        from shim.execute.owner.sources import OwnerSources  # and with it D-Bus, for which other jobs should not wait

        watch = OwnerSources(time.monotonic())
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        look = 0.0
        while True:
            now = time.monotonic()
            dues = [look, now + LOOK]
            wait = watch.timeout(now)
            if wait is not None:
                dues.append(now + wait)
            with self._lock:
                due = step.deadline(self._policy, self._state)
            if due is not None:
                dues.append(due)
            poll.poll(max(0, int((min(dues) - now) * 1000)))
            now = time.monotonic()
            events: list[step.Input | step.Conditions | step.Tick] = []
            if self._policy.watched:
                events += [step.Input(now, source) for source in watch.poll(now)]
            if now >= look:
                around = load.surroundings(self._load.add(load.sample([os.getpid()])))
                events.append(step.Conditions(broken_condition(self._policy, around)))
                look = now + LOOK
            for event in [*events, step.Tick()]:
                with self._lock:
                    self._state, actions = step.step(self._policy, self._state, event, time.monotonic())
                for action in actions:
                    self._act(action, event)

    def _act(self, action: step.Action, event: step.Input | step.Conditions | step.Tick) -> None:
        agent = self._agent
        if action.kind == step.FREEZE:
            self._departure.freeze()
            source = event.source if isinstance(event, step.Input) else ""
            agent.news(job_messages.FROZEN, why=action.why, source=source, at=time.time())
        elif action.kind == step.THAW:
            self._departure.thaw()
            agent.news(job_messages.THAWED, why=action.why)
        elif action.kind == step.VACATE:
            agent.serial += 1
            agent.news(job_messages.LEAVING, why=action.why, serial=agent.serial)
            self._departure.ask(agent.serial, True)
