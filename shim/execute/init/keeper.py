"""The process between the agent and the job's init: makes their namespaces, and cleans up when either ends. Shipped.

Agent, keeper and init each can be killed at any moment (kill -9, the kernel out of memory), and whatever happens the
job must end with them and leave no process, mount or directory. So each end is seen by what the kernel itself does at
a process's end, never by a message that would have to be sent:

    the agent ends    its socket to the keeper is closed: the keeper kills init, and with pid 1 the kernel kills all
                      of its pid namespace (pid_namespaces(7)); the mounts go with the last process in them
    it cannot end     one of its threads has the kernel drop pages, which waits for what the agent itself was to write
                      (fs/fuse, launder_folio): its first thread's end is told by a signal, and the keeper fails all
                      that waits on the mount
    init ends         its end of `alive`, which it alone holds, is closed; the keeper goes on as above
    the keeper ends   init dies with it (PR_SET_PDEATHSIG); the agent removes the directories, in Sandbox.end
    both at once      the directories are left, unlocked: the next job's private_dirs.Scratch sweeps them

It holds no descriptor of the link, or the connection would outlive the agent. It ignores the signals that end a whole
group or session, and leaves the agent's session, as it must outlive the agent to clean up.

States: namespaces made and mounted (MOUNTED) - waiting until the agent serves the mount (BUILD), as init's first look
at a file would hang otherwise - waiting for either end - cleaning up. One thread.
"""

from __future__ import annotations

import os
import select
import signal
import socket

from remoteio.errors import RexecError, named
from remoteio.execute import mount
from remoteio.execute.mount import open_fuse
from shim.execute.init import descriptors, init, messages, namespaces
from shim.execute.init.private_dirs import Scratch
from shim.wire.job_spec import JobSpec


def keep(
    agent: socket.socket,
    inits: socket.socket,
    plan: namespaces.Plan,
    spec: JobSpec,
    stdio: dict[int, int],
    places: list[str],
    private: tuple[Scratch, Scratch, Scratch],
) -> None:
    """Be the keeper, in the process just forked; returns when the job has ended, for the caller to end the process.

    `stdio`: the job's end of each pipe, by number; `places`: the directories of --scratch; `private`: all directories
    that it removes, the agent's own last.
    """
    keep = {agent.fileno(), inits.fileno(), *stdio.values(), *(fd for held in private for fd in held.fds), 0, 1, 2}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            descriptors.close_quietly(int(name))
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _serve(agent, inits, plan, spec, stdio, places)
    except (BrokenPipeError, ConnectionError):
        pass  # the agent has gone, and the job with this process
    except RexecError as e:
        messages.send(agent, messages.KEEPER_FAILED, str(e).encode("utf-8", "backslashreplace"))
    except Exception as e:  # else nobody would hear what it was
        why = b"an error of rexec's own in the job's keeper: " + named(e).encode()
        messages.send(agent, messages.KEEPER_FAILED, why)
    finally:
        for held in private[: 2 if _agent_stays(agent) else 3]:
            held.remove()


def _fork_init(
    agent: socket.socket, inits: socket.socket, plan: namespaces.Plan, spec: JobSpec, where: str, places: list[str],
    stdio: dict[int, int],
) -> tuple[int, socket.socket]:  # fmt: skip
    """Fork init. Returns its pid and the other end of its `alive`."""
    alive, inits_alive = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            alive.close()
            agent.close()
            init.run(inits, plan, spec, where, places, stdio, inits_alive)
        finally:
            os._exit(1)
    inits_alive.close()
    inits.close()
    for fd in stdio.values():
        os.close(fd)
    return child, alive


def _open_root(where: str, to: socket.socket) -> None:
    """Open the job's root for init, which has it written back in the end: to open it then is a round trip more."""
    try:
        root = [os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    except OSError:
        root = []  # init opens it by itself, and tells why it cannot
    try:
        messages.send(to, messages.ROOT, fds=root)
    except OSError:
        pass  # init has ended: whoever waits for that sees it
    for fd in root:
        os.close(fd)


def _woken_at_the_agents_end() -> int:
    """Return a descriptor that can be read once the agent's first thread, which made this process, has ended."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    namespaces.tell_of_parents_end(signal.SIGUSR1)
    return woken


def _agent_stays(agent: socket.socket) -> bool:
    poll = select.poll()
    poll.register(agent, select.POLLIN)
    return bool(poll.poll(0)) and messages.receive(agent, messages.AGENT, messages.KEEPER)[0] is messages.STAYS


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
    messages.send(agent, messages.MOUNTED, fds=[fuse])
    os.close(fuse)
    said, _, _ = messages.receive(agent, messages.AGENT, messages.KEEPER)
    if said is None:
        return  # the agent has ended
    child, alive = _fork_init(agent, inits, plan, spec, where, places, stdio)
    woken = _woken_at_the_agents_end()
    if spec.checkpoint is None:
        _open_root(where, alive)
    poll = select.poll()
    poll.register(agent, select.POLLIN)
    poll.register(alive, select.POLLIN)
    poll.register(woken, select.POLLIN)
    agent_ended = any(fd == woken for fd, _ in poll.poll())
    os.kill(child, signal.SIGKILL)
    if agent_ended:
        mount.abort(where)
    os.waitpid(child, 0)
