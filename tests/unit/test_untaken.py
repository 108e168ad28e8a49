"""Memory here is not a host's: what it asks for and does not take, sends uncalled-for, or has kept, is limited."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.submit.receiver import Receiver
from checkpoint.submit.store import Store
from checkpoint.wire import image_wire
from checkpoint.wire.manifest import ENTRY, PAGE, ZERO
from remoteio.errors import ProtocolError
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.least_used import LeastUsed
from remoteio.submit.export.locks import Locks
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.leader_followers import SLOW, WAITS, LeaderFollowers
from remoteio.thread_pool import MOST_WORKERS
from remoteio.wire import frames
from remoteio.wire import fuse_abi as abi
from remoteio.wire.link import Arrivals, Link, LinkClosed, Window
from shim.submit import host_session, limited_requests
from shim.submit.host_session import HostSession
from shim.submit.job.output_file import OutputFile
from shim.submit.job.replayed_streams import OutputOnce
from shim.submit.limited_requests import AT_ONCE, MOST_UNTAKEN, LimitedRequests
from shim.wire.stream_pumps import Sink
from tests.hostile import Host, Refused
from tests.until import HANG

READ = abi.request(abi.READ, 1, bytes(abi.READ_IN.size))
FORGET = abi.request(abi.FORGET, 1, bytes(8))


@pytest.fixture
def pair() -> Iterator[tuple[Link, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Link(ours.fileno(), ours.fileno()), theirs
    ours.close()
    theirs.close()


class Asked:
    """What comes over a link, what waits to be sent on it, and how many requests are being done."""

    def __init__(self) -> None:
        self.coming: deque[list[bytes | memoryview]] = deque()
        self.queued = self.busy = 0
        self.limited = LimitedRequests(self._receive, lambda: self.queued, lambda: self.busy)

    def _receive(self) -> list[bytes | memoryview]:
        return self.coming.popleft() if self.coming else []


def test_requests_are_let_in_as_answers_are_taken_and_none_is_lost() -> None:
    asked = Asked()
    asked.coming.append([READ] * 1000)
    assert len(asked.limited.receive()) == AT_ONCE
    asked.queued = MOST_UNTAKEN + 1
    for _ in range(3):
        assert asked.limited.receive() == []
    asked.coming.append([READ, FORGET, b"short"])
    assert asked.limited.receive() == [FORGET, b"short"], "what is not answered needs no room"
    asked.queued = 0
    let_in = AT_ONCE
    while found := asked.limited.receive():
        assert len(found) <= AT_ONCE
        let_in += len(found)
    assert let_in == 1001


def test_requests_that_take_long_count_with_what_waits() -> None:
    asked = Asked()
    asked.busy = MOST_UNTAKEN // abi.MAX_WRITE + 1
    asked.coming.append([READ])
    assert asked.limited.receive() == []
    asked.busy -= 1
    assert asked.limited.receive() == [READ]


def test_who_asks_for_ever_and_takes_nothing_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_requests, "MOST_ASIDE", 1 << 20)
    asked = Asked()
    asked.queued = MOST_UNTAKEN + 1
    with pytest.raises(ProtocolError, match="takes none of the answers"):
        for _ in range(1000):
            asked.coming.append([READ] * 100)
            asked.limited.receive()


def test_a_link_knows_how_much_waits(pair: tuple[Link, socket.socket]) -> None:
    link, theirs = pair
    writer = threading.Thread(target=link.send, args=(frames.FUSE, bytes(4 << 20)))
    writer.start()
    theirs.recv(1, socket.MSG_PEEK)  # it writes, and more than fits
    for size in (10, 100_000):
        link.send(frames.FUSE, bytes(size))
    assert link.queued == 10 + 100_000 + 2 * frames.HEADER.size
    assert not link.flush(0.01)
    left = (4 << 20) + 10 + 100_000 + 3 * frames.HEADER.size
    while left:
        left -= len(theirs.recv(1 << 20))
    writer.join(60)
    assert link.queued == 0


def test_a_link_that_breaks_keeps_nothing(pair: tuple[Link, socket.socket]) -> None:
    link, theirs = pair
    ended = threading.Event()

    def send() -> None:
        with pytest.raises(LinkClosed):
            link.send(frames.FUSE, bytes(4 << 20))
        ended.set()

    threading.Thread(target=send).start()
    theirs.recv(1, socket.MSG_PEEK)
    link.send(frames.FUSE, bytes(100_000))
    theirs.close()
    assert ended.wait(60)
    assert link.queued == 0


def test_what_came_before_the_end_is_not_done_after_it(tmp_path: Path) -> None:
    """The job may be going on elsewhere by then."""
    nobody: Any = None
    spec: Any = SimpleNamespace(trip=0, cwd=b"/")
    session = HostSession.__new__(HostSession)
    session.files = host_session._Files(spec, None, None, None)
    session.export = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    session._over = threading.Event()
    session._link = nobody
    made: list[object] = []
    session.send = lambda *frame, **how: made.append(frame)  # type: ignore[method-assign]
    mkdir = abi.request(abi.MKDIR, 1, abi.MKDIR_IN.pack(0o755, 0))
    session._answer(abi.request(abi.MKDIR, 1, mkdir[abi.ARGS :] + b"before\0"))
    session._over.set()
    session._answer(abi.request(abi.MKDIR, 1, mkdir[abi.ARGS :] + b"after\0"))
    assert os.listdir(tmp_path) == ["before"] and len(made) == 1
    session.export.inodes.close_all()


def test_a_host_that_takes_nothing_keeps_no_user_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_session.lease, "RELEASE", 0.01)
    ours, theirs = socket.socketpair()
    link, spec = Link(ours.fileno(), ours.fileno()), SimpleNamespace(trip=0, cwd=b"/")
    session = HostSession(link, spec, None)  # type: ignore[arg-type]
    writer = threading.Thread(target=session.send, args=(frames.FUSE, bytes(4 << 20)))
    writer.start()
    theirs.recv(1, socket.MSG_PEEK)
    assert not session.pause()
    assert not session._signs._paused, "it goes on, and says so"
    theirs.close()
    writer.join(60)
    ours.close()


# streams and windows


def test_credit_is_given_for_what_was_under_way() -> None:
    window = Window(1000)
    assert window.take(600) == 600
    window.credited(500)
    with pytest.raises(ProtocolError, match="more than was under way"):
        window.credited(101)
    window.credited(100)


def test_more_than_a_stream_may_send_is_not_kept(pair: tuple[Link, socket.socket]) -> None:
    """Of a Sink whose reader stands still, and of an output that nobody begins to write."""
    link, _ = pair
    read, write = os.pipe()
    sink, output = Sink(link, frames.STDOUT, write), OutputOnce(frames.STDOUT, OutputFile(write))
    output.begin(link, 0)

    def put(data: bytes) -> None:
        output.put(link, data)

    for each in (sink.put, put):
        with pytest.raises(ProtocolError, match="no credit"):
            for _ in range(Arrivals.SLACK + 1):
                each(bytes(Window.SIZE))
    output.begin(link, 0)  # the next host begins anew
    put(bytes(Window.SIZE))
    sink._wakeup.close()
    os.close(read)
    os.close(write)


def test_that_nobody_reads_a_stream_is_told_when_what_came_before_is_done(pair: tuple[Link, socket.socket]) -> None:
    link, other = pair
    read, write = os.pipe()
    asked, done, failed = threading.Event(), threading.Event(), list[BaseException]()

    def before() -> None:
        asked.set()
        assert done.wait(HANG)

    sink = Sink(link, frames.STDIN, write, before=before)
    sink.start(failed.append)
    os.close(read)
    assert asked.wait(HANG)
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(1)
    other.setblocking(True)
    done.set()
    assert other.recv(100)[4] == frames.CLOSED
    assert sink.done.wait(HANG) and not failed


def test_what_a_pipe_held_at_each_dump_comes_beyond_the_window() -> None:
    arrivals = Arrivals(100)
    for _ in range(50):
        arrivals.allow(10)
        arrivals.came(10)
    arrivals.came(400)
    with pytest.raises(ProtocolError):
        arrivals.came(1)


def test_those_that_wait_keep_none_from_being_done() -> None:
    """As many as there are workers wait for what the last one does: it holds the lock."""
    unlocked, over = threading.Event(), threading.Event()
    items: deque[list[int]] = deque([[*range(1, MOST_WORKERS + 10), 0]])
    left = threading.Semaphore(0)

    def receive() -> list[int]:
        if not items:
            over.wait(60)
            raise EOFError
        return items.popleft()

    def handle(item: int) -> None:
        if item:
            unlocked.wait(60)
        else:
            unlocked.set()
        left.release()

    threads = LeaderFollowers(receive, handle, lambda item: WAITS if item else SLOW)

    def run() -> None:
        with pytest.raises(EOFError):
            threads.run()

    runner = threading.Thread(target=run)
    runner.start()
    assert unlocked.wait(60)
    assert all(left.acquire(timeout=60) for _ in range(MOST_WORKERS + 10))
    over.set()
    runner.join(60)
    assert threads.rest(10)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "file").write_bytes(b"x" * PAGE)
    made = Host.of(tmp_path)
    yield made
    made.export.inodes.close_all()


def lock(host: Host, op: int, node: int, handle: int, owner: int) -> bytes:
    return host.ask(op, node, abi.LK_IN.pack(handle, owner, 0, 9, fcntl.F_WRLCK, 1, 0, 0))


def test_a_wait_that_was_none_is_not_kept(host: Host) -> None:
    locks = host.export.locks
    node = host.lookup(1, b"file")
    handle = host.open(node, os.O_RDWR)
    for wrong in ((node, 99), (99, handle), (node, handle)):
        assert locks.expect(9, 10)
        try:
            lock(host, abi.SETLKW, *wrong, 7)
        except Refused as e:
            assert e.errno in (errno.EBADF, errno.ESTALE)
        assert not locks._waiting


def test_who_waits_is_counted_and_has_a_number_of_its_own(host: Host) -> None:
    locks: Locks = host.export.locks
    assert locks.expect(1, 2) and locks.expect(2, 2) and not locks.expect(3, 2)
    with pytest.raises(abi.FuseError, match="number 1"):
        locks.expect(1, 5)
    node = host.lookup(1, b"file")
    handle = host.open(node, os.O_RDWR)
    lock(host, abi.SETLK, node, handle, 1)
    with pytest.raises(Refused) as refused:
        lock(host, abi.SETLKW, node, handle, 2)  # not expected: one too many
    assert refused.value.errno == errno.ENOLCK


@pytest.mark.parametrize("op", [abi.GETLK, abi.SETLK])
def test_owners_of_locks_count_with_the_open_files(host: Host, op: int) -> None:
    inodes = host.export.inodes
    node = host.lookup(1, b"file")
    handle = host.open(node, os.O_RDWR)
    inodes._most_handles = 20
    errors = []
    for owner in range(30):
        try:
            lock(host, op, node, handle, owner)
        except Refused as e:
            errors.append(e.errno)
    assert errors.count(errno.EMFILE) >= 10
    assert len(inodes.descriptors.owners) == 19
    for owner in range(30):
        host.ask(abi.FLUSH, node, abi.FLUSH_IN.pack(handle, 0, 0, owner))
    assert not inodes.descriptors.owners


# what is kept of files


def test_what_was_not_used_for_longest_is_given_up() -> None:
    gone: list[str] = []
    needed = {"a"}
    kept = LeastUsed[str](100, gone.append, needed.__contains__)
    for name in "abcd":
        kept.used(name, 30)
    assert gone == ["b"] and kept.total == 90
    kept.used("d", 400)
    assert gone == ["b", "c", "a"] and kept.total == 400, "what is needed too, when it is far too much"
    kept.used("d", 1)
    assert kept.total == 1


def test_pages_that_locks_may_guard_are_kept_of_the_files_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remoteio.submit.export.locks.MOST_TWINS", 20 * PAGE)
    for k in range(40):
        (tmp_path / str(k)).write_bytes(os.urandom(PAGE))
    host = Host.of(tmp_path)
    nodes = [host.lookup(1, b"%d" % k) for k in range(40)]
    handle = host.open(nodes[0], os.O_RDWR)
    lock(host, abi.SETLK, nodes[0], handle, 1)
    host.ask(abi.READ, nodes[0], abi.READ_IN.pack(handle, 0, PAGE, 0, 0, 0, 0))
    for node in nodes[1:]:
        host.read(node)
    have = [k for k, node in enumerate(nodes) if host.export.inodes.get(node).twins]
    assert have[0] == 0, "it is open: the job may have changed its pages"
    assert 5 < len(have) < 20 and have[-1] == 39
    assert host.export.inodes.get(nodes[1]).seen is None, "its pages are read anew when it is opened"
    host.export.inodes.close_all()


def test_a_listing_that_was_given_up_is_read_on_from_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remoteio.submit.export.listings.MOST_ENTRIES", 100)
    names = {b"%d" % k for k in range(90)}
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    host = Host.of(tmp_path)
    handles = [struct.unpack_from("=Q", host.ask(abi.OPENDIR, 1, abi.OPEN_IN.pack(0, 0)))[0] for _ in range(3)]
    found: list[list[bytes]] = [[] for _ in handles]
    at = [0] * 3
    for _ in range(200):  # in turn: each has the others' given up
        for k, handle in enumerate(handles):
            data = host.ask(abi.READDIR, 1, abi.READ_IN.pack(handle, at[k], 100, 0, 0, 0, 0))
            where = 0
            while where < len(data):
                _, at[k], length, _ = abi.DIRENT.unpack_from(data, where)
                found[k].append(data[where + abi.DIRENT.size :][:length])
                where += (abi.DIRENT.size + length + 7) & ~7
    assert all(len(each) == 92 and set(each) == names | {b".", b".."} for each in found)
    assert sum(len(host.export.inodes.handle(handle).entries or ()) for handle in handles) <= 100
    host.export.inodes.close_all()


@pytest.mark.parametrize("call", ["pread", "fstat"])
def test_an_open_that_fails_leaves_nothing_open(host: Host, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    node = host.lookup(1, b"file")

    def bad(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(f"remoteio.submit.export.files.os.{call}", bad)
        try:
            host.ask(abi.RELEASE, node, abi.RELEASE_IN.pack(host.open(node, os.O_RDONLY), 0, 0, 0))
            assert call == "pread", "what cannot be read ahead is read when somebody asks"
        except Refused as e:
            assert call == "fstat" and e.errno == errno.EIO
    assert len(os.listdir("/proc/self/fd")) == before
    assert not host.export.inodes.handles


def test_an_image_in_chunks_smaller_than_a_page_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "store").begin("job") as transaction:
        files = Receiver(transaction)._files
        files.name("memory", "memory", 2 * PAGE + 7)
        for length in (PAGE, PAGE, 7):  # a file ends where it ends
            files.add(length, ENTRY.pack(0, length, ZERO))
        for length in (1, PAGE - 1, PAGE + 1):
            files.name(f"memory {length}", "memory", 2 * PAGE)
            with pytest.raises(image_wire.ImageWireError, match="does not fit"):
                files.add(length, ENTRY.pack(0, length, ZERO))
            files._filled, files._current = 0, files._current + 1
