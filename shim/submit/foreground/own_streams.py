"""This process's own standard streams, and its end: what the one who started it sees of a job that ran elsewhere."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable

# These end rexec before the job starts, and once it has ended. A timer outlasts exec(2), as `perl -e 'alarm 9; exec …'`
# has it: the job is to die of it as it would here, and not rexec alone.
_TIMERS = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU, signal.SIGIO, signal.SIGPWR)
FATAL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, *_TIMERS)


def fill() -> list[int]:
    """Tell which of 0, 1 and 2 are open. The others become /dev/null here, lest a file of ours gets their number."""
    found = [fd for fd in range(3) if _is_open(fd)]
    for fd in range(3):
        if fd not in found:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number, as open(2) says
            assert null == fd
    return found


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def let_go(fd: int) -> Callable[[int], None]:
    """Make what closes a copy of `fd` and `fd` itself, so that who is at its other end sees that the job closed it."""

    def close(copy: int) -> None:
        os.close(copy)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, fd)
        os.close(null)

    return close


class Signalled(BaseException):
    """One of FATAL came before there was a job to have it; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


_MERGED = 0.02  # seconds: more than lies between the two of `timeout`, less than between two of one key
_since: dict[int, tuple[float, int]] = {}


def merges(number: int, now: float, said: int) -> bool:
    """Tell whether the job is still to hear of another `number` as this one comes, at `now` (seconds), when it has
    `said` so many bytes.

    The kernel merges what is pending twice (signal(7)). timeout(1) sends its own to its child and then to its whole
    group: a program has both before it runs again, and hears of one. This process hears of each, as it runs in between.
    Who has said something since may have said that he has heard.
    """
    since, before = _since.get(number, (-_MERGED, said))
    if number in FATAL and now - since < _MERGED and said == before:
        return True
    _since[number] = now, said
    return False


_came: list[int] = []


def raise_signals() -> None:
    """Raise Signalled in the main thread at one of FATAL, so that what is open, the terminal above all, is put back.

    Those that are ignored stay so; whoever takes the signals over later sets handlers of its own, and then calls
    ``raise_lost``.
    """

    def caught(number: int, _: object) -> None:
        _came.append(number)
        for other in FATAL:
            if signal.getsignal(other) is caught:
                signal.signal(other, signal.SIG_DFL)  # a second one ends this process at once
        raise Signalled(number)

    for number in FATAL:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, caught)


def raise_lost() -> None:
    """Raise Signalled if a signal came and the job goes on: Python ignores what is raised within a finalizer."""
    if _came:
        raise Signalled(_came[0])


def die_like(status: int, group: bool) -> int:
    """End as the job did: by the same signal, if it was one. Returns the exit status where there was none.

    `status` is waitpid(2)'s. `group`: the job had our terminal, which would have sent the signal of a key to our whole
    process group; so does this, and the shell script around us ends too.
    """
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its core is its own; ours tells nothing
    if number in signal.valid_signals():  # not glibc's own two: they can be neither caught nor blocked here
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    if group and number in (signal.SIGINT, signal.SIGQUIT):
        os.killpg(0, number)
    os.kill(os.getpid(), number)
    return 128 + number
