"""`--forward`: a job on a host and a program here reach each other's ports over the job's link, and nothing else."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType

import psutil
import pytest

from tests.job_commands import Mover, vacate
from tests.program import Combo
from tests.until import HANG, until

WAYS = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "local-root"))
PYTHON = "/usr/bin/python3"
CONNECT = """
import os, socket, sys
address, port = os.environ["REXEC_FORWARD_" + sys.argv[1]].split(":")
def connected():
    return socket.create_connection((address, int(port)))
"""
LISTEN = """
import os, socket, sys
address, port = os.environ["REXEC_FORWARD_" + sys.argv[1]].split(":")
server = socket.create_server((address, int(port)))
print("listens", flush=True)
"""
# What a program here does with a port that leads to a job: it sends all that it reads, and prints what comes back.
CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.sendall(sys.stdin.buffer.read())
    sock.shutdown(socket.SHUT_WR)
    while data := sock.recv(1 << 20):
        sys.stdout.buffer.write(data)
"""


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(HANG)
        yield made


def all_of(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := sock.recv(1 << 20):
        found += data
    return bytes(found)


# On `local` 127.0.0.1 is this machine's own.
@pytest.mark.where(lambda combo, form: combo == "user-alice" or (combo == "local-root" and form != "{0}"))
@pytest.mark.parametrize("form", ["{0}", "any:{0}"])
def test_a_job_reaches_a_port_here_and_no_other(combo: Combo, server: socket.socket, form: str) -> None:
    port = server.getsockname()[1]
    job = CONNECT + (
        "with connected() as sock:\n"
        "    sock.sendall(sys.stdin.buffer.read())\n"
        "    sock.shutdown(socket.SHUT_WR)\n"
        "    print(sock.recv(99).decode(), flush=True)\n"
        "    sock.recv(1)\n"  # home's own end comes after that of its port
        "try:\n"
        "    with connected() as sock: sock.recv(1)\n"
        "except ConnectionResetError: print('reset')\n"
    )
    sent = os.urandom(3_000_000)
    with combo.popen(
        [PYTHON, "-c", job, str(port)], options=["--forward", form.format(port)], stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(sent)
        process.stdin.close()
        process.stdin = None
        with server.accept()[0] as one:
            one.settimeout(HANG)
            assert all_of(one) == sent
            one.sendall(b"took it")
            server.close()  # from now on it is refused
        out, err = process.communicate(timeout=HANG)
    assert (process.returncode, out, err) == (0, b"took it\nreset\n", b"")


@WAYS
def test_what_a_job_sends_last_arrives(combo: Combo, server: socket.socket) -> None:
    port = server.getsockname()[1]
    job = CONNECT + (
        "sock = connected(); sock.recv(1)\n"  # whose it is cannot be seen of one that has closed it by then
        "open('made', 'w').write('text'); sock.sendall(bytes(range(256)) * 4000)\n"
    )
    with combo.popen([PYTHON, "-c", job, str(port)], options=["--forward", f"any:{port}"]) as process:
        with server.accept()[0] as one:
            one.settimeout(HANG)
            one.sendall(b"x")
            assert one.recv(1) == b"\0"
            assert (combo.dir / "made").exists()  # what it did to files comes before what it says
            assert all_of(one) == (bytes(range(256)) * 4000)[1:]
        assert process.communicate(timeout=HANG) == (b"", b"")


@WAYS
def test_a_port_here_leads_to_the_job(combo: Combo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    job = LISTEN + (
        "sock = server.accept()[0]\ndata = b''.join(iter(lambda: sock.recv(1 << 20), b''))\nsock.sendall(data[::-1])\n"
    )
    with combo.popen([PYTHON, "-c", job, str(port)], options=["--forward", f"here:{port}:any"]) as process:
        assert process.stdout is not None and process.stdout.readline() == b"listens\n"
        if combo.as_user != "root":  # root here is another user of this machine
            with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", port)) as other:
                other.recv(1)
        sent = os.urandom(2_000_000)
        done = combo.here([PYTHON, "-c", CLIENT, str(port)], stdin=sent)
        assert done.stdout == sent[::-1]
        assert process.communicate(timeout=HANG) == (b"", b"")


@WAYS
def test_a_port_that_is_taken_here_is_told_in_a_sentence(combo: Combo, server: socket.socket) -> None:
    port = server.getsockname()[1]
    done = combo.run(["true"], options=["--forward", f"here:{port}"])
    assert done.returncode == 125
    assert b"--forward: nothing can listen at 127.0.0.1:%d" % port in done.stderr


@pytest.mark.where(lambda combo: combo == "user-alice")
def test_a_connection_goes_on_through_cuts(combo: Combo, server: socket.socket) -> None:
    """Each byte arrives once and in order, whichever of them were under way."""
    port = server.getsockname()[1]
    job = CONNECT + (
        "import hashlib\n"
        "seen = hashlib.sha256()\n"
        "with connected() as sock:\n"
        "    while data := sock.recv(1 << 16):\n"
        "        seen.update(data)\n"
        "        sock.sendall(data)\n"
        "print(seen.hexdigest())\n"
    )
    with combo.popen([PYTHON, "-c", job, str(port)], options=["--forward", f"any:{port}"]) as process:
        sent, came = hashlib.sha256(), hashlib.sha256()
        with server.accept()[0] as one:
            one.settimeout(HANG)
            for number in range(4):
                part = os.urandom(700_000)
                left = len(part)
                sent.update(part)
                one.sendall(part[: left // 2])
                if number:
                    for each in psutil.Process(process.pid).children():
                        with suppress(psutil.NoSuchProcess):
                            each.kill()  # ssh
                one.sendall(part[left // 2 :])
                while left:
                    data = one.recv(left)
                    assert data
                    came.update(data)
                    left -= len(data)
        out, err = process.communicate(timeout=HANG)
    assert (out.decode().strip(), came.hexdigest(), err) == (sent.hexdigest(), sent.hexdigest(), b"")


MOVED = (
    CONNECT
    + """
number = 0
while True:
    try:
        with connected() as sock:
            while True:
                sock.sendall(b"%d\\n" % number)
                if sock.recv(1) == b"e":
                    sys.exit(0)
                number += 1
    except OSError:  # it has moved: its connection has not
        continue
"""
)


@pytest.mark.where(lambda mover: mover == "user")
def test_a_job_that_moves_finds_the_port_again(mover: Mover, server: socket.socket, desk: ModuleType) -> None:
    """Its connections are reset, and lead from the next host to the same port here."""
    port = server.getsockname()[1]
    job = mover.submit(PYTHON, "-c", MOVED, str(port), options=("--forward", f"any:{port}"))
    seen: list[int] = []

    def serve() -> socket.socket:
        """Let it count for a while; the connection, which waits for an answer."""
        one = server.accept()[0]
        one.settimeout(HANG)
        lines = one.makefile("rb")
        for _ in range(5):
            if not (line := lines.readline()):
                return serve()
            seen.append(int(line))
            one.sendall(b"g")
        return one

    first = serve()
    vacate(mover, job)
    with pytest.raises(ConnectionResetError):
        all_of(first)
    second = serve()
    second.sendall(b"e")
    until(lambda: mover.ended(job) == "done", mover.verb("log", job))
    assert seen == sorted(seen) and len(seen) >= 10
    assert len(set(seen)) >= len(seen) - 2  # what was under way is said again
    assert "execute     beta" in mover.verb("log", job)
    for each in (first, second):
        each.close()
