"""The runtime, shipped over a stream to a bare python3 and started there.

The remote command is a constant: it reads the first stage (``shim/execute/stage.py``) from its standard input and runs
it. The stage answers with a line that begins with a nonce of ours, so that whatever login shells, their start-up files
and forced commands print before it is skipped. The runtime itself goes over only where the host's cache lacks it.
"""

from __future__ import annotations

import os
import select
import shlex
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from remoteio.errors import RexecError
from remoteio.printable import printable
from remoteio.submit.transport.stream import Stream, last_line

try:
    from _blake2 import blake2b  # hashlib would import OpenSSL, which takes 2 ms
except ImportError:
    from hashlib import blake2b

# What runs on an execute host lies in folders of its own, with what both ends use; all of them go over. So does what is
# used of jeepney, D-Bus for who watches an owner: a tenth of the payload, which goes over once, and so cheaper than a
# second payload in each host's cache. A folder's own __init__ goes along by itself.
_BOTH_ENDS = ("remoteio", "checkpoint")  # the modules right in them
_FOLDERS = (
    "remoteio.wire", "remoteio.execute", "checkpoint.wire", "checkpoint.execute",
    "shim.wire", "shim.execute", "shim.execute.agent", "shim.execute.init", "shim.execute.owner",
)  # fmt: skip
_JEEPNEY = ("auth", "bus", "bus_messages", "fds", "low_level", "wrappers")
STAGE = "shim.execute.stage"  # it asks for the others, and goes before them
PILOT = "shim.execute.pilot"  # it goes by an engine, as a program by itself
_OWNER = "shim.execute.owner_ad"  # a program of this machine's


@cache
def shipped() -> tuple[str, ...]:
    """Name the modules of the runtime, in order."""
    found = {f"jeepney.{name}" for name in _JEEPNEY}
    for folder in (*_BOTH_ENDS, *_FOLDERS):
        files = (name.removesuffix(".py") for name in os.listdir(_folder(folder)) if name.endswith(".py"))
        found |= {f"{folder}.{name}" for name in files if name != "__init__"}
    return tuple(sorted(found - {STAGE, PILOT, _OWNER}))


_FORMAT = b"rexec runtime 1\n"
_OLDEST = (3, 9)
# Noise before the marker beyond this is no banner.
_NOISE_BYTES = 1 << 20
_LINE_BYTES = 4096
# A person may be typing a password into ssh, and sshd grants 120 s for a login (LoginGraceTime, sshd_config(5)).
_DEADLINE_SECONDS = 150.0

# Right as words of sh, bash, dash, fish, csh and tcsh alike: single quotes, and neither backslash, ! nor newline.
# It reads no byte more than it asks for, which a buffer of one has for its meaning: what follows is the entry point's.
_LOADER = "import io,zlib;r=io.BufferedReader(io.FileIO(0),1).read;exec(zlib.decompress(r(int(r(8)))))"


class BootstrapError(RexecError):
    """The runtime could not be started on a host: what failed, why, what to do."""


class Facts(NamedTuple):
    """What the start showed: the python's version there, and whether the runtime was in the host's cache.

    ``runtime`` is "have" (it was), "kept" (sent, and kept for the next time), "memory" (sent, and not kept because
    of ``note``) or "waits" (an agent had it, and was waiting for a job).
    """

    python: tuple[int, ...]
    runtime: str
    note: str


class Runtime(NamedTuple):
    """The shipped modules as one payload: ``source`` as ``shim/execute/stage.py`` reads it, named by its ``hash``."""

    source: bytes
    hash: str


class Answer(NamedTuple):
    """One line of the stage."""

    python: tuple[int, ...]
    word: str
    detail: str


def command(python: str | None = None) -> str:
    """Make the remote command for any login shell. Raises BootstrapError for a ``python`` that not all can be told."""
    if python is None:
        python = "python3"
    if not python.isprintable() or set(python) & set("'\\!"):
        raise BootstrapError(f"cannot start {python!r} through a shell; name a python by a plain path")
    return f"exec {shlex.quote(python)} -ISc '{_LOADER}'"


