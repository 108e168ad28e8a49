"""Pid 1 of the job's pid namespace: starts the job, tells how it stops and ends, leaves nothing behind. Shipped.

Its messages are in messages.py. States: building the root - starting the job, or waiting for it to be restored -
serving (one poll(2) for the agent's messages and for the end of children, by a pipe that SIGCHLD writes to) - killing
all that the job has left - writing back - ENDED. Each way out tells the agent one last word, ENDED or FAILED, and
nothing after it; an init that ends without was killed.

The races. The agent's end: its socket is closed, and init ends, and with pid 1 all of the namespace. The keeper's end:
PR_SET_PDEATHSIG; had it ended before that was set, the socket `alive` says so. A child that fails before its exec says
so through a pipe that exec closes, so that a job's own end is never taken for that. The job's end while a message
waits: the status is looked for before each poll, and a message that is left unread is of no use any more. After ENDED
nothing of the job may still change a file at home: all its processes are reaped, then what shared mappings hold is
written back, and only then it is told.

From ``build_root`` on its files are the submit machine's: everything it will need is imported before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import socket
import termios

from remoteio.errors import RexecError, named
from remoteio.execute import machine
from remoteio.syscalls import syncfs
from shim.execute.init import descriptors, messages, namespaces, out_of_reach, resting
from shim.wire import scheduling, terminal_state
from shim.wire.descriptors import FILE, TERMINAL
from shim.wire.job_spec import JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.execute.init.tree_control import TreeControl

_STAGES = {
    "ids": "its user cannot be set",
    "limits": "its limits and its scheduling cannot be set",
    "cwd": "its working directory cannot be entered",
    "descriptor": "a file that it was to have open cannot be opened there",
}


def run(
    sock: socket.socket,
    plan: namespaces.Plan,
    spec: JobSpec,
    where: str,
    scratch: list[str],
    stdio: dict[int, int],
    alive: socket.socket,
) -> None:
    """Run the job, and never return. `stdio`: the job's end of each pipe by number, others of 0, 1, 2 are the terminal.

    `alive`: its other end is the keeper's alone, who sends the root, open, over it if the job makes no images.
    """
    try:
        places = namespaces.begin(where, scratch, plan)
    except RexecError as e:
        _fail(sock, 125, str(e).encode("utf-8", "backslashreplace"))
        os._exit(0)
    namespaces.die_with_parent()  # setresuid(2) would undo it
    if _broken(alive):
        os._exit(1)  # it died before we could say that we die with it
    os.setsid()
    spec.env.append(b"REXEC_HOST=" + os.fsencode(machine.name()))
    tree = None
    if spec.checkpoint is not None:
        from shim.execute.init.tree_control import TreeControl

        tree = TreeControl(sock)
    try:
        namespaces.build_root(where, spec, places, plan)
        out_of_reach.leave_abstract_sockets()
        out_of_reach.leave_keys()
        slave = -1
        if spec.tty:
            slave = _terminal(sock, spec, plan)
            others = (each.number for each in spec.descriptors if each.kind == TERMINAL)
            stdio = {**dict.fromkeys((0, 1, 2, *others), slave), **stdio}
        if tree is None:
            namespaces.number_pids()
            root = _Root(alive)
            rests = resting.Rests() if spec.stays else None
            status = _serve(sock, _start(spec, plan, stdio, slave), slave, set(stdio.values()) - {slave}, root)
            while rests is not None and rests.clean(slave):
                messages.send(sock, messages.RESTS, _outcome(status))
                spec, stdio = resting.next_job(sock)
                spec.env.append(b"REXEC_HOST=" + os.fsencode(machine.name()))
                slave = _terminal(sock, spec, plan) if spec.tty else -1
                stdio = {**dict.fromkeys((0, 1, 2) if spec.tty else (), slave), **stdio}
                status = _serve(sock, _start(spec, plan, stdio, slave), slave, set(stdio.values()) - {slave}, root)
        else:
            ends = {k: fd for k, fd in stdio.items() if fd != slave}
            tree.enter({**ends, -1: slave} if slave >= 0 else ends, [os.fsdecode(path) for path in spec.scratch])
            if spec.checkpoint is not None and spec.checkpoint.restore:
                ends = {}
            else:
                tree.job = _start(spec, plan, stdio, slave)
            status = _serve(sock, tree.job, slave, set(ends.values()), _Root(None), tree)
    except RexecError as e:
        _fail(sock, 125, str(e).encode("utf-8", "backslashreplace"))
    except OSError as e:
        host = spec.env[-1][len(b"REXEC_HOST=") :]
        why = b"the job cannot be started on %s: " % host + str(e).encode("utf-8", "backslashreplace")
        _fail(sock, 125, why)
    except _NoStart as e:
        _fail(sock, e.code, str(e).encode("utf-8", "surrogateescape"))
    except Exception as e:  # else nobody would hear what it was
        _fail(sock, 125, b"an error of rexec's own in the job's first process: " + named(e).encode())
    else:
        messages.send(sock, messages.ENDED, _outcome(status))
    os._exit(0)


def _outcome(status: int) -> bytes:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)  # all of its jobs': orphans are ours
    return b"%d %d" % (status, (spent.ru_utime + spent.ru_stime) * 1e6)


class _Root:
    """The root of the job's files, open: it comes from `keeper`, or is opened here, when it is first asked for."""

    def __init__(self, keeper: socket.socket | None) -> None:
        self._keeper, self._fd = keeper, -1

    def fd(self) -> int:
        if self._fd < 0:
            found = messages.receive(self._keeper, messages.KEEPER, messages.INIT)[2] if self._keeper else []
            self._fd = found[0] if found else os.open("/", os.O_RDONLY)
        return self._fd


