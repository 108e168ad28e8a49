"""The second job of an agent: all that it says is heard, however soon it ends."""

from __future__ import annotations

import os
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from remoteio.wire import frames
from remoteio.wire.link import Link
from shim.execute.agent import following
from shim.execute.agent.following import Following
from shim.execute.agent.job_streams import PlainStreams
from shim.execute.init import messages
from shim.wire.job_spec import JobSpec

SPEC = JobSpec(
    uid=os.geteuid(), gid=os.getegid(), groups=[], umask=0o22, hostname=b"here", limits=[],
    argv=[b"true"], env=[], cwd=b"/", scratch=[], stdio=[0, 1, 2], tty=[],
)  # fmt: skip
_OUTPUTS = (frames.STDOUT, frames.STDERR)


class Agent:
    """As far as the jobs after the first need it; one that rests."""

    def __init__(self, link: Link, init: socket.socket) -> None:
        self.link, self.streams = link, PlainStreams(link)
        self.sandbox = SimpleNamespace(init=init, plan=SimpleNamespace(user=True))
        self.relay, self.stay = SimpleNamespace(lately=None), SimpleNamespace(leased=lambda seconds: None)
        self.on_frame: dict[int, Any] = {}
        self.on_message: dict[messages.Message, Any] = {}

    def serve_next(self, streams: PlainStreams) -> None:
        self.streams = streams

    def last_words(self, said: messages.Message, rest: bytes) -> list[tuple[int, bytes]]:
        self.streams.drain()
        return [(frames.EXIT, bytes(4))]


def test_who_reads_its_output_hears_of_its_end_however_soon_a_job_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, home = socket.socketpair()
    init, inits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, home, init, inits:
        agent = Agent(Link(ours.fileno(), ours.fileno()), init)
        home.settimeout(10)
        jobs = Following(agent, 60)  # type: ignore[arg-type]
        told = threading.Event()

        def rests() -> None:
            agent.on_message[messages.RESTS](b"0 0", [])
            told.set()

        def send(to: socket.socket, message: messages.Message, payload: bytes, fds: list[int]) -> None:
            messages.send(to, message, payload, fds)
            for fd in messages.receive(inits, messages.AGENT, messages.INIT)[2]:
                os.close(fd)  # the job has begun and ended, before this thread goes on
            threading.Thread(target=rests, daemon=True).start()
            told.wait(0.2)

        monkeypatch.setattr(following, "messages", SimpleNamespace(**{**vars(messages), "send": send}))
        agent.on_frame[frames.START] = jobs._begin  # as where one job has ended
        agent.on_frame[frames.START](SPEC.pack())
        found: list[int] = []
        reader = frames.FrameReader()
        while len(found) < 3:
            found += [kind for kind, _ in reader.feed(home.recv(4096)) if kind in (*_OUTPUTS, frames.EXIT)]
        assert told.wait(10)
    assert sorted(found[:2]) == sorted(_OUTPUTS), "home takes nothing of a job that comes after its EXIT"