def local_argv(python: str | None = None) -> list[str]:
    """Make the same command for a process on this machine."""
    return [python or sys.executable or "python3", "-ISc", _LOADER]


def start(
    stream: Stream,
    entry: str,
    *,
    modules: tuple[str, ...] | None = None,
    deadline: float = _DEADLINE_SECONDS,
    first: bytes = b"",
    meanwhile: Callable[[], object] = lambda: None,
) -> Facts:
    """Start ``entry`` ("module:function") at the far end of a stream on which ``command`` was run.

    `modules`: what the runtime is made of; ``shipped()`` unless a test has more to send. `first`: what the entry point
    is to read first, which is sent at once: a round trip less than to wait for the stage's answer. `meanwhile` is
    called while the far end is waited for, which has by then been told all that it needs to find the runtime there.

    There it is called as ``function(read_fd, write_fd)``; the process ends with what it returns (sys.exit). When this
    returns, not one byte beyond the stage's answer has been read from the stream, nor sent but for `first`.

    Raises BootstrapError if within ``deadline`` seconds the stage does not answer, or answers that it cannot;
    TransportError if the carrier failed.
    """
    until = time.monotonic() + deadline
    nonce = os.urandom(16).hex()
    runtime = collect(modules or shipped())
    try:
        _write(stream, first_bytes(stage_source(), nonce, runtime.hash, entry, len(first)) + first)
        meanwhile()
        answer = _answer(stream, nonce, until)
        if answer.word == "old":
            raise _too_old(stream, answer.python)
        if answer.word == "need":
            payload = zlib.compress(runtime.source, 1)
            _write(stream, b"%08d" % len(payload) + payload + first)  # the stage has passed over the other
            answer = _answer(stream, nonce, until)
    except _Ended as ended:
        raise _why_ended(stream, ended.noise) from None
    return Facts(answer.python, answer.word, answer.detail)


@cache
def collect(modules: tuple[str, ...]) -> Runtime:
    """Read the sources of ``modules`` and of the packages above them, in order of name, from where they are installed.

    Once: what changes there while this process serves a job is not sent to the job's next host.
    Raises BootstrapError if one has no source.
    """
    names = {".".join(parts[: i + 1]) for parts in (name.split(".") for name in modules) for i in range(len(parts))}
    pieces = []
    for name in sorted(names):
        package, source = _read(name)
        pieces.append(b"%s %d %d\n" % (name.encode(), package, len(source)) + source)
    whole = b"".join(pieces)
    return Runtime(whole, blake2b(_FORMAT + stage_source() + whole, digest_size=16).hexdigest())


def stamp() -> tuple[object, ...]:
    """Tell the runtime from those before and after it by its files as they are now; reading them takes 20 ms."""
    found = []
    for folder in (*_BOTH_ENDS, *_FOLDERS):
        with os.scandir(_folder(folder)) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    found.append((folder, entry.name, status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))


@cache
def _folder(package: str) -> str:
    """Return where the package lies. find_spec of one in another would import that: all of jeepney, at every start."""
    above, _, last = package.rpartition(".")
    return f"{_folder(above)}/{last}" if above else os.path.dirname(_origin(package))


def _origin(top: str) -> str:
    spec = find_spec(top)
    return spec.origin or "" if spec is not None else ""


def _read(name: str) -> tuple[bool, bytes]:
    """Read a module: whether it is a package, and its source. Raises BootstrapError. (No pathlib: every run waits.)"""
    above, _, last = name.rpartition(".")
    files = [f"{_folder(above)}/{last}.py", f"{_folder(name)}/__init__.py"] if above else [_origin(name)]
    for path in files:
        with suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
            if path.endswith(".py"):
                return path.endswith("/__init__.py"), file.readall()
    raise BootstrapError(f"the module {name} of rexec is not here as source; install rexec anew")


@cache
def stage_source() -> bytes:
    """Read the text of the first stage."""
    return _read(STAGE)[1]


