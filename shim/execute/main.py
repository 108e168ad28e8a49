"""The execute side's entry: reads START, and serves the job that it describes. Shipped."""

from __future__ import annotations

import os

from remoteio.errors import ProtocolError, RexecError
from remoteio.execute import machine
from remoteio.wire import frames
from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.execute.agent.agent import Agent
from shim.execute.agent.diagnostics import give_way
from shim.execute.agent.job_streams import PlainStreams
from shim.execute.init.namespaces import Plan
from shim.execute.init.sandbox import Sandbox
from shim.wire.job_spec import JobSpec


def main(read_fd: int, write_fd: int) -> int:
    """Serve the job that the first frame describes. Returns this process's exit status."""
    link = SessionLink(read_fd, write_fd)
    try:
        first: list[tuple[int, bytes | memoryview]] = []
        while not first:
            first = link.receive()
        if first[0][0] != frames.START:
            raise RexecError("the first frame is no START: the two ends are of different versions of rexec")
        spec = JobSpec.unpack(first[0][1])
        machine.call(os.fsdecode(spec.host))
        if spec.checkpoint is None:
            Agent(link, Sandbox(spec, Plan(spec)), PlainStreams(link), spec).run(first[1:])
        else:
            from shim.execute.agent.checkpoint_agent import CheckpointAgent
            from shim.execute.agent.criu_here import provide
            from shim.wire import job_messages

            means, left = provide(link, spec, spec.checkpoint, first[1:])
            if means.unable and not (spec.checkpoint.restore or spec.checkpoint.anyway):
                link.send(frames.NEWS, job_messages.news(job_messages.UNABLE, why=means.unable))
                return 1  # perhaps another host can
            if spec.checkpoint.rehearsal:
                from shim.execute.agent.rehearsal_room import lacking

                if why := lacking(spec.checkpoint.rehearsal):
                    link.send(frames.NEWS, job_messages.news(job_messages.UNABLE, why=why))
                    return 1
            CheckpointAgent(link, spec, spec.checkpoint, means).run(left)
    except LinkClosed:
        give_way()
        return 1
    except (RexecError, ProtocolError) as e:
        said = str(e) if isinstance(e, RexecError) else "what came from rexec is not of its protocol: %s" % e
        link.send(frames.FAIL, (125).to_bytes(4, "little"), said.encode("utf-8", "backslashreplace"))
        return 1
    return 0
