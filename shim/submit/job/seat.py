"""A job's slots on the desk: which of its hosts has room for it now, and its place in the line while none has.

Slots are had for as long as something of the job is on a host, and given back when it leaves: where it goes next it
waits its turn like others, but before those that have not begun. While it waits it is parked; when it is its turn,
SlotFree says so. What it is told to go to by name it goes to at once, and has slots there whoever else has some.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress

from checkpoint.wire.manifest import Manifest
from remoteio.errors import RexecError
from shim.submit import faults, threads
from shim.submit.desk.line import in_short
from shim.submit.desk.place import FRESH, NeverFits, NoPlace, Place, Survey
from shim.submit.desk.wanted import Wanted
from shim.submit.hosts import config, survey
from shim.submit.hosts.config import Host
from shim.submit.hosts.survey import Report
from shim.submit.job import next_host
from shim.submit.job.home import JobHome
from shim.submit.job.next_host import AllowedHosts
from shim.submit.job.phase import ACTING, Phase
from shim.submit.job.placement_actions import Choose
from shim.submit.job.placement_events import Chosen, Event, NoHost, SlotFree, State
from shim.submit.job.record import Record

WAITS = "waiting for a slot: `rexec jobs` shows its place in line"


def look(home: JobHome, choose: Choose, wish: AllowedHosts, seat: Seat | None) -> Chosen | NoHost:
    """Look for the job's next host; `seat`: where it has to have slots. May take long."""
    image = None
    if choose.image:
        try:
            image = home.image(choose.image)
            home.check(image)
        except faults.SAID as error:
            return NoHost(choose.turn, str(error), nowhere=True)
    if seat is not None:
        return seat.choose(choose, image)
    # What is wrong in hosts.toml may be put right at any time: that is waited for.
    return next_host.choose_host(choose, wish, config.load(), image)


class Seat:
    """The place of a job on the desk. `tell` is given SlotFree when it has got slots for which it had to wait.

    Threads: `choose` is for whoever looks for a host, one at a time; `settle` and `close` are the supervisor's. One
    more waits in the line.
    """

    def __init__(
        self, record: Record, wish: AllowedHosts, tell: Callable[[Event], None], ask: Survey = survey.ask_all
    ) -> None:
        wanted = dict(record.desk or {})
        self._own = {"job": record.id, "group": wanted.pop("group"), "began": record.image > 0}
        self._wish, self._wanted = wish, Wanted(**wanted)
        self._command = in_short(record.command)
        self._tell, self._hosts_say = tell, ask
        self._lock = threading.Lock()  # of the next two
        self._place: Place | None = None
        self._waiting: Place | None = None
        self._avoid: dict[str, str] = {}
        self._reports: dict[str, tuple[float, Report]] = {}
        self._seen: tuple[Phase, str, bool] = (Phase.CHOOSING, "", False)

    def choose(self, choose: Choose, image: Manifest | None) -> Chosen | NoHost:
        """Choose the next host, where it has slots then; or say that it waits for some."""
        known = config.load()
        if choose.wanted or not next_host.candidates(self._wish, choose, known):
            return next_host.choose_host(choose, self._wish, known, image, lambda hosts: [])
        try:
            place, self._avoid = self._joined(), dict(choose.avoid)
            while not isinstance(host := place.look(self._avoid), str):
                found = next_host.choose_host(choose, self._wish, known, image, self._said, only=host.name)
                if isinstance(found, Chosen):
                    return found
                place.refused(host, found.why)
                if found.hopeless:
                    return found
        except RexecError as error:
            waits = isinstance(error, NoPlace) and not isinstance(error, NeverFits)
            return NoHost(choose.turn, str(error), hopeless=not waits)
        self._wait_in_line(place)
        return NoHost(choose.turn, WAITS if host.startswith("waiting for a slot") else host)

    def settle(self, state: State) -> None:
        """Have the slots that go with where the job is by now. Raises RexecError where the desk cannot be used."""
        self._own["began"] = state.began
        before, self._seen = self._seen, (state.phase, state.place.host, state.wants.held)
        if self._seen == before:
            return
        if state.phase == Phase.ENDED or (state.phase == Phase.PARKED and state.wants.held):
            self.close()
        elif state.phase in ACTING:
            self._joined().claim(state.place.host)
        elif before[0] in ACTING:
            self._joined().give_back(began=bool(state.began))

    def close(self) -> None:
        """Give up the slots, and the place in the line."""
        with self._lock:
            place, self._place = self._place, None
        if place is not None:
            place.leave()

    def _joined(self) -> Place:
        with self._lock:
            if self._place is None:
                self._place = Place(self._wish.names, self._wanted, self._command, ask=self._ask, **self._own)
            return self._place

    def _wait_in_line(self, place: Place) -> None:
        with self._lock:
            if self._waiting is place:
                return
            self._waiting = place
        if not threads.begin(lambda: self._wait(place)):
            self._waits_no_more(place)  # it is looked again by the clock

    def _wait(self, place: Place) -> None:
        with closing(place.wait()) as changes, suppress(RexecError):  # it has left the line, or the next look says why
            while isinstance(place.look(self._avoid), str):
                changes.wait(FRESH)
            self._tell(SlotFree())
        self._waits_no_more(place)

    def _waits_no_more(self, place: Place) -> None:
        with self._lock:
            if self._waiting is place:
                self._waiting = None

    def _ask(self, hosts: Sequence[Host]) -> list[Report]:
        """Ask hosts, and remember what they say for the look that follows."""
        found = self._hosts_say(hosts)
        self._reports = {report.host.name: (time.monotonic(), report) for report in found}
        return found

    def _said(self, hosts: Sequence[Host]) -> list[Report]:
        """Return what hosts have just said, or say now."""
        recent = {name: each for name, (at, each) in self._reports.items() if at > time.monotonic() - FRESH}
        return [recent[host.name] if host.name in recent else self._hosts_say([host])[0] for host in hosts]
