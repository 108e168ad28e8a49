"""Saving the tree: criu's dump up to the moment it stands still, then its files to the store. Shipped; no shim.

::

    criu DUMP … post-dump: the tree is frozen, its image whole in the spool
                  still()                      the caller drains streams and says so
                  stays:   answer criu "yes", it goes on; then send the image
                  leaves:  send the image; Left: the caller ends the tree, and criu is never answered
                           anything else: answer criu "no", the tree goes on
"""

from __future__ import annotations

import os
import socket
import time

from checkpoint.errors import CheckpointError
from checkpoint.execute import criu, criu_images
from checkpoint.execute.sender import Sender
from checkpoint.execute.spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from checkpoint.execute.chunker import Known

CONVERSE_S = 600  # for a hung criu; freezing has its own, shorter limit


class DumpError(CheckpointError):
    """One sentence: why the tree could not be saved; it goes on."""


class Left(Exception):
    """Say that the tree is to end, and not to be let go on before: passes through criu's conversation."""


def wipe(work: str) -> None:
    """Remove criu's directory and its files, which somebody else may be removing at the same time. Raises OSError."""
    try:
        for entry in list(os.scandir(work)):
            _unlink(entry.path)
        os.rmdir(work)
    except FileNotFoundError:
        return  # the job's keeper was faster: the job has ended


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # as above; what else is in its directory may still be there


def failure(what: str, work: str, kept: str) -> str:
    """Say in a sentence why the criu of that directory failed; keep its log as the file `kept`. Raises OSError."""
    path = os.path.join(work, criu.LOG_NAME)
    why = criu.failure(what, work)
    try:
        with open(path, "rb") as log, open(kept, "wb") as copy:
            copy.write(log.read())
    except OSError as e:  # criu's reason is worth more than its log
        return why.replace(path, f"not kept, because of {kept} ({e.strerror})")
    return why.replace(path, kept)


def dump(
    sock: socket.socket, request: bytes, work: str, kept: str, still: Callable[[int], None],
    leave: Callable[[], None] | None,
) -> None:  # fmt: skip
    """Run criu's dump to its end. `still` is called with the tree frozen, with the microseconds since criu began;
    then `leave`, if the tree is to leave: it returns only by raising something.

    `work`: the directory of criu's log; `kept`: where that goes if it fails. Raises DumpError; what these two raise,
    when criu has let the tree go on, but Left at once: criu is not answered.
    """
    began = time.monotonic()
    why: list[Exception] = []

    def notified(told: criu.Answer) -> bool:
        if told.script != "post-dump":
            return True
        try:
            still(int((time.monotonic() - began) * 1e6))
            if leave is not None:
                leave()
        except Left:
            raise
        except Exception as e:  # whatever it is, the tree must not stay as it is
            why.append(e)
            return False
        return True

    sock.settimeout(CONVERSE_S)
    try:
        answer = criu.converse(sock, request, notified)
    except (criu.CriuError, OSError) as e:
        if why:
            raise why[0] from e
        raise DumpError(failure("the checkpoint", work, kept)) from e
    if why:
        raise why[0]
    if not answer.success:
        raise DumpError(failure("the checkpoint", work, kept))


def times(work: str) -> dict[str, int]:
    """Read what criu measured, once it has ended; {} if it could not say."""
    path = os.path.join(work, criu.STATISTICS)
    with open(path, "rb") as f:
        raw = f.read()
    return criu.parse_stats(raw) if raw else {}


def kinds(spool: Spool) -> list[str]:
    """List what kinds of resources the image in the spool has (criu_images.kinds). Raises DumpError."""
    try:
        return criu_images.kinds(spool.names(), spool.read(criu_images.FILES_NAME))
    except (criu.CriuError, OSError) as e:
        raise DumpError(f"the checkpoint failed: the image's list of files cannot be read: {e}") from e


def send(
    spool: Spool, head: bytes, put: Callable[[list[bytes | memoryview]], None],
    get: Callable[[bool, bool], bytes | None], known: dict[str, Known] | None = None,
) -> dict[str, bytes]:  # fmt: skip
    """Offer all files of the spool to the store until it has committed them. `known`: chunker.sources.

    Returns the tables of its page images, by the names of their pagemaps.

    `put` sends a payload, given in parts, as far as there is credit; `get(wait, ended)` is the store's next payload, or
    None if there is none yet and `wait` is false; `ended`: it has all, and may commit. What they raise ends it.
    """
    while True:
        sender = Sender(spool, head, known=known)
        try:
            _converse(sender, put, get)
        finally:
            sender.close()
        if sender.committed is not None:
            return sender.tables()


def _converse(
    sender: Sender, put: Callable[[list[bytes | memoryview]], None], get: Callable[[bool, bool], bytes | None]
) -> None:
    while sender.committed is None and not sender.again:
        message = sender.next_message()
        if message is not None:
            put(message)
        answer = get(message is None, sender.ended)
        while answer is not None:
            sender.receive(answer)
            answer = get(False, sender.ended)
