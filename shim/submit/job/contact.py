"""Keep one generation in touch with its host, and once it is over see to it that nothing of it is left there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf

from remoteio.errors import RexecError
from remoteio.submit.transport.stream import Stream
from remoteio.wire import frames
from remoteio.wire.session_link import SessionLink
from shim.submit.host_session import HostSession
from shim.submit.hosts import bootstrap, config, ending
from shim.submit.hosts.config import Host
from shim.submit.hosts.dialler import Agent, Dialler
from shim.submit.hosts.redial import Lost
from shim.submit.job import agent_file
from shim.submit.job.agent_file import Noted
from shim.submit.job.home import JobHome
from shim.submit.job.placement_events import AWAY, GONE, JOINED, Touch
from shim.wire.job_spec import JobSpec
from shim.wire.rendezvous import Whereabouts

Reach = Callable[..., tuple[Stream, bootstrap.Facts]]


class Contact:
    """Dials `host` again whenever the stream of generation `number` is cut, and tells `home`.

    link     is what lasts
    told     the host has said that nothing of the job is left there
    lost_by  why no stream will join any more, once that is known

    Threads: the dialler's call `away`, `joined` and `lost`; the session's leader `greeted`; the visit's all else.
    """

    def __init__(
        self, home: JobHome, number: int, host: Host, link: SessionLink, reach: Reach, agent: Agent | None = None
    ) -> None:
        """`agent`: that is there already, and serves `link`."""
        self.number, self.host, self.link = number, host, link
        self.dialler = Dialler(host, link, home.record.lease, reach)
        if agent is not None:
            self.dialler.agent = agent
        self.dialler.agent.still = inf if home.record.one_host else 0.0
        self.told = False
        self.lost_by: Lost | None = None
        self._home, self._reach = home, reach
        self._cut: Callable[[], None] = lambda: None

    def begin(self, spec: JobSpec, session: HostSession, cut: Callable[[], None]) -> None:
        """Begin, before START is sent; `cut` ends the link."""
        self._cut = cut

        def anew(begin: Callable[[bytes], None]) -> None:
            begin(frames.frame(frames.START, spec.pack()))

        self.dialler.begin(spec, self, session.start_outside, anew)

    def greeted(self, where: Whereabouts | None) -> None:
        """Note where its agent is, before it acts: a later supervisor has it ended. Raises RexecError."""
        if where is None:
            return
        noted = Noted(self.number, self.host.name, self.dialler.agent.secret, where)
        try:
            agent_file.note(self._home.job.path, noted)
        except OSError as error:
            text = f"where the job runs cannot be noted in {self._home.job.path}: {error.strerror}; make room there"
            raise RexecError(text) from error

    def away(self, why: str) -> None:
        self._home.tell(Touch(self.number, AWAY, why))

    def joined(self) -> None:
        self._home.tell(Touch(self.number, JOINED))

    def lost(self, lost: Lost) -> None:
        self.lost_by = lost
        self._cut()

    @property
    def stays(self) -> float:
        """Seconds for which the job may go on there, once the link has ended."""
        return 0.0 if self.dialler.agent.where is None else float(self.dialler.agent.lease)

    def rest(self) -> Callable[[threading.Event], None]:
        """Return what is left to do once the link has ended: have its agent ended, unless it is known to be.

        It returns when that is so, or it is over here; and holds nothing of the generation. What stands still there
        keeps nobody waiting.
        """
        agent, host, reach, number, tell = self.dialler.agent, self.host, self._reach, self.number, self._home.tell
        lost = Lost("", True) if self.told else self.lost_by

        def settle(over: threading.Event) -> None:
            if agent.where is None:
                return
            known = lost if lost is not None and lost.gone else ending.end(host, agent, reach, over)
            if known is not None:
                tell(Touch(number, GONE))
                if known.left:
                    ending.end_what_is_left(host, agent, reach, over)

        return settle


def end_noted(home: JobHome, generation: int, agents: list[Noted], reach: Reach, over: threading.Event) -> None:
    """End the agents that an earlier supervisor has noted; that all are gone is told of `generation`.

    Raises RexecError.
    """
    left = []
    for each in agents:
        host, agent = config.resolve(each.host, config.load()), Agent(each.secret, home.record.lease, each.where)
        known = ending.end(host, agent, reach, over)
        if known is None:
            return
        home.forget_agent(each.generation)
        if known.left:
            left.append((host, agent))
    home.tell(Touch(generation, GONE))
    for host, agent in left:
        ending.end_what_is_left(host, agent, reach, over)
