"""A run's way to an agent that waits on its host for the next job: it is asked for where one is kept, and left behind.

For some minutes after a run a process of this user's here, the keeper (keeper.py), has a connection to its host, at the
far end of which an agent waits (shim/execute/spare.py). The next run to that host is given the connection and starts
its job by one message; all else is as with a connection of its own. Where there is none, or the host does not
answer over it, the run makes its own as ever: no job can have begun, as none of its files was there to be looked at.

The keeper's socket lies in a directory that no job sees (shim/submit/protect.py). It is asked in packets: "run", which
is answered by "no", or by "yes", whether an answer of the host's is under way, python's version there, and how many
microseconds a round trip takes (0: that is not known yet), with the connection's descriptor; the socket stays open as
long as the run. "served" is "run" of one whose files another process may serve; where one does, the answer is "served"
in place of "yes", or "again" where it has served others, and the descriptor is of a socket to that one
(shim/submit/resident_words.py). "end" and destinations, if not all are meant, ends the keeper of these; it answers
with its own.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from checkpoint.submit import xdg
from remoteio.submit import programs
from remoteio.submit.transport.stream import Stream, TransportError, user_config
from shim.submit import own_code
from shim.submit.hosts import bootstrap
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host
from shim.wire import kept

try:
    from _blake2 import blake2b  # hashlib would import OpenSSL, which takes 2 ms
except ImportError:
    from hashlib import blake2b

SECONDS = 5 * 60
"""How long a connection is kept after a run, by default."""

PACKET = 4096
_KEEPER = "shim.submit.hosts.keeper"
_PATIENCE = 1.0  # seconds for a keeper that is just making a connection: one's own takes about as long
_ENDS = 70.0  # seconds for one that is asked to end: it may be making a connection
_ANSWERS = 3.0  # seconds for the host; longer than any round trip at which somebody would work
_CREDENTIALS = struct.Struct("3i")  # struct ucred


def directory() -> Path:
    """Name the directory of the keepers' sockets."""
    return xdg.cache() / "kept"


def name(host: Host) -> str:
    """Name the socket of the keeper of connections as this process would make them to `host`."""
    stamps = []
    for file in (user_config(), "/etc/ssh/ssh_config"):
        with contextlib.suppress(OSError):
            found = os.stat(file)
            stamps.append((file, found.st_mtime_ns, found.st_ino))
    agent = os.environ.get("SSH_AUTH_SOCK")
    told = repr((host.ssh, host.options, host.python, agent, stamps, bootstrap.stamp()))
    return blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """Name a socket by its directory's descriptor: an address has room for 108 bytes (unix(7)). Raises OSError."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise PermissionError(f"{path.parent} is another user's")
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def ours(sock: socket.socket) -> bool:
    """Tell whether it is a process of this user's that is at the other end."""
    return _credentials(sock)[1] == os.geteuid()


def peer(sock: socket.socket) -> int:
    """Return the process at the other end."""
    return _credentials(sock)[0]


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid, gid


def ask(path: Path, *words: bytes) -> socket.socket:
    """Connect to the keeper that listens at `path`, and ask it. Raises OSError: nobody listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with short(path) as at:
            sock.connect(at)
        if not ours(sock):
            raise PermissionError(f"{path} is another user's")
        sock.settimeout(_PATIENCE)
        sock.send(b"\0".join(words))
    except BaseException:
        sock.close()
        raise
    return sock


def end(destinations: Sequence[str]) -> Iterator[str]:
    """End the keepers of connections to `destinations`, or all where none is given; each destination that one had."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(directory().iterdir()):
            with contextlib.suppress(OSError), ask(path, b"end", *map(_bytes, destinations)) as keeper:
                keeper.settimeout(_ENDS)
                said = keeper.recv(PACKET)
                if said:
                    yield said.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class KeptStream(Stream):
    """A stream that the keeper's ssh carries: what was written to it gets there when this process has ended, too.

    `served`: it leads to a resident.
    """

    lingers = True

    def __init__(self, destination: str, fd: int, trip: int, served: bool = False) -> None:
        self.destination, self.trip, self.served = destination, trip, served
        self.read_fd = self.write_fd = fd

    def wait(self, timeout: float | None) -> int | None:
        return None  # it is the keeper's child

    def stderr_tail(self) -> str:
        return ""

    def failure(self) -> TransportError:
        if self.served:
            there = f"{self.destination} is told to end the job, or ends it when its lease is over"
            return TransportError(f"the process here that served its files was killed; {there}; run it again")
        return TransportError(f"the connection to {self.destination} that was kept has ended; see whether it is up")

    def close(self, *, done: bool = False) -> None:
        if self.read_fd >= 0:
            os.close(self.read_fd)
            self.read_fd = self.write_fd = -1


