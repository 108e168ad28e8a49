"""Take up a generation that a supervisor before this one has started, and that runs: it goes on where it is.

What home knew of it and is lost is made anew from what is on the disk here (node_log.py, the undo journal, the count of
what was written of its output) and from what its agent says (STATE). Where that is not all, or something may have been
done of which nobody knows whether it was, the job is not taken up: its agent is ended, and it goes on from its image.
See docs/decisions/taken-up.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from checkpoint.wire.manifest import Manifest
from remoteio.submit.export import taken_up
from remoteio.submit.export.node_log import Told
from remoteio.submit.export.once import Once, Unfit, check_asked
from remoteio.wire import frames
from shim.submit import host_frames
from shim.submit.host_frames import Hello, Standing
from shim.submit.job.contact import Contact
from shim.submit.job.generation import Generation
from shim.submit.job.home import JobHome
from shim.submit.job.placement_events import Taken
from shim.submit.scope import JobRights
from shim.submit.shapes import ShapeError
from shim.wire import job_messages
from shim.wire.job_spec import JobSpec

_BY_NAME = {"stdout": frames.STDOUT, "stderr": frames.STDERR}


class Offer:
    """What a generation may be taken up by, or given up: whichever comes first. Threads: any.

    over     it is given up
    goes_on  it was taken up, and goes on
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self.goes_on = False
        self._lock = threading.Lock()
        self._taken = False

    def take(self) -> None:
        """Take it up from here on. Raises Unfit if it was given up."""
        with self._lock:
            if self.over.is_set():
                raise Unfit("it was given up")
            self._taken = True

    def give_up(self) -> bool:
        """Have it not taken up; False: it was."""
        with self._lock:
            if not self._taken:
                self.over.set()
            return not self._taken


class TakenUp(Generation):
    """A generation that runs already, and is taken up by `offer`."""

    goes_on = True

    def __init__(
        self, home: JobHome, number: int, host: str, contact: Contact, spec: JobSpec,
        stopped: Callable[[Generation], None], rights: JobRights, told: Told, before: Manifest,
        offer: Offer,
    ) -> None:  # fmt: skip
        """`told`: what is noted of its files; `before`: its last image."""
        super().__init__(home, number, host, contact, spec, stopped, rights)
        self._told, self._offer = told, offer
        self._before = before.written

    def greeted(self, hello: Hello) -> None:
        self._session.outside(lambda: self._contact.greeted(hello.door))

    def take(self, kind: int, payload: bytes | memoryview) -> None:
        if kind == frames.STATE:
            if self._offer.goes_on:
                raise ShapeError("it sends STATE twice")
            self._take_up(host_frames.standing(payload))
        elif not self._offer.goes_on:
            raise ShapeError(f"it sends {frames.KINDS[kind][0]} before STATE")
        elif kind == frames.NEWS and host_frames.news(payload, True).what == job_messages.TOLD:
            self._home.forwards.begin(self._link)
            for output in self._home.outputs.values():
                output.begin(self._link, output.taken)
        else:
            super().take(kind, payload)

    def _take_up(self, standing: Standing) -> None:
        """Make all anew before the first request is done. Raises Unfit, OSError."""
        export, home = self._session.export, self._home
        assert export is not None and export.inodes.log is not None
        if standing.why:
            raise Unfit(standing.why)
        check_asked(standing.asked, export.inodes.log.doings)
        self._offer.take()
        taken_up.take_up(export, self._told, standing.opened, standing.places, standing.highest)
        home.undo.go_on()
        export.inodes.log.begin()
        self._session.once = Once(each.unique for each in standing.asked)
        if home.input is not None:
            home.input.skip_to(standing.given)
        self.runs = self.heard = self._offer.goes_on = True
        written = {name: home.outputs[kind].taken for name, kind in _BY_NAME.items() if kind in home.outputs}
        self._session.send(
            frames.ORDER,
            job_messages.order(job_messages.AGAIN, standing.serial, **{"stdout": 0, "stderr": 0, **written}),
        )
        home.tell(Taken(self.number, standing.serial))
