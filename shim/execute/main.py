"""The execute side's entry: reads START, and serves the job that it describes. Shipped."""

from __future__ import annotations

import os
import sys

from remoteio.errors import ProtocolError, RexecError
from remoteio.execute import machine
from remoteio.syscalls import one_arena
from remoteio.wire import frames
from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.execute.agent.agent import Agent
from shim.execute.agent.diagnostics import give_way
from shim.execute.agent.job_streams import PlainStreams
from shim.execute.init.namespaces import Plan
from shim.execute.init.sandbox import Sandbox
from shim.execute.owner import places
from shim.wire.engine_place import TAKEN_BACK
from shim.wire.job_spec import JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.execute.owner.admission import Admitted

_TURN = 0.0005
"""Seconds for which one thread may hold up another. A job asks for one thing after the other, so it adds up how long
the relay takes the replies to what was done before it reads the next: with Python's 5 ms `pip install` took 7 % more.
"""


def main(read_fd: int, write_fd: int) -> int:
    """Serve the job that the first frame describes. Returns this process's exit status."""
    one_arena()  # before there are threads
    sys.setswitchinterval(_TURN)
    link = SessionLink(read_fd, write_fd)
    try:
        return _serve(link)
    except LinkClosed:
        give_way()
        return 1
    except places.NotNow as e:
        code, why = frames.NOT_NOW, "%s lets no job begin now: %s" % (machine.name(), e)
    except RexecError as e:
        code, why = 125, str(e)
    except ProtocolError as e:
        code, why = 125, "what came from rexec is not of its protocol: %s" % e
    link.send(frames.FAIL, code.to_bytes(4, "little"), why.encode("utf-8", "backslashreplace"))
    return 1


def _serve(link: SessionLink) -> int:
    first: list[tuple[int, bytes | memoryview]] = []
    while not first:
        first = link.receive()
    if first[0][0] != frames.START:
        raise RexecError("the first frame is no START: the two ends are of different versions of rexec")
    spec = JobSpec.unpack(first[0][1])
    machine.call(os.fsdecode(spec.host))
    if TAKEN_BACK in os.environ:
        raise places.NotNow("the engine takes this place back")
    admitted = _let_in(spec, link) if places.said() else None
    if spec.checkpoint is None:
        agent = Agent(link, Sandbox(spec, Plan(spec)), PlainStreams(link), spec)
        if spec.forwards:
            from shim.execute.agent.forwarded import enter

            enter(agent, spec)()
        if spec.stays and not spec.scratch and not places.said():
            from shim.execute.agent.following import Following

            Following(agent, spec.lease)
        agent.run(first[1:])
        return 0
    from shim.execute.agent.checkpoint_agent import CheckpointAgent
    from shim.execute.agent.criu_here import provide
    from shim.wire import job_messages

    means, left = provide(link, spec, spec.checkpoint, first[1:])
    unable = means.unable if not (spec.checkpoint.restore or spec.checkpoint.anyway) else ""  # perhaps another host can
    if not unable and spec.checkpoint.rehearsal:
        from shim.execute.agent.rehearsal_room import lacking

        unable = lacking(spec.checkpoint.rehearsal)
    if unable:
        link.send(frames.NEWS, job_messages.news(job_messages.UNABLE, why=unable))
        return 1
    CheckpointAgent(link, spec, spec.checkpoint, means, admitted).run(left)
    return 0


def _let_in(spec: JobSpec, link: SessionLink) -> Admitted | None:
    """Let the job in by what this machine's owner says, and have it run as low. Raises NotNow."""
    from shim.execute.owner import admission

    if spec.checkpoint is not None and spec.checkpoint.rehearsal:
        return None  # beside the job itself, which was let in
    admitted = admission.admit(lambda: link.send(frames.PING))
    if admitted is not None:
        spec.scheduling = admitted.word.lowered(spec.scheduling)
    return admitted
