"""A job's sockets on their way to a host with other addresses and other ports taken; root and an ordinary user."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.mover import Mover
from tests.mover_as_user import PYTHON, Make, Run
from tests.until import until

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


WITHIN = """
def pair(listens="127.0.0.1", connects="127.0.0.1", family=socket.AF_INET):
    with socket.create_server((listens, 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as listener:
        client = socket.create_connection((connects, listener.getsockname()[1]))
        return listener.accept()[0], client
def filled(end):
    end.setblocking(False)
    size = 0
    try:
        while True:
            size += end.send(b"x" * 65536)
    except BlockingIOError:
        end.setblocking(True)
        return size
def rest(end):
    size = 0
    while data := end.recv(65536):
        size += len(data)
    return size
both = pair("::", family=socket.AF_INET6)
own = pair("203.0.113.1", "203.0.113.1")
half, half_reads = pair()
half.send(b"half")
half.shutdown(socket.SHUT_WR)
gone, gone_reads = pair()
gone.send(b"gone")
gone.close()
full, later = pair()
full.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
later.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
full_reads = socket.fromfd(os.dup2(later.fileno(), 99), later.family, later.type)  # made after `full` by criu
later.close()
os.close(99)
sizes = [filled(full), filled(full_reads)]
full.shutdown(socket.SHUT_WR)
full_reads.shutdown(socket.SHUT_WR)
both[0].send(b"under way")
wait()
report = dict(
    both=[tried(both[1].recv, 9), both[1].send(b"back"), tried(both[0].recv, 9)],
    own=[own[0].send(b"own"), tried(own[1].recv, 9)],
    half=[tried(half_reads.recv, 9), tried(half_reads.recv, 9), half_reads.send(b"back"), tried(half.recv, 9)],
    gone=[tried(gone_reads.recv, 9), tried(gone_reads.recv, 9)], full=[rest(full_reads), rest(full)] == sizes,
)
print(json.dumps(report))
"""


@pytest.mark.parametrize("uid", [0], indirect=True)
def test_connections_within_the_job_in_every_state(run: Run, addresses: subprocess.Popen[bytes]) -> None:
    """IPv4 spoken by IPv6; by the host's own address; one or both ends closed, or full: not a byte is lost."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", JOB + WITHIN)
        at = mover.place("local")
        until(lambda: mover.out == b"ready\n", "not ready")
        assert at.checkpoint(1)["what"] == "committed"
        at.order("vacate", 2)
        at.wait("moved")
        at.wait("closed")
        at.close()
        other_host(addresses)
        before, at = at, mover.place("local", mover.image)
        at.go()
        at.wait("started")
        (home / "go").touch()
        assert at.end() == 0, mover.err
        assert json.loads(mover.out.removeprefix(b"ready\n")) == {
            "both": ["under way", 4, "back"], "own": [3, "own"], "half": ["half", "", 4, "back"],
            "gone": ["gone", ""], "full": True,
        }  # fmt: skip
        assert not [news for what, news in (*before.seen, *at.seen) if what == "closes"]

    run(body)


APART = """
with socket.create_server(("127.0.0.1", 0)) as listener:
    reads = socket.create_connection(listener.getsockname())
    half = listener.accept()[0]
os.dup2(half.fileno(), 1000)
half.close()
half = socket.socket(fileno=1000)
half.send(b"half")
half.shutdown(socket.SHUT_WR)
between = [udp() for _ in range(900)]
for other in between:
    other.bind(("127.0.0.1", 0))
wait()
print(tried(reads.recv, 9), tried(reads.recv, 9), tried(reads.send, b"back"), tried(half.recv, 9))
"""


@pytest.mark.long(lambda **_: True)  # test_image_sockets.py has what the ends become
@pytest.mark.parametrize("uid", [0], indirect=True)
def test_half_a_connection_whose_ends_are_made_one_long_after_the_other(run: Run) -> None:
    """The kernel answers a FIN within 40 ms: where nobody is yet, it resets the connection."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", JOB + APART)
        at = mover.place("local")
        until(lambda: mover.out == b"ready\n", "not ready")
        at = at.move("local")
        (home / "go").touch()
        assert at.end() == 0, mover.err
        assert mover.out == b"ready\nhalf  4 back\n"

    run(body)


REFUSED = """
mptcp = socket.socket(proto=262)  # IPPROTO_MPTCP
tcp = socket.create_server(("127.0.0.1", 0))
tcp_client = socket.create_connection(tcp.getsockname())
tcp_client.send(b"tcp")
listener, gone = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
listener.bind(os.getcwd() + "/s")
listener.listen()
gone.connect(os.getcwd() + "/s")
gone.close()
client = socket.socket(socket.AF_UNIX)
client.connect(os.getcwd() + "/s")
client.send(b"unix")
with socket.create_server(("127.0.0.1", 0)) as other:
    ends = socket.create_connection(other.getsockname()), other.accept()[0]
ends[1].send(b"ends")
ends[1].shutdown(socket.SHUT_WR)
ends[0].shutdown(socket.SHUT_WR)
wait()
mptcp.close()
said = [tcp.accept()[0].recv(9), listener.accept()[0].recv(9), listener.accept()[0].recv(9), ends[0].recv(9)]
calls = socket.socket(socket.AF_UNIX)
calls.bind("\\0" + sys.argv[1])
calls.listen()
print(b" ".join(said).decode(), flush=True)
outside = calls.accept()[0]
calls.close()
print("called", flush=True)
while not os.path.exists("close"):
    time.sleep(.02)
outside.close()
cork = udp()
cork.setsockopt(socket.IPPROTO_UDP, 1, 1)  # UDP_CORK
print("corked", flush=True)
time.sleep(1000)
"""


def test_a_socket_that_cannot_be_saved_is_named_beforehand(run: Run) -> None:
    """By process and descriptor, and the job runs on; also where it is criu that finds it. Its data is not lost."""

    def body(make: Make, home: Path) -> None:
        name = f"rexec-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as outside:
            refused(make(PYTHON, "-c", JOB + REFUSED, name), home, lambda: outside.connect("\0" + name))

    def refused(mover: Mover, home: Path, call: Callable[[], None]) -> None:
        at = mover.place("local")
        until(lambda: mover.out == b"ready\n", "not ready")
        why = at.checkpoint(1)["why"]
        for number, words in (
            (3, "a socket of MPTCP, which CRIU cannot save; a program in Go does without where GODEBUG=multipathtcp=0"),
            (6, "a unix socket with a connection that was closed before it is accepted, which CRIU cannot save"),
            (7, "a unix socket with data under way in a connection that is not accepted yet, which CRIU cannot save"),
            (9, "a TCP connection that has ended with 4 bytes not read yet, which CRIU cannot save"),
        ):
            assert re.search(rf"process \d+ \(python3\) has descriptor {number} \(socket:\[\d+\]\), {words}", why), why
        assert re.search(r"connection that is descriptor 5 of process \d+ \(python3\) is not accepted yet", why), why
        (home / "go").touch()
        until(lambda: mover.out == b"ready\ntcp  unix ends\n", f"not read: {bytes(mover.out)!r} {bytes(mover.err)!r}")
        call()
        until(lambda: mover.out.endswith(b"called\n"), "not called")
        why = at.checkpoint(2)["why"]
        words = "a unix socket to a process outside the job, which CRIU cannot save"
        assert re.fullmatch(rf"process \d+ \(python3\) has descriptor \d+ \(socket:\[\d+\]\), {words}", why), why
        (home / "close").touch()
        until(lambda: mover.out.endswith(b"corked\n"), "not corked")
        why = at.checkpoint(3)["why"]
        assert re.search(r"process \d+ \(python3\), descriptor \d+: a UDP socket gathers what it is to send", why), why
        at.order("kill", 0)
        assert at.end() == 9

    run(body)
