"""The jobs after the first of an agent that stays: each comes as another START. Shipped."""

from __future__ import annotations

import os

from remoteio.execute.told_lately import ToldLately
from remoteio.wire import frames
from shim.execute.agent.agent import Agent
from shim.execute.agent.job_streams import PlainStreams
from shim.execute.init import messages
from shim.wire.descriptors import READ, stream_kinds
from shim.wire.job_spec import JobSpec


class Following:
    """Has an agent serve another job when one has ended, and its init says that it rests (init/resting.py).

    Threads: `_rests` is for the one that hears init, and `_begin` for the one that receives: the first lets the second
    be called, by ``on_frame``, before home is told that the job has ended.
    """

    def __init__(self, agent: Agent, lease: int) -> None:
        """`lease`: of each job, in seconds."""
        self._agent, self._lease = agent, lease
        self._cpu = 0  # microseconds that the jobs so far have taken
        agent.relay.lately = ToldLately()
        agent.on_message[messages.RESTS] = lambda rest, fds: self._rests(rest)

    def _rests(self, rest: bytes) -> None:
        """Tell of a job's end, and stay for another; where something of it is not as it should be, end."""
        agent = self._agent
        status, cpu = map(int, rest.split())
        last = agent.last_words(messages.ENDED, b"%d %d" % (status, cpu - self._cpu))
        if last[-1][0] != frames.EXIT or not agent.streams.give_back():
            agent.end(last)
            return
        self._cpu = cpu
        agent.stay.leased(0)
        agent.on_frame[frames.START] = self._begin
        for kind, payload in last:
            agent.link.send(kind, payload)

    def _begin(self, told: bytes | memoryview) -> None:
        """Give init what the next job is, and its ends of its pipes. Raises FrameError, OSError."""
        agent, spec = self._agent, JobSpec.unpack(told)
        del agent.on_frame[frames.START]
        agent.stay.leased(self._lease)
        streams, extra = PlainStreams(agent.link), stream_kinds(spec.descriptors)
        reads = {0, *(each.number for each in extra.values() if each.kind == READ)}
        numbers = [*spec.stdio, *(each.number for each in extra.values())]
        ends = {k: os.pipe()[::-1] if k in reads else os.pipe() for k in numbers}
        agent.serve_next(streams)
        if not agent.sandbox.plan.user:
            for _, theirs in ends.values():
                os.fchown(theirs, spec.uid, spec.gid)  # as of the first job's: sandbox.py
        # before init hears of it: the other thread may hear of its end at once, and waits for the streams that it finds
        streams.open_pipes({k: ends[k][0] for k in spec.stdio})
        pipes = {kind: (ends[each.number][0], each.kind == READ) for kind, each in extra.items()}
        agent.on_frame.update(streams.open_extra(pipes))
        with open(os.memfd_create("next job"), "w+b") as file:
            file.write(told)
            file.flush()
            file.seek(0)
            fds = [file.fileno(), *(theirs for _, theirs in ends.values())]
            messages.send(agent.sandbox.init, messages.NEXT, b" ".join(b"%d" % k for k in ends), fds)
        for _, theirs in ends.values():
            os.close(theirs)
