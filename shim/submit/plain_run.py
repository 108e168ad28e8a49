"""Runs one job, without images, on a host that has been reached; with streams that are handed in.

It changes nothing of this process: no signal, no terminal, no standard stream. Those are the foreground run's
(shim/submit/foreground/run.py), which watches this one; a program that calls shim.run has no need of them. So many may
run in one process.

A HostSession serves the files. Of what else the host says, output goes to the stream's own thread, and what happens to
the job to the thread that called `run`, as events, one after the other: so the watcher is called by that thread alone.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from remoteio.errors import HostMisbehaves, ProtocolError, RexecError, named
from remoteio.submit.transport.stream import Stream, last_line
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from shim.submit import host_frames, spent
from shim.submit.hosts.config import Host
from shim.submit.hosts.redial import Lost
from shim.submit.refusals_told import NOTHING, Told
from shim.submit.scope import JobRights
from shim.submit.served_session import ServedSession
from shim.wire import lease
from shim.wire.job_spec import JobSpec
from shim.wire.stream_pumps import Sink, Source
from shim.wire.wakeup import Wakeup

if TYPE_CHECKING:
    from shim.submit.host_session import HostSession
    from shim.submit.hosts.dialler import Dialler
    from shim.wire.forwarder import Forwarder


class RunResult(NamedTuple):
    """How the job ended: `status` as waitpid(2) gives it, or None and the exit `code` and `reason` of rexec's own.

    `keys`: the job had this process's terminal; `told`: the host said so; `away`: it is out of touch, and not to be
    waited for; `not_now`: the owner of its host lets none begin there now, so it has not.
    """

    status: int | None
    code: int = 0
    reason: str = ""
    keys: bool = False
    told: bool = False
    away: bool = False
    not_now: bool = False


class LostTouch(RexecError):
    """The host was out of touch, and the job is lost with it."""


class StreamEnd(NamedTuple):
    """This end of one of the job's streams.

    fd     the descriptor, which is given up
    close  closes it, when the stream ends
    ours   tells whether it may be read now, or is somebody else's
    """

    fd: int
    close: Callable[[int], None] = os.close
    ours: Callable[[], bool] = lambda: True


class Watcher(Protocol):
    """Is told what happens to a run."""

    def greeted(self, hello: host_frames.Hello) -> None:
        """Take note of who the host is. Called by a thread of the session's."""

    def begun(self) -> Mapping[int, StreamEnd]:
        """Take note that the job runs; gives what it reads, by the kind of frame: STDIN if it has one, and others."""

    def stopped(self) -> None:
        """Take note that the job has stopped, as a shell would see it."""

    def away(self, why: str) -> None:
        """Take note that the host has been out of touch for a while, and is being dialled: the job waits."""

    def joined(self) -> None:
        """Take note that it is in touch again, after `away`."""

    def unleased(self, why: str) -> None:
        """Take note that the host may answer by itself less than it could, and why."""

    def spent(self, cost: spent.Spent) -> None:
        """Take note of what the job has cost; before it has ended."""


class _FirstWords:
    """What an agent is told before it has said a word, where another may take its place: START, and which outputs
    nobody reads."""

    def __init__(self, spec: JobSpec, send: Callable[[int, bytes], None]) -> None:
        self._spec, self._send, self._lock = spec, send, threading.Lock()
        self._gone: set[int] = set()
        self._anew = False

    def gone(self, kind: int) -> None:
        """Take note that the reader of this output has gone, as the agent has been told."""
        with self._lock:
            self._gone.add(kind)
            if not self._anew:
                return
        self._send(frames.CLOSED, bytes((kind,)))  # it may have been told to an agent that is no more

    def start_anew(self, begin: Callable[[bytes], None]) -> None:
        """Give `begin` all that another agent is to be told first."""
        with self._lock:
            gone = b"".join(frames.frame(frames.CLOSED, bytes((kind,))) for kind in self._gone)
            begin(frames.frame(frames.START, self._spec.pack()) + gone)
            self._anew = True


def _own_session(
    link: Link, spec: JobSpec, run: PlainRun, rights: JobRights | None, dialler: Dialler | None
) -> HostSession:
    from shim.submit.host_session import HostSession  # it takes 30 ms to read all that serves files
    from shim.submit.learned_starts import first_names

    names = first_names(spec, rights or JobRights())
    return HostSession(link, spec, run, rights=rights, dialler=dialler, first_names=names)


