"""Serve one connection to a host: the submit machine's files over it, and signs of life in both directions.

Both kinds of run have one, each its own: a plain run (shim/submit/plain_run.py) and each generation of a job that
can be checkpointed (shim/submit/job/generation.py). What they do with the job differs in everything else, so this knows
of no terminal, no stream, no signal and no person: whatever is not about files goes to the handler as it came.

Frames are received by one thread at a time, the leader of remoteio/submit/leader_followers.py, and what is not a
request for files is given to the handler by that thread, before the next bytes are read: nothing overtakes it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from remoteio.submit.export.between_jobs import take_back
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.first_names import FirstNames
from remoteio.submit.export.once import Once
from remoteio.submit.export.ordered import unordered
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.written_files import WrittenFiles
from remoteio.submit.leader_followers import MOST_WAITING, QUICK, WAITS, LeaderFollowers
from remoteio.submit.leader_followers import SLOW as TAKES_LONG
from remoteio.submit.sandbox.threads import Outside, restrict
from remoteio.syscalls import give_back
from remoteio.wire import frames, fuse_abi, pushed
from remoteio.wire.link import Link, LinkClosed
from shim.submit import host_frames, names, protect, told_ahead
from shim.submit.hosts.dialler import Dialler
from shim.submit.limited_requests import LimitedRequests
from shim.submit.scope import JobRights
from shim.submit.signs_of_life import SignsOfLife
from shim.submit.told_ahead import ToldAhead
from shim.submit.version_key import version_names
from shim.wire import lease
from shim.wire.job_spec import JobSpec

_SLOW = frozenset(
    (
        fuse_abi.INIT,
        fuse_abi.FSYNC,
        fuse_abi.FSYNCDIR,
        fuse_abi.SYNCFS,
        fuse_abi.FALLOCATE,
        fuse_abi.COPY_FILE_RANGE,
        fuse_abi.COPY_FILE_RANGE_64,
    )
)


_REQUESTS = (frames.FUSE, frames.AFTER)


class Handler(Protocol):
    """Handles what a host says that is not about files. Called in the session's own threads; must not block."""

    def greeted(self, hello: host_frames.Hello) -> None:
        """Take note of who the host is; its requests for files are answered from when this returns."""

    def take(self, kind: int, payload: bytes | memoryview) -> None:
        """Take a frame that the host may send now, but for requests, HELLO, PING. What is raised ends the session."""

    def silent(self) -> None:
        """Take note that nothing has come for lease.HOME seconds, once, from a host that cannot be dialled again. The
        link is still open: `cut` ends it."""

    def unleased(self, why: str) -> None:
        """Take note that the host may answer by itself less than it could, and why, a sentence. From any thread."""


class _Files:
    """Knows what an export for `spec`'s user is made of.

    behind  changes may be answered on the host before they are done here, and come as AFTER frames (Ordered)
    take    takes a frame, FUSE or AFTER; returns the requests that may be done now
    """

    def __init__(
        self, spec: JobSpec, record: WrittenFiles | None, rights: JobRights | None, first_names: FirstNames | None
    ) -> None:
        self.ahead = ToldAhead(first_names, spec.trip >= pushed.FAR * 1e6, spec.cwd)
        self._spec, self.record, self._rights = spec, record, rights or JobRights()
        self.behind = record is None and not self._rights.sync
        self.take: Callable[[int, bytes | memoryview], list[bytes | memoryview]] = unordered

    def look(self) -> None:
        """Find what has to be asked for by a socket, and all else that is known before the host has greeted."""
        spec = self._spec
        self._room = self._rights.room()
        self._users = names.of_users(spec)
        self._confinement = protect.confinement(self._rights, spec.cwd, spec.scratch)
        self.writable = protect.writable(self._rights.scope, spec.cwd)
        self._versions = version_names()

    def job_over(self, export: Export | None) -> None:
        """Take note that the job has ended, and the link stays for another."""
        self.ahead.end()
        self.ahead.stop()
        if export is not None:  # what is leased to nobody is told anew from now on: it was this job that knew it
            export.listings.since = time.monotonic()
            export.more.removed.forget()
            export.inodes.descriptors.job_over()
            export.inodes.allowed.refusals.clear()
            take_back(export.inodes, export.leases)

    def next_job(self, first_names: FirstNames) -> bool:
        """Serve another, with the same rights; before its host is told of it. False: something is still being sent for
        the last."""
        if not self.ahead.stop():
            return False
        self.ahead = ToldAhead(first_names, True, self._spec.cwd)
        return True

    def export(self, hello: host_frames.Hello, outside: Outside, begin: Callable[[bytes | memoryview], bool]) -> Export:
        """Make one for the host that has greeted; after `look`. `begin`: see Ordered."""
        spec = self._spec
        export = Export(
            ShownIds(spec.uid, spec.gid, frozenset(spec.groups), hello.uids or None, hello.gids or None, hello.shown),
            record=self.record,
            confinement=self._confinement,
            instead={**self._users, **names.of_network(spec, hello.network, hello.resolver)},
            directory=spec.cwd,
            outside=outside,
            room=self._room,
        )
        if spec.checkpoint is None or not spec.checkpoint.restore:
            export.leases.runs()
        export.ordered.begin = begin
        export.behind, export.versions = self.behind, self._versions
        if self.behind:
            self.take = export.ordered.take
        return export


