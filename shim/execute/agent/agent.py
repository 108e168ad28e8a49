"""The execute side's main loop: serves one job, from START to EXIT. Shipped.

If its stream is cut, or nothing at all comes over it for lease.AGENT seconds, the link waits for another, which comes
by the agent's door (door.py). When none has come for the job's lease, the agent ends, and the keeper ends the job; what
stands still then, and for how long, is said in stay.py.

One `Agent` serves both kinds of job. What is particular to one of which images are made is entered in its tables by
checkpoint_agent.py, which has an agent and is none; what differs in how streams are passed on is a `JobStreams`.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

from remoteio.execute import machine
from remoteio.execute.relay import Relay
from remoteio.syscalls import give_back
from remoteio.wire import frames, fuse_abi
from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.execute.agent.cache import encrypting, kept
from shim.execute.agent.diagnostics import fail, leaves, start_thread
from shim.execute.agent.job_streams import JobStreams
from shim.execute.agent.stay import Stay
from shim.execute.init import messages
from shim.execute.init.messages import Message
from shim.execute.init.sandbox import Sandbox
from shim.wire import lease, network
from shim.wire.job_spec import JobSpec


def next_word(init: socket.socket) -> tuple[Message | None, bytes, list[int]]:
    """Wait for what init says next: a message, its payload and its descriptors, or None when it has ended."""
    try:
        return messages.receive(init, messages.INIT, messages.AGENT)
    except ConnectionResetError:
        # It ended with a message of ours unread, a signal that came too late: the kernel tells that first and once,
        # and after it what init had said, such as the job's status (unix(7), ECONNRESET).
        return messages.receive(init, messages.INIT, messages.AGENT)


def tell_init(init: socket.socket, message: Message, payload: bytes = b"") -> None:
    """Tell init what it does not answer; nothing if it has ended: what it said last is being read."""
    try:
        messages.send(init, message, payload)
    except (BrokenPipeError, ConnectionError):
        return


class Agent:
    """Serves one job on this host: its files, streams and signals, its link's life, and its end.

    link        to the submit side
    sandbox     the job's surroundings
    relay       between the kernel and the link
    streams     its pipes and terminal
    stay        how long it stays
    on_frame    what is done with each kind of frame; others are passed over
    on_message  what is done with what init says, but for its last word
    closing     called with that last word, before the job's directories are removed
    killed      what is told of a job whose first process was killed, and why
    state       what a home is told of it that knows nothing of it any more, beside its files: fields of STATE

    Threads: the main thread receives; one hears init, and ends this process; one sends the signs of life, one watches
    for those of home, apart from it, as what sends may wait as long as the network likes. `on_frame` is called by the
    first only, `on_message` and `closing` by the second only. All tables are filled before ``run``.
    """

    def __init__(self, link: SessionLink, sandbox: Sandbox, streams: JobStreams, spec: JobSpec) -> None:
        self.link, self.sandbox, self.streams = link, sandbox, streams
        self.relay = Relay(sandbox.fuse, link, fail)
        self.relay.keep_in(kept("contents"), encrypting)
        streams.before = self.relay.all_done
        self.stay = Stay(link, spec, sandbox.door, self._anew)
        self._door: list[bytes] = []
        self._way = spec.trip / 1e6, spec.line
        self.state: Callable[[], dict[str, list[bytes]]] = lambda: {"why": [b"no images are made of it"]}
        self.on_frame: dict[int, Callable[[bytes | memoryview], None]] = {
            frames.FUSE: self._first_answer,
            frames.KNOWN: self.relay.known,
            frames.NAMES: self.relay.names,
            frames.PUSHED: self.relay.pushed,
            frames.ORDERED: self.relay.ordered,
            frames.LEASED: self.relay.leased,
            frames.GRANTED: self.relay.granted,
            frames.BREAK: self.relay.broken,
            **self._of_streams(),
            frames.SIGNAL: self._signal,
            frames.PAUSE: lambda _: self._pause(True),
            frames.PING: lambda _: self._pause(False),
            frames.BYE: lambda _: link.shut(),  # it came with START, before the link outlived anything
        }
        self.on_message: dict[Message, Callable[[bytes, list[int]], None]] = {
            messages.TERMINAL: streams.open_terminal,
            messages.STARTED: lambda rest, fds: link.send(frames.STARTED),
            messages.STOPPED: lambda rest, fds: self._stopped(int(rest)),
        }
        self.closing: Callable[[Message | None], None] = lambda last: None
        self.killed: Callable[[bytes], tuple[int, bytes]] = lambda why: (frames.FAIL, (125).to_bytes(4, "little") + why)

    def _of_streams(self) -> dict[int, Callable[[bytes | memoryview], None]]:
        streams = self.streams
        return {
            frames.STDIN: streams.put,
            frames.CREDIT: streams.credit,
            frames.CLOSED: streams.closed,
            frames.WINSIZE: streams.resize,
        }

    def run(self, frames_left: list[tuple[int, bytes | memoryview]]) -> None:
        """Serve until the job has ended and all is told: then this process ends. Raises LinkClosed."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        sandbox, link, self._door = self.sandbox, self.link, self.stay.begin()
        link.send(frames.HELLO, self._hello())
        self.relay.begins(*self._way)
        self.relay.start()
        self.streams.open_pipes(sandbox.stdio)
        self.on_frame.update(self.streams.open_extra(sandbox.extra))
        sandbox.go()
        for name, work in (("init", self._hear_init), ("pulse", self._pulse), ("lease", self.stay.watch)):
            start_thread(name, work)
        while True:
            for kind, payload in frames_left:
                take = self.on_frame.get(kind)
                if take is not None:
                    take(payload)
            frames_left = link.receive()
            self.stay.heard()
            self.relay.heard()

    def _hello(self) -> bytes:
        sandbox, resolver = self.sandbox, network.resolver()
        return frames.pack_fields(
            {
                "host": [os.fsencode(machine.name())],
                "time": [b"%d" % time.time_ns()],
                "uids": sandbox.plan.ranges(sandbox.plan.uids),
                "gids": sandbox.plan.ranges(sandbox.plan.gids),
                "shown": [b"%d" % n for n in sandbox.shown],
                "network": [network.name()],
                "resolver": [] if resolver is None else [resolver],
                "door": self._door,
            }
        )

    def _anew(self) -> bytes:
        """Return what a home is sent first that knows nothing of the job any more: how it stands, what it has asked."""
        self.stay.heard()  # it is silent no more
        here = self.relay.anew()
        asked, told = self.relay.under_way()
        files, own = self.relay.handles.state(asked, told, here), self.state()
        fields = {**files, **own, "why": own["why"] + files["why"]}
        first = [(frames.HELLO, self._hello()), (frames.STATE, frames.pack_fields(fields))]
        return b"".join(frames.frame(*each) for each in first + [(frames.FUSE, bytes(raw)) for _, _, raw in asked])

    def _first_answer(self, payload: bytes | memoryview) -> None:
        """Take note that home has heard HELLO, or it would answer nothing: from here on the job outlives its stream."""
        self.stay.known = True
        self.on_frame[frames.FUSE] = self.relay.from_link
        self.relay.from_link(payload)

    def _signal(self, payload: bytes | memoryview) -> None:
        tell_init(self.sandbox.init, messages.SIGNAL, b"%d" % payload[0])

    def _stopped(self, number: int) -> None:
        self.relay.all_done()
        self.link.send(frames.STOPPED, bytes((number,)))

    def _pause(self, paused: bool) -> None:
        self.stay.paused = paused

    def _hear_init(self) -> None:
        """Do what init says, to its end; then tell everything, and end this process."""
        said, rest, fds = next_word(self.sandbox.init)
        while said is not None and said is not messages.ENDED and said is not messages.FAILED:
            self.on_message[said](rest, fds)
            said, rest, fds = next_word(self.sandbox.init)
        self.closing(said)
        self.end(self.last_words(said, rest))

    def end(self, last: list[tuple[int, bytes]]) -> None:
        """Take away what is left of the job here, tell home its `last_words`, and end this process."""
        self.sandbox.end()  # before it is told: who hears it may hang up at once
        leaves()
        try:
            for kind, payload in last:
                self.link.send(kind, payload)
        except LinkClosed:
            pass  # home has hung up, perhaps as it heard the last: what is left of us here goes all the same
        self.leave()

    def serve_next(self, streams: JobStreams) -> None:
        """Serve another job, with these streams."""
        self.streams = streams
        streams.before = self.relay.all_done
        self.on_frame.update(self._of_streams())
        self.on_message[messages.TERMINAL] = streams.open_terminal
        self.relay.next_job()
        self.relay.begins(*self._way)

    def leave(self) -> None:
        """End this process once home has heard all that was said; by the lease, if nobody comes to hear it."""
        try:
            self.link.has_last_word()
        except LinkClosed:
            pass  # home has heard the last word, and hung up
        self.sandbox.shut_door()  # first: home gives this process no more than two seconds to end
        self.relay.settle()
        self.link.bye()
        os._exit(0)

    def last_words(self, said: Message | None, rest: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that tell home of the job's end."""
        if said is messages.ENDED:
            self.streams.drain()
        self.relay.all_done()
        if said is messages.ENDED:
            status, cpu = rest.split()
            forgot = {"forgot": list[bytes]()} if self.relay.rests() else {}
            spent = frames.pack_fields({**self.relay.spent(), "cpu": [cpu], **forgot})
            if (late := self.relay.behind.untold()) is not None:
                return [(frames.SPENT, spent), (frames.FAIL, (125).to_bytes(4, "little") + _not_done(*late))]
            return [(frames.SPENT, spent), (frames.EXIT, int(status).to_bytes(4, "little"))]
        if said is messages.FAILED:
            code, _, text = rest.partition(b" ")
            return [(frames.FAIL, int(code).to_bytes(4, "little") + text)]
        host = os.fsencode(machine.name())
        killed = b"the job's first process was killed on %s; its memory may have run out" % host
        return [self.killed(self.sandbox.last_word() or killed)]

    def _pulse(self) -> None:
        time.sleep(lease.PULSE)
        give_back()  # what it took to begin; a short job is spared this
        while True:
            self.link.send(frames.PING)
            self.relay.tick()
            time.sleep(lease.PULSE)


_NOT_KEPT = {
    fuse_abi.WRITE: "what the job wrote to a file",
    fuse_abi.SETATTR: "the mode or times that the job gave a file",
}


def _not_done(op: int, error: int) -> bytes:
    """Say that a change could not be made at home, of which no call of the job's was told."""
    what = _NOT_KEPT.get(op, "a file, directory or link that the job made")
    text = "%s could not be kept (%s), and the job had gone on: look at its files, or run it with --sync"
    return (text % (what, os.strerror(error))).encode()
