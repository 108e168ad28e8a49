"""Steps the owner's policy on the execute host: freezes, thaws and sends the job away. Shipped."""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Callable

from remoteio.errors import ProtocolError
from shim.execute.agent.checkpoint_parts import CheckpointParts
from shim.execute.agent.diagnostics import start_thread
from shim.execute.agent.job_tree import Gone
from shim.execute.owner import load, step, word
from shim.wire import job_messages
from shim.wire.conditions import Surroundings, broken_condition
from shim.wire.owner_policy import AT_ONCE, NOBODY, OwnerPolicy, parse_owner_policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.execute.owner.admission import Admitted

LOOK = 5.0  # seconds between looks at the conditions


def parse(text: str) -> OwnerPolicy:
    """Read the policy of a START frame: JSON of [name, table], null for `none`. Raises PolicyError, ProtocolError."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ProtocolError("an owner's policy is no JSON (%s)" % e) from None
    if not isinstance(said, list) or len(said) != 2 or not isinstance(said[0], str):
        raise ProtocolError("an owner's policy is not its name and its table")
    name, table = said
    return NOBODY if table is None else parse_owner_policy(name, table)


class OwnerGuard:
    """Does for one job what its owner policy says of this host: freezes and thaws it, and has it leave.

    Threads: the guard's own, which ``start`` begins once the job runs, watches, and another waits for who would have
    the job's slot; `stays` is called by the one that dumps. `_lock` is held for the state; the tree is stopped and
    continued under a lock of its own (JobTree.still).
    """

    def __init__(self, parts: CheckpointParts, admitted: Admitted | None) -> None:
        """`admitted`: by what this machine's owner says, over what home does.

        Raises PolicyError, ProtocolError for a policy that cannot be.
        """
        self._parts = parts
        self._said = None if admitted is None else admitted.word
        self._slot = None if admitted is None else admitted.slot
        self._asked = parse(parts.checkpoint.owner)
        self._policy = self._asked if self._said is None else self._said.policy
        self._state = self._fresh()
        self._lock = threading.Lock()
        self._load = load.OthersLoad()
        self._login = word.login()
        self._short = False  # of memory
        self._vacate: Callable[[str], None] = lambda why: None

    def start(self, vacate: Callable[[str], None]) -> None:
        """Begin to watch: the job runs here from now on. `vacate` is to have it leave, for the reason given."""
        self._vacate = vacate
        self._state = self._fresh()
        start_thread("owner", self.run)
        slot = self._slot
        if slot is not None and not self._parts.means.unable:
            start_thread("slot", lambda: slot.lend(self._leaves_to))

    @property
    def at_once(self) -> bool:
        """Tell whether a job that leaves is to be gone as soon as it is saved: the owner wants the memory."""
        return self._policy.memory == AT_ONCE or self._short

    def stays(self, again: bool) -> None:
        """Let the job go on, which could not leave, until the next input. Raises Gone.

        `again`: it may be saved another time. Else no host could go on with it: it stands still until the owner is
        away, and is not sent away again at once.
        """
        with self._lock:
            if self._state.phase != step.LEAVING:
                return
            if again:
                self._parts.tree.thaw()
                self._parts.news(job_messages.THAWED, why="it could not be checkpointed")
                self._state = self._fresh()
            else:
                self._state = step.nowhere(time.monotonic(), self._parts.tree.frozen)
        if self._slot is not None:
            self._slot.stays()

    def _leaves_to(self, login: str) -> bool:
        """Have the job leave, if the owner prefers a job of that login, which has come; tell whether it does."""
        try:
            said = word.find()
        except word.WordError:
            return False  # the job leaves for that, soon
        if said is None or said.tier(login) <= said.tier(self._login):
            return False
        wanted = step.Wanted(f"{said.file} prefers a job of {login}, which has come")
        with self._lock:
            self._state, actions = step.step(self._policy, self._state, wanted, time.monotonic())
        for action in actions:
            self._act(action, wanted)
        return bool(actions)

    def _fresh(self) -> step.State:
        # who named the host excused it from home's policy, not from its owner's own
        return step.start(time.monotonic(), self._parts.checkpoint.named and self._said is None)

    def _look(self) -> str | None:
        """Look what this machine's owner says by now; return why that cannot be read, for which the job leaves."""
        try:
            self._said = word.find()
        except word.WordError as e:
            return str(e)
        self._policy = self._asked if self._said is None else self._said.policy
        return None

    def _broken(self, around: Surroundings) -> str | None:
        return broken_condition(self._policy, around) if self._said is None else self._said.broken(self._login, around)

    def run(self) -> None:
        """Watch until the job has ended."""
        while self._policy is NOBODY:  # until its owner says otherwise
            time.sleep(LOOK)
            if self._look():
                break
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
            events: list[step.Event] = []
            touched = watch.poll(now)
            if self._policy.watched:
                events += [step.Input(now, source) for source in touched]
            if now >= look:
                around = load.surroundings(self._load.add(load.sample([os.getpid()])))
                events.append(step.Conditions(self._look() or self._broken(around)))
                self._short = around.free_memory < self._policy.min_free_memory
                look = now + LOOK
            for event in [*events, step.Tick()]:
                with self._lock:
                    self._state, actions = step.step(self._policy, self._state, event, time.monotonic())
                for action in actions:
                    self._act(action, event)

    def _act(self, action: step.Action, event: step.Event) -> None:
        parts = self._parts
        if action.kind == step.FREEZE:
            parts.tree.freeze()
            source = event.source if isinstance(event, step.Input) else ""
            parts.news(job_messages.FROZEN, why=action.why, source=source, at=time.time())
        elif action.kind == step.THAW:
            parts.tree.thaw()
            parts.news(job_messages.THAWED, why=action.why)
        elif action.kind == step.VACATE:
            self._vacate(action.why)
