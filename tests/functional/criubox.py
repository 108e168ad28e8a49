"""A job's namespaces with an agent outside them, as rexec makes them, for tests of CRIU on a real kernel.

The agent (this process) stays in the host's namespaces and holds the outer ends of pipes and ptys. Pid 1 of the new
pid namespace is a fork of it that serves requests from a socket: it starts jobs and criu, and reaps.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from checkpoint.execute import criu
from checkpoint.wire import criu_bundle
from remoteio.syscalls import fork_as
from shim.execute.init.tree_control import CRIU_PIDS

libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNS, NEWPID = 0x10000000, 0x20000, 0x20000000
MS_REC, MS_PRIVATE, MS_BIND = 0x4000, 1 << 18, 0x1000
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 24, 36
CAP_VERSION_3 = 0x20080522
TIOCSCTTY = 0x540E


def check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def drop_capabilities() -> None:
    """No capability now nor after any exec, though the job may be uid 0 of its user namespace."""
    for cap in range(64):
        if libc.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0:
            break
    header = ctypes.create_string_buffer(struct.pack("<Ii", CAP_VERSION_3, 0))
    check(libc.capset(header, ctypes.create_string_buffer(24)), "capset")


class Box:
    """New mount and pid namespaces (and a user namespace unless root), seen from outside."""

    def __init__(self, root: Callable[[], None] | None = None) -> None:
        """root, called in the new mount namespace, may make another root; without it the host's files are seen."""
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.outer = os.fork()
        if self.outer == 0:
            status = 70
            try:
                self.sock.close()
                status = self._namespaces(theirs, root)
            finally:
                os._exit(status)
        theirs.close()

    def _namespaces(self, sock: socket.socket, root: Callable[[], None] | None) -> int:
        uid, gid = os.getuid(), os.getgid()
        check(libc.unshare((NEWUSER if uid else 0) | NEWNS | NEWPID), "unshare")
        if uid:
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                with open("/proc/self/" + name, "w") as f:
                    f.write(text)
        check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "make / private")
        first = os.fork()
        if first:
            sock.close()
            return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 255
        if root is None:
            check(libc.mount(b"proc", b"/proc", b"proc", 0, None), "mount /proc")
            check(libc.mount(b"devpts", b"/dev/pts", b"devpts", 0, b"newinstance,ptmxmode=0666"), "mount devpts")
        else:
            root()
        self._serve(sock)
        return 0

    def _serve(self, sock: socket.socket) -> None:
        ended: dict[int, int] = {}
        while True:
            data, fds, _, _ = socket.recv_fds(sock, 1 << 16, 16)
            if not data:
                return
            q = json.loads(data)
            out: list[int] = []
            reply: Any = None
            try:
                if q["op"] == "spawn":
                    # criu as shim/execute/init/tree_control.py starts it: below all the job's numbers, which the job
                    # counts on meanwhile
                    reply = self._spawn(q, fds, sock)
                elif q["op"] == "pty":
                    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
                    number = array.array("i", [0])
                    fcntl.ioctl(master, 0x40045431, array.array("i", [0]))  # TIOCSPTLCK: unlock
                    fcntl.ioctl(master, 0x80045430, number)  # TIOCGPTN
                    out = [master, os.open(f"/dev/pts/{number[0]}", os.O_RDWR | os.O_NOCTTY)]
                elif q["op"] == "open":
                    out = [os.open(q["path"], q["flags"])]
                elif q["op"] == "write":
                    with open(q["path"], "w") as f:
                        f.write(q["text"])
                elif q["op"] == "wait":
                    while q["pid"] not in ended:
                        pid, status = os.waitpid(-1, 0)
                        ended[pid] = os.waitstatus_to_exitcode(status)
                    reply = ended.pop(q["pid"])
                elif q["op"] == "read":
                    with open(q["path"], "rb") as f:
                        reply = f.read(1 << 15).decode("latin-1")
                elif q["op"] == "children":
                    reply = sorted(int(p) for p in os.listdir("/proc") if p.isdigit() and p not in ("1",))
                elif q["op"] == "kill":
                    os.kill(q["pid"], q["signal"])
                answer: dict[str, Any] = {"value": reply}
            except OSError as e:
                answer = {"error": str(e)}
            for fd in fds:
                os.close(fd)
            message = json.dumps(answer).encode()
            if out:
                socket.send_fds(sock, [message], out)
                for fd in out:
                    os.close(fd)
            else:
                sock.send(message)

    def _spawn(self, q: dict[str, Any], fds: list[int], sock: socket.socket) -> int:
        pid = fork_as(q["number"]) if q["number"] else os.fork()
        if pid:
            return pid
        try:
            if q["session"]:
                os.setsid()
            wanted = {int(k): v for k, v in q["numbers"].items()}
            high = {t: fcntl.fcntl(fds[i], fcntl.F_DUPFD, 200) for t, i in wanted.items()}
            for target, fd in high.items():
                os.dup2(fd, target, inheritable=True)
            if q["tty"]:
                fcntl.ioctl(0, TIOCSCTTY, 0)
            keep = sorted(wanted)
            low = 3
            for target in [*keep, 4096]:
                if target >= low:
                    os.closerange(low, target)
                    low = target + 1
            if q["subreaper"]:
                check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl subreaper")
            if not q["caps"]:
                drop_capabilities()
            os.chdir(q["cwd"])
            os.execve(q["argv"][0], q["argv"], q["env"])
        finally:
            os._exit(127)

    def ask(self, op: str, fds: list[int] | None = None, **fields: Any) -> tuple[Any, list[int]]:
        socket.send_fds(self.sock, [json.dumps({"op": op, **fields}).encode()], fds or [])
        data, got, _, _ = socket.recv_fds(self.sock, 1 << 18, 8)
        if not data:
            raise RuntimeError("the namespaces' init has died")
        answer = json.loads(data)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"], got

    def spawn(
        self,
        argv: list[str],
        fds: dict[int, int],
        *,
        caps: bool = False,
        session: bool = True,
        subreaper: bool = True,
        tty: bool = False,
        cwd: str = "/",
        env: dict[str, str] | None = None,
        number: int = 0,
    ) -> int:
        """Start argv in the box with exactly these descriptors; its pid there: `number`, or the next."""
        numbered = {str(target): index for index, target in enumerate(fds)}
        if env is None:
            env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/", "LC_ALL": "C.UTF-8", "TERM": "vt100"}
        pid, _ = self.ask(
            "spawn", list(fds.values()), argv=argv, numbers=numbered, caps=caps, session=session,
            subreaper=subreaper, tty=tty, cwd=cwd, env=env, number=number,
        )  # fmt: skip
        return int(pid)

    def wait(self, pid: int) -> int:
        return int(self.ask("wait", pid=pid)[0])

    def last_pid(self, number: int) -> None:
        self.ask("write", path="/proc/sys/kernel/ns_last_pid", text=str(number))

    def null(self) -> int:
        """A descriptor of /dev/null that was opened inside."""
        return int(self.ask("open", path="/dev/null", flags=os.O_RDWR)[1][0])

    def criu(
        self,
        bundle: str,
        images: Path,
        request: bytes,
        inherited: dict[int, int] | None = None,
        notified: Callable[[criu.Answer], bool] = lambda told: True,
    ) -> criu.Answer:
        """Run criu in the box from the bundle's directory; inherited: {its descriptor: ours}."""
        images.mkdir(exist_ok=True)
        criu.prepare(str(images))
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.settimeout(60)
        said = os.open(images / criu.STDERR_NAME, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        opened = [os.open("/dev/null", os.O_RDWR), said, os.open(bundle, os.O_PATH), os.open(images, os.O_RDONLY)]
        fds = {0: opened[0], 1: said, 2: said, criu.SOCKET_FD: theirs.fileno()}
        fds |= {criu.BUNDLE_FD: opened[2], criu.IMAGES_FD: opened[3], criu.WORK_FD: opened[3], **(inherited or {})}
        command = criu.argv(criu_bundle.LOADER, criu_bundle.LIBRARY_DIRS, criu_bundle.PROGRAM)
        pid = self.spawn(command, fds, caps=True, subreaper=False, env=criu.environment(), number=CRIU_PIDS + 1)
        for fd in [*opened, theirs.detach()]:
            os.close(fd)
        try:
            return criu.converse(mine, request, notified)
        finally:
            mine.close()
            self.wait(pid)

    def close(self) -> None:
        self.sock.close()
        os.waitpid(self.outer, 0)


@contextlib.contextmanager
def box(root: Callable[[], None] | None = None) -> Iterator[Box]:
    b = Box(root)
    try:
        yield b
    finally:
        b.close()
