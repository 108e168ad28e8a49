"""The agent of a job that can be checkpointed. Shipped; imported only for such a job.

Beside what every agent does it takes orders (shim/wire/job_messages.py), one after the other in a thread of its own,
and watches for the machine's owner. dumping.py has the dump, restoring.py the restore, owner_guard.py the owner.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from checkpoint.wire import compat
from checkpoint.wire.manifest import Manifest
from remoteio.errors import RexecError
from remoteio.execute import machine
from remoteio.wire import frames
from remoteio.wire.session_link import SessionLink
from shim.execute.agent.agent import Agent
from shim.execute.agent.checkpoint_parts import CheckpointParts
from shim.execute.agent.checkpoint_streams import CheckpointStreams
from shim.execute.agent.criu_here import Means, cache
from shim.execute.agent.diagnostics import start_thread
from shim.execute.agent.dumping import Dumper
from shim.execute.agent.job_tree import Gone, JobTree
from shim.execute.agent.owner_guard import OwnerGuard
from shim.execute.agent.restoring import Restorer
from shim.execute.init import messages, namespaces
from shim.execute.init.messages import Message
from shim.execute.init.sandbox import Sandbox
from shim.execute.owner import load
from shim.wire import job_messages, lease
from shim.wire.job_spec import CheckpointSpec, JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.execute.owner.admission import Admitted

    Frames = list[tuple[int, "bytes | memoryview"]]


class CheckpointAgent:
    """Serves one job on this host that may leave it, or has come from another.

    Threads: as of `Agent`, in whose tables it enters its methods; and one that dumps, one that restores, and
    the owner's guard.
    """

    def __init__(
        self, link: SessionLink, spec: JobSpec, checkpoint: CheckpointSpec, means: Means, admitted: Admitted | None
    ) -> None:
        """`admitted`: by what this machine's own owner says.

        Raises RexecError: the job cannot run, or not go on, here.
        """
        manifest = Manifest.from_bytes(checkpoint.restore) if checkpoint.restore else None
        before = _ids_of_image(manifest, means)
        plan = namespaces.Plan(spec, before)
        sandbox = Sandbox(spec, plan)
        means = means.with_uid_map(plan.ids)
        self._spec = spec
        self._tree = JobTree(sandbox)
        self._streams = CheckpointStreams(link, self._tree, sandbox.stdio, manifest)
        self._agent = Agent(link, sandbox, self._streams, spec)
        log = os.path.join(cache(), "criu-failed.log")
        self._parts = CheckpointParts(
            link, sandbox, self._agent.relay, self._tree, self._streams, means, checkpoint, log, spec.scheduling[4:]
        )  # fmt: skip
        self._guard = OwnerGuard(self._parts, admitted)
        self._dumper = Dumper(self._parts, self._guard)
        self._restorer: Restorer | None = None
        if manifest is not None:
            groups = plan.groups(spec) if plan.apart and (before != plan.ids or plan.single) else None
            self._restorer = Restorer(self._parts, manifest, groups, None if admitted is None else admitted.word)
        self._threads: list[threading.Thread] = []
        self._begun = False  # the job runs here, or has
        self._said = threading.Event()  # home has been sent all that was said, also one that took the job up
        self._said.set()
        self._listen: Callable[[], None] = lambda: None  # where the job finds ports of home's
        self._enter()
        if manifest is None:
            self._listen()

    def _enter(self) -> None:
        agent = self._agent
        agent.on_frame[frames.IMAGE] = self._image
        agent.on_frame[frames.CREDIT] = self._credit
        agent.on_frame[frames.ORDER] = self._order
        agent.on_frame[frames.SPENT] = self._spent
        for answer in messages.ANSWERS:
            agent.on_message[answer] = self._passes_on(answer)
        agent.on_message[messages.CRIU_ENDED] = lambda rest, fds: self._tree.criu_has_ended(rest)
        agent.on_message[messages.STARTED] = self._started
        agent.closing = self._closing
        agent.stay.stand, agent.stay.rise = self._stand, self._tree.rise
        agent.state = self._state
        agent.killed = lambda why: (frames.NEWS, job_messages.news(job_messages.DEAD, why=os.fsdecode(why)))
        if self._spec.forwards and not self._parts.checkpoint.rehearsal:
            from shim.execute.agent.forwarded import enter

            self._listen = enter(agent, self._spec, lambda: self._tree.moved)

    def run(self, frames_left: Frames) -> None:
        """Serve as ``Agent.run`` does. Raises LinkClosed."""
        self._threads.append(start_thread("dump", self._dumper.run))
        if self._restorer is not None:
            self._threads.append(start_thread("restore", self._restorer.run))
        signal.signal(signal.SIGTERM, lambda *_: self._told_to_end())
        self._agent.run(frames_left)

    # What comes over the link.

    def _image(self, payload: bytes | memoryview) -> None:
        if self._restorer is not None and not self._restorer.whole:
            self._restorer.receive(payload)
        else:
            self._parts.channel.receive(payload)

    def _credit(self, payload: bytes | memoryview) -> None:
        if payload[0] == frames.IMAGE:
            self._parts.channel.credit(int.from_bytes(payload[1:5], "little"))
        else:
            self._streams.credit(payload)

    def _order(self, payload: bytes | memoryview) -> None:
        what, serial, why = job_messages.parse_order(payload)
        if what in (job_messages.CHECKPOINT, job_messages.VACATE):
            self._dumper.ask(serial, what == job_messages.VACATE)
        elif what == job_messages.THAW:
            self._dumper.give_up(serial, why or "the image could not be kept")
        elif what == job_messages.END:
            self._dumper.leave(serial)
        elif what == job_messages.GO:
            self._go(serial == self._parts.checkpoint.generation)
        elif what == job_messages.AGAIN:
            out, err = job_messages.parse_again(payload)
            # Beside: it may wait for room in the link, which this thread makes.
            start_thread("again", lambda: self._say_again({frames.STDOUT: out, frames.STDERR: err}))
        elif what == job_messages.KILL:
            self._go(False)
            self._tree.tell(messages.SIGNAL, b"9")

    def _spent(self, payload: bytes | memoryview) -> None:
        start_thread("spent", self._tell_spent)  # beside: it looks at each process of the job

    def _tell_spent(self) -> None:
        try:
            used = load.below(self._tree.init())
        except Gone:
            return  # what it cost is told with its end
        self._agent.link.send(
            frames.SPENT, frames.pack_fields({**self._agent.relay.spent(), "cpu": [b"%d" % (used * 1e6)]})
        )

    def _go(self, may: bool) -> None:
        if self._restorer is not None:
            if may:
                self._listen()  # not before: where it was before may be this host
            self._restorer.go(may)

    def _say_again(self, written: dict[int, int]) -> None:
        self._streams.say_again(written, lambda: self._parts.news(job_messages.TOLD))
        self._said.set()

    def _state(self) -> dict[str, list[bytes]]:
        """Tell a home that knows nothing of the job any more how it stands: fields of STATE."""
        self._said.clear()  # first: what it says last is not told before the rest
        told = self._streams.state()
        tree = self._tree
        for why, holds in (
            (b"it has ended", tree.over.is_set()),
            (b"it stood still for its host's owner", tree.frozen),
            (b"it was being saved", self._dumper.done != self._dumper.serial),
        ):
            if holds:
                told["why"].append(why)
        places: set[bytes] = set()
        try:
            places = tree.places()
        except OSError as e:
            told["why"].append(b"where its processes work cannot be seen: %s" % os.fsencode(e.strerror or str(e)))
        return {**told, "places": sorted(places), "serial": [b"%d" % self._dumper.serial]}

    # What init says.

    def _passes_on(self, answer: Message) -> Callable[[bytes, list[int]], None]:
        return lambda rest, fds: self._tree.answered(answer, rest)

    def _started(self, rest: bytes, fds: list[int]) -> None:
        """The job runs here from now on."""
        if self._parts.means.unable:
            self._parts.news(job_messages.UNABLE, why=self._parts.means.unable)
        self._streams.begin(self._spec.tty)
        self._guard.start(self._vacate)
        self._begun = True
        self._agent.link.send(frames.STARTED)

    def _stand(self) -> bool:
        """Stop the tree, in time: whoever saves it just then, or does not answer, holds it."""
        if self._guard.at_once:
            return False  # its owner wants the memory, and home may never come back
        stood = threading.Event()

        def stand() -> None:
            self._tree.stand()
            stood.set()

        start_thread("stand", stand)
        return stood.wait(lease.STOP)

    def _told_to_end(self) -> None:
        """Have the job leave, if there is anything to save and home may hear of it; else end. A signal's handler."""
        if not (self._begun and self._tree.goes.is_set()):
            os._exit(1)
        self._dumper.told()

    def _vacate(self, why: str) -> None:
        if not self._tree.goes.is_set():
            self._agent.stay.end("the machine's owner wants the job to leave, and it cannot be saved: home is away")
        self._dumper.vacate(why)

    def _closing(self, last: Message | None) -> None:
        """The job has ended: whoever dumps or restores it lets go, before its spool is removed under their hands."""
        if last is None and self._tree.moved:
            threading.Event().wait()  # whoever moved it ends this process
        self._streams.end()
        self._tree.end()
        self._said.wait()
        self._parts.channel.cut()
        self._dumper.end()
        if self._restorer is not None:
            self._restorer.end()
        for thread in self._threads:
            thread.join()


def _ids_of_image(manifest: Manifest | None, means: Means) -> str:
    """Return which ids the job had where its image was made; empty: there is none.

    Raises RexecError: the job cannot go on on this host.
    """
    if manifest is None:
        return ""
    before = compat.from_plain(manifest.facts)
    why = compat.differences(before, means.criu().facts, 0)
    if why:
        raise RexecError("the job cannot go on on %s: %s" % (machine.name(), "; ".join(why)))
    return before.uid_map
