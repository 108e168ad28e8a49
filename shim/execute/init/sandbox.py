"""What the agent has in its hands of the job's namespaces: the keeper, init, the mount and the pipes. Shipped."""

from __future__ import annotations

import os
import select
import socket

from remoteio.errors import RexecError
from shim.execute.init import idmap, keeper, messages, namespaces
from shim.execute.init.private_dirs import Scratch, for_images
from shim.wire.descriptors import READ, stream_kinds
from shim.wire.job_spec import JobSpec


class Sandbox:
    """Holds what surrounds one job on this host.

    plan       how its namespaces are made
    shown      the ids that the job sees as its own, where they are not its user's
    keeper     the socket to its keeper, and `pid` that process
    init       the socket to its first process, which is there after ``go``
    fuse       the connection to the kernel on which the job's files are asked for
    stdio      our end of each pipe of the job's 0, 1 and 2, by number
    extra      our end of its pipes from descriptor 3 on, by the kind of frame, and whether the job reads it
    images     the directory where images lie, without a name, and criu's log; with none, `no_images` says why
    door       the directory of the agent's own socket; empty: there is none

    Threads: the agent's only. ``end`` is called by the one that hears init, or by the one that dumps or restores once
    the job has left.
    """

    __slots__ = (
        "_held", "door", "extra", "fuse", "images", "init", "keeper", "no_images", "pid", "plan", "shown", "stdio",
    )  # fmt: skip

    def __init__(self, spec: JobSpec, plan: namespaces.Plan) -> None:
        """Fork the keeper; returns when the job's files are mounted and want to be served. Raises RexecError."""
        self.plan = plan
        self.shown: tuple[int, ...] = ()
        if spec.checkpoint is not None and plan.ids == idmap.ZERO:
            spec.uid = spec.gid = 0  # in name: its image has that
            self.shown = (0, 0)
        self._held = self._make_directories(spec)
        places = [self._held[0].make() for _ in spec.scratch]
        self.keeper, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.init, inits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        extra = stream_kinds(spec.descriptors)
        reads = {0, *(each.number for each in extra.values() if each.kind == READ)}
        numbers = [*spec.stdio, *(each.number for each in extra.values())]
        ends = {k: os.pipe()[::-1] if k in reads else os.pipe() for k in numbers}
        for _, end in ends.values():
            if not self.plan.user:
                os.fchown(end, spec.uid, spec.gid)  # or the job could not open /proc/self/fd/1 again
        self.pid = os.fork()
        if self.pid == 0:
            try:
                jobs_ends = {k: pair[1] for k, pair in ends.items()}
                keeper.keep(theirs, inits, self.plan, spec, jobs_ends, places, self._held)
            finally:
                os._exit(1)
        theirs.close()
        inits.close()
        for _, jobs in ends.values():
            os.close(jobs)
        self.stdio = {k: ends[k][0] for k in spec.stdio}
        self.extra = {kind: (ends[each.number][0], each.kind == READ) for kind, each in extra.items()}
        self.fuse = self._await_mount()

    def _make_directories(self, spec: JobSpec) -> tuple[Scratch, Scratch, Scratch]:
        """Make those of the images and of the agent's socket; returns who makes and removes --scratch's, and those."""
        spool, self.images, self.no_images = Scratch(*self.plan.criu), "", ""
        if spec.checkpoint is not None:
            try:
                spool = Scratch(*self.plan.criu, "spool", for_images())
                self.images = spool.make()
            except (RexecError, OSError) as e:
                self.no_images = str(e)  # the job runs all the same
        own, self.door = Scratch(os.geteuid(), os.getegid(), "door"), ""
        if spec.secret:
            try:
                self.door = own.make()
            except (RexecError, OSError):
                pass  # home hears of none, and the job lives as long as its first stream
        return Scratch(spec.uid, spec.gid), spool, own

    def _await_mount(self) -> int:
        said, why, fds = messages.receive(self.keeper, messages.KEEPER, messages.AGENT)
        if said is messages.MOUNTED and fds:
            return fds[0]
        os.waitpid(self.pid, 0)
        for held in self._held:
            held.remove()
        for socket_end in (self.keeper, self.init):
            socket_end.close()
        for fd in (*self.stdio.values(), *(fd for fd, _ in self.extra.values())):
            os.close(fd)
        raise RexecError(why.decode("utf-8", "replace") or "the job's namespaces could not be made")

    def make_criu_directory(self, name: str) -> str:
        """Make an empty directory on this host for what criu says while it works; its path.

        Raises RexecError, OSError.
        """
        if not self.images:
            raise RexecError(self.no_images)
        path = os.path.join(self.images, name)
        os.mkdir(path, 0o700)
        if not self.plan.user:
            os.chown(path, *self.plan.criu)
        return path

    def go(self) -> None:
        """Have the root built and the job started: the connection is being served."""
        try:
            messages.send(self.keeper, messages.BUILD)
        except (BrokenPipeError, ConnectionError):
            return  # it was killed: whoever listens to init hears so

    def last_word(self) -> bytes:
        """Return what the keeper says that it died of; empty: nothing."""
        poll = select.poll()
        poll.register(self.keeper, select.POLLIN)
        if not poll.poll(0):
            return b""
        try:
            return messages.receive(self.keeper, messages.KEEPER, messages.AGENT)[1]
        except ConnectionError:
            return b""

    def end(self) -> None:
        """Wait for the job's end: nothing of it is left on this host when this returns, but the agent's own socket."""
        try:
            messages.send(self.keeper, messages.STAYS)
        except (BrokenPipeError, ConnectionError):
            pass  # it was killed
        self.keeper.close()
        os.waitpid(self.pid, 0)
        for held in self._held[:2]:
            held.remove()

    def shut_door(self) -> None:
        """Remove the agent's own socket: the last that it does."""
        self._held[2].remove()
