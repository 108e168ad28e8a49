"""How long an agent stays: while its job runs and home is heard of, or may come back. Shipped.

Where there is no door, the end of the stream is the end. Else a stream that was cut, or is silent, is given up, and
another may join by the door (door.py) until the lease is over. Until home has answered the kernel for the first time it
may know of no door, and has another agent started then: the job has not begun, as all its files are home's, and none
comes that has not come within lease.AGENT seconds. The lease counts
from the last that was heard of home, in seconds that include those that the machine slept. An agent that was itself
stopped for longer than the lease has a moment more: home may be at the door.

A job of which images are made is not ended with its lease: it stands still (`stand`), for lease.STILL at most, and goes
on (`rise`) with the first that is heard of home. Home hears of it only if it has not gone on elsewhere. It is ended
where it cannot be stopped in time, and where the kernel would not have it wait (sysctl.fuse_waits).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.execute.agent.diagnostics import aside, fail
from shim.execute.agent.door import Door
from shim.wire import lease, sysctl
from shim.wire.job_spec import JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class Stay:
    """Decides when the agent of the job `spec` gives its stream up, and when it ends.

    known   home knows of the door; the job acts, or may soon
    paused  home has said that it will not speak for a while
    stand   stops the job, at once; False: it is to be ended instead
    rise    has it go on

    Threads: the agent's main one calls ``begin`` and ``heard`` and sets `paused`; ``watch`` is for one of its own; the
    link's threads call `_cut`. Each attribute is one value, written in one step: a stale one costs a second.
    """

    __slots__ = (
        "_awake", "_door", "_heard", "_home", "_joined", "_lease", "_link", "_stands",
        "known", "paused", "rise", "stand",
    )  # fmt: skip

    def __init__(self, link: SessionLink, spec: JobSpec, directory: str, state: Callable[[], bytes]) -> None:
        """`directory`: of the door; empty: there is none. `state`: as of Door."""
        self._link, self._lease, self._home = link, spec.lease, spec.home
        self._heard = _now()
        self._awake = 0.0  # since when this process has not been stopped
        self._joined = self._heard  # since when it has the stream that it has; 0: it has none
        self._stands = 0.0  # since when the job stands still; 0: it does not
        self.stand: Callable[[], bool] = _cannot
        self.rise: Callable[[], None] = lambda: None
        self.known = self.paused = False
        self._door: Door | None = None
        if directory:
            try:
                self._door = Door(directory, spec.secret, link, state)
            except OSError as e:
                aside("the job lives as long as its first connection, as there is no socket for another: %s" % e)

    def begin(self) -> list[bytes]:
        """Have the link outlive its stream, before HELLO is sent; returns what HELLO says of the door."""
        if self._door is None:
            return []
        self._link.last(self._cut)
        for fd in {self._link.read_fd, self._link.write_fd}:
            os.close(fd)  # it has its own by now, and sshd is to see it close them
        return self._door.open()

    def heard(self) -> None:
        """Take note of a sign of life."""
        self._heard = _now()

    def leased(self, seconds: int) -> None:
        """Wait so long for another stream from now on; 0: there is no job."""
        self._lease = seconds

    def _cut(self, why: str) -> None:
        waits = sysctl.fuse_waits(sysctl.value)
        if waits:
            self._lease, self.stand = min(self._lease, waits), _cannot
        if self.paused:
            self._heard = _now()  # it had said that it would be silent
        if self._door is not None:
            self._door.cut()

    def watch(self) -> None:
        """Give up a stream that is silent, and end this process when its time is over."""
        last = _now()
        while True:
            time.sleep(lease.PULSE)
            now = _now()
            if now - last > 2 * lease.PULSE:
                self._awake = now
            last = now
            self._look(now - self._heard, now - self._awake)

    def _look(self, silent: float, awake: float) -> None:
        if self._home and os.getppid() != self._home:
            self.end("home has ended")  # on this very machine, where no network is to blame
        if self._link.cut:
            if self._stands:
                if silent > self._lease + lease.STILL:
                    self.end("nobody has come back for the job")
            elif silent > (self._lease if self.known else min(self._lease, lease.AGENT)) and awake > lease.AGENT:
                if not (self.known and self.stand()):
                    self.end("the lease is over")
                self._stands = _now()
            self._joined = 0.0
            return
        self._joined = self._joined or _now()
        if self._stands and self._heard > self._stands:
            self._stands = 0.0
            self.rise()
        if min(silent, awake, _now() - self._joined) > lease.AGENT and not self.paused:
            if self._door is None:
                os._exit(1)
            self._link.drop("home is silent")

    def end(self, why: str) -> NoReturn:
        """End this process, and with it the job."""
        if self._door is not None:
            self._link.shut(why)  # who waits for home to hear of the job's end waits no more, and takes the door away
        fail(LinkClosed(why))


def _cannot() -> bool:
    return False


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
