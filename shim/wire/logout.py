"""Whether a process outlives its user's login, as logind has it. Shipped; for the doctor, and for `--detach`."""

from __future__ import annotations

import os

# No logind without systemd: sd_booted(3).
BOOTED = "/run/systemd/system"
# Of the interface org.freedesktop.login1.Manager, org.freedesktop.login1(5); what they do is in logind.conf(5).
_KINDS = {"KillUserProcesses": "b", "KillOnlyUsers": "as", "KillExcludeUsers": "as"}


def kills(user: str, bus: str | None = None, booted: str = BOOTED) -> bool:
    """Tell whether logind ends what this user's session has left at logout; without a logind that answers nobody does.

    `bus`: the socket of the system's bus.
    """
    if not os.path.isdir(booted):
        return False
    from shim.wire.dbus import LOGIND, LOGIND_OBJECT, PROPERTIES, SYSTEM_BUS, Bus, DBusError, bus_path

    try:
        connection = Bus(bus or bus_path(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"), SYSTEM_BUS))
    except DBusError:
        return False  # without a bus there is no logind
    try:
        (properties,) = connection.call(
            LOGIND, LOGIND_OBJECT, PROPERTIES, "GetAll", "s", (LOGIND + ".Manager",), answer="a{sv}"
        )
    except DBusError:
        return False
    finally:
        connection.close()
    said = {name: value for name, (kind, value) in properties.items() if _KINDS.get(name) == kind}
    only, excluded = said.get("KillOnlyUsers"), said.get("KillExcludeUsers", [])
    return bool(said.get("KillUserProcesses")) and user not in excluded and not (only and user not in only)
