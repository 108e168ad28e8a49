"""Whether a process outlives its user's login here, as logind has it. At home; read for `--detach` only."""

from __future__ import annotations

import os

# No logind without systemd: sd_booted(3).
_BOOTED = "/run/systemd/system"
_LINGER = "/var/lib/systemd/linger"
# Of the interface org.freedesktop.login1.Manager, org.freedesktop.login1(5); what they do is in logind.conf(5).
_KINDS = {"KillUserProcesses": "b", "KillOnlyUsers": "as", "KillExcludeUsers": "as"}


def killed_at_logout(user: str, bus: str | None = None, booted: str = _BOOTED, linger: str = _LINGER) -> str:
    """Say something if logind ends this user's processes at logout; else "".

    Without a logind that answers nobody ends them, so that is "" too. `bus`: the socket of the system's bus.
    """
    if not os.path.isdir(booted) or os.path.exists(f"{linger}/{user}"):
        return ""
    from shim.wire.dbus import LOGIND, LOGIND_OBJECT, PROPERTIES, SYSTEM_BUS, Bus, DBusError, bus_path

    try:
        connection = Bus(bus or bus_path(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"), SYSTEM_BUS))
    except DBusError:
        return ""  # without a bus there is no logind
    try:
        (properties,) = connection.call(
            LOGIND, LOGIND_OBJECT, PROPERTIES, "GetAll", "s", (LOGIND + ".Manager",), answer="a{sv}"
        )
    except DBusError:
        return ""
    finally:
        connection.close()
    said = {name: value for name, (kind, value) in properties.items() if _KINDS.get(name) == kind}
    only, excluded = said.get("KillOnlyUsers"), said.get("KillExcludeUsers", [])
    if not said.get("KillUserProcesses") or user in excluded or (only and user not in only):
        return ""
    return (
        "this system ends your processes when you log out, the job's supervisor too: run `loginctl enable-linger` to "
        "keep them"
    )
