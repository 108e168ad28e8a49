"""Scripted agents that outlive their streams (tests/agents.py has others): hosts that are cut off, and come back."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from remoteio.submit.transport.stream import Stream
from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.submit.hosts.config import Host
from shim.wire import rendezvous
from shim.wire.job_spec import JobSpec
from shim.wire.rendezvous import Whereabouts
from tests.agents import Agent, Country, Wire


class LastingAgent(Agent):
    """One that has a door, by which another stream joins it.

    gone   it is no more
    ended  it was, since somebody asked for its end
    """

    link: SessionLink

    def __init__(self, name: str, beneath: Path) -> None:
        self.gone = self.ended = False
        self.where = Whereabouts("/door", name, "boot", id(self) & 0xFFFFFF, 1)
        super().__init__(name, beneath, SessionLink)

    def _start(self, spec: JobSpec) -> None:
        if spec.secret:
            self.link.last(lambda why: None)
        super()._start(spec)

    def hello(self, **changed: list[bytes]) -> None:
        super().hello(door=self.where.pack(), **changed)

    def cut(self) -> None:
        """Have its stream end; it lives on."""
        self.link.drop()

    def die(self) -> None:
        """End as one does whose home has heard all that it has said."""
        self.running.clear()
        self.gone = True
        threading.Thread(target=self._hang_up, daemon=True).start()  # this one may be who receives

    def _hang_up(self) -> None:
        with suppress(LinkClosed):
            if not self.link.cut:
                self.link.settled(5)
        self.link.shut()

    def vanish(self) -> None:
        """End by kill -9."""
        self.running.clear()
        self.gone = True
        self.link.drop()
        self.broken.set()

    def join(self, end: socket.socket, secret: bytes, want: str, position: int) -> None:
        """Answer one that has come to its door, as shim/execute/rejoin.py and door.py do."""
        assert self.spec is not None
        if not self.gone and secret == self.spec.secret and want == rendezvous.END:
            self.ended = True
            self.vanish()
        if self.gone:
            end.sendall(rendezvous.line(said=rendezvous.GONE, why="its agent has ended there"))
        elif secret != self.spec.secret:
            end.sendall(rendezvous.line(said=rendezvous.REFUSED, why="the agent there does not know this run"))
        else:
            self.link.drop()
            end.sendall(rendezvous.line(said=rendezvous.JOINED, position=self.link.position))
            self.link.join(end.fileno(), end.fileno(), position)


class LastingCountry(Country):
    """Hosts that can be reached a second time."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.make = LastingAgent
        self.joins = 0

    def cut(self, agent: Agent) -> None:
        """Have nothing reach its host, until `heal`."""
        assert isinstance(agent, LastingAgent)
        self.down.add(agent.name)
        agent.cut()

    def heal(self, agent: Agent) -> None:
        """Have it reached again."""
        self.down.discard(agent.name)

    def rejoin(self, host: Host) -> Stream:
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._answer, args=(theirs,), daemon=True).start()
        return Wire(host.name, ours)

    def _answer(self, theirs: socket.socket) -> None:
        with theirs:  # the agent's link has copies
            said = b""
            while not said.endswith(b"\n"):
                byte = theirs.recv(1)
                if not byte:
                    return
                said += byte
            want, secret, where, position = rendezvous.asked(said)
            for agent in self.agents:
                if isinstance(agent, LastingAgent) and agent.where.pid == where.pid:
                    self.joins += want == rendezvous.JOIN
                    with suppress(LinkClosed, OSError):
                        agent.join(theirs, secret, want, position)
                    return
        raise AssertionError(f"there is no such agent: {os.fsdecode(where.path)}")