class PlainRun:
    """Runs `spec` at the far end of `link`.

    Threads: `run` blocks the one that calls it; `tell` and `send_signal` may be called by any, and by signal handlers:
    they take no lock that another may hold. Each stream has a thread of its own, and so has the session.
    """

    def __init__(
        self,
        link: Link,
        spec: JobSpec,
        outputs: Mapping[int, StreamEnd],
        watcher: Watcher,
        rights: JobRights | None = None,
        dialler: Dialler | None = None,
        *,
        served: bool = False,
    ) -> None:
        """`outputs`: where STDOUT, STDERR and others go, as far as the job has them; `served`: the files are, by the
        process at the other end of the link (resident.py); the others: see HostSession."""
        self.session = ServedSession(link, self) if served else _own_session(link, spec, self, rights, dialler)
        first_words = _FirstWords(spec, self.session.send)
        if dialler is not None:
            dialler.begin(spec, self, self.session.start_outside, first_words.start_anew)
        self._link, self._spec, self._watcher = link, spec, watcher
        self._events: deque[Callable[[], None]] = deque()  # for the thread in `run`, which the wakeup calls
        self.wakeup = Wakeup()  # a byte written to its write_fd has the thread in `run` look about
        self._sinks: dict[int, Sink | Forwarder] = {
            kind: self._sink(kind, end, first_words) for kind, end in outputs.items()
        }
        self._open = set(self._sinks)  # those that have not ended
        if spec.forwards:
            from shim.submit.forwarding import forwarder  # hardly ever

            self._sinks[frames.FORWARD] = made = forwarder(spec.forwards)
            made.begin(link)
        self._sources: dict[int, Source] = {}
        self._server = threading.Thread(target=self._serve, name="serve", daemon=True)
        self._ended: RunResult | None = None
        self.started = False

    def refused(self) -> Told:
        """Say what the job was refused of the files here; for as long as nothing was released."""
        session = self.session
        if isinstance(session, ServedSession):
            return session.refused
        counted = {} if session.export is None else session.export.inodes.allowed.refusals.counted()
        if not counted:
            return NOTHING
        from shim.submit import refused  # hardly ever

        return refused.told(counted)

    @property
    def ended(self) -> bool:
        """Has the job ended?"""
        return self._ended is not None

    @property
    def out_of_touch(self) -> bool:
        """Is there no way to the host just now?"""
        return self.session.away

    @property
    def said(self) -> int:
        """Bytes that the job has said."""
        return sum(sink.came for sink in self._sinks.values() if isinstance(sink, Sink))

    def run(self, *, lingers: bool = False) -> RunResult:
        """Run the job to its end, and its output's; START is sent, unless it has been.

        `lingers`: what is said last gets to the host though this process ends. Raises LinkClosed, ProtocolError or
        RexecError when the job is lost.
        """
        try:
            if not self._link.sent:
                self._link.send(frames.START, self._spec.pack())
            for sink in self._sinks.values():
                sink.start(self._stream_fails)  # not before: one whose reader has gone says so at once
            self._server.start()
            wait = select.poll()
            wait.register(self.wakeup.fd, select.POLLIN)
            while self._ended is None or self._open:
                if not self._events:
                    wait.poll()
                    self.wakeup.clear()
                else:
                    self._events.popleft()()
            if self._ended.told and not lingers:
                self._server.join(lease.PULSE)  # or the carrier is ended before it has told the host that this is known
            self._take_last()
            return self._ended
        finally:
            self.session.close(done=self._ended is not None and (self._ended.told or self._ended.away))

    def _take_last(self) -> None:
        """Wait until what the job sent last over ports of this machine's is written."""
        if frames.FORWARD in self._sinks:
            self._sinks[frames.FORWARD].put(b"")
            self._sinks[frames.FORWARD].done.wait()

    def release(self) -> None:
        """Give back what the run held: files, threads, descriptors. After `run`, however it ended.

        A stream whose other end neither reads nor ends keeps its thread, and its descriptor, until it does.
        """
        for sink in self._sinks.values():
            sink.put(b"")
        for source in self._sources.values():
            source.stop()
        if self._server.ident is not None:
            self._server.join()
        self.session.release()
        for done in [pump.done for pump in self._sinks.values()] + [pump.done for pump in self._sources.values()]:
            done.wait(lease.RELEASE)
        self.wakeup.close()

    def tell(self, event: Callable[[], None]) -> None:
        """Have it happen in the thread that is in `run`."""
        self._events.append(event)
        self.wakeup.set()

    def end(self, ended: RunResult) -> None:
        """End the run; in its own thread. What the job wrote last is on its way, unless it was lost with the job."""
        self._ended = ended
        if ended.status is None:
            self._open.clear()

    def give_up(self, ended: RunResult) -> None:
        """End the run without waiting for output; in its own thread."""
        self._ended = ended
        self._open.clear()

    def fail(self, e: BaseException) -> None:
        """End the run by that error; from any thread."""
        self.tell(lambda: self._failed(e))

    def _failed(self, e: BaseException) -> None:
        if self._ended is None or not isinstance(e, (LinkClosed, LostTouch)):
            raise e

    def _fails(self, code: int, why: str) -> None:
        self.end(RunResult(None, code, why, told=True))

    def _refused(self, why: str) -> None:
        self.end(RunResult(None, 125, why, told=True, not_now=not self.started))

    def _sink(self, kind: int, end: StreamEnd, first_words: _FirstWords) -> Sink:
        def close(fd: int) -> None:
            end.close(fd)
            if not self.started:
                first_words.gone(kind)
            self.tell(lambda: self._open.discard(kind))

        return Sink(self._link, kind, end.fd, close)

    def _stream_fails(self, e: BaseException) -> None:
        if not isinstance(e, LinkClosed):  # else whoever receives says so
            self.fail(e)

    def _serve(self) -> None:
        try:
            self.session.serve()
        except BaseException as e:  # whatever ends this thread ends the run
            self.fail(e)

    def _begun(self) -> None:
        if self.started:
            return
        self.started = True
        for kind, end in self._watcher.begun().items():
            source = Source(self._link, kind, end.fd, end.close, end.ours)
            self._sources = {**self._sources, kind: source}  # the session's thread looks things up in it
            source.start(self._stream_fails)

    # what comes over the link: HostSession's handler

    def greeted(self, hello: host_frames.Hello) -> None:
        self._watcher.greeted(hello)

    def silent(self) -> None:
        text = "%s has not been heard of for %.0f s, so the job is lost: the host ends what it cannot report; "
        self.fail(RexecError(text % (self.session.host, lease.HOME) + "see whether it and the network to it are up"))

    def unleased(self, why: str) -> None:
        self.tell(lambda: self._watcher.unleased(why))

    def away(self, why: str) -> None:
        self.tell(lambda: self._watcher.away(why))

    def joined(self) -> None:
        self.tell(self._watcher.joined)

    def lost(self, lost: Lost) -> None:
        self.fail(LostTouch(lost.why))

    def take(self, kind: int, payload: bytes | memoryview) -> None:
        if kind in self._sinks:
            if not self.started and payload and kind != frames.FORWARD:
                self.tell(self._begun)  # it may be quicker than its host with STARTED; who reads it may signal it
            self._sinks[kind].put(payload)
        elif kind == frames.CREDIT:
            of, count = host_frames.credit(payload)
            if of not in self._sources:
                raise ProtocolError("it gives credit for a stream of which it was sent nothing")
            self._sources[of].window.credited(count)
        elif kind == frames.CLOSED and payload[0] in self._sources:
            self._sources[payload[0]].stop()
        elif kind == frames.STARTED:
            self.tell(self._begun)
        elif kind == frames.STOPPED:
            self.tell(self._watcher.stopped)
        elif kind == frames.SPENT:
            cost = spent.spent(payload)
            self.tell(lambda: self._watcher.spent(cost))
        elif kind == frames.EXIT:
            status = host_frames.exit_status(payload)
            self.tell(lambda: self.end(RunResult(status, told=True)))
        elif kind == frames.FAIL:
            code, text = host_frames.failure(payload)
            self.tell(lambda: self._refused(text) if code == frames.NOT_NOW else self._fails(code, text))


