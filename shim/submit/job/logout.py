"""What to say to a user whose detached jobs would be ended at logout. At home; read for `--detach` only.

logind ends two things, each by a rule of its own (logind.conf(5), KillUserProcesses; loginctl(1), enable-linger): a
login's scope where KillUserProcesses says so, whoever lingers, and after a user's last login their own service manager
(user@.service) with all that runs beneath it, unless that user lingers, whatever KillUserProcesses says.
"""

from __future__ import annotations

import os

from shim.wire.logout import BOOTED, kills

LINGER = "/var/lib/systemd/linger"
_ENDS = "this system ends your processes when you log out, the job's supervisor too: run `loginctl enable-linger` to "


def killed_at_logout(
    user: str, bus: str | None = None, booted: str = BOOTED, linger: str = LINGER, cgroup: str = "/proc/self/cgroup"
) -> str:
    """Say something if logind ends this user's processes at logout; else "". The others: as for ``kills``."""
    if not os.path.isdir(booted):
        return ""
    lingers = os.path.exists(f"{linger}/{user}")
    with open(cgroup) as file:
        managed = "/user@" in file.read()
    if managed:
        return "" if lingers else _ENDS + "keep them"
    if not kills(user, bus, booted):
        return ""
    again = "start jobs by `systemd-run --user --scope rexec`, and `rexec resume` has this one go on afterwards"
    if lingers:
        return f"this system ends what a login started when you log out, the job's supervisor too: {again}"
    return f"{_ENDS}keep what your service manager runs, {again}"
