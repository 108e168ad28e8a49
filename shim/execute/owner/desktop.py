"""Desktops as tellers of the owner's input, over D-Bus: logind's sessions and Mutter's idle monitor.

Shipped: bare python3 >= 3.9. Sources: org.freedesktop.login1(5); systemd's session_get_idle_hint(), which knows a
graphical session's hint only from its desktop and a terminal session's from its tty; Mutter's
org.gnome.Mutter.IdleMonitor.xml.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod

from shim.execute.owner.source import RESCAN, Source
from shim.wire.dbus import LOGIND, LOGIND_OBJECT, PROPERTIES, SYSTEM_BUS, Bus, DBusError, bus_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SESSION = LOGIND + ".Session"
# The properties of a session that are looked at, and their types; one of another type is as good as missing.
_KINDS = {
    "Class": "s", "Display": "s", "IdleHint": "b", "IdleSinceHintMonotonic": "t", "State": "s", "TTY": "s", "Type": "s",
    "User": "(uo)",
}  # fmt: skip
_GRAPHICAL = ("x11", "wayland", "mir")
# Signals bring every change; the lists are read again this often in case one was missed, and a bus that is not to be
# had is tried again.
REFRESH = 30.0
RENEW = 1.0
# Seconds for an answer: at first, and later, when waiting for it keeps a key from being noticed.
PATIENCE_AT_FIRST = 2.0
PATIENCE = 0.2


class Session:
    """A logind session of a person: who, where, and since when idle (None: not idle)."""

    __slots__ = ("display", "graphical", "idle_since", "name", "uid")

    def __init__(self, name: str, uid: int, display: str, graphical: bool, idle_since: float | None) -> None:
        self.name = name
        self.uid = uid
        self.display = display
        self.graphical = graphical
        self.idle_since = idle_since


def person_session(name: str, properties: dict[str, tuple[str, Any]]) -> Session | None:
    """Return the session if a person sits at it, or None: greeters, background services, and logins without a terminal.

    An ssh connection without a terminal, such as our own, is a session of class user whose hint is never set.
    """
    values = {key: value for key, (kind, value) in properties.items() if _KINDS.get(key) == kind}
    if not values.get("Class", "").startswith("user") or values.get("State") == "closing":
        return None
    graphical = values.get("Type") in _GRAPHICAL
    if not graphical and not values.get("TTY"):
        return None
    idle_since = None
    if values.get("IdleHint"):
        idle_since = values.get("IdleSinceHintMonotonic", 0) / 1e6
    elif not graphical:
        # A terminal's hint turns true only after logind's own IdleActionSec; since when is its access time at once.
        idle_since = values.get("IdleSinceHintMonotonic", 0) / 1e6
    uid, _ = values.get("User", (0, ""))
    return Session(name, uid, values.get("Display", ""), graphical, idle_since)


class _BusSource(Source):
    """A source behind a bus, to which it connects anew soon after it was lost, and then every REFRESH seconds."""

    def __init__(self, now: float) -> None:
        self._bus: Bus | None = None
        self._why: str | None = None
        self._refreshed = now
        self._again = now + REFRESH

    def absent(self) -> str | None:
        return None if self._bus is not None else self._why

    def fileno(self) -> int | None:
        return None if self._bus is None else self._bus.fileno()

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def poll(self, now: float) -> str | None:
        if self._bus is None:
            if now >= self._again:
                self._again = now + REFRESH
                self._connect(now, PATIENCE)
            return None
        try:
            return self._take(self._bus, now)
        except DBusError as error:
            self._lose(error)
            self._again = now + RESCAN  # on a busy machine an answer may have come too late, once
            return None

    @abstractmethod
    def _connect(self, now: float, patience: float) -> None:
        """Connect and take a first look; without a bus, `absent` says why."""

    @abstractmethod
    def _take(self, bus: Bus, now: float) -> str | None:
        """Return what was touched, as poll has it. Raises DBusError."""

    def _lose(self, error: DBusError) -> None:
        self.close()
        self._why = str(error)


class LogindSource(_BusSource):
    """IdleHint of the sessions in which a person sits.

    A graphical session's hint is a level, not an event: it says only, minutes late, that input has ceased. So:
    covered_users, covered_displays   sessions that a finer source sees; their hints are not used
    renew                             no finer source sees the seat: while a hint says "active" after it had said
                                      "idle", that is reported as new input every second
    """

    name = "logind"
    seat = True
    interval = RENEW

    def __init__(self, now: float, path: str | None = None) -> None:
        super().__init__(now)
        self._path = path or bus_path(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"), SYSTEM_BUS)
        self._sessions: dict[str, Session] = {}
        self._last: float | None = None
        self._reported = now
        self._returned: set[str] = set()
        self.covered_users: set[int] = set()
        self.covered_displays: set[str] = set()
        self.renew = True
        self._connect(now, PATIENCE_AT_FIRST)

    def _connect(self, now: float, patience: float) -> None:
        self._refreshed = now
        try:
            self._bus = Bus(self._path, patience)
            self._bus.match(sender=LOGIND, interface=PROPERTIES, member="PropertiesChanged")
            self._bus.match(sender=LOGIND, interface=LOGIND + ".Manager")
            self._sessions = self._list(self._bus, patience)
        except DBusError as error:
            self._lose(error)

    def _lose(self, error: DBusError) -> None:
        super()._lose(error)
        self._sessions = {}

    def _list(self, bus: Bus, patience: float) -> dict[str, Session]:
        manager = LOGIND + ".Manager"
        (rows,) = bus.call(LOGIND, LOGIND_OBJECT, manager, "ListSessions", answer="a(susso)", timeout=patience)
        sessions = {}
        for name, _uid, _user, _seat, path in rows:
            try:
                (properties,) = bus.call(
                    LOGIND, path, PROPERTIES, "GetAll", "s", (_SESSION,), answer="a{sv}", timeout=patience
                )
            except DBusError as error:
                # It may have ended since it was listed; any other failure is the source's.
                if "Unknown" not in str(error) and "NoSuchSession" not in str(error):
                    raise
                continue
            session = person_session(name, properties)
            if session is not None:
                sessions[name] = session
        return sessions

    def _used(self) -> list[Session]:
        return [
            session
            for session in self._sessions.values()
            if not (
                session.graphical and (session.uid in self.covered_users or session.display in self.covered_displays)
            )
        ]

    def last_input(self, now: float) -> float | None:
        """Return the newest of the sessions'; nobody logged in: None, which says nothing against idleness."""
        times = [now if session.idle_since is None else session.idle_since for session in self._used()]
        if self._last is not None:
            times.append(self._last)
        return min(max(times), now) if times else None

    def _take(self, bus: Bus, now: float) -> str | None:
        touched = self._changed(bus, now)
        if touched is None and self.renew and now - self._reported >= RENEW:
            active = [session.name for session in self._used() if session.name in self._returned]
            touched = f"session {active[0]} (active)" if active else None
        if touched is not None:
            self._last = self._reported = now
        return touched

    def _changed(self, bus: Bus, now: float) -> str | None:
        if not bus.signals() and now - self._refreshed < REFRESH:
            return None
        self._refreshed = now
        before, self._sessions = self._sessions, self._list(bus, PATIENCE)
        self._returned.intersection_update(self._sessions)
        touched = None
        for session in self._used():
            known = before.get(session.name)
            if session.graphical and session.idle_since is not None:
                self._returned.discard(session.name)
            elif known is None or _newer(session.idle_since, known.idle_since):
                touched = f"session {session.name}"
                if session.graphical:
                    self._returned.add(session.name)
        return touched


