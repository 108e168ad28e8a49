"""Ports that lead over the job's link, at its host. Shipped; imported only for a job that has some."""

from __future__ import annotations

import os

from remoteio.wire import frames
from shim.execute.agent.agent import Agent
from shim.execute.agent.diagnostics import fail
from shim.wire.forwarder import Forwarder
from shim.wire.forwards import Side
from shim.wire.job_spec import JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.execute.init.messages import Message


def enter(agent: Agent, spec: JobSpec, moved: Callable[[], bool] = lambda: False) -> Callable[[], None]:
    """Carry the job's connections, beside what the agent does for it; returns what begins to let the job connect.

    None but the job's own user may connect, and root where it is root's. `moved` tells whether the job has been killed
    here to go on elsewhere.
    """
    login = os.geteuid()
    carries = Forwarder(Side(spec.forwards, False, frozenset((login or spec.uid,))))

    def before() -> None:
        if moved():
            raise ConnectionResetError  # its sockets have ended with it, and it has not ended them
        agent.relay.all_done()  # as of all that it says: what it did to files is done first

    carries.before = before
    carries.begin(agent.link)
    carries.start(fail)
    closing, state = agent.closing, agent.state

    def closes(last: Message | None) -> None:
        carries.stop()
        closing(last)
        carries.done.wait()

    def tells() -> dict[str, list[bytes]]:
        carries.reset()
        return state()

    agent.on_frame[frames.FORWARD] = carries.put
    agent.closing, agent.state = closes, tells
    return carries.listen
