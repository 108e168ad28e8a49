"""The least of a submit side for a job that can be checkpointed: serves its files, keeps its images, gives orders.

For tests of the execute side. One Mover is one job; each `place` is a new generation on a host.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from checkpoint.submit import delivery, obtain_criu
from checkpoint.submit.receiver import Receiver, committed
from checkpoint.submit.store import Store
from checkpoint.wire.manifest import Manifest, Streams
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.written_files import opened
from remoteio.submit.leader_followers import LeaderFollowers
from remoteio.submit.transport.ssh import open_local
from remoteio.submit.transport.stream import Stream
from remoteio.wire import frames
from remoteio.wire.fuse_abi import Request
from remoteio.wire.link import Link, LinkClosed, Window, credit
from shim.submit.hosts import bootstrap
from shim.submit.hosts.config import Hosts, load, resolve
from shim.submit.hosts.connect import connect
from shim.wire import job_messages
from shim.wire.job_spec import CheckpointSpec, JobSpec
from tests.until import HANG, until

NOBODY = '["none", null]'
# rows cols x y, then termios of a terminal as sshd makes it
TERMINAL = [
    24,
    80,
    0,
    0,
    0x4500,
    5,
    0xBF,
    0x8A3B,
    15,
    15,
    3,
    28,
    127,
    21,
    4,
    0,
    1,
    0,
    17,
    19,
    26,
    0,
    18,
    15,
    23,
    22,
] + [0] * 16


def struck_stream(python: str, strike: str, struck: Path) -> tuple[Stream, bootstrap.Facts]:
    """An agent here of which `strike` (tests/strike.py) says what becomes; it makes the file `struck` then."""
    os.environ["STRIKE"], os.environ["STRUCK"] = strike, str(struck)
    stream = open_local(bootstrap.local_argv(python))
    # `tests` is no package, and what is shipped has one or none
    with patch.object(sys, "path", [str(Path(__file__).parent), *sys.path]):
        return stream, bootstrap.start(stream, "strike:main", modules=(*bootstrap.shipped(), "strike"))


class Mover:
    """A job `argv` of this process's user. What it wrote, each byte once: `out`, `err` (a terminal: `out`)."""

    def __init__(
        self, argv: list[str], cwd: Path, store: Path, *, tty: bool = False, owner: str = NOBODY,
        kept: obtain_criu.Bundle | None = None, strike: str = "",
    ) -> None:  # fmt: skip
        self.argv, self.cwd, self.tty, self.owner = argv, cwd, tty, owner
        self.strike = strike  # for the next place, see tests/strike.py
        self.store, self.job = Store(store), "job"
        self.kept = kept
        self.out, self.err = bytearray(), bytearray()
        self.generation = self.image = 0
        self.anyway = False  # it is to run even where no image can be made
        self.given = b""  # of stdin, for ever
        self.scratch: list[bytes] = []  # where it has private directories
        self.scheduling: list[int] = []  # see scheduling.own
        self.ended_input = False
        self.holds = False  # a tree whose image is committed stands still until the test says more

    def spec(self, restore: bytes) -> JobSpec:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        criu = self.kept.hash if self.kept else ""
        checkpoint = CheckpointSpec(self.job, self.generation, self.owner, True, restore, criu, self.anyway)
        env = [b"PATH=/usr/local/bin:/usr/bin:/bin", b"LC_ALL=C.UTF-8", b"TERM=vt100", b"HOME=" + os.fsencode(self.cwd)]
        return JobSpec(
            [os.fsencode(a) for a in self.argv], env, os.fsencode(self.cwd), os.geteuid(), os.getegid(),
            os.getgroups(), 0o022, b"submit", [], self.scratch, [] if self.tty else [0, 1, 2],
            TERMINAL if self.tty else [], checkpoint, self.scheduling,
        )  # fmt: skip

    def place(self, host: str, image: int = 0) -> Placement:
        """A new generation on that host, fresh or from an image; returns at once."""
        self.generation += 1
        chosen = resolve(host, Hosts() if host == "local" else load())
        if self.strike:
            stream, _ = struck_stream(chosen.python, self.strike, self.cwd / "struck")
            self.strike = ""
        else:
            stream, _ = connect(chosen, "shim.execute.main:main")
        return Placement(self, stream, image)