class HostSession:
    """Serves the files of `spec`'s user at this end of `link`, from HELLO to the link's end.

    Threads: `serve` blocks the one that calls it, and has its own for requests, for the pulse and for the lease; these
    are restricted (remoteio/submit/sandbox), and so is what the handler starts in them, unless it has `outside` do it.
    All other methods may be called by any thread. `export` and `host` are set once, by the thread that receives HELLO,
    before the first request for files is let in. `_heard` is a single number, written by whoever receives and read by
    the lease: a stale one costs a second.
    """

    def __init__(
        self,
        link: Link,
        spec: JobSpec,
        handler: Handler,
        record: WrittenFiles | None = None,
        rights: JobRights | None = None,
        dialler: Dialler | None = None,
        first_names: FirstNames | None = None,
    ) -> None:
        """`record`: what is written to files here is noted there. `rights`: what the job has of them; None: as any.
        `dialler`: of this very link; None: its stream's end is its own. `first_names`: what is told before it is asked
        for, and learned; None: nothing."""
        self.export: Export | None = None  # as soon as the host has greeted
        self.host = "the host"  # by its own name, once it has greeted
        self.once: Once | None = None  # of a job that was taken up
        self.outside: Outside  # from `serve` on: calls what its own threads may not do themselves
        self._link, self._handler, self.files = link, handler, _Files(spec, record, rights, first_names)
        self._dialler = dialler
        limited = LimitedRequests(self._receive, lambda: link.queued, lambda: self._threads.under_way)
        self._threads: LeaderFollowers[bytes | memoryview] = LeaderFollowers(limited.receive, self._answer, self._slow)
        self._heard = time.monotonic()
        self._signs = SignsOfLife(lambda: self.send(frames.PING))
        self._over = threading.Event()

    def serve(self) -> None:
        """Serve until the link ends. Raises what ended it: LinkClosed, ProtocolError, or an error of our own."""
        failed: list[BaseException] = []

        def serve() -> None:
            try:
                restrict(self.files.writable)  # this thread, and so all that serve; what lacks, the doctor tells
                self._serve()
            except BaseException as e:  # it is raised where it is waited for
                failed.append(e)

        self.outside = Outside()
        try:
            self.files.look()
            serving = threading.Thread(target=serve, name="session", daemon=True)
            serving.start()
            serving.join()
        finally:
            self.outside.close()
        raise failed.pop()

    def _serve(self) -> None:
        self._heard = time.monotonic()
        try:
            for name, target in (("pulse", self._pulse), ("lease", self._watch)):
                threading.Thread(target=target, name=name, daemon=True).start()
            self._threads.run()
        finally:
            self._over.set()

    def send(self, kind: int, *payload: bytes | bytearray | memoryview, later: bool = False) -> None:
        """Send a frame, unless the link is gone: `serve` says so, if not the host's last words. `later`: see Link."""
        try:
            self._link.send(kind, *payload, later=later)
        except LinkClosed:
            return

    def mark(self) -> int:
        """Return what to ask `lacks` of: all that was sent until now."""
        return self._link.mark()

    def lacks(self, mark: int) -> bool:
        """Tell whether the host is not known to have what had been sent then."""
        return self._link.acknowledged < mark

    @property
    def silent(self) -> float:
        """Seconds since the host was heard of."""
        return time.monotonic() - self._heard

    def goes_on(self) -> None:
        """Take note that a job that was restored is about to run: what was for criu alone is over."""
        if self.export is not None:
            self.export.locks.claimed()
            self.export.leases.runs()
            if told := self.export.instead.pinned.goes_on():
                self.send(frames.ORDERED, told)

    def dial_no_more(self) -> None:
        """Take a cut for the end: all has been said."""
        if self._dialler is not None:
            self._dialler.end()

    def pause(self) -> bool:
        """Tell the host that this process is about to be stopped: no sign of life is due. False: it hears nothing."""
        self._signs.pause()
        try:
            self._link.send(frames.PAUSE)
            if self._link.flush(lease.RELEASE):
                return True
        except LinkClosed:
            return False
        self.resume()  # a host that takes nothing keeps nobody waiting
        return False

    def resume(self) -> None:
        """Give signs of life again."""
        self._heard = time.monotonic()
        self._signs.resume()

    def cut(self) -> None:
        """Shut the link down: whoever waits for it is woken, and `serve` ends."""
        self.dial_no_more()
        self._link.shut()

    def close(self, *, done: bool = False) -> None:
        """Cut the link and let nothing more be sent: from now on its descriptors may be closed. `done`: the host has
        said that it has nothing more to do with it."""
        self.dial_no_more()
        self._link.bye()
        self.cut()
        self._link.close()
        if self._dialler is not None:
            self._dialler.close(done=done)
        self.files.ahead.end()

    def release(self, held_up: Callable[[], None] | None = None) -> None:
        """Close every file that was open for the host, and with it every lock; after `serve` and `close`.

        What had come and was not begun is not done any more. A request that is still inside a system call after
        lease.RELEASE seconds keeps them open, or else is waited for, however long it takes: `held_up` is told.
        """
        if self.export is not None:
            self.export.locks.end()
            if not self._threads.rest(lease.RELEASE):
                if held_up is None:
                    return
                held_up()
                self._threads.rest(None)
            self.files.ahead.release()
            self.export.close()

    # signs of life, a thread each: one that sends may wait as long as the network likes

    def _pulse(self) -> None:
        if not self._over.wait(lease.PULSE):
            self._signs.give()
            give_back()  # a tenth of what it took to begin; a short run is spared this
        while not self._over.wait(lease.PULSE):
            self._signs.give()
            if self.export is not None and (told := self.export.pruning.due()):
                self.send(frames.ORDERED, told)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over.wait(lease.PULSE):
            now = time.monotonic()
            if now - last > 2 * lease.PULSE or self.away:
                self._heard = now  # we were stopped ourselves, or the machine slept
            last = now
            if now - self._heard > lease.HOME and not self._gives_up_stream():
                self._handler.silent()
                return

    # where there is a dialler

    @property
    def away(self) -> bool:
        """Whether there is no stream to the host just now."""
        return self._dialler is not None and self._dialler.away

    def start_outside(self, run: Callable[[], None]) -> None:
        """Run it in a thread of its own that may do what the session's may not."""
        self.outside(threading.Thread(target=run, name="dialler", daemon=True).start)

    def _gives_up_stream(self) -> bool:
        """Have another dialled in place of one that is silent. False: there is none."""
        return self._dialler is not None and self._dialler.drop(f"nothing came for {lease.HOME:.0f} s")

    # what comes over the link

    def _receive(self) -> list[bytes | memoryview]:
        """The requests for files that came. All else is dealt with here, where nothing can overtake it."""
        self._link.push()  # nobody need wait for the answers that were to go later
        received = self._link.receive()
        self._heard = time.monotonic()
        requests = self.export.fence.kept() if self.export is not None and self.export.fence.opened else []
        for kind, payload in received:
            if kind != frames.FUSE or self.export is None:
                host_frames.due(kind, len(payload), self.export is not None, self.files.behind)
            if kind in _REQUESTS:
                assert self.export is not None
                if self.once is None or not self.once.again(payload):
                    requests += self.export.late.noted(self.files.take(kind, payload))
            elif kind == frames.HELLO:
                self._greet(host_frames.hello(payload))
                requests.append(told_ahead.NAMES_DUE)
            elif kind == frames.CREDIT and payload[0] == frames.PUSHED:
                assert self.export is not None
                requests += self.files.ahead.credited(payload, self.export)
            else:
                if self._dialler is not None and self.export is None:
                    self._dialler.heard()
                if kind != frames.PING:
                    self._handler.take(kind, payload)
        return requests

    def _greet(self, hello: host_frames.Hello) -> None:
        self.host, self.export = hello.host, self.files.export(hello, self.outside, self._threads.aside)
        self.export.leases.start(self._link, self._handler.unleased)
        if self._dialler is not None:
            self._dialler.know(hello.door)
        self._handler.greeted(hello)

    def _slow(self, payload: bytes | memoryview) -> int:
        """How long is it known to take? Looked at by the leader, so it must cost nothing."""
        if len(payload) >= frames.LARGE or told_ahead.is_due(payload):
            return TAKES_LONG
        if len(payload) < fuse_abi.ARGS:
            return QUICK
        _, op, unique, *_ = fuse_abi.IN_HEADER.unpack_from(payload)
        if op == fuse_abi.READ and len(payload) >= fuse_abi.ARGS + fuse_abi.READ_IN.size:
            return int(fuse_abi.READ_IN.unpack_from(payload, fuse_abi.ARGS)[2] > frames.LARGE)
        assert self.export is not None
        if op == fuse_abi.SETLKW:
            return WAITS if self.export.locks.expect(unique, MOST_WAITING) else QUICK
        return int(op in _SLOW)

    def _answer(self, payload: bytes | memoryview) -> None:
        assert self.export is not None
        due = deque([payload])
        while due:  # then the change that waited for it, and what else no other thread is to be had for
            each = due.popleft()
            if self._over.is_set():
                return  # it came before the link ended, and the job may be going on elsewhere by now
            if told_ahead.is_due(each):
                for frame in self.files.ahead.made(each, self.export, self._over):
                    self.send(*frame)
                continue
            request = self.export.ordered.request(each)
            if self.files.ahead.saw(self.export, request) and not self._threads.aside(told_ahead.PUSH_DUE):
                due.append(told_ahead.PUSH_DUE)
            if (answer := self.export.answered(request)) is not None:
                self.send(*answer, later=request.number > 0 and len(each) < frames.LARGE)
            due += self.export.ordered.done(request.unique)
