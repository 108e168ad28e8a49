"""End the agent of a run that is over here, though its host may not have heard so: dial until that is known."""

from __future__ import annotations

import threading
import time

from remoteio.errors import ProtocolError, RexecError
from shim.submit.hosts import redial
from shim.submit.hosts.config import Host
from shim.submit.hosts.dialler import DEADLINE, REJOIN, Agent, Reach, asked
from shim.submit.hosts.redial import Lost, Outage
from shim.wire import lease, rendezvous


def end(host: Host, agent: Agent, reach: Reach, over: threading.Event) -> Lost | None:
    """Have it ended. Returns why it is known that nothing of it runs there any more; None: it is `over` before."""
    import random  # hardly ever: as in dialler.py

    outage: Outage | Lost = Outage(time.monotonic(), agent.lease)
    while isinstance(outage, Outage):
        step = redial.decide(outage, time.monotonic(), random.random())
        if isinstance(step, Lost):
            outage = step
        elif over.wait(step.after):
            return None
        else:
            outage = _try(host, agent, reach, outage)
    return outage


def end_what_is_left(host: Host, agent: Agent, reach: Reach, over: threading.Event) -> None:
    """Have ended what may stand still there: no longer than it does that, or until it is `over`."""
    end(host, Agent(agent.secret, lease.STILL, agent.where, agent.still), reach, over)


def _try(host: Host, agent: Agent, reach: Reach, outage: Outage) -> Outage | Lost:
    assert agent.where is not None
    try:
        stream, _ = reach(host, REJOIN, batch=True, deadline=DEADLINE)
        try:
            said, _, why = asked(stream, rendezvous.question(rendezvous.END, agent.secret, agent.where, 0))
        finally:
            stream.close(done=True)
    except (OSError, ProtocolError, RexecError) as e:
        return redial.failed(outage, str(e))
    return redial.answered(outage, said, why, time.monotonic())