def _newer(idle_since: float | None, known: float | None) -> bool:
    if idle_since is None:
        return known is not None
    return known is not None and idle_since > known


class MutterSource(_BusSource):
    """GNOME's idle monitor, on the session bus of the user we run as: exact, and silent while nobody types.

    dbus-daemon lets nobody else on a session bus, not even root. A user-active watch fires once, at the first input
    after it was set; it is set again RENEW / 4 seconds later.
    """

    name = "mutter"
    seat = True
    interval = RENEW / 4
    _monitor = ("org.gnome.Mutter.IdleMonitor", "/org/gnome/Mutter/IdleMonitor/Core", "org.gnome.Mutter.IdleMonitor")

    def __init__(self, now: float, run: str = "/run/user") -> None:
        super().__init__(now)
        self._uid = os.geteuid()
        self._path = f"{run}/{self._uid}/bus"
        self._fired_at: float | None = None  # until the watch is set again
        self._last: float | None = None
        self._why = f"no session bus at {self._path}"
        self._connect(now, PATIENCE)

    def users(self) -> set[int]:
        """Return the users whose desktop is seen."""
        return set() if self._bus is None else {self._uid}

    def last_input(self, now: float) -> float | None:
        return self._last

    def _take(self, bus: Bus, now: float) -> str | None:
        if "WatchFired" in bus.signals():
            self._fired_at = now
        else:
            fired_at = self._fired_at
            if fired_at is None or now - fired_at < RENEW / 4:
                return None
            # Input between the firing and now fires nothing; the idle time tells of it.
            if self._arm(bus) <= fired_at + RENEW / 8:
                return None
        self._last = now
        return f"desktop of user {self._uid}"

    def _arm(self, bus: Bus) -> float:
        """Sets the watch; when the newest input was, at the earliest.

        The monitor answered at some time after it was asked, and we read that later still, on a busy machine much
        later: counted from then, a hand that rests would have moved.
        """
        bus.call(*self._monitor, "AddUserActiveWatch", answer="u", timeout=PATIENCE)
        asked = time.monotonic()
        (idle_ms,) = bus.call(*self._monitor, "GetIdletime", answer="t", timeout=PATIENCE)
        self._fired_at = None
        last = asked - int(idle_ms) / 1000
        self._last = last if self._last is None else max(self._last, last)
        return last

    def _lose(self, error: DBusError) -> None:
        super()._lose(error)
        self._fired_at = None

    def _connect(self, now: float, patience: float) -> None:
        self._refreshed = now
        if not os.access(self._path, os.R_OK | os.W_OK):
            return
        try:
            self._bus = Bus(self._path, patience)
            self._bus.match(interface=self._monitor[2], member="WatchFired")
            self._arm(self._bus)
        except DBusError as error:
            self._lose(error)
