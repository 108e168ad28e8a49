"""Stand-ins for the hosts of many jobs: one process that answers as an agent would, and an `ssh` that leads there.

What is measured of many jobs at home is rexec's own, over streams as ssh carries them. The agents would not fit beside
it on one machine: each job's here is a descriptor, and sends what the agent of a job sends that looks for a file each
second. `ssh` is a program that hands its stream over and waits, so that there is a process of that name for each job.
What else is begun on a host, such as the look at it, is the real thing, on this machine.
"""

from __future__ import annotations

import re
import selectors
import socket
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

from remoteio.wire import frames
from remoteio.wire import fuse_abi as abi
from shim.submit.hosts.bootstrap import local_argv
from tests.bench.process import BenchError, must

# passes its standard input, a socket both ways, to the server at SERVER, and ends when that lets go of it
_SSH = r"""
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_un at = {AF_UNIX, SERVER};
    int server = socket(AF_UNIX, SOCK_STREAM, 0), stream = 0;
    char byte = 0, room[CMSG_SPACE(sizeof stream)] = {0};
    struct iovec one = {&byte, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof stream);
    memcpy(CMSG_DATA(header), &stream, sizeof stream);
    if (connect(server, (struct sockaddr *)&at, sizeof at) || sendmsg(server, &message, 0) != 1)
        return 255;
    close(0), close(1);
    return read(server, &byte, 1) != 0;
}
"""
_AGENT = "shim.execute.main:main"
_REPLIES = frozenset((frames.FUSE, frames.KNOWN, frames.LEASED, frames.GRANTED))
_PULSE = 1.0  # seconds
_NAME = b"hello"
_INIT = abi.INIT_IN.pack(7, 39, 1 << 20, abi.INIT_EXT, 0)


class Job:
    """What stands for one job's agent, at the other end of `stream`; it has begun with so many bytes `first`."""

    def __init__(self, stream: socket.socket, first: bytes) -> None:
        self.stream, self._reader, self._unique, self.asked = stream, frames.FrameReader(), 1, 0.0
        self.answers = 0
        self._reader.feed(first)
        hello: dict[str, list[bytes]] = {"host": [b"stand-in"], "time": [b"%d" % time.time_ns()]}
        self._send(frames.HELLO, frames.pack_fields({**hello, "uids": [], "gids": []}))
        self._ask(abi.INIT, 0, _INIT)
        self._send(frames.STARTED)

    def pulse(self) -> None:
        """Give a sign of life, and look for a file."""
        self._send(frames.PING)
        self._ask(abi.LOOKUP, abi.ROOT_ID, _NAME + b"\0")

    def hears(self) -> bool:
        """Take what has come. False: it is over."""
        data = b""
        with suppress(OSError):
            data = self.stream.recv(1 << 16)
        self.answers += sum(kind in _REPLIES for kind, _ in self._reader.feed(data))
        return bool(data)

    def _ask(self, op: int, nodeid: int, body: bytes) -> None:
        self._unique += 2
        header = abi.IN_HEADER.pack(abi.IN_HEADER.size + len(body), op, self._unique, nodeid, 0, 0, 0, 0, 0)
        self._send(frames.FUSE, header + body)

    def _send(self, kind: int, payload: bytes = b"") -> None:
        with suppress(OSError):  # it has hung up, which is heard as well
            self.stream.sendall(frames.frame(kind, payload))


class StandIns:
    """Serves them, in a thread, in the directory `work`. `bin` has the `ssh`; `jobs` are those that are on."""

    def __init__(self, work: Path) -> None:
        """Raises BenchError where the `ssh` cannot be made."""
        self.bin, self.jobs, at = work / "bin", dict[int, Job](), work / "agents"
        self.bin.mkdir()
        (source := work / "ssh.c").write_text(_SSH.replace("SERVER", f'"{at}"'))
        must(["gcc", "-O1", "-o", str(self.bin / "ssh"), str(source)], "gcc")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(at))
        self._listener.listen(256)
        self._selector = selectors.EpollSelector()
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._serve, daemon=True).start()

    def _accept(self) -> None:
        while True:
            ssh, _ = self._listener.accept()
            _, fds, _, _ = socket.recv_fds(ssh, 1, 1)
            threading.Thread(target=self._begin, args=(ssh, socket.socket(fileno=fds[0])), daemon=True).start()

    def _begin(self, ssh: socket.socket, stream: socket.socket) -> None:
        """Read what is to be run, and run it."""
        stream.setblocking(True)
        size = _read(stream, 8)
        packed = _read(stream, int(size))
        told = zlib.decompress(packed)
        found = re.match(rb"P = .*'nonce': '(\w+)'.*'entry': '([\w.:]+)', 'follow': (\d+)", told)
        if found is None:
            raise BenchError(f"what is run on a host begins with {told[:200]!r}")
        if found[2].decode() != _AGENT:
            _really(ssh, stream, size + packed)
            return
        version = ".".join(map(str, sys.version_info[:3])).encode()
        stream.sendall(b"\n%s\t%s\thave\t\n" % (found[1], version))
        job = Job(stream, _read(stream, int(found[3])))
        self.jobs[stream.fileno()] = job
        self._selector.register(stream, selectors.EVENT_READ, (job, ssh))

    def _serve(self) -> None:
        due = time.monotonic()
        while True:
            for key, _ in self._selector.select(max(0.0, due - time.monotonic()) if self.jobs else _PULSE):
                job, ssh = key.data
                if not job.hears():
                    self._selector.unregister(job.stream)
                    del self.jobs[job.stream.fileno()]
                    job.stream.close()
                    ssh.close()
            if time.monotonic() >= due:
                due = time.monotonic() + _PULSE
                for job in list(self.jobs.values()):
                    job.pulse()


def _read(stream: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        data = stream.recv(size - len(found))
        if not data:
            raise BenchError("a stream ended before it began")
        found += data
    return found


def _really(ssh: socket.socket, stream: socket.socket, first: bytes) -> None:
    """Run it on this machine, which has read `first` of it."""
    with ssh, stream, subprocess.Popen(local_argv(), stdin=subprocess.PIPE, stdout=stream) as process:
        assert process.stdin is not None
        with suppress(OSError):  # it reads no more
            while first:
                process.stdin.write(first)
                process.stdin.flush()
                first = stream.recv(1 << 16)
        process.stdin.close()
