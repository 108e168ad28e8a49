"""What travels to the execute host: the job's description, its environment, its ids, its terminal; and over streams."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed, Window
from shim.execute.init import idmap
from shim.submit.foreground import environment
from shim.wire import scheduling, terminal_state
from shim.wire.descriptors import FILE, READ, TERMINAL, WRITE, Descriptor
from shim.wire.job_spec import JobSpec
from shim.wire.stream_pumps import Sink, Source

texts = st.lists(st.binary(max_size=30), max_size=5)
numbers = st.integers(-1, 2**63)
FIELDS = ("number", "kind", "needed", "flags", "offset", "path")


@given(
    argv=texts, env=texts, cwd=st.binary(), uid=st.integers(0, 2**32 - 2), groups=st.lists(st.integers(0, 2**32)),
    umask=st.integers(0, 0o777), limits=st.lists(st.tuples(st.integers(0, 15), numbers, numbers)),
    stdio=st.sets(st.integers(0, 2)), tty=st.lists(st.integers(0, 2**32)), scheduled=st.lists(st.integers(-20, 2**31)),
    extra=st.lists(st.tuples(st.integers(3, 9999), st.sampled_from([READ, WRITE, FILE, TERMINAL]), st.booleans(),
                             st.integers(0, 2**24), st.integers(0, 2**62), st.binary()), max_size=4),
)  # fmt: skip
def test_a_description_arrives_as_it_was(
    argv: list[bytes], env: list[bytes], cwd: bytes, uid: int, groups: list[int], umask: int,
    limits: list[tuple[int, int, int]], stdio: set[int], tty: list[int], scheduled: list[int],
    extra: list[tuple[int, str, bool, int, int, bytes]],
) -> None:  # fmt: skip
    spec = JobSpec(
        argv, env, cwd, uid, uid, groups, umask, b"here", limits, [b"/scratch"], sorted(stdio), tty, None, scheduled
    )
    spec.descriptors, spec.trip, spec.line = [Descriptor(*each) for each in extra], 20_000, uid
    again = JobSpec.unpack(spec.pack())
    plain = [name for name in JobSpec.__slots__ if name != "descriptors"]
    assert [getattr(again, name) for name in plain] == [getattr(spec, name) for name in plain]
    assert [tuple(getattr(each, name) for name in FIELDS) for each in again.descriptors] == extra


def test_cpus_that_a_host_has_not_are_no_reason_to_have_none() -> None:
    """As the kernel: of those asked for what there is; and where there is none of them, any."""
    assert scheduling.fitting([1, 3, 70], {0, 1, 2, 3}) == {1, 3}
    assert scheduling.fitting([70], {0, 1}) == {0, 1}


def test_session_variables_stay_unless_asked_for() -> None:
    ours = {b"A": b"1", b"DISPLAY": b":0", b"DBUS_X": b"y", b"XDG_DATA_HOME": b"z", b"\xff": b"\xfe"}
    assert environment.for_job(ours, []) == [b"A=1", b"XDG_DATA_HOME=z", b"\xff=\xfe"]
    asked = environment.for_job(ours, [b"DISPLAY", b"A=2=3", b"NONE", b"NEW="])
    assert set(asked) == {b"A=2=3", b"XDG_DATA_HOME=z", b"\xff=\xfe", b"DISPLAY=:0", b"NEW="}
    with pytest.raises(RexecError):
        environment.for_job(ours, [b"=x"])


@given(st.integers(0, 65535), st.integers(1, 2**31), st.integers(100_000, 2**30))
def test_every_id_is_mapped_once(inside: int, outside: int, first: int) -> None:
    assert idmap.plan(inside, outside, [(first, 1000)]) == [(inside, outside, 1)]
    lines = idmap.plan(inside, outside, [(first, 65536)])
    covered = sorted((start, start + count) for start, _, count in lines)
    assert covered[0][0] == 0
    assert covered[-1][1] == 65536
    assert all(end == start for (_, end), (start, _) in zip(covered, covered[1:], strict=False))
    assert (inside, outside, 1) in lines
    assert all(first <= out and out + count <= first + 65536 for start, out, count in lines if start != inside)


def test_a_terminal_gets_the_settings_of_another() -> None:
    a, b = os.openpty(), os.openpty()
    try:
        terminal_state.resize(a[1], bytes((24, 0, 80, 0, 0, 0, 0, 0)))
        state = terminal_state.read(a[1])
        state[10] = 24  # VINTR: Ctrl-X
        terminal_state.apply(b[1], state)
        assert terminal_state.read(b[1]) == state
        assert terminal_state.window(b[0])[:2] == [24, 80]
    finally:
        for fd in (*a, *b):
            os.close(fd)


def pair() -> tuple[Link, Link, tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    return Link(ends[0].fileno(), ends[0].fileno()), Link(ends[1].fileno(), ends[1].fileno()), ends


def test_many_senders_lose_nothing() -> None:
    here, there, ends = pair()
    kinds = {n: [] for n in range(8)}  # type: dict[int, list[int]]

    def send(n: int) -> None:
        for k in range(200):
            size = 70_000 if k % 20 == 0 else 10
            here.send(frames.FUSE, bytes((n,)) + k.to_bytes(4, "little"), bytes(size))

    threads = [threading.Thread(target=send, args=(n,)) for n in kinds]
    for thread in threads:
        thread.start()
    while sum(map(len, kinds.values())) < 1600:
        for _, payload in there.receive():
            kinds[payload[0]].append(int.from_bytes(payload[1:5], "little"))
    for thread in threads:
        thread.join()
    for end in ends:
        end.close()
    for got in kinds.values():
        assert sorted(got) == list(range(200))
        assert [k for k in got if k % 20] == [k for k in range(200) if k % 20]  # the small ones in their order


def test_a_link_that_broke_says_so() -> None:
    here, there, ends = pair()
    ends[1].close()
    with pytest.raises(LinkClosed):
        for _ in range(3):
            here.send(frames.PING)
    with pytest.raises(LinkClosed):
        here.receive()
    ends[0].close()
    del there


def test_a_window_holds_a_sender_back_and_lets_go_at_its_end() -> None:
    window = Window()
    assert window.take(1 << 30) == Window.SIZE
    took: list[int] = []
    thread = threading.Thread(target=lambda: took.append(window.take(10)))
    thread.start()
    window.give(4)
    thread.join(60)
    assert took == [4]
    window.close()
    assert window.take(10) == 0


def test_what_was_sent_is_written_though_the_sender_has_gone() -> None:
    here, _, ends = pair()
    ends[1].close()
    read, write = os.pipe()
    failed: list[BaseException] = []
    sink = Sink(here, frames.STDOUT, write)
    sink.start(failed.append)
    for piece in (b"one ", b"two ", b"three", b""):
        sink.put(piece)
    assert sink.done.wait(60)
    assert (os.read(read, 100), os.read(read, 100), failed) == (b"one two three", b"", [])
    os.close(read)
    ends[0].close()


def test_a_source_lets_go_when_nobody_wants_more() -> None:
    here, _, ends = pair()
    read, write = os.pipe()
    source = Source(here, frames.STDIN, read)
    source.start(lambda _: None)
    source.stop()
    assert source.done.wait(60)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)
    for end in ends:
        end.close()


def test_the_docs_name_what_stays() -> None:
    text = (Path(__file__).parents[2] / "docs/job.md").read_text()
    assert [name for name in environment.SESSION_ONLY if f"`{name}`" not in text] == []
