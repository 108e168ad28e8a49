"""Supervise one job that can be checkpointed, from start to end, wherever it runs.

shim/submit/job/placement.py decides; here its decisions are carried out, each that takes time in a thread of its own,
and what happens is told back to it as events, one after the other, in the thread that called `run`.

Nothing here is the process's: a program may supervise many jobs, each by a `run` in a thread of its own, and none
leaves a thread or a descriptor behind. Streams, signals and a terminal are given, or told, by whoever has them.
"""

from __future__ import annotations

import os
import queue
import shlex
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf

from checkpoint.submit.job_images import StoreError
from remoteio.errors import RexecError
from remoteio.wire import frames
from shim.submit import faults, threads
from shim.submit.hosts.connect import connect
from shim.submit.job import (
    accounting,
    agent_file,
    control_socket,
    next_host,
    placement,
    placement_actions,
    placement_events,
    recorder,
    seat,
    taking_up,
)
from shim.submit.job.agent_file import Noted
from shim.submit.job.contact import Reach
from shim.submit.job.control_server import Callers
from shim.submit.job.events import Event, Kind
from shim.submit.job.generation import Generation
from shim.submit.job.home import JobHome, MoveError
from shim.submit.job.next_host import AllowedHosts
from shim.submit.job.phase import ACTING, Phase
from shim.submit.job.placement_events import Images, Place, State, Wants
from shim.submit.job.record import NEVER, Job, Record
from shim.submit.job.recorder import Records
from shim.submit.job.rehearsal import Rehearsal
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.job.seat import Seat
from shim.submit.job.taken_up import Offer
from shim.submit.job.visits import Terms, Visits

_LAST_WORDS = 2.0  # seconds for those who are attached, or have asked, to take the job's end


