"""A scripted agent: the execute side's frames over a socketpair, with real image files, for the submit side's tests."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from checkpoint.execute.collector import Collector
from checkpoint.execute.sender import Sender
from checkpoint.execute.spool import Spool
from checkpoint.wire import compat
from checkpoint.wire.manifest import Manifest
from remoteio.submit.transport.stream import Stream, TransportError
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed, credit
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host
from shim.wire import job_messages
from shim.wire.job_spec import JobSpec
from tests.until import HANG


class Wire(Stream):
    """A stream over one end of a socketpair."""

    def __init__(self, name: str, end: socket.socket) -> None:
        self.destination = name
        self._end = end
        self.read_fd = self.write_fd = end.fileno()

    def wait(self, timeout: float | None) -> int | None:
        return 0

    def stderr_tail(self) -> str:
        return ""

    def failure(self) -> TransportError:
        return TransportError(f"{self.destination} closed the connection")

    def close(self, done: bool = False) -> None:
        self._end.close()


class Agent:
    """One generation of a job that counts: it writes `count` and a newline to stdout whenever `say` is called.

    Its image, beneath the directory `beneath`, is the file `memory`, which holds the count. What it is told is in
    `heard`, in order.
    """

    def __init__(self, name: str, beneath: Path, link: type[Link] = Link) -> None:
        self.name, self._beneath = name, beneath
        ours, self._end = socket.socketpair()
        self.wire = Wire(name, ours)
        self.link = link(self._end.fileno(), self._end.fileno())
        self.heard: list[tuple[int, bytes]] = []
        self.spec: JobSpec | None = None
        self.count = 0
        self.sent = [0, 0]
        self.running = threading.Event()
        self.given = bytearray()
        self.eof = False
        self.sender: Sender | None = None
        self.leaves = False
        self.serial = 0
        self._later: list[tuple[int, bool]] = []  # dumps ordered while one is under way
        self.refuse = ""
        self.hasty = False  # its job says something before STARTED is sent
        self.pages = b""  # of its memory, if they are to be the same in each dump
        self.memory = b""  # those of the image that it goes on from
        self.offers_again = 0
        self.deaf = False  # does nothing that it is ordered to do
        self.mute = False  # dies before it says that it stands still
        self.held = False  # it stands still, its image committed
        self.greets: Callable[[Agent], None] | None = None  # what it does instead of saying HELLO
        self.describes: Callable[[dict[str, object]], bytes] = lambda head: json.dumps(head).encode()
        self.broken = threading.Event()
        self._speaks_on = False  # though it reads nothing more
        self._change = threading.Condition()
        self._imaging = threading.RLock()  # a test may have it dump while home answers to that
        for target in (self._run, self._pulse):
            threading.Thread(target=target, daemon=True).start()

    def wait(self, look: Callable[[], object], within: float = HANG) -> None:
        with self._change:
            assert self._change.wait_for(look, within), f"{self.name}: not within {within} s, heard {self.heard[-5:]}"

    def say(self) -> None:
        self.count += 1
        data = b"%d\n" % self.count
        self.sent[0] += len(data)
        self.link.send(frames.STDOUT, data)

    def end(self, status: int) -> None:
        self.link.send(frames.STDOUT, b"")
        with suppress(LinkClosed):  # home may hang up as it hears it
            self.link.send(frames.EXIT, status.to_bytes(4, "little"))
        self.die()

    def die(self) -> None:
        self.running.clear()
        try:
            self.link.flush()
            self._end.shutdown(socket.SHUT_RDWR)
        except (OSError, LinkClosed):
            pass  # the other end was quicker
        if self._speaks_on:
            self.link.close()
            self._end.close()

    def stop_reading(self) -> None:
        """From now on what is sent here is refused, as by one that has ended."""
        self._speaks_on = True
        self._end.shutdown(socket.SHUT_RD)

    def news(self, what: str, **more: object) -> None:
        self.link.send(frames.NEWS, job_messages.news(what, **more))

    def hello(self, **changed: list[bytes]) -> None:
        fields = {"host": [b"x"], "time": [b"%d" % time.time_ns()], "uids": [], "gids": [], **changed}
        self.link.send(frames.HELLO, frames.pack_fields(fields))

    def _pulse(self) -> None:
        """Give signs of life, as long as there is a link."""
        while not self.broken.wait(1.0):
            try:
                self.link.send(frames.PING)
            except LinkClosed:
                return

    def _run(self) -> None:
        try:
            while True:
                for kind, payload in self.link.receive():
                    self._take(kind, bytes(payload))
                    with self._change:
                        self.heard.append((kind, bytes(payload)))
                        self._change.notify_all()
        except LinkClosed:
            self.running.clear()
            if not self._speaks_on:
                self.link.close()
                self._end.close()
            self.broken.set()

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == frames.START:
            self._start(JobSpec.unpack(payload))
        elif kind == frames.STDIN:
            self.given += payload
            self.eof = self.eof or not payload
            self.link.send(*credit(frames.STDIN, len(payload)))
        elif kind == frames.IMAGE:
            self._image(payload)
        elif kind == frames.ORDER:
            self._order(json.loads(payload))

    def _start(self, spec: JobSpec) -> None:
        self.spec = spec
        assert spec.checkpoint is not None
        if self.greets is not None:
            self.greets(self)
            return
        self.hello()
        if not spec.checkpoint.restore:
            if self.hasty:
                self.say()
            self.link.send(frames.STARTED)
            self.running.set()
            return
        image = Manifest.from_bytes(spec.checkpoint.restore)
        self.sent = [image.streams.stdout, image.streams.stderr]
        self._spool = Spool(str(self._beneath), None)
        self._collector: Collector | None = Collector(self._spool)

    def _image(self, payload: bytes) -> None:
        self.link.send(*credit(frames.IMAGE, len(payload)))
        with self._imaging:
            if self.sender is not None:
                self.sender.receive(payload)
                self._pump()
                return
        collector = self._collector
        assert collector is not None
        collector.receive(payload)
        if collector.complete:
            self.count = int(self._spool.read("memory"))
            self.memory = self._spool.read("pages")
            self._spool.close()
            if self.refuse:
                self.link.send(frames.FAIL, (125).to_bytes(4, "little"), self.refuse.encode())
                self.die()
                return
            self.link.send(frames.IMAGE, b"S")
            self.news(job_messages.RESTORED, seconds=0.1)

    def _order(self, order: dict[str, object]) -> None:
        what, serial = order["order"], order["serial"]
        assert isinstance(serial, int)
        if self.deaf:
            return
        if what in (job_messages.CHECKPOINT, job_messages.VACATE):
            # It may come before the last word of the dump before it, whose image is told of as soon as it is safe.
            if self.sender is None:
                self.dump(serial, what == job_messages.VACATE)
            else:
                self._later.append((serial, what == job_messages.VACATE))
        elif what == job_messages.GO:
            if self.hasty:
                self.say()
            self.link.send(frames.STARTED)
            self.running.set()
        elif what == job_messages.KILL:
            self.end(9)
        elif what == job_messages.END:
            assert self.held
            self.link.send(frames.STDOUT, b"")  # the tree is killed
            self.news(job_messages.MOVED, serial=serial)
            self.die()
        elif what == job_messages.THAW:
            self._close_sender()
            if self.held:
                self.held = False
                self.running.set()
            self.news(job_messages.REFUSED, serial=serial, why=order["why"])

    def dump(self, serial: int, leaves: bool) -> None:
        with self._imaging:
            self._dump(serial, leaves)

    def _dump(self, serial: int, leaves: bool) -> None:
        if self.refuse:
            self.news(job_messages.REFUSED, serial=serial, why=self.refuse)
            return
        self.serial, self.leaves = serial, leaves
        self.news(job_messages.DUMPING, serial=serial)
        self._out = Spool(str(self._beneath), None)
        self._out.write("memory", b"%d" % self.count)
        self._out.write("pages", self.pages or os.urandom(1 << 20))
        read = len(self.given) // 2
        streams = {"stdout": self.sent[0], "stderr": 0, "stdin": read, "stdin_unread": self.given[read:].hex()}
        if self.spec is not None and self.spec.checkpoint is not None and self.spec.checkpoint.restore:
            before = Manifest.from_bytes(self.spec.checkpoint.restore).streams
            streams["stdin"] = before.stdin + read
            streams["stdin_unread"] = (before.stdin_unread + self.given).hex()
            streams["stdin"] = before.stdin
        facts = compat.host_facts((4, 0), "root").plain()
        head = self.describes(
            {
                "streams": streams, "facts": facts, "stdin_ended": False, "pipes": {}, "terminal": None,
                "frozen": False, "stopped": [], "last_pid": 2, "frozen_us": 1000, "keep_tcp": False, "root": 2,
            }
        )  # fmt: skip
        self._head = head
        self.sender = Sender(self._out, head)
        self.news(job_messages.DUMPED, serial=serial, frozen_us=1000, bytes=1 << 20)
        self._pump()

    def _pump(self) -> None:
        sender = self.sender
        assert sender is not None
        if sender.again:
            sender.close()
            sender = self.sender = Sender(self._out, self._head)
            self.offers_again += 1
        while (message := sender.next_message()) is not None:
            self.link.send(frames.IMAGE, *message)
        if sender.committed is not None:
            self._close_sender()
            if self.mute:
                self.die()
            elif self.leaves:
                self.running.clear()
                self.held = True
                self.news(job_messages.HELD, serial=self.serial)
            elif self._later:
                self.dump(*self._later.pop(0))

    def _close_sender(self) -> None:
        if self.sender is not None:
            self.sender.close()
            self.sender = None
            self._out.close()


class Country:
    """Hosts to reach: every connection makes an Agent, kept in `agents`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.agents: list[Agent] = []
        self.down: set[str] = set()
        self.make: Callable[[str, Path], Agent] = Agent
        self.prepare: Callable[[Agent], None] = lambda agent: None
        self._change = threading.Condition()

    def reach(self, host: Host, entry: str, **_: object) -> tuple[Stream, Facts]:
        if host.name in self.down:
            raise TransportError(f"cannot reach {host.name}: it is down")
        if entry != "shim.execute.main:main":
            return self.rejoin(host), Facts((3, 11), "have", "")
        with self._change:
            agent = self.make(host.name, self._directory)
            self.prepare(agent)
            self.agents.append(agent)
            self._change.notify_all()
        return agent.wire, Facts((3, 11), "have", "")

    def rejoin(self, host: Host) -> Stream:
        """A second connection to a host: to an agent that has no door."""
        raise AssertionError(f"{host.name} has no agent that could be joined")

    def running(self, number: int, within: float = HANG) -> Agent:
        """The agent of the `number`-th connection, once its job runs."""
        with self._change:
            assert self._change.wait_for(lambda: len(self.agents) > number, within), f"no connection {number}"
        assert self.agents[number].running.wait(within), f"the job does not run at connection {number}"
        return self.agents[number]
