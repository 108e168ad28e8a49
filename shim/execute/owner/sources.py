"""What tells that the machine's owner is back: all sources together. Shipped: bare python3 >= 3.9.

Idle time is the least over the sources that are present. Where no source tells of a keyboard that is plugged in, the
idle time is unknown, and unknown is never taken for idle.
"""

from __future__ import annotations

import contextlib
import select

from shim.execute.owner.desktop import LogindSource, MutterSource
from shim.execute.owner.seat import EvdevSource, InterruptSource, input_devices
from shim.execute.owner.source import RESCAN, Source
from shim.execute.owner.terminals import TerminalSource
from shim.execute.owner.x11 import X11Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NO_SOURCE = "no source tells whether its owner is there"


class OwnerSources:
    """Watches every source. Wait for `fileno()` to be readable or `timeout(now)` to pass, then call poll(now)."""

    def __init__(self, now: float, sources: list[Source] | None = None, sys: str = "/sys") -> None:
        self._sys = sys
        self._opened = now
        if sources is None:
            terminals, evdev, ps2 = TerminalSource(now), EvdevSource(now, sys=sys), InterruptSource(sys)
            sources = [terminals, evdev, ps2, LogindSource(now), MutterSource(now), X11Source(now)]
        self.sources = sources
        self._epoll = select.epoll()
        self._descriptors: dict[int, Source] = {}
        self._due = {source.name: now for source in sources}
        for source in sources:
            self._register(source)
        self._divide()

    def fileno(self) -> int:
        """Return what is readable when a source has news; it stays the same for life."""
        return self._epoll.fileno()

    def timeout(self, now: float) -> float | None:
        """Return the seconds until poll() should be called even if fileno() stays silent."""
        due = [self._due[source.name] for source in self.sources if source.interval is not None]
        return max(min(due) - now, 0.0) if due else None

    def poll(self, now: float) -> list[str]:
        """Tell which sources saw new input since the last call: "terminals: /dev/pts/3". Waits for nothing."""
        ready = {self._descriptors[fd].name for fd, _ in self._epoll.poll(0) if fd in self._descriptors}
        touched = []
        for source in self.sources:
            if source.name not in ready and (source.interval is None or now < self._due[source.name]):
                continue
            what = source.poll(now)
            if what is not None:
                touched.append(f"{source.name}: {what}")
            if source.interval is not None:
                # What is absent need not be asked ten times a second whether it still is.
                self._due[source.name] = now + (source.interval if source.absent() is None else RESCAN)
            self._register(source)
        if touched:
            self._divide()
        return touched

    def _register(self, source: Source) -> None:
        fd = source.fileno()
        if fd is None:
            return
        # A source that lost its bus comes back with another descriptor, or another file under the same number.
        with contextlib.suppress(FileExistsError):
            self._epoll.register(fd, select.EPOLLIN)
        self._descriptors[fd] = source

    def _divide(self) -> None:
        """Tells logind which sessions finer sources see."""
        present = {source.name: source for source in self.sources if source.absent() is None}
        logind = present.get(LogindSource.name)
        if not isinstance(logind, LogindSource):
            return
        mutter, x11 = present.get(MutterSource.name), present.get(X11Source.name)
        logind.covered_users = mutter.users() if isinstance(mutter, MutterSource) else set()
        logind.covered_displays = x11.displays() if isinstance(x11, X11Source) else set()
        logind.renew = not any(source.seat for source in present.values() if source is not logind)

    def blind(self) -> str | None:
        """Tell why the idle time is unknown, as a clause that follows the host's name, or None if it is known."""
        if all(source.absent() is not None for source in self.sources):
            return NO_SOURCE
        unseen = self._unseen_devices(history=False)
        if unseen:
            return f"{unseen[0]} is plugged in there, and no source tells of it"
        return None

    def _unseen_devices(self, history: bool) -> list[str]:
        """Keyboards and mice that no source present tells of (`history`: of input before we came)."""
        humans = [device for device in input_devices(self._sys) if device.human]
        present = [source for source in self.sources if source.absent() is None]
        if any(source.seat and source.history for source in present):
            return []
        if history:
            return [device.name for device in humans]
        read = {event for source in present if isinstance(source, EvdevSource) for event in source.covers()}
        ps2 = any(isinstance(source, InterruptSource) for source in present)
        return [
            device.name
            for device in humans
            if device.event not in read and not (ps2 and device.phys.startswith("isa0060/"))
        ]

    def idle(self, now: float) -> float | None:
        """Return the seconds since the owner's last input; None: unknown, see blind()."""
        if self.blind() is not None:
            return None
        known = [source.last_input(now) for source in self.sources if source.absent() is None]
        if self._unseen_devices(history=True):
            # Keyboards are watched, but nothing tells of the time before that.
            known.append(self._opened)
        last = max((time for time in known if time is not None), default=0.0)
        return max(now - last, 0.0)

    def facts(self, now: float) -> list[dict[str, Any]]:
        """Say for `rexec hosts --why` of each source name, present, why not (or None), idle seconds (or None)."""
        rows = []
        for source in self.sources:
            why = source.absent()
            last = source.last_input(now) if why is None else None
            idle = None if last is None else round(max(now - last, 0.0), 1)
            rows.append({"source": source.name, "present": why is None, "why": why, "idle": idle})
        return rows

    def close(self) -> None:
        for source in self.sources:
            source.close()
        self._epoll.close()


def owner_facts(now: float) -> dict[str, Any]:
    """Look once, for `rexec hosts`: {"idle": seconds or None, "unknown": why or None, "sources": facts}."""
    watch = OwnerSources(now)
    try:
        return {"idle": watch.idle(now), "unknown": watch.blind(), "sources": watch.facts(now)}
    finally:
        watch.close()