def _fail(sock: socket.socket, code: int, why: bytes) -> None:
    messages.send(sock, messages.FAILED, b"%d " % code + why)


def _broken(end: socket.socket) -> bool:
    poll = select.poll()
    poll.register(end, 0)
    return bool(poll.poll(0))


class _NoStart(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def _terminal(sock: socket.socket, spec: JobSpec, plan: namespaces.Plan) -> int:
    """A terminal in the job's own devpts: its master goes to the agent, its slave becomes ours."""
    master, slave = os.openpty()
    if not plan.user:
        os.fchown(slave, spec.uid, -1)
    terminal_state.apply(slave, spec.tty)
    if spec.checkpoint is None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        messages.send(sock, messages.TERMINAL, fds=[master])
    else:
        st = os.fstat(slave)
        messages.send(sock, messages.TERMINAL, b"%d %d" % (st.st_rdev, st.st_dev), [master, slave])
    os.close(master)
    return slave


def _start(spec: JobSpec, plan: namespaces.Plan, stdio: dict[int, int], slave: int) -> int:
    """Fork and exec the job. Returns its pid. Raises _NoStart."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _exec(spec, plan, stdio, slave, tell)
        finally:
            os._exit(125)
    os.close(tell)
    try:
        if spec.checkpoint is None:
            os.setpgid(pid, pid)
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.ESRCH):
            raise  # EACCES: it has done so itself, and exec'ed
    said = b""
    while True:
        more = os.read(told, 4096)
        if not more:
            break
        said += more
    os.close(told)
    if not said:
        return pid
    os.waitpid(pid, 0)
    stage, _, number = said.partition(b" ")
    error = int(number)
    command = os.fsdecode(spec.argv[0])
    if stage == b"exec":
        if error == errno.ENOENT:
            raise _NoStart(127, "%s: command not found" % command)
        raise _NoStart(126, "%s: cannot be run: %s" % (command, os.strerror(error)))
    if stage == b"interpreter":
        raise _NoStart(127, "%s: cannot be run: the interpreter or loader it names is not there" % command)
    places = {b"cwd": [spec.cwd], b"descriptor": [d.path for d in spec.descriptors if d.needed and d.kind == FILE]}
    where = " (%s)" % os.fsdecode(b", ".join(places[stage])) if stage in places else ""
    raise _NoStart(125, "the job did not start, %s%s: %s" % (_STAGES[stage.decode()], where, os.strerror(error)))


def _exec(spec: JobSpec, plan: namespaces.Plan, stdio: dict[int, int], slave: int, tell: int) -> None:
    """In the job's process: become what the user's shell would have started. Returns only by os._exit in the caller."""
    stage = b"ids"
    try:
        if spec.checkpoint is None:
            os.setpgid(0, 0)
        else:
            namespaces.lead(slave)
        if slave >= 0:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(slave, os.getpid())
        tell = descriptors.settle(stdio, spec.descriptors, tell)
        stage = b"limits"
        for number, soft, hard in spec.limits:
            _limit(number, soft, hard)
        scheduling.take_on(spec.scheduling)
        stage = b"ids"
        namespaces.become(spec, plan)
        stage = b"cwd"
        os.chdir(spec.cwd)
        os.umask(spec.umask)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        stage = b"descriptor"
        descriptors.open_files(spec.descriptors)
        stage = b"exec"
        _search(spec)
    except _NoInterpreter:
        os.write(tell, b"interpreter %d" % errno.ENOENT)
    except OSError as e:
        os.write(tell, stage + b" %d" % (e.errno or errno.EIO))


def _limit(number: int, soft: int, hard: int) -> None:
    """The limit as at home, or as near to it as this host allows."""
    _, most = resource.getrlimit(number)
    if most != resource.RLIM_INFINITY:
        hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
        soft = hard if soft == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(number, (soft, hard))


class _NoInterpreter(Exception):
    pass


def _search(spec: JobSpec) -> None:
    """execvp(3), with the job's own PATH; a file without a first line of its own is given to /bin/sh."""
    name, env = spec.argv[0], dict(item.split(b"=", 1) for item in spec.env)
    places = [b""] if b"/" in name else [d or b"." for d in env.get(b"PATH", b"/bin:/usr/bin").split(b":")]
    worst = errno.ENOENT
    for place in places:
        path = place + b"/" + name if place else name
        try:
            try:
                os.execve(path, spec.argv, env)
            except OSError as e:
                if e.errno != errno.ENOEXEC:
                    raise
                os.execve(b"/bin/sh", [b"/bin/sh", path, *spec.argv[1:]], env)
        except OSError as e:
            if e.errno == errno.ENOENT and os.path.exists(path):
                raise _NoInterpreter from e
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                worst = e.errno or errno.EIO
                if e.errno != errno.EACCES:
                    break
    raise OSError(worst, os.strerror(worst))


def _serve(
    sock: socket.socket, job: int, slave: int, ends: set[int], root: _Root, tree: TreeControl | None = None
) -> int:
    """Serve until the job has ended and everything with it; its wait status. `job` 0: it is still to be restored."""
    for fd in ends:
        os.close(fd)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_w)
    if job:
        messages.send(sock, messages.STARTED)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(wake_r, select.POLLIN)
    early: list[int] = []  # signals to a job that home knows to run, before GOES_ON says here which it is
    while True:
        if tree is not None:
            job = tree.job
        while job and early:
            _signal(job, early.pop(0), slave)
        status = tree.status if tree is not None and tree.status is not None else _reap(sock, job, tree)
        if status is not None:
            break
        for fd, _ in poll.poll():
            if fd == wake_r:
                os.read(wake_r, 512)
            else:
                said, rest, fds = messages.receive(sock, messages.AGENT, messages.INIT)
                if said is None:
                    os._exit(1)  # the agent is gone
                if said is not messages.SIGNAL and tree is not None:
                    tree.take(said, rest, fds)
                elif not job:
                    early.append(int(rest))
                elif not (tree is not None and tree.stopped and int(rest) == signal.SIGCONT):
                    _signal(job, int(rest), slave)
                    if tree is not None and int(rest) == signal.SIGTSTP:
                        tree.suspend()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    for fd in (wake_r, wake_w):
        os.close(fd)
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it left nobody behind
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    # what was written through shared mappings is at home before the job counts as ended
    try:
        syncfs(root.fd())
    except OSError as e:
        raise RexecError("the last of what the job wrote could not be written: %s" % e.strerror) from e
    return status


def _reap(sock: socket.socket, job: int, tree: TreeControl | None) -> int | None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if os.WIFSTOPPED(status):
            if pid == job and not (tree is not None and tree.stopped):
                messages.send(sock, messages.STOPPED, b"%d" % os.WSTOPSIG(status))
        elif pid == job:
            return status
        elif tree is not None:
            tree.reaped(pid, status)


def _signal(job: int, number: int, slave: int) -> None:
    try:
        if number == signal.SIGCONT and slave >= 0 and os.getsid(job) != job:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            _bring_forward(job, slave)
        os.killpg(job, number)
    except ProcessLookupError:
        pass  # it has just ended: its status says so


def _bring_forward(job: int, slave: int) -> None:
    try:
        os.tcsetpgrp(slave, os.getpgid(job))
    except OSError as e:
        if e.errno not in (errno.EIO, errno.ENOTTY):  # it is hung up, as the one at home is
            raise
