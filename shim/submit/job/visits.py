"""Take a job to its hosts: a connection, and over it one generation, each in a thread of its own."""

from __future__ import annotations

import gc
import json
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from remoteio.errors import RexecError
from remoteio.submit.transport.stream import Stream
from remoteio.wire.session_link import SessionLink
from shim.submit.hosts import candidates, config, taking
from shim.submit.hosts.dialler import Agent
from shim.submit.job import agent_file
from shim.submit.job.agent_file import Noted
from shim.submit.job.contact import Contact, Reach, end_noted
from shim.submit.job.generation import Generation
from shim.submit.job.home import JobHome
from shim.submit.job.placement_events import Closed, Connected, Failed, Fault, Taken, Unreached
from shim.submit.job.taken_up import Offer, TakenUp
from shim.wire import lease


@dataclass(frozen=True, slots=True)
class Terms:
    """How a generation is started.

    image    the number of the image that it goes on from; 0: from its beginning
    named    the user named this very host
    anyway   also where no images can be made
    """

    image: int
    named: bool
    anyway: bool


class Visits:
    """Holds the visits that have not ended, by their generation's number. What happens is told to `home` as events.

    Threads: `connect`, `start` and `end` are the supervisor's own; `get` is for any, and for a signal's handler, which
    may not wait for a lock: each of the tables is only ever looked at or changed in one step, which the interpreter
    does not divide. A visit's own thread adds its generation and at last removes it, under `_fewer`, which is told.
    """

    def __init__(self, home: JobHome, reach: Reach, stopped: Callable[[Generation], None]) -> None:
        """`reach` makes connections; `stopped` is called when the job has stopped."""
        self._home, self._reach, self._stopped = home, reach, stopped
        self._starts: dict[int, queue.SimpleQueue[Terms | None]] = {}
        self._generations: dict[int, Generation] = {}
        self._over = threading.Event()
        self._offer: Offer | None = None
        self._fewer = threading.Condition()

    def get(self, number: int) -> Generation | None:
        """Return the generation of that number, from its START to the end of its link."""
        return self._generations.get(number)

    def connect(self, number: int, name: str) -> None:
        """Begin a visit to the host: Connected or Unreached will tell of it."""
        self._starts[number] = queue.SimpleQueue()
        self._home.in_thread(lambda: self._visit_and_forget(number, name), lambda why: Unreached(number, why))

    def start(self, number: int, terms: Terms) -> None:
        """Have it send START, unless it has ended: then its event is on its way."""
        start = self._starts.get(number)
        if start is not None:
            start.put(terms)

    def end(self, number: int) -> None:
        """End the visit, whatever is under way there."""
        start, generation = self._starts.get(number), self._generations.get(number)
        if start is not None:
            start.put(None)
        if generation is not None:
            generation.cut()

    def end_all(self) -> None:
        """End every visit, and what is done after one."""
        self._over.set()
        if self._offer is not None:
            self._offer.give_up()
        for number in tuple(self._starts):
            self.end(number)

    def await_end(self, timeout: float) -> bool:
        """Wait until all visits have ended. False: in `timeout` seconds they had not."""
        with self._fewer:
            return self._fewer.wait_for(lambda: not self._generations, timeout)

    def settle(self, generation: int, agents: list[Noted]) -> None:
        """Have the agents that an earlier supervisor has noted ended: Touch GONE of `generation` will tell of it."""
        home = self._home
        home.in_thread(lambda: end_noted(home, generation, agents, self._reach, self._over), Fault)

    def take_up(self, agent: Noted, image: int) -> Offer:
        """Begin a visit to a generation that runs already, whose last image that is.

        Taken tells whether it goes on: where it does not, nothing is changed, but for what its agent has heard. Closed
        follows, as ever, only where it does.
        """
        number, stays = agent.generation, float(self._home.record.lease)
        offer = self._offer = Offer()

        def failed(why: str) -> Closed | Taken:
            return Closed(number, why, stays=stays) if offer.goes_on else Taken(number, why=why)

        self._starts[number] = queue.SimpleQueue()
        self._home.in_thread(lambda: self._take_up(agent, image, offer), failed)
        return offer

    def _take_up(self, agent: Noted, image: int, offer: Offer) -> None:
        home, number, settle = self._home, agent.generation, None
        try:
            told, before = agent_file.told(home.job.path, number), home.image(image)
            host = config.resolve(agent.host, config.load())
            found = Agent(agent.secret, home.record.lease, agent.where)
            stream = taking.take(host, found, self._reach, offer.over)
        except BaseException:
            self._ended(number)
            raise
        try:
            contact = Contact(home, number, host, SessionLink(stream.read_fd, stream.write_fd), self._reach, found)
            spec = home.start_spec(number, "", True, True, None)
            spec.host = os.fsencode(host.name)
            rights = home.rights(host.trust, host.disk)
            generation = TakenUp(
                home, number, host.name, contact, spec, self._stopped, rights, told, before, offer
            )  # fmt: skip
            self._generations[number] = generation
            why = self._served(generation, contact, stream)
            if offer.goes_on:
                home.tell(Closed(number, why, unfit=bool(generation.unfit), stays=contact.stays))
                settle = contact.rest()
            else:
                home.tell(Taken(number, why=why))
        finally:
            self._ended(number)
            stream.close()
        if settle is not None:
            settle(self._over)

    def _ended(self, number: int) -> None:
        """Let go of the visit and all it holds: its export above all, which knows of every file the job has used."""
        with self._fewer:
            self._starts.pop(number, None)
            self._generations.pop(number, None)
            self._fewer.notify_all()

    def _visit_and_forget(self, number: int, name: str) -> None:
        """Have nothing left of a visit: what it held refers to itself, and is some MiB."""
        settle = self._visit(number, name)
        gc.collect()  # by itself that comes seldom: see shim/submit/own_process.py
        if settle is not None:
            settle(self._over)

    def _visit(self, number: int, name: str) -> Callable[[threading.Event], None] | None:
        """One generation, from the connection to its end: ssh has to be started and ended by one thread.

        Returns what is left to do after it.
        """
        home = self._home
        try:
            known = config.load()
            host = config.resolve(name, known)
            policy = candidates.owner_of(host, home.record.owner, known)
            stream, _ = self._reach(host, "shim.execute.main:main", batch=home.record.detached or number > 1)
        except RexecError as error:
            self._ended(number)
            home.tell(Unreached(number, str(error)))
            return None
        owner = json.dumps([policy.name, policy.table() if policy.watched else None])
        contact = Contact(home, number, host, SessionLink(stream.read_fd, stream.write_fd), self._reach)
        try:
            self._run(contact, owner, stream)
        finally:
            self._ended(number)  # before the descriptor is closed: nobody cuts it then
            stream.close()
        return contact.rest()

    def _run(self, contact: Contact, owner: str, stream: Stream) -> None:
        home, number, host = self._home, contact.number, contact.host
        try:
            home.tell(Connected(number))
            terms = self._starts[number].get()
            if terms is None:
                return
            image = home.image(terms.image) if terms.image else None
            spec = home.start_spec(number, owner, terms.named, terms.anyway, image)
            spec.host = os.fsencode(host.name)
            rights = home.rights(host.trust, host.disk)
            generation = Generation(home, number, host.name, contact, spec, self._stopped, rights)
            self._generations[number] = generation
            generation.start(image)
            why = self._served(generation, contact, stream)
            home.tell(Closed(number, why, unfit=bool(generation.unfit), stays=contact.stays))
        except Exception as error:  # see Generation.serve
            why = home.why(f"going on on {host.name}", error)
            # Before START nothing can run there.
            begun = number in self._generations
            home.tell(Closed(number, why, stays=contact.stays) if begun else Failed(number, 125, why))

    def _served(self, generation: Generation, contact: Contact, stream: Stream) -> str:
        """Serve it to the end of its link; return why that came."""
        why = generation.serve()
        contact.told = generation.told
        if generation.unheard:
            return f"it has not been heard of for {lease.HOME:.0f} s"
        if contact.lost_by is not None:
            return contact.lost_by.why
        if not (generation.told or generation.unfit) and contact.host.ssh is not None and not generation.goes_on:
            return str(stream.failure())
        return why