class Placement:
    """One generation: its link, and what is heard."""

    def __init__(self, mover: Mover, stream: Stream, image: int) -> None:
        self.mover, self.stream = mover, stream
        self.link = Link(stream.read_fd, stream.write_fd)
        self.heard: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.export: Export | None = None
        self.window = Window(Window.IMAGE)
        self.incoming: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.base: Manifest | None = None
        self.leaves = self.full = False
        self.called: list[list[str]] = []  # by what other names the image has files, see OpenFiles
        restore = b""
        out = err = 0
        if image:
            with mover.store.open(mover.job, image) as opened:
                self.base = opened.manifest
            restore = bare(self.base).to_bytes()
            out, err = self.base.streams.stdout, self.base.streams.stderr
        self.skip = {frames.STDOUT: len(mover.out) - out, frames.STDERR: len(mover.err) - err}
        self.given = self.base.streams.stdin + len(self.base.streams.stdin_unread) if self.base else 0
        self.spec = mover.spec(restore)
        self.link.send(frames.START, self.spec.pack())
        self.threads: LeaderFollowers[bytes | memoryview] = LeaderFollowers(
            self._receive, self._answer, lambda payload: len(payload) >= frames.LARGE
        )
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()
        threading.Thread(target=self._pulse, daemon=True).start()
        if image:
            threading.Thread(target=self._deliver, args=(image,), daemon=True).start()

    def _serve(self) -> None:
        try:
            self.threads.run()
        except LinkClosed:
            pass
        finally:
            self.heard.put(("closed", {}))
            self.incoming.put(None)
            self.over.set()

    def _pulse(self) -> None:
        with suppress(LinkClosed):
            while not self.over.wait(1.0):
                self.link.send(frames.PING)

    def _answer(self, payload: bytes | memoryview) -> None:
        assert self.export is not None
        answer = self.export.answer(Request(payload))
        if answer is not None:
            self._tell(*answer)

    def _tell(self, kind: int, *payload: bytes | bytearray | memoryview) -> None:
        with suppress(LinkClosed):  # its last words may still be unread: "closed" is heard
            self.link.send(kind, *payload)

    def _receive(self) -> list[bytes | memoryview]:
        requests = []
        for kind, payload in self.link.receive():
            if kind == frames.FUSE:
                requests.append(payload)
            else:
                self._take(kind, bytes(payload))
        return requests

    def _take(self, kind: int, payload: bytes) -> None:
        mover = self.mover
        if kind == frames.HELLO:
            fields = frames.unpack_fields(payload)
            pairs = [[(int(a), int(b)) for a, b in (t.split() for t in fields[k])] or None for k in ("uids", "gids")]
            shown = [int(n) for n in fields["shown"]]
            ids = ShownIds(
                os.geteuid(), os.getegid(), frozenset(os.getgroups()), pairs[0], pairs[1],
                (shown[0], shown[1]) if shown else None,
            )  # fmt: skip
            self.export = Export(ids)
        elif kind in (frames.STDOUT, frames.STDERR):
            if payload:
                self._tell(*credit(kind, len(payload)))
            dropped = min(self.skip[kind], len(payload))
            self.skip[kind] -= dropped
            (mover.out if kind == frames.STDOUT else mover.err).extend(payload[dropped:])
        elif kind == frames.NEWS:
            news: dict[str, Any] = json.loads(bytes(payload))
            if news["news"] == job_messages.DUMPED:
                assert self.export is not None
                called = opened(self.export.inodes).called
                self.called = [[os.fsdecode(path) for path in names] for names in called]
                self.incoming = queue.SimpleQueue()
                threading.Thread(target=self._take_in, args=(int(str(news["serial"])),), daemon=True).start()
            elif news["news"] == job_messages.REFUSED:
                self.incoming.put(None)
            elif news["news"] == job_messages.HELD and not mover.holds:
                self.order(job_messages.END, int(str(news["serial"])))
            elif news["news"] == job_messages.CRIU:
                assert mover.kept is not None
                archive = mover.kept.read()
                for at in range(0, len(archive), 1 << 20):
                    self.link.send(frames.BUNDLE, archive[at : at + (1 << 20)])
                self.link.send(frames.BUNDLE)
            self.heard.put((str(news["news"]), news))
        elif kind == frames.IMAGE:
            self.incoming.put(payload)
        elif kind == frames.CREDIT and payload[0] == frames.IMAGE:
            self.window.give(int.from_bytes(payload[1:5], "little"))
        elif kind == frames.EXIT:
            self.heard.put(("exit", {"status": int.from_bytes(payload[:4], "little")}))
        elif kind == frames.FAIL:
            self.heard.put(("fail", {"why": payload[4:].decode()}))
        elif kind == frames.STARTED:
            self.heard.put(("started", {}))
            self._feed()

    def _deliver(self, image: int) -> None:
        with suppress(LinkClosed), self.mover.store.open(self.mover.job, image) as opened:
            for payload in delivery.deliver(opened):
                if not self.window.take_all(sum(map(len, payload))):
                    return
                self.link.send(frames.IMAGE, *payload)

    def _take_in(self, serial: int) -> None:
        mover = self.mover
        if self.full:
            self.order(job_messages.THAW, serial, why="the store is full")
            return
        with suppress(LinkClosed), mover.store.begin(mover.job) as transaction:
            receiver = Receiver(transaction)
            while not receiver.complete:
                payload = self.incoming.get()
                if payload is None:
                    return
                for answer in receiver.receive(payload):
                    self.link.send(frames.IMAGE, answer)
                self.link.send(*credit(frames.IMAGE, len(payload)))
            head = json.loads(receiver.head)
            facts, streams = head.pop("facts"), head.pop("streams")
            head["locks"] = head["replaced"] = []
            head["called"] = self.called
            streams["stdin_unread"] = bytes.fromhex(streams["stdin_unread"])
            image = Manifest(
                job=mover.job, number=transaction.number, generation=mover.generation, time_ns=time.time_ns(),
                host="here", argv=tuple(mover.argv), cwd=str(mover.cwd), env=(), uid=os.geteuid(), gid=os.getegid(),
                tty=mover.tty, streams=Streams(**streams), files=receiver.files(), facts=facts, stats=head,
            )  # fmt: skip
            transaction.commit(image)
            mover.image = transaction.number
            self.heard.put(("committed", {"image": transaction.number, "size": image.size}))
            self.link.send(frames.IMAGE, committed(image.digest))

    def _feed(self) -> None:
        """Standard input, from where the job is."""
        data = self.mover.given[self.given :]
        self.given += len(data)
        for at in range(0, len(data), 32768):
            self.link.send(frames.STDIN, data[at : at + 32768])
        if self.mover.ended_input:
            self.link.send(frames.STDIN)

    def type(self, data: bytes, end: bool = False) -> None:
        """More standard input."""
        self.mover.given += data
        self.mover.ended_input |= end
        self._feed()

    def order(self, what: str, serial: int, **more: object) -> None:
        with suppress(LinkClosed):  # "closed" is heard
            self.link.send(frames.ORDER, job_messages.order(what, serial, **more))

    def wait(self, *what: str, seconds: float = HANG) -> dict[str, Any]:
        """The next of these that is heard; what comes before it is kept in `seen`."""
        end = time.monotonic() + seconds
        while True:
            try:
                name, news = self.heard.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"waited in vain for {what}; heard {self.seen}; {self.stream.stderr_tail()}"
                ) from None
            self.seen.append((name, news))
            if name in what:
                return {"what": name, **news}
            assert name not in ("closed", "fail"), f"heard {self.seen}; {self.stream.stderr_tail()}"

    def go(self) -> None:
        """Wait for the restored job and let it run."""
        self.wait("restored")
        self.order(job_messages.GO, self.mover.generation)

    def move(self, host: str) -> Placement:
        """Vacate, and go on at `host`."""
        self.order(job_messages.VACATE, self.mover.generation)
        self.wait("moved")
        self.wait("closed")
        self.close()
        after = self.mover.place(host, self.mover.image)
        after.go()
        after.wait("started")
        return after

    def checkpoint(self, serial: int) -> dict[str, Any]:
        """One dump, the job going on; what is heard of its commit."""
        self.order(job_messages.CHECKPOINT, serial)
        return self.wait("committed", "refused")

    def end(self) -> int:
        """Wait for the job's end; its wait status."""
        status = int(self.wait("exit")["status"])
        self.wait("closed")
        self.close()
        return status

    def close(self) -> None:
        self.over.set()
        with socket.socket(fileno=os.dup(self.stream.write_fd)) as end, suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # unless it has ended by itself
        self.link.close()
        until(lambda: self.threads.rest(1.0), "nobody receives: the number of its descriptor may be another stream's")
        self.stream.close()


def bare(manifest: Manifest) -> Manifest:
    """The manifest without its files: what START carries."""
    return Manifest(
        **{
            name: getattr(manifest, name)
            for name in ("job", "number", "generation", "time_ns", "host", "argv", "cwd", "env", "uid", "gid", "tty",
                         "streams", "written", "facts", "stats")
        },
        files=(),
    )  # fmt: skip