class Kept:
    """What one run has to do with the keeper of its host's connections.

    Threads: one, the run's main one.
    """

    def __init__(self, seconds: int, *, served: bool = False) -> None:
        """`seconds`: how long a connection is to be kept after the run; 0: not at all, and none is asked for. `served`:
        the run's files may be by another process."""
        self._seconds, self._served = seconds, served
        self._declined = False  # by who serves others' files
        self._keeper: socket.socket | None = None
        self._host: Host | None = None  # none is kept for it yet
        self._held = -1  # what the keeper is given that `leave` starts

    def take(
        self, host: Host, first: Callable[[Stream], bytes], meanwhile: Callable[[], object]
    ) -> tuple[Stream, Facts] | None:
        """Have a stream to an agent that waits on `host`; None: there is none.

        `first` gives what it is sent at once, the job or nothing, and `meanwhile` is called while it is waited for. As
        long as it has said nothing it was answered nothing, so where None is returned the job has not begun.
        """
        if not self._seconds or host.ssh is None or programs.find("ssh") is None:
            return None
        self._declined = False
        found = self._take(host, b"served" if self._served else b"run", first, meanwhile)
        return self._take(host, b"run", first, meanwhile) if self._declined else found

    def _take(
        self, host: Host, wanted: bytes, first: Callable[[Stream], bytes], meanwhile: Callable[[], object]
    ) -> tuple[Stream, Facts] | None:
        assert host.ssh is not None
        self.close()
        try:
            self._keeper = ask(directory() / name(host), wanted)
        except (OSError, RuntimeError):
            self._host = host
            return None
        try:
            taken = self._taken(host.ssh, self._keeper)
            if taken is None:
                return None
            stream, under_way, python, how = taken
            if _takes_it(stream, int(under_way), first(stream), meanwhile):
                return stream, Facts(tuple(map(int, python.split(b"."))), how, "")
            stream.close(done=True)
            self._declined = stream.served
        except TimeoutError:
            self.close()  # it would give what it makes just now to nobody
        except (OSError, ValueError):
            return None
        return None

    def _taken(self, destination: str, keeper: socket.socket) -> tuple[Stream, bool, bytes, str] | None:
        said, found, _, _ = keeper.recvmsg(PACKET, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for _, _, data in found:
            fds.frombytes(data)
        words = said.split()
        if not fds or len(words) != 4 or words[0] not in (b"yes", b"served", b"again"):
            return None
        stream = KeptStream(destination, fds[0], int(words[3]), words[0] != b"yes")
        return stream, words[1] == b"1", words[2], "stays" if words[0] == b"again" else "waits"

    def hold(self, fd: int) -> None:
        """Have the keeper close a descriptor after this run: it lies in its socket until then, or is given to the one
        that is still to be started. For one descriptor, before `leave`."""
        if self._keeper is not None:
            with contextlib.suppress(OSError):  # it has ended
                socket.send_fds(self._keeper, [b"held"], [fd])
        elif self._host is not None:
            self._held = os.dup(fd)

    def close(self) -> None:
        """End this run's part."""
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    def leave(self, stream: Stream) -> None:
        """Have a connection kept for the next run, after this one over `stream`, unless somebody does already.

        Where a person was asked for something, none is: nobody is asked for what he has not begun.
        """
        host, self._host = self._host, None
        if host is not None and not stream.asked():
            _keep(host, self._seconds, self._held)


def _takes_it(stream: Stream, owed: int, first: bytes, meanwhile: Callable[[], object]) -> bool:
    """Offer a job to the agent at its other end, which `owed` an answer before. False: it does not answer."""
    try:
        told = memoryview(kept.BEGIN + first)
        while told:
            told = told[os.write(stream.write_fd, told) :]
        meanwhile()
        answered = select.poll()
        answered.register(stream.read_fd, select.POLLIN)
        # who serves others is waited for: once it has told its host, nobody else may begin the job
        patience = None if stream.served else _ANSWERS * 1000
        return all(answered.poll(patience) and os.read(stream.read_fd, 1) == kept.YES for _ in range(owed + 1))
    except OSError:
        return False


def _keep(host: Host, seconds: int, held: int) -> None:
    """Start a keeper, in the background, which is to close `held`, if that is one; where none can be, there is none."""
    import subprocess  # who is given a connection starts nobody

    assert host.ssh is not None
    with contextlib.suppress(OSError):
        subprocess.Popen(
            [*own_code.command(_KEEPER), str(seconds), host.python or "", host.ssh, *host.options],
            stdin=held if held >= 0 else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
