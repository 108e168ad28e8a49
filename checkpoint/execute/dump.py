"""Saving the tree: criu's dump up to the moment it stands still, then its files to the store. Shipped; no shim.

::

    criu DUMP … post-dump: the tree is frozen, its image whole in the spool
                  still()                      the caller drains streams and says so
                  stays:   answer criu "yes", it goes on; then send the image
                  leaves:  send the image; committed: the caller ends the tree, and criu is never answered
                           anything else: answer criu "no", the tree goes on
"""

from __future__ import annotations

import os
import socket
import time

from checkpoint.errors import CheckpointError
from checkpoint.execute import criu
from checkpoint.execute.sender import Sender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CONVERSE_S = 600  # for a hung criu; freezing has its own, shorter limit
_SAVED = ".img"


class DumpError(CheckpointError):
    """One sentence: why the tree could not be saved; it goes on."""


def spool_size(spool: str) -> int:
    """Count the bytes of the image in the spool."""
    return sum(entry.stat().st_size for entry in os.scandir(spool) if entry.name.endswith(_SAVED))


def select(spool: str, target: str) -> None:
    """Make the directory `target`, with links to what of the spool makes up the image: not criu's log and the like."""
    os.mkdir(target, 0o700)
    for entry in os.scandir(spool):
        if entry.name.endswith(_SAVED):
            os.link(entry.path, os.path.join(target, entry.name))


def wipe(spool: str) -> None:
    """Remove the spool and all in it, which somebody else may be removing at the same time. Raises OSError."""
    try:
        for entry in list(os.scandir(spool)):
            if entry.is_dir(follow_symlinks=False):
                wipe(entry.path)
            else:
                _unlink(entry.path)
        os.rmdir(spool)
    except FileNotFoundError:
        return  # the job's keeper was faster: the job has ended


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # as above; what else is in its directory may still be there


def failure(what: str, spool: str, kept: str) -> str:
    """Say in a sentence why the criu of that spool failed; keep its log as the file `kept`. Raises OSError."""
    path = os.path.join(spool, criu.LOG_NAME)
    why = criu.failure(what, spool)
    try:
        with open(path, "rb") as log, open(kept, "wb") as copy:
            copy.write(log.read())
    except OSError as e:  # criu's reason is worth more than its log
        return why.replace(path, f"not kept, because of {kept} ({e.strerror})")
    return why.replace(path, kept)


def dump(
    sock: socket.socket,
    request: bytes,
    spool: str,
    kept: str,
    still: Callable[[int], None],
    leave: Callable[[], None] | None,
) -> None:
    """Run criu's dump to its end. `still` is called with the tree frozen, with the microseconds since criu began;
    then `leave`, if the tree is to leave: it returns only by raising DumpError.

    `kept`: where criu's log goes if it fails. Raises DumpError.
    """
    began = time.monotonic()
    why: list[DumpError] = []

    def notified(told: criu.Answer) -> bool:
        if told.script != "post-dump":
            return True
        try:
            still(int((time.monotonic() - began) * 1e6))
            if leave is not None:
                leave()
        except DumpError as e:
            why.append(e)
            return False
        except OSError as e:
            why.append(DumpError(f"the checkpoint failed: {e}"))
            return False
        return True

    sock.settimeout(CONVERSE_S)
    try:
        answer = criu.converse(sock, request, notified)
    except (criu.CriuError, OSError) as e:
        raise DumpError(failure("the checkpoint", spool, kept)) from e
    if why:
        raise why[0]
    if not answer.success:
        raise DumpError(failure("the checkpoint", spool, kept))


def times(spool: str) -> dict[str, int]:
    """Read what criu measured, once it has ended; {} if it could not say."""
    path = os.path.join(spool, "stats-dump")
    if not os.path.exists(path):
        return {}
    with open(path, "rb") as f:
        return criu.parse_stats(f.read())


def send(
    files: str, head: bytes, put: Callable[[list[bytes | memoryview]], None], get: Callable[[bool], bytes | None]
) -> tuple[bytes, int]:
    """Offer all files of the directory `files` to the store until it has committed them.

    Returns the image's hash and the bytes sent.

    `put` sends a payload, given in parts, as far as there is credit; `get(wait)` is the store's next payload, or None
    if there is none yet and `wait` is false. What they raise ends it.
    """
    directory = os.open(files, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sent = 0
        while True:
            sender = Sender(directory, head)
            try:
                _converse(sender, put, get)
            finally:
                sender.close()
            sent += sender.sent
            if sender.committed is not None:
                return sender.committed, sent
    finally:
        os.close(directory)


def _converse(
    sender: Sender, put: Callable[[list[bytes | memoryview]], None], get: Callable[[bool], bytes | None]
) -> None:
    while sender.committed is None and not sender.again:
        message = sender.next_message()
        if message is not None:
            put(message)
        answer = get(message is None)
        while answer is not None:
            sender.receive(answer)
            answer = get(False)
