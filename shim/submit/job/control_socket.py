"""A job's control socket: a line of JSON in, lines of JSON out; `attach` turns the connection into frames.

The request is {"do": "checkpoint"|"vacate"|"hold"|"release"|"kill"|"stat"|"attach"|"whence"}, for a vacate with "host":
NAME. The answers: {"progress": [bytes, of, sent]} now and then, and at last {"done": true or false, "text": a sentence,
…}. `stat` is answered with "host" and "cost", as shim/submit/spent.py has it; `whence` once it is known from where the
job goes on, with "taken": whether that is where it runs. After `attach` is done both sides send frames of
remoteio/wire/frames.py: STDIN, WINSIZE and SIGNAL in; STDOUT, STDERR and, at the job's end, EXIT or FAIL out.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from remoteio.errors import RexecError
from shim.submit import threads

_LINE = 1 << 16
_BUSY = 0.5  # seconds


class ControlError(RexecError):
    """The job's supervisor cannot be talked to: one sentence."""


class Connection:
    """One client, at the supervisor's end."""

    __slots__ = ("sock",)

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def say(self, **words: object) -> None:
        """Send one line; a client that has gone misses it."""
        with contextlib.suppress(OSError):
            self.sock.sendall(json.dumps(words).encode() + b"\n")


Handler = Callable[[dict[str, object], Connection], None]


class Listener:
    """Listens at `path`, mode 0600, and has `handle` serve each client, in a thread of its own."""

    def __init__(self, path: Path, handle: Handler) -> None:
        """Raises ControlError."""
        self._path, self._handle = path, handle
        self._closed = False
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # of a supervisor that is no more: whoever serves holds the job's lock
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(path) as name:
                self._socket.bind(name)
            os.chmod(path, 0o600)
            self._socket.listen(16)
        except OSError as error:
            self._socket.close()
            raise ControlError(f"{path} cannot be made: {error.strerror}") from error
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more; who is in is served to the end."""
        self._closed = True
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes who accepts

    def _accept(self) -> None:
        with self._socket:
            while not self._closed:
                try:
                    sock, _ = self._socket.accept()
                except OSError:
                    if not self._closed:
                        time.sleep(_BUSY)  # no descriptor left (accept(2)): there is no event for one's becoming free
                    continue
                if not threads.begin(partial(_client, sock, self._handle)):
                    Connection(sock).say(done=False, text="its supervisor has no thread left to answer with: try again")
                    sock.close()


def _client(sock: socket.socket, handle: Handler) -> None:
    with sock:
        connection = Connection(sock)
        try:
            request = json.loads(read_line(sock))
            if not isinstance(request, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError, OSError) as error:
            connection.say(done=False, text=f"the request is not understood: {error}")
            return
        handle(request, connection)


def read_line(sock: socket.socket) -> bytes:
    """Read one line, and no byte beyond it. Raises ValueError if there is none."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte or len(line) > _LINE:
            raise ValueError("the connection ended in the middle of a line")
        line += byte
    return bytes(line)


def connect(path: Path) -> socket.socket:
    """Return a connection to the supervisor that listens there. Raises ControlError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            sock.connect(name)
    except OSError as error:
        sock.close()
        raise ControlError(
            f"job {path.parent.name} has no supervisor: `rexec resume {path.parent.name}` has it go on where it is, or "
            "from its last image"
        ) from error
    return sock


def ask(path: Path, **request: object) -> Iterator[dict[str, object]]:
    """Ask; every answer, the last one has "done". Raises ControlError."""
    with connect(path) as sock:
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            while True:
                answer = json.loads(read_line(sock))
                yield answer
                if "done" in answer:
                    return
        except (ValueError, OSError) as error:
            raise ControlError(
                f"the supervisor of job {path.parent.name} has ended: see `rexec log {path.parent.name}`"
            ) from error


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    # unix(7): 108 bytes, which a deep home directory exceeds
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