class JobSupervisor:
    """Supervises one job. `outputs` and `input` are its streams here; `watch` is told of every change of phase, and
    of whether the job may be acting.

    Threads: the caller's of `run` alone writes `state`, and does all that is not said to be for any thread. `record`
    is replaced by it, and by the one that looks for a host, under `_lock`: what either writes must be on the disk
    before the next generation starts. What others read of `state` and `record` is one value, whole and perhaps old.
    """

    def __init__(
        self,
        job: Job,
        outputs: dict[int, OutputOnce],
        input: ReplayedInput | None,
        *,
        patient: bool,
        force: bool = False,
        take_up: bool = False,
        say: Callable[[str], None],
        watch: Callable[[State, State], None] = lambda before, after: None,
        stopped: Callable[[Generation], None] = lambda generation: None,
        ready: Callable[[], None] = lambda: None,
        reach: Reach = connect,
    ) -> None:
        """`patient`: wait for a host even before the job has ever run. `force`: go on though its files changed since
        the image. `take_up`: go on with the generation that a supervisor before this one has left, if that can be.

        `stopped` is called when the job has stopped, as a shell would see it; `ready` when the job can be talked to.
        """
        self.job = job
        self.record = replace(job.read(), since=0.0)
        self.home = JobHome(job, self.record, outputs, input, self.tell, say)
        if force:
            self.home.forced = self.record.image
        self._visits, self._reach = Visits(self.home, reach, stopped), reach
        self._rehearsal: Rehearsal | None = None
        self._allowed = AllowedHosts(self.record.hosts, self.record.owner)
        self._seat = None if self.record.desk is None else Seat(self.record, self._allowed, self.tell)
        self._say, self._watch, self._ready = say, watch, ready
        self._records = Records(job, say)
        self._events: queue.SimpleQueue[placement_events.Event | BaseException] = queue.SimpleQueue()
        self._forget, self._takes_up, self._leave = False, take_up, ""  # why this process ends before its job
        self._early: deque[placement_events.Event] = deque()  # what happened while it was being taken up
        self._noted: set[str] = set()  # what was unexpected; as many as there are phases and words
        self._left = agent_file.noted(job.path)  # by supervisors before this one, and perhaps there still
        self.state = _where(self.record, patient, self._left)
        self._callers = Callers(self)
        if input is not None:
            input.heavy = lambda: self.tell(placement_events.Heavy())

    # the thread of `run`

    def run(self) -> placement_actions.Result:
        """Supervise until the job has ended. Raises RexecError or CheckpointError: this process itself cannot go on."""
        control = control_socket.Listener(self.job.control, self._callers.handle)
        for output in self.home.outputs.values():
            output.start(self.fail)
        if self.home.input is not None:
            self.home.input.start(self.fail)
        self._ready()
        try:
            return self._run()
        except faults.SAID as error:
            self._dies(str(error))
            raise
        except BaseException as error:
            text = self.home.fault(f"supervising job {self.home.name}", error)
            self._dies(text)
            raise MoveError(text) from error
        finally:
            self._drop_rehearsal()
            self._visits.end_all()
            self._callers.begins(False, "")
            if self._seat is not None:
                self._seat.close()
            control.close()
            self._records.close()
            self.home.close()

    def _dies(self, why: str) -> None:
        """This process ends before its job: who looks for it afterwards is to find out why."""
        self.record = replace(self.record, reason=why)
        self._records.write(self.record)
        self._note(Event(time.time(), Kind.NOTE, reason=f"its supervisor ends: {why}"))

    def _begin(self) -> None:
        """Take up the job where it runs, if that is wanted and can be; or look for a host for it."""
        taken, why = None, ""
        if self._takes_up and self._left:
            taken, why = taking_up.take_up(self._visits, self.record, self._left, self._await_taken, self._note)
        number = self.record.image
        if not number:
            self._note(
                Event(time.time(), Kind.SUBMIT, host=os.uname().nodename, command=shlex.join(self.record.command))
            )
        elif taken is None:
            self._note(Event(time.time(), Kind.NOTE, reason=f"restarted by its user, from image {number}"))
        if taken is not None:
            self.record = replace(self.record, since=self.job.read().since)  # it has run on
            self._do(taken)
        else:
            self._do(placement.begin(self.state, time.monotonic(), self.record.lease if self._left else 0.0))
            if self._left:
                self._visits.settle(self.state.place.generation, self._left)
        self._callers.begins(taken is not None, taking_up.whence(self.record, taken is not None, why))

    def _run(self) -> placement_actions.Result:
        self._begin()
        while self.state.result is None and not self._leave:
            due = min(placement.deadline(self.state) or inf, accounting.due(self.record))
            wait = max(due - time.monotonic(), 0.0)
            if self._records.behind:
                wait = min(wait, recorder.AGAIN)
            try:
                event = self._early.popleft() if self._early else self._next(wait)
            except queue.Empty:
                event = placement_events.Tick()
            if isinstance(event, placement_events.Taken):
                continue  # it was given up before
            if self._records.behind:
                self._records.retry()
            if (gone := placement_events.gone(event)) is not None:
                self.home.forget_agent(gone)
            try:
                self._do(placement.step(self.state, event, time.monotonic()))
            except placement.UnexpectedEvent as error:
                self._unexpected(error)
        if self.state.result is None:
            result = placement_actions.Result(None, 125, self._leave)
            self._note(Event(time.time(), Kind.NOTE, reason=self._leave))
        else:
            result = self.state.result
        return self._end(result)

    def _next(self, wait: float = inf) -> placement_events.Event:
        event = self._events.get(timeout=None if wait == inf else wait)
        if isinstance(event, BaseException):
            raise event
        return event

    def _await_taken(self, offer: Offer) -> placement_events.Taken:
        taken, self._early = taking_up.meanwhile(offer, self._next, self._callers.answer)
        return taken

    def tell(self, event: placement_events.Event) -> None:
        """Take note of what happened; from any thread."""
        self._events.put(event)

    def quit(self) -> None:
        """Save the job, park it and return; from any thread, and safe in a signal's handler."""
        self._events.put(placement_events.Quit())

    def fail(self, error: BaseException) -> None:
        """End the run by what has ended a thread of ours. From any thread."""
        self._events.put(error)

    def send_signal(self, number: int) -> bool:
        """Give the job a signal; False: it does not run just now. Safe in a signal's handler."""
        generation = self.generation()
        if generation is None:
            return False
        if not threads.begin(lambda: generation.signal(number)):
            self._say(f"signal {number} could not be passed on, as no thread can be had: raise `ulimit -u`")
        return True

    def generation(self) -> Generation | None:
        """Return the generation that runs, if one does. From any thread."""
        phase, found = self.state.phase, self._visits.get(self.state.place.generation)
        if phase == Phase.STARTING:
            # Who has read what the job says must not find that it does not run, though Began is still on its way.
            return found if found is not None and found.heard else None
        return found if phase in (Phase.RUNNING, Phase.FROZEN) else None

    def progress(self) -> tuple[int, int, int] | None:
        """Tell how far the image that comes is, as Intake.progress has it. From any thread."""
        generation = self._visits.get(self.state.place.generation)
        return None if generation is None else generation.progress()

    def force(self) -> None:
        """Go on from the last image though files were changed since. From any thread."""
        self.home.forced = self.state.images.newest

    def _unexpected(self, error: placement.UnexpectedEvent) -> None:
        """What an agent of ours never says changes nothing; that it was said stands in the log, once."""
        if str(error) not in self._noted:
            self._noted.add(str(error))
            self._note(Event(time.time(), Kind.NOTE, host=self.state.place.host, reason=f"not understood: {error}"))

    def _do(self, steps: placement_events.Steps) -> None:
        before = self.state
        self.state, actions = steps
        after = self.state
        self._account(before, after)
        if self._seat is not None:
            self._sit(self._seat)
        self._look_after_rehearsal(before, after)
        for action in actions:
            if isinstance(action, placement_actions.Connect) and not self._records.recorded:
                # Its number must outlive this process: else a later one would give it again.
                self.tell(placement_events.Unreached(action.generation, self._records.behind))
            else:
                self._act(action)
        if _seen(before) != _seen(after):
            self._watch(before, after)

    def _account(self, before: State, after: State) -> None:
        """Keep the record abreast; on the disk before anything is done, so that no generation is ever used twice."""
        now = time.monotonic()
        new = accounting.account(self.record, self.home, before, after, now, time.time())
        if new != self.record:
            self.record = new
            self._records.write(new)

    def _sit(self, place: Seat) -> None:
        try:
            place.settle(self.state)
        except RexecError as error:  # it runs all the same
            self._note(Event(time.time(), Kind.NOTE, reason=f"its slots are not counted: {error}"))

    def _act(self, action: placement_actions.Action) -> None:
        if isinstance(action, placement_actions.Choose):
            look = partial(seat.look, self.home, action, self._allowed, self._seat)
            self.home.in_thread(lambda: self.tell(look()), lambda why: placement_events.NoHost(action.turn, why))
        elif isinstance(action, placement_actions.Connect):
            self._visits.connect(action.generation, action.host)
        elif isinstance(action, placement_actions.Start):
            state = self.state
            named = next_host.is_named(state.place.host, self._allowed, state.search.driven, state.wants.host)
            self._visits.start(action.generation, Terms(action.image, named, state.place.anyway))
        elif isinstance(action, placement_actions.Order):
            self._order(action)
        elif isinstance(action, placement_actions.Rehearse):
            self._rehearse(action)
        elif isinstance(action, placement_actions.Close):
            self._visits.end(action.generation)
        elif isinstance(action, placement_actions.Reply):
            self._callers.answer(action.token, action.done, action.text)
        elif isinstance(action, placement_actions.Finish):
            self._forget = action.forget
        elif isinstance(action, placement_actions.Leave):
            again = f"`rexec restart {self.home.name}` goes on from its last image"
            self._leave = f"{action.why}: {again if self.state.images.newest else self.record.without_image()}"
        elif isinstance(action, placement_actions.Log):
            costs = self.home.costs.fields(action.kind, self.state.place.generation)
            self._note(Event(time.time(), action.kind, **action.fields, **costs))  # type: ignore[arg-type]

    def _order(self, order: placement_actions.Order) -> None:
        generation = self._visits.get(order.generation)
        if generation is None:
            return  # it has ended: its event is on its way
        try:
            generation.order(order.what, order.serial, **({"why": order.why} if order.why else {}))
        except Exception as error:  # as in Generation.serve: it is this generation's end
            generation.unfit = self.home.fault(f"ordering {order.what} on {generation.host}", error)
            generation.cut()

    def _rehearse(self, action: placement_actions.Rehearse) -> None:
        self._drop_rehearsal()
        begun = self._rehearsal = Rehearsal(self.home, action.generation, action.host, action.image)
        self.home.in_thread(
            lambda: self.tell(begun.run(self._reach)),
            lambda why: placement_events.Rehearsed(action.generation, action.image, None, why),
        )

    def _look_after_rehearsal(self, before: State, after: State) -> None:
        """Drop one whose job no longer runs beside it, or is leaving; and tell its user what has come of it."""
        self.home.restored = after.images.restored
        dump, begun = after.images.dump, self._rehearsal
        leaves = after.phase != Phase.RUNNING or (dump is not None and dump.leaves)
        if begun is not None and (leaves or begun.generation != after.place.generation):
            self._drop_rehearsal()
        if after.images.obstacle and after.images.obstacle != before.images.obstacle:
            self._say(f"job {self.home.name} cannot leave its host: {after.images.obstacle}")

    def _drop_rehearsal(self) -> None:
        if self._rehearsal is not None:
            self._rehearsal.cut()
            self._rehearsal = None

    def _note(self, event: Event) -> None:
        self._records.append(event)

    def _end(self, result: placement_actions.Result) -> placement_actions.Result:
        for output in self.home.outputs.values():
            # The image of a job that is parked counts what is not written yet as said: it will not say that again.
            while not output.drain(_LAST_WORDS):
                if result.status is None:
                    lost = "what it has said last is lost: its output could not be written"
                    self._note(Event(time.time(), Kind.NOTE, reason=lost))
                    break
                if self._dismissed():
                    break
        payload = (result.status if result.status is not None else result.code).to_bytes(4, "little")
        kind = frames.EXIT if result.status is not None else frames.FAIL
        self._callers.end(kind, payload + (result.reason.encode() if kind == frames.FAIL else b""))
        if self._forget:
            self._forget_images()
        self._callers.await_gone(_LAST_WORDS)
        self.home.drop_tails()
        while self._records.behind and self.state.wants.patient and not self._dismissed(recorder.AGAIN):
            self._records.retry()  # or `rexec jobs` would never tell that it has ended
        return result

    def _dismissed(self, wait: float = 0.0) -> bool:
        """The job has ended: is this process told not to wait any longer, within `wait` seconds?"""
        try:
            event = self._next(wait)
        except queue.Empty:
            return False
        self._do(placement.step(self.state, event, time.monotonic()))
        return isinstance(event, placement_events.Quit)

    def _forget_images(self) -> None:
        """Remove what images there are: the job has ended well, and nobody had asked for them."""
        self._visits.end_all()  # one may have ended in the middle of a dump
        self._visits.await_end(_LAST_WORDS)
        try:
            self.home.forget_images()
        except (StoreError, OSError) as error:
            self._note(Event(time.time(), Kind.NOTE, reason=f"its images are still there: {error}"))
            return
        self.record = replace(self.record, saved=0.0, saved_size=0)
        self._records.write(self.record)


def _seen(state: State) -> tuple[Phase, bool, bool]:
    """What of a state is told to who watches."""
    return state.phase, state.place.live, state.place.away < inf


def _where(record: Record, patient: bool, agents: list[Noted]) -> State:
    """Where a job stands whose supervisor begins: after one that was killed, it may be running this moment."""
    left = record.phase in ACTING or agents
    return State(
        phase=Phase.LOST if left else Phase.CHOOSING,
        why="its supervisor ended" if left else "",
        began=record.image > 0,
        last=record.generation,
        wants=Wants(every=record.every, patient=patient, images=record.image > 0, rehearse=record.rehearse != NEVER),
        place=Place(generation=record.generation, host=(record.host or agents[-1].host) if left else ""),
        images=Images(newest=record.image, restored=record.restored),
    )
