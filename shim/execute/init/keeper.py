"""The process between the agent and the job's init: makes their namespaces, and cleans up when either ends. Shipped.

It holds no descriptor of the link, so the connection ends with the agent; and it sees the agent's end on its socket,
so that the job ends with the agent too.
"""

from __future__ import annotations

import os
import select
import signal
import socket

from remoteio.errors import RexecError, named
from remoteio.execute.mount import open_fuse
from shim.execute.init import idmap, init, namespaces
from shim.execute.init.private_dirs import Scratch, for_images
from shim.wire.job_spec import JobSpec


class Kept:
    """What the agent holds of the job: the sockets to keeper and init, the FUSE connection, its pipes."""

    __slots__ = ("fuse", "images", "init", "keeper", "no_images", "pid", "plan", "scratch", "shown", "spool", "stdio")

    def __init__(self, spec: JobSpec, plan: namespaces.Plan) -> None:
        """Fork the keeper; returns when the job's files are mounted and want to be served. Raises RexecError."""
        self.plan = plan
        self.shown: tuple[int, ...] = ()  # the ids that the job sees as its own, where they are not its user's
        if spec.moving is not None and plan.ids == idmap.ZERO:
            spec.uid = spec.gid = 0  # in name: see Plan
            self.shown = (0, 0)
        self.spool, self.images, self.no_images = Scratch(os.geteuid(), os.getegid()), "", ""
        if spec.moving is not None:
            try:
                self.spool = Scratch(os.geteuid(), os.getegid(), "spool", for_images())
                self.images = self.spool.make()
            except (RexecError, OSError) as e:
                self.no_images = str(e)  # the job runs all the same
        self.scratch = Scratch(spec.uid, spec.gid)
        places = [self.scratch.make() for _ in spec.scratch]
        self.keeper, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.init, inits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends = {k: os.pipe() if k else os.pipe()[::-1] for k in spec.stdio}
        for _, end in ends.values():
            if not self.plan.user:
                os.fchown(end, spec.uid, spec.gid)  # or the job could not open /proc/self/fd/1 again
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _keep(
                    theirs, inits, self.plan, spec, {k: pair[1] for k, pair in ends.items()}, places,
                    (self.scratch, self.spool),
                )  # fmt: skip
            finally:
                os._exit(1)
        theirs.close()
        inits.close()
        self.stdio = {}
        for k, (mine, jobs) in ends.items():
            os.close(jobs)
            self.stdio[k] = mine
        said, fds, _, _ = socket.recv_fds(self.keeper, 4096, 1)
        if said != b"M" or not fds:
            os.waitpid(self.pid, 0)
            self.scratch.remove()
            self.spool.remove()
            for socket_end in (self.keeper, self.init):
                socket_end.close()
            for fd in self.stdio.values():
                os.close(fd)
            raise RexecError(said[1:].decode("utf-8", "replace") or "the job's namespaces could not be made")
        self.fuse = fds[0]

    def go(self) -> None:
        """The connection is being served: build the root and start the job."""
        try:
            self.keeper.send(b"G")
        except (BrokenPipeError, ConnectionError):
            return  # it was killed: whoever listens to init hears so

    def last_word(self) -> bytes:
        """What the keeper says that it died of; empty: nothing."""
        try:
            return self.keeper.recv(4096, socket.MSG_DONTWAIT)[1:]
        except (BlockingIOError, ConnectionError):
            return b""

    def end(self) -> None:
        """The job has ended: nothing of it is left on this host when this returns."""
        self.keeper.close()
        os.waitpid(self.pid, 0)
        self.scratch.remove()
        self.spool.remove()


def _keep(
    agent: socket.socket,
    inits: socket.socket,
    plan: namespaces.Plan,
    spec: JobSpec,
    stdio: dict[int, int],
    places: list[str],
    private: tuple[Scratch, Scratch],
) -> None:
    keep = {agent.fileno(), inits.fileno(), *stdio.values(), *private[0].fds, *private[1].fds, 0, 1, 2}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            init.close_quietly(int(name))
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _serve(agent, inits, plan, spec, stdio, places)
    except (BrokenPipeError, ConnectionError):
        pass  # the agent has gone, and the job with this process
    except RexecError as e:
        agent.send(b"F" + str(e).encode("utf-8", "backslashreplace"))
    except Exception as e:  # else nobody would hear what it was
        agent.send(b"F" + b"an error of rexec's own in the job's keeper: " + named(e).encode())
    finally:
        for held in private:
            held.remove()


def _serve(
    agent: socket.socket,
    inits: socket.socket,
    plan: namespaces.Plan,
    spec: JobSpec,
    stdio: dict[int, int],
    places: list[str],
) -> None:
    namespaces.make(plan)
    fuse = open_fuse()  # within: the kernel mounts only a connection opened in the mount's own user namespace
    where = namespaces.mount_root(fuse, plan, spec)
    socket.send_fds(agent, [b"M"], [fuse])
    os.close(fuse)
    if not agent.recv(8):
        return
    alive_r, alive_w = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(alive_r)
            agent.close()
            init.run(inits, plan, spec, where, places, stdio, alive_w)
        finally:
            os._exit(1)
    os.close(alive_w)
    inits.close()
    for fd in stdio.values():
        os.close(fd)
    poll = select.poll()
    poll.register(agent, select.POLLIN)
    poll.register(alive_r, select.POLLIN)
    poll.poll()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
