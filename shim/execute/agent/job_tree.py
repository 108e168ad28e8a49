"""What dump, restore and the owner's watch share of a job that can be checkpointed. Shipped."""

from __future__ import annotations

import json
import os
import queue
import threading

from checkpoint.execute import preflight
from checkpoint.wire import compat
from checkpoint.wire.manifest import Manifest
from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.link import Link, Window
from shim.execute.agent.agent import Agent
from shim.execute.agent.counted_streams import CountedSink, CountedSource
from shim.execute.init import messages, namespaces
from shim.execute.init.messages import Message
from shim.wire import job_messages
from shim.wire.job_spec import CheckpointSpec, JobSpec

ASK_S = 60.0  # for an answer of init, which waits for nothing but the job's files


class Gone(RexecError):
    """The job ended while something was being done about it."""


class Means:
    """What a dump needs of this host. bundle: directory of a criu that works; facts: of the host, with its version."""

    __slots__ = ("bundle", "facts")

    def __init__(self, bundle: str, facts: compat.Facts) -> None:
        self.bundle, self.facts = bundle, facts


class Mobile(Agent):
    """One job on this host, with what is known of where it came from."""

    def __init__(self, link: Link, spec: JobSpec, checkpoint: CheckpointSpec, means: Means | str, log: str) -> None:
        """`means`: or why no image can be made here. `log`: the path at which the log of a criu that failed is kept.

        Raises RexecError: the job cannot run, or not go on, here.
        """
        self.manifest = Manifest.from_bytes(checkpoint.restore) if checkpoint.restore else None
        self.unable = means if isinstance(means, str) else ""
        self.means = None if isinstance(means, str) else means
        image = ""
        if self.manifest is not None:
            before = compat.from_plain(self.manifest.facts)
            why, image = compat.differences(before, self.able().facts, 0), before.uid_map
            if why:
                raise RexecError("the job cannot go on on %s: %s" % (os.uname().nodename, "; ".join(why)))
        super().__init__(link, spec, namespaces.Plan(spec, image))
        self.link, self.spec, self.checkpoint, self.sandbox = link, spec, checkpoint, self._sandbox
        if self.means is not None:
            self.means.facts = self.means.facts.with_uid_map(self.sandbox.plan.ids)
        self.log = log
        self.replies: queue.SimpleQueue[tuple[Message | None, bytes]] = queue.SimpleQueue()
        self.criu_ended: queue.SimpleQueue[str] = queue.SimpleQueue()  # of the criu started last: "", or what it left
        self.over = threading.Event()  # the job has ended, and its end is being told
        self.images: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # the store's payloads; None: given up
        self.window = Window(Window.IMAGE)
        self.gate: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.still = threading.RLock()  # who stops or continues the tree, or has criu at it, holds it
        self.moved = False
        self.taps: dict[int, CountedSource] = {}
        self.feed: CountedSink | None = None
        self.pipes = {k: os.fstat(fd).st_ino for k, fd in self.sandbox.stdio.items()}
        self.tty: tuple[int, int] | None = None
        self.slave = -1
        self.serial = 0
        self._asking = threading.Lock()
        self._owed = 0  # answers that were not waited for any longer

    @property
    def master(self) -> int:
        """The terminal's, or -1."""
        return self._master

    def news(self, what: str, **more: object) -> None:
        self.link.send(frames.NEWS, job_messages.news(what, **more))

    def tell(self, message: Message, payload: bytes = b"") -> None:
        """Tell init what it does not answer."""
        self._tell_init(message, payload)

    def ask(
        self, message: Message, payload: bytes = b"", fds: tuple[int, ...] = (), limit: float | None = ASK_S
    ) -> bytes:  # fmt: skip
        """Tell init, and wait for the payload of its answer, `limit` seconds at most.

        Raises Gone if it has ended, and RexecError if it cannot do that.
        """
        with self._asking:
            try:
                messages.send(self.sandbox.init, message, payload, fds)
            except (BrokenPipeError, ConnectionError) as e:
                raise Gone("the job has ended") from e
            while True:
                try:
                    what, rest = self.replies.get(timeout=limit)
                except queue.Empty as e:
                    self._owed += 1
                    raise RexecError("the job's first process does not answer; its memory may have run out") from e
                if what is None:
                    self.replies.put((what, rest))
                    raise Gone("the job has ended")
                if not self._owed:
                    break
                self._owed -= 1  # init answers one after the other
            if what is messages.FAULT:
                raise RexecError("the job's first process cannot do its part: %s" % rest.decode("utf-8", "replace"))
            if what is not message.answer:
                raise RexecError("the job's first process answered %r to %r" % (what, message))
            return rest

    def await_criu(self, seconds: float) -> None:
        """Wait until criu has ended. Raises RexecError if it does not, or has left what cannot be read."""
        try:
            why = self.criu_ended.get(timeout=seconds)
        except queue.Empty as e:
            raise RexecError("criu has not ended %.0f s after it was told to" % seconds) from e
        if why:
            raise RexecError(why)

    def able(self) -> Means:
        """What a dump needs. Raises RexecError: why it cannot be had here."""
        if self.means is None:
            raise RexecError(self.unable)
        return self.means

    def criu(self, works: bool) -> None:
        """criu begins to look at the job's files, or has ended."""
        self._relay.criu(works)

    def spool(self, name: str) -> str:
        """A new empty directory on this host for an image. Raises RexecError, OSError."""
        if not self.sandbox.images:
            raise RexecError(self.sandbox.no_images)
        path = os.path.join(self.sandbox.images, name)
        os.mkdir(path, 0o700)
        return path

    def open_files(self) -> dict[str, object]:
        """What says whose the job's file locks are, for the head of an image; the tree must stand still."""
        if not self._relay.locks_asked:
            return {}
        with open(os.memfd_create("handles"), "w+b") as f:
            self.ask(messages.LIST_OPEN_FILES, fds=(f.fileno(),))
            f.seek(0)
            return {"handles": json.load(f), "numbers": preflight.numbers(self.sandbox.pid)}

    def leave(self) -> None:
        """The image is committed: nothing of the job is left here when this returns."""
        self.moved = True
        self.sandbox.end()

    def stays(self) -> None:
        """It could not leave, and goes on here."""
        raise NotImplementedError
