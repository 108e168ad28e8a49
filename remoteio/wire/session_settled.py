"""How an end of a session tells what of that which was sent is written, and what the other end has. Shipped."""

from __future__ import annotations

from collections.abc import Callable

from remoteio.wire.link import LinkClosed
from remoteio.wire.session_sender import SessionSender


class SessionSettled(SessionSender):
    """The half of a SessionLink that waits for what it sends. Threads: see SessionSender."""

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent, or perhaps to be sent again."""
        return self._queue.size + self._session.held

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was sent has been written to a stream. False: not in `timeout` s. Raises LinkClosed."""
        if not self.lasting:
            return super().flush(timeout)
        self.push()
        return self._await(lambda: not (self._writing or self._queue.size or self._over), timeout)

    def settled(self, timeout: float | None = None) -> bool:
        """Wait until the other end has all that was sent before. False: not in `timeout` s. Raises LinkClosed."""
        if not self.lasting:
            return super().settled(timeout)
        self.push()
        goal = -1

        def has_it() -> bool:
            nonlocal goal
            if goal < 0 and not (self._queue.size or self._over):  # what is over has nothing queued
                goal = self._session.sent
            return 0 <= goal <= self._session.acknowledged

        return self._await(has_it, timeout)

    def has_last_word(self) -> bool:
        """Wait until the other end has the last of LAST_WORDS, and all that was sent before. Raises LinkClosed.

        Not what another thread has sent since: for that no acknowledgement comes at once.
        """
        if not self.lasting:
            return super().settled()
        self.push()
        return self._await(lambda: self._session.last_word <= self._session.acknowledged, None)

    def mark(self) -> int:
        """See Link.mark; but for the bytes of an ACK or two."""
        with self._lock:
            return self._session.sent + self._queue.size

    @property
    def acknowledged(self) -> int:
        """See Link.acknowledged."""
        return self._session.acknowledged

    def _await(self, done: Callable[[], bool], timeout: float | None) -> bool:
        with self._lock:
            self._wait(done, timeout)
            if done():
                return True
            if self._over:
                raise LinkClosed("the link is closed (%s)" % self._over)
            return False
