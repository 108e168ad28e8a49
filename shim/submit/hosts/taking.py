"""Have a stream to the agent of a run that another process of this machine had begun, and that was killed."""

from __future__ import annotations

import threading
import time

from remoteio.errors import ProtocolError, RexecError
from remoteio.submit.transport.stream import Stream
from shim.submit.hosts import redial
from shim.submit.hosts.config import Host
from shim.submit.hosts.dialler import DEADLINE, REJOIN, Agent, Reach, asked
from shim.submit.hosts.redial import Lost, Outage
from shim.wire import rendezvous

PATIENCE = 30  # seconds that the host is dialled for; all that is asked of the job waits meanwhile


class NotTaken(RexecError):
    """There is no stream to that agent: a clause that says why."""


def take(host: Host, agent: Agent, reach: Reach, over: threading.Event) -> Stream:
    """Dial until the agent has taken the stream; what follows on it is a session that begins. Raises NotTaken."""
    import random  # hardly ever: as in dialler.py

    outage = Outage(time.monotonic(), PATIENCE)
    while True:
        step = redial.decide(outage, time.monotonic(), random.random())
        if isinstance(step, Lost) or over.wait(step.after):
            raise NotTaken(f"{host.name} is not reached: {outage.why or 'there was no time'}")
        try:
            found = _try(host, agent, reach, outage)
        except (OSError, ProtocolError, RexecError) as e:
            found = redial.failed(outage, str(e))
        if isinstance(found, Lost):
            raise NotTaken(found.why)
        if not isinstance(found, Outage):
            return found
        outage = found


def _try(host: Host, agent: Agent, reach: Reach, outage: Outage) -> Outage | Lost | Stream:
    assert agent.where is not None
    stream, _ = reach(host, REJOIN, batch=True, deadline=DEADLINE)
    try:
        said, _, why = asked(stream, rendezvous.question(rendezvous.TAKE, agent.secret, agent.where, 0))
    except BaseException:
        stream.close(done=True)
        raise
    if said == rendezvous.JOINED:
        return stream
    stream.close(done=True)
    return redial.answered(outage, said, why, time.monotonic())
