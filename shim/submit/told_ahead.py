"""Tell a host what the job is likely to use, before it asks; as the session's own threads do it.

Its names go when the host has greeted, the first of them ahead of the answer to INIT, with which the kernel there
begins to ask; and what they lead to as a host asks for it, with its first word if it was told that it is far: then its
names come so alone. Both are made by a thread that nobody else waits for, as a disk that does not answer may keep it
waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.first_names import FirstNames
from remoteio.wire import frames, fuse_abi
from shim.submit import host_frames

if TYPE_CHECKING:
    from remoteio.submit.export.pushing import Pushing

SOON_S = 0.1  # seconds that a start is kept waiting at the most by a disk that does not answer
MOST_PROGRAMS = 64  # that one job executes
NAMES_DUE, PUSH_DUE = memoryview(b""), memoryview(b"")
"""Among a session's requests: it is time to tell names, or to send what was asked for."""


def is_due(item: bytes | memoryview) -> bool:
    """Say whether a request is none of the host's, but one of the two here."""
    return item is NAMES_DUE or item is PUSH_DUE


class ToldAhead:
    """Tells what `first_names` knows, and has it learn. None: nothing, as of a job that others may take up.

    Threads: `credited` is for the one that receives; all else for any.
    """

    def __init__(self, first_names: FirstNames | None, far: bool = False, directory: bytes = b"") -> None:
        """`far`: the host has been told that it is; `directory`: the job's own."""
        self._first_names, self._far, self._directory = first_names, far, directory
        self._soon = threading.Event()  # the first names are on their way, or there are none
        self._pushing: Pushing | None = None
        self._lock = threading.Lock()  # around these
        self._programs: set[bytes] = set()  # that the job has executed, and that nothing was known of

    def saw(self, export: Export, request: fuse_abi.Request) -> bool:
        """Take note of what the job asks for; say whether PUSH_DUE is due."""
        if self._first_names is None:
            return False
        if request.op == fuse_abi.INIT:
            self._soon.wait(SOON_S)
        program = self._first_names.saw(export, request)
        walks = self._first_names.begins()
        if not program and not walks:
            return False
        with self._lock:
            if walks:
                return self._pushing is not None and self._pushing.more(walks.items())
            if program in self._programs or len(self._programs) >= MOST_PROGRAMS:
                return False
            self._programs.add(program)
            return self._pushing is not None and self._pushing.more(self._first_names.executed(export, program))

    def end(self) -> None:
        """Take note that the job is over."""
        if self._first_names is not None:
            self._first_names.end()

    def stop(self) -> bool:
        """Have nothing more told. Whether all that was made is sent; then what was open for it is closed."""
        if self._pushing is not None and not self._pushing.stop():
            return False
        self.release()
        return True

    def release(self) -> None:
        """Close what is open to be sent, once nobody makes frames any more."""
        if self._pushing is not None:
            self._pushing.close()
        if self._first_names is not None:
            self._first_names.release()

    def credited(self, payload: bytes | memoryview, export: Export) -> list[bytes | memoryview]:
        """Take a CREDIT for what is PUSHED; return what is due now among the requests."""
        _, count = host_frames.credit(payload)
        export.credits += 1  # of all jobs over this link: the host counts them so, too
        if self._first_names is None:
            return []
        if self._pushing is None:
            from remoteio.submit.export.pushing import Pushing  # for hosts that ask

            names, guessed = self._first_names, not self._first_names.known
            pushing = Pushing(
                names.used(export), names.read, self._far, names.walks, self._directory, guessed, names.there,
                export.credits - 1,
            )  # fmt: skip
            with self._lock:
                for program in self._programs:
                    pushing.more(names.executed(export, program))
                self._pushing = pushing
        return [PUSH_DUE] if self._pushing.credited(count) else []

    def made(self, item: bytes | memoryview, export: Export, over: threading.Event) -> Iterator[tuple[int, bytes]]:
        """Make the frames that are due, until it is `over`."""
        told: Iterator[bytes] = iter(())
        if item is NAMES_DUE and self._first_names is not None:
            if self._far and self._first_names.knows and export.leases.wanted():
                return  # its CREDIT comes behind HELLO
            told = self._first_names.begin(export)
        elif item is PUSH_DUE and self._pushing is not None:
            export.asks = True
            told = self._pushing.due(export)
        for payload in told:
            if over.is_set():
                return
            yield frames.NAMES if item is NAMES_DUE else frames.PUSHED, payload
            self._soon.set()
        self._soon.set()
