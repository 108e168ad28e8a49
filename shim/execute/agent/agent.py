"""The execute side's main loop: serves one job, from START to EXIT. Shipped.

If the link ends, or nothing at all comes over it for lease.AGENT seconds, the agent ends, and the keeper ends the job.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

from remoteio.execute.relay import Relay
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from shim.execute.init import messages
from shim.execute.init.messages import Message
from shim.execute.init.namespaces import Plan
from shim.execute.init.sandbox import Sandbox
from shim.wire import lease, terminal_state
from shim.wire.job_spec import JobSpec
from shim.wire.stream_pumps import Sink, Source


def where(e: BaseException) -> str:
    """FILE:LINE at which it was raised."""
    at = e.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return "%s:%d" % (at.tb_frame.f_code.co_filename, at.tb_lineno) if at is not None else "?"


def aside(text: str) -> None:
    """Write a sentence to standard error: ssh takes it along, and it is shown if the link breaks."""
    os.write(2, ("rexec: %s\n" % text).encode("utf-8", "replace"))


def next_word(init: socket.socket) -> tuple[Message | None, bytes, list[int]]:
    """Wait for what init says next: a message, its payload and its descriptors, or None when it has ended."""
    try:
        return messages.receive(init, messages.INIT, messages.AGENT)
    except ConnectionResetError:
        # It ended with a message of ours unread, a signal that came too late: the kernel tells that first and once,
        # and after it what init had said, such as the job's status (unix(7), ECONNRESET).
        return messages.receive(init, messages.INIT, messages.AGENT)


class Agent:
    """One job on this host."""

    def __init__(self, link: Link, spec: JobSpec, plan: Plan) -> None:
        self._link, self._spec = link, spec
        self._sandbox = Sandbox(spec, plan)
        self._relay = Relay(self._sandbox.fuse, link, self._end)
        self._sources: dict[int, Source] = {}
        self._stdin: Sink | None = None
        self._master = -1
        self._heard = time.monotonic()
        self._paused = False
        self._last = frames.FAIL, b""  # what is told at the end

    def _end(self, e: BaseException) -> None:
        if not isinstance(e, LinkClosed):
            aside("the agent failed at %s: %r" % (where(e), e))
        os._exit(1)  # the link or the connection to the kernel is gone, and with it all there is to do

    def run(self, frames_left: list[tuple[int, bytes | memoryview]]) -> None:
        """Until the job has ended and all is told. Raises LinkClosed."""
        sandbox, link = self._sandbox, self._link
        link.send(
            frames.HELLO,
            frames.pack_fields(
                {
                    "host": [os.fsencode(os.uname().nodename)],
                    "time": [b"%d" % time.time_ns()],
                    "uids": sandbox.plan.ranges(sandbox.plan.uids),
                    "gids": sandbox.plan.ranges(sandbox.plan.gids),
                    "shown": [b"%d" % n for n in sandbox.shown],
                }
            ),
        )
        self._relay.start()
        for k, fd in sandbox.stdio.items():
            if k == 0:
                self._input(fd)
            else:
                self._output(frames.STDOUT if k == 1 else frames.STDERR, fd)
        sandbox.go()
        for target in (self._hear_init, self._pulse, self._watch):
            threading.Thread(target=self._guard, args=(target,), daemon=True).start()
        while True:
            for kind, payload in frames_left:
                self._take(kind, payload)
            frames_left = link.receive()
            self._heard = time.monotonic()

    def _guard(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as e:  # whatever ends a thread of ours ends the run, and is raised there
            self._end(e)

    def _input(self, fd: int) -> None:
        self._stdin = Sink(self._link, frames.STDIN, fd)
        self._stdin.start(self._end)

    def _output(self, kind: int, fd: int) -> None:
        self._sources[kind] = Source(self._link, kind, fd)
        self._sources[kind].start(self._end)

    def _take(self, kind: int, payload: bytes | memoryview) -> None:
        if kind == frames.FUSE:
            self._relay.from_link(payload)
        elif kind == frames.KNOWN:
            self._relay.known(payload)
        elif kind == frames.ORDERED:
            self._relay.ordered(payload)
        elif kind == frames.STDIN:
            if self._stdin is not None:
                self._stdin.put(payload)
        elif kind == frames.CREDIT:
            self._sources[payload[0]].window.give(int.from_bytes(payload[1:5], "little"))
        elif kind == frames.CLOSED:
            self._sources[payload[0]].stop()
        elif kind == frames.SIGNAL:
            self._tell_init(messages.SIGNAL, b"%d" % payload[0])
        elif kind == frames.WINSIZE:
            if self._master >= 0:
                terminal_state.resize(self._master, payload)
        elif kind in (frames.PAUSE, frames.PING):
            self._paused = kind == frames.PAUSE

    def _tell_init(self, message: Message, payload: bytes = b"") -> None:
        try:
            messages.send(self._sandbox.init, message, payload)
        except (BrokenPipeError, ConnectionError):
            return  # it has ended: what it said last is being read

    def _hear_init(self) -> None:
        """What init says, to its end; then everything is told and the agent is done."""
        ended = False
        while not ended:
            ended = self._told(*next_word(self._sandbox.init))
        self._sandbox.end()  # before it is told: who hears it may hang up at once
        self._link.send(*self._last)
        self._link.flush()
        os._exit(0)

    def _told(self, what: Message | None, rest: bytes, fds: list[int]) -> bool:
        """One message of init, or its end. True: there is no more to do."""
        link = self._link
        if what is messages.TERMINAL:
            self._master = fds[0]
            self._output(frames.STDOUT, os.dup(fds[0]))
            self._input(os.dup(fds[0]))
        elif what is messages.STARTED:
            link.send(frames.STARTED)
        elif what is messages.STOPPED:
            link.send(frames.STOPPED, bytes((int(rest),)))
        elif what is messages.ENDED:
            for source in self._sources.values():
                source.done.wait()
            self._last = frames.EXIT, int(rest).to_bytes(4, "little")
            return True
        elif what is messages.FAILED:
            code, _, text = rest.partition(b" ")
            self._last = frames.FAIL, int(code).to_bytes(4, "little") + text
            return True
        else:
            host = os.fsencode(os.uname().nodename)
            killed = b"the job's first process was killed on %s; its memory may have run out" % host
            self._last = self._died(self._sandbox.last_word() or killed)
            return True
        return False

    def _died(self, why: bytes) -> tuple[int, bytes]:
        """What is told when init was killed, and the job with it."""
        return frames.FAIL, (125).to_bytes(4, "little") + why

    def _pulse(self) -> None:
        while True:
            time.sleep(lease.PULSE)
            self._link.send(frames.PING)

    def _watch(self) -> None:
        """Apart from the pulse: what sends may wait as long as the network likes."""
        while True:
            left = lease.PULSE if self._paused else self._heard + lease.AGENT - time.monotonic()
            if left <= 0:
                os._exit(1)
            time.sleep(left)
