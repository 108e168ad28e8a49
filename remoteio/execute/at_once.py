"""Execute side: the kernel's changes that are answered before home has done them (``behind``). Shipped."""

from __future__ import annotations

import time
from collections.abc import Callable

from remoteio.execute.answers import is_mapped
from remoteio.execute.asked_ahead import AskedAhead
from remoteio.execute.behind import TELL
from remoteio.execute.handles import NOTED, OPENS
from remoteio.execute.to_kernel import ToKernel
from remoteio.execute.told import Told
from remoteio.wire import fuse_abi as abi
from remoteio.wire.link import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked


class AtOnce(AskedAhead):
    """Answers of CHANGES what may be. Threads: see ``relay``, of which this is a part."""

    def __init__(self, fd: int, link: Link, fail: Callable[[BaseException], None]) -> None:
        Told.__init__(self, link)
        ToKernel.__init__(self, fd, fail)

    def _at_once(self, op: int, unique: int, nodeid: int, raw: bytes | memoryview) -> bool:
        """Answer a change that home has not done yet, if the answer is known. False: it is asked for as others are."""
        behind, now = self.behind, time.monotonic()
        behind.sent.await_room(len(raw))
        error = 0 if op == abi.WRITE and is_mapped(raw) else behind.told(op, nodeid, behind.answers.goes_on(op, raw))
        if error:
            self._to_kernel(abi.failure(unique, error))
            return True
        with self._order:
            answer = None if nodeid in self.handles.locked else behind.answers.answer(op, unique, nodeid, raw, now)
            if answer is None:
                return False
            self.counts.here[op] += 1
            self.counts.carried[op] += len(raw)
            number, answer = behind.entered(unique, (op, nodeid, 0, self._known.asked(op, nodeid), now, raw), answer)
        behind.send_change(number, raw)
        if answer:
            self._to_kernel(answer)
        return True

    def _done(self, unique: int, error: int, payload: bytes | memoryview) -> None:
        """Take note that home has done a change that was answered, or could not."""
        failed, told = self.behind.replied(unique, error, payload)
        for each in told:
            self._to_kernel(each)
        if failed:
            self._beside(lambda: self._forget_pages(failed))

    def _forget_pages(self, nodeid: int) -> None:
        # they have what home has not
        self._to_kernel(abi.inval_inode(nodeid))

    def _noted(self, asked: Asked, unique: int, payload: bytes | memoryview, now: float) -> bytes | memoryview:
        """Take note of the reply to what home has done; return it as the kernel is to have it.

        It is an error if a change before it has failed that was answered.
        """
        op, nodeid, _, _, at, raw = asked
        if self.behind.answers.granted:
            self.behind.answers.learned(op, nodeid, payload)
        if op in OPENS:
            payload = self.behind.answers.opened(op, payload, now)
        if op in NOTED:
            self.handles.answered(op, nodeid, raw, payload, at)
        if not self.behind.answers.granted:
            return payload
        error = self.behind.told(op, nodeid) if op in TELL else 0
        return abi.failure(unique, error) if error else payload