def to_the_end(
    run: Callable[[], RunResult], host: Host, stream: Stream, failed: Callable[[str], None] = lambda trace: None
) -> RunResult:
    """Do what runs a job over `stream`, and close that; what ends it is told in a sentence, as RexecError.

    `failed` is given the traceback of an error of rexec's own.
    """
    try:
        ended = run()
    except (LinkClosed, LostTouch) as e:
        why = stream.failure() if host.ssh and isinstance(e, LinkClosed) else e
        stream.close(done=True)
        stream.wait(1.0)  # until all that it has said is known
        said = last_line(stream.stderr_tail()) if isinstance(e, LostTouch) else ""
        raise RexecError(f"lost {host.name}, and the job with it: {why}{said and f'; it said {said!r}'}") from e
    except ProtocolError as e:
        stream.close()
        raise HostMisbehaves(host.name, f"{e}; the job is lost with it") from e
    except Exception as e:
        stream.close()
        if isinstance(e, RexecError):
            raise
        import traceback  # hardly ever: it takes 10 ms

        failed(traceback.format_exc())
        raise RexecError(
            f"an error of rexec's own while it served {host.name} ended the job: {named(e)}; please report it, with "
            "what --json-log FILE writes of it"
        ) from e
    except BaseException:
        stream.close()
        raise
    stream.close(done=ended.told or ended.away)  # else its carrier is to bring the host the news that it is over
    return ended