def pilot_source() -> bytes:
    """Read the text of the pilot."""
    return _read(PILOT)[1]


def first_bytes(stage: bytes, nonce: str, runtime_hash: str, entry: str, follow: int = 0) -> bytes:
    """Write what the remote command reads: eight digits of length, then the stage behind its parameters, compressed.

    `follow`: so many bytes for the entry point come right behind.
    """
    parameters = {"nonce": nonce, "hash": runtime_hash, "entry": entry, "follow": follow}
    text = zlib.compress(b"P = %s\n" % ascii(parameters).encode() + stage)
    return b"%08d" % len(text) + text


def parse_answer(line: bytes) -> Answer:
    """Read one line of the stage, without nonce and newline. Raises BootstrapError if it is none."""
    fields = line.decode("utf-8", "replace").split("\t")
    if len(fields) != 3 or fields[1] not in ("old", "have", "need", "kept", "memory"):
        raise BootstrapError(f"the host answered {line[:80]!r}, which is no answer of rexec's; check its login files")
    version = tuple(int(part) for part in fields[0].split(".")[:3] if part.isdecimal() and len(part) < 6)
    return Answer(version, fields[1], printable(fields[2], 300))


class _Ended(Exception):
    def __init__(self, noise: bytes) -> None:
        self.noise = noise


def _answer(stream: Stream, nonce: str, until: float) -> Answer:
    # Byte by byte: what follows the line belongs to the entry point, and may be here already.
    marker = b"\n" + nonce.encode() + b"\t"
    noise = bytearray()
    while not noise.endswith(marker):
        noise += _byte(stream, until, noise)
        if len(noise) > _NOISE_BYTES:
            raise BootstrapError(
                f"{stream.destination} sent {_NOISE_BYTES >> 20} MiB of something else instead of starting python3; "
                f"make its login files silent for commands"
            )
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES:
        line += _byte(stream, until, noise)
    return parse_answer(bytes(line[:-1]))


def _byte(stream: Stream, until: float, noise: bytearray) -> bytes:
    poll = select.poll()
    poll.register(stream.read_fd, select.POLLIN)
    if not poll.poll(max(0, int((until - time.monotonic()) * 1000))):
        raise BootstrapError(
            f"{stream.destination} did not start python3 in time; see whether `ssh {stream.destination} true` is quick"
        )
    try:
        byte = os.read(stream.read_fd, 1)
    except ConnectionResetError:
        # The other end left bytes of ours unread; a socket says so once, and then gives what it still has.
        byte = os.read(stream.read_fd, 1)
    if not byte:
        raise _Ended(bytes(noise))
    return byte


def _write(stream: Stream, data: bytes) -> None:
    # Where the other end is gone already, what it said before is still to be read, and tells why.
    view = memoryview(data)
    with suppress(ConnectionError):
        while view:
            view = view[os.write(stream.write_fd, view) :]


def _too_old(stream: Stream, version: tuple[int, ...]) -> BootstrapError:
    wanted, found = (".".join(map(str, each)) for each in (_OLDEST, version))
    return BootstrapError(
        f"the python3 of {stream.destination} is {found}, and {wanted} is the oldest that will do; install a newer "
        f"one there and name it as `python` of this host in hosts.toml"
    )


def _why_ended(stream: Stream, noise: bytes) -> RexecError:
    status = stream.wait(5.0)
    said = last_line(stream.stderr_tail()) or last_line(noise.decode("utf-8", "replace"))
    if status is None or status == 255:
        return stream.failure()
    if status == 127 or "not found" in said.lower() or "unknown command" in said.lower():
        return BootstrapError(
            f"there is no python3 on {stream.destination} ({said or 'status 127'}); install python3 there, or name "
            f"one as `python` of this host in hosts.toml"
        )
    if not said:
        return stream.failure()
    return BootstrapError(
        f"python3 did not start on {stream.destination}: it ended with status {status}, saying {said!r}; see whether "
        f"`ssh {stream.destination} python3 -V` works"
    )
