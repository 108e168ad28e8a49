"""How the agent ends by an error or a lost link, and what is said on standard error. Shipped.

Threads: whichever finds the link gone ends the process, unless one `leaves`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from remoteio.wire.link import LinkClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def where(e: BaseException) -> str:
    """Return FILE:LINE at which it was raised."""
    at = e.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return "%s:%d" % (at.tb_frame.f_code.co_filename, at.tb_lineno) if at is not None else "?"


def aside(text: str) -> None:
    """Write a sentence to standard error: ssh takes it along, and it is shown if the link breaks."""
    try:
        os.write(2, ("rexec: %s\n" % text).encode("utf-8", "replace"))
    except OSError:
        return  # the ssh that took it along is gone


_leaver: threading.Thread | None = None


def leaves() -> None:
    """Take note that this thread removes the last that is left here, and then ends this process."""
    global _leaver
    _leaver = threading.current_thread()


def give_way() -> None:
    """Wait for the end of this process, if another thread `leaves`: it does so as soon as home has hung up."""
    if _leaver not in (None, threading.current_thread()):
        threading.Event().wait()


def fail(e: BaseException) -> NoReturn:
    """End this process: the link or the connection to the kernel is gone, and with it all there is to do."""
    if isinstance(e, LinkClosed):
        give_way()
    else:
        aside("the agent failed at %s: %r" % (where(e), e))
    os._exit(1)


def start_thread(name: str, run: Callable[[], None]) -> threading.Thread:
    """Start a thread; whatever it raises ends this process."""

    def guarded() -> None:
        try:
            run()
        except BaseException as e:  # whatever ends a thread of ours ends the run
            fail(e)

    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread
