"""A directory served through a real FUSE mount by what serves a job: relay, link and export, in a process apart."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from remoteio.execute.mount import MNT_DETACH, mount_fuse, open_fuse
from remoteio.execute.relay import Relay
from remoteio.execute.told_lately import ToldLately
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.first_names import Uses
from remoteio.submit.export.pushing import Pushing
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.version_names import VersionNames
from remoteio.thread_pool import ThreadPool
from remoteio.wire import frames, fuse_abi
from remoteio.wire.link import Link, LinkClosed
from shim.execute.agent.cache import encrypting
from shim.wire import lease

VERSIONS = VersionNames(b"a key of this machine's own")


@contextlib.contextmanager
def mounted(
    root: Path,
    at: Path,
    late: bool = False,
    kept: Path | None = None,
    uses: Uses | None = None,
    asked: Path | None = None,
) -> Iterator[None]:
    """`root` is seen at `at`, as a job of this user would see it. Needs root.

    `late`: changes may be answered before they are done, and all is done a moment late, several requests at once.
    `kept`: where what is read is kept from one mount to the next, its versions named with VERSIONS.
    `uses`: what is sent before it is asked for. `asked`: where each request is noted by its name, a line each.
    """
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _serve(root, at, tell, late, kept, uses or {}, asked)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"x", "the mount failed; its traceback is on stderr"
        yield
    finally:
        os.close(ready)
        ctypes.CDLL(None).umount2(os.fsencode(at), MNT_DETACH)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _serve(root: Path, at: Path, tell: int, late: bool, kept: Path | None, uses: Uses, asked: Path | None) -> None:
    near, far = socket.socketpair()
    execute, submit = (Link(os.dup(end.fileno()), os.dup(end.fileno())) for end in (near, far))
    fuse = open_fuse()
    mount_fuse(fuse, str(at), 0, 0, 0, False)
    relay = Relay(fuse, execute, lambda e: os._exit(1))
    if kept is not None:
        relay.keep_in(str(kept), encrypting)
    relay.lately = ToldLately()  # as in a session: the kernel keeps what is leased
    relay.heard()
    relay.start()
    threading.Thread(target=_tick, args=(relay,), daemon=True).start()
    threading.Thread(target=_relay, args=(relay, execute), daemon=True).start()
    export = Export(ShownIds(0, 0, frozenset()), str(root))
    export.versions = VERSIONS
    assert export.leases.begin()
    submit.go_ahead(export.leases.due)
    threading.Thread(target=_break, args=(export, submit), daemon=True).start()
    answers = _Late(export, submit) if late else _Answers(export, submit)
    answers.asked = asked
    if uses:
        assert export.leases._mounts is not None
        export.leases._mounts.poll.unregister(export.leases._mounts.fd)  # a mount of another test's would take all back
        threading.Thread(target=_signs_of_life, args=(submit,), daemon=True).start()
    pushing = Pushing(uses.items())
    pushing.credited(1 << 30)
    for pushed in pushing.due(export):
        submit.send(frames.PUSHED, pushed)
    os.write(tell, b"x")
    with contextlib.suppress(LinkClosed):
        while True:
            for kind, payload in submit.receive():
                if kind == frames.CREDIT:  # all that there is to be sent has been
                    continue
                for each in export.ordered.take(kind, payload):
                    answers.begin(each)


def _tick(relay: Relay) -> None:
    while True:
        time.sleep(lease.PULSE)
        relay.tick()


class _Answers:
    """Answers requests, one after the other."""

    def __init__(self, export: Export, link: Link) -> None:
        self.export, self.link = export, link
        self.asked: Path | None = None
        export.ordered.begin = self.begin

    def begin(self, payload: bytes | memoryview) -> bool:
        self.answer(payload)
        return True

    def answer(self, payload: bytes | memoryview) -> None:
        due = [payload]
        while due:
            due += self._answered(due.pop(0))

    def _answered(self, payload: bytes | memoryview) -> list[bytes | memoryview]:
        request = self.export.ordered.request(payload)
        if self.asked is not None:
            with open(self.asked, "a", encoding="ascii") as file:
                file.write(fuse_abi.OPERATIONS[request.op][0] + "\n")
        answer = self.export.answer(request)
        if answer is not None:
            self.link.send(*answer)
        return self.export.ordered.done(request.unique)


class _Late(_Answers):
    """Answers them in threads, each a moment late; changes may be answered on the other side before."""

    def __init__(self, export: Export, link: Link) -> None:
        super().__init__(export, link)
        export.behind, self._pool = True, ThreadPool(lambda e: os._exit(1))

    def begin(self, payload: bytes | memoryview) -> bool:
        if fuse_abi.IN_HEADER.unpack_from(payload)[1] == fuse_abi.OPENED:
            self.export.late.expect(payload)  # as it comes, as in a session: what names the file may be done before
        return self._pool.give(lambda: self.answer(payload))

    def answer(self, payload: bytes | memoryview) -> None:
        time.sleep(random.random() * 0.003)
        super().answer(payload)


def _break(export: Export, link: Link) -> None:
    while export.leases.wait(0.01):
        link.send(frames.BREAK)


def _signs_of_life(link: Link) -> None:
    while True:
        link.send(frames.BREAK)
        time.sleep(0.2)


def _relay(relay: Relay, link: Link) -> None:
    take = {
        frames.FUSE: relay.from_link, frames.KNOWN: relay.known, frames.ORDERED: relay.ordered,
        frames.LEASED: relay.leased, frames.BREAK: relay.broken, frames.GRANTED: relay.granted,
        frames.PUSHED: relay.pushed,
    }  # fmt: skip
    while True:
        for kind, payload in link.receive():
            relay.heard()
            take[kind](payload)
