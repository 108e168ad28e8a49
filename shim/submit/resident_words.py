"""What a run and the resident that serves its files (resident.py) say to one another, beside frames.

The run says first, over a stream socket that its keeper has given it, BEGIN of shim/wire/kept.py, OFFER and START, all
at once; it is answered YES, once the host has taken the job, or by the end of the stream: then no job has begun.
From then on either sends the frames that an agent would have, or would have been sent, but for those about files. What
else the resident says is NEWS, an object with one of these:

    away, lost, unleased   why: see dialler.Told, host_session.Handler
    joined, silent         true: likewise
    over                   {rows, sentences, received, sent}: what the job was refused, bytes to and fro; before EXIT
    failed                 [kind, why]: what ended the session; kind is of FAILURES
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from remoteio.errors import ProtocolError, RexecError
from remoteio.wire import frames
from remoteio.wire.link import LinkClosed
from shim.submit.scope import Scope, of_row
from shim.submit.shapes import flag, mapping, string, table, whole

FAILURES: dict[str, type[RexecError | ProtocolError]] = {
    "closed": LinkClosed, "misbehaves": ProtocolError, "other": RexecError,
}  # fmt: skip

_AROUND = ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "TMPDIR")
_OFFER = table({"scope": lambda value, _: value, "sync": flag, "lease": whole(), "around": mapping(string, string, 99)})


class Offer(NamedTuple):
    """What a run asks for beside its job: what the job has of the files here, whether it waits for each change, and for
    how many seconds its agent waits for another stream.

    around  where the user's own files are, which decides what is kept from jobs
    """

    scope: Scope
    sync: bool
    lease: int
    around: dict[str, str]

    def pack(self) -> bytes:
        """Return it as a frame."""
        return frames.frame(frames.ORDER, json.dumps({**self._asdict(), "scope": self.scope.row()}).encode())


def offer(payload: bytes | memoryview) -> Offer:
    """Read an offer's payload. Raises ShapeError, ValueError."""
    found: dict[str, Any] = _OFFER(json.loads(bytes(payload)), "the offer")
    return Offer(of_row(found["scope"]), found["sync"], found["lease"], found["around"])


def around() -> dict[str, str]:
    """Return this process's own of Offer.around."""
    return {name: value for name in _AROUND if (value := os.environ.get(name)) is not None}


def news(**said: object) -> bytes:
    """Return the payload of a NEWS."""
    return json.dumps(said).encode()


def failed(error: BaseException) -> bytes:
    """Return the payload of the NEWS that says what ended the session."""
    kind = next((name for name, each in FAILURES.items() if isinstance(error, each)), "other")
    return news(failed=[kind, str(error)])
