"""A job's sockets on their way to a host with other addresses and other ports taken; root and an ordinary user."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.functional.test_moving import PYTHON, Make, Run, caches, run, uid
from tests.mover import until

__all__ = ["caches", "run", "uid"]

# A host's addresses: those of another host as soon as a line comes.
ADDRESSES = """
ip link add host0 type veth peer name host1 && ip link set host0 up && ip link set host1 up
ip address add 203.0.113.1/24 dev host0
ip address add 2001:db8::1/64 dev host0 nodad
echo had; read x
ip address flush dev host0
ip address add 198.51.100.1/24 dev host0
ip route add 203.0.113.0/24 dev host0
echo moved; read x
ip link del host0
"""


@pytest.fixture
def addresses() -> Iterator[subprocess.Popen[bytes]]:
    """203.0.113.1 and 2001:db8::1, until a line is written to its stdin; then 198.51.100.1."""
    with subprocess.Popen(["sh", "-ec", ADDRESSES], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None and shell.stdin is not None
        assert shell.stdout.readline() == b"had\n"
        yield shell
        shell.stdin.write(b"\n\n")
    assert shell.returncode == 0


def other_host(shell: subprocess.Popen[bytes]) -> None:
    said: IO[bytes] | None = shell.stdout
    assert shell.stdin is not None and said is not None
    shell.stdin.write(b"\n")
    shell.stdin.flush()
    assert said.readline() == b"moved\n"


JOB = """
import errno, json, os, socket, sys, time
def tried(what, *args):
    try:
        got = what(*args)
        return got.decode() if isinstance(got, bytes) else got
    except OSError as e:
        return errno.errorcode.get(e.errno, "timeout")
def udp(family=socket.AF_INET):
    return socket.socket(family, socket.SOCK_DGRAM)
def wait():
    print("ready", flush=True)
    while not os.path.exists("go"):
        time.sleep(.02)
"""

OUTSIDE = """
asks, asks6 = udp(), udp(socket.AF_INET6)
asks.connect(("203.0.113.9", 8125))
asks6.connect(("2001:db8::9", 8125))
assert asks.getsockname()[0] == "203.0.113.1"
within, server = udp(), udp()
server.bind(("203.0.113.1", 0))
within.connect(server.getsockname())
serves = socket.create_server(("203.0.113.1", 0))
serves6 = socket.create_server(("2001:db8::1", 0), family=socket.AF_INET6)
taken = socket.create_server(("127.0.0.1", int(sys.argv[1])))
reads = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
wait()
serves.settimeout(.05)
serves6.settimeout(.05)
report = dict(
    asks=[tried(asks.send, b"x"), asks.getsockname()[0]], asks6=[tried(asks6.send, b"x"), tried(asks6.recv, 9)],
    within=[tried(within.send, b"x"), tried(server.recv, 9)],
    serves=tried(serves.accept), serves6=tried(serves6.accept),
    reads=tried(reads.recv, 9), taken=tried(socket.create_connection, taken.getsockname()) is not None,
)
print(json.dumps(report))
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_what_the_next_host_has_not(run: Run, addresses: subprocess.Popen[bytes]) -> None:
    """An address of the last one, a free port, a way to somebody: the job goes on without, or waits for the port.

    Nothing asks for a UDP socket's own address but who answers it. Who reads a connection that is closed learns that,
    and not that it had come to its end: he would take what he has for all of it.
    """

    def body(make: Make, home: Path) -> None:
        port = free_port()
        with socket.create_server(("127.0.0.1", 0)) as outside:
            mover = make(PYTHON, "-c", JOB + OUTSIDE, str(port), str(outside.getsockname()[1]))
            at = mover.place("local")
            with outside.accept()[0]:
                until(lambda: mover.out == b"ready\n", "not ready")
                at.order("vacate", 1)
                at.wait("moved")
                at.wait("closed")
                at.close()
        other_host(addresses)
        with socket.create_server(("127.0.0.1", port)):
            at = mover.place("local", mover.image)
            with pytest.raises(AssertionError) as failed:
                at.go()
            assert f"port {port}, which is descriptor 9 of process" in str(failed.value)
            assert "is taken on this host: the job can go on here when it is free" in str(failed.value)
            at.close()
        at = mover.place("local", mover.image)
        at.go()
        at.wait("started")
        (home / "go").touch()
        assert at.end() == 0, mover.err
        assert json.loads(mover.out.removeprefix(b"ready\n")) == {
            "asks": [1, "198.51.100.1"], "asks6": ["EDESTADDRREQ", ""], "within": [1, "x"], "serves": "timeout",
            "serves6": "timeout", "reads": "ENOTCONN", "taken": True,
        }  # fmt: skip
        (closes,) = [news["why"] for what, news in at.seen if what == "closes"]
        assert closes.startswith("the UDP socket to 2001:db8::9 that is descriptor 4 of process")
        assert "port " in closes and "of 203.0.113.1, which is descriptor 6 of process" in closes

    run(body)
