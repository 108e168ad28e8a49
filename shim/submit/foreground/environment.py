"""What of the environment travels: all of it, but for what describes this session only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from remoteio.errors import RexecError

# Names, or beginnings of names with a *, that name a socket, display, bus or terminal of this very login.
SESSION_ONLY: tuple[str, ...] = (
    "SSH_AUTH_SOCK", "SSH_AGENT_PID", "SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY", "SSH_ASKPASS", "DISPLAY",
    "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "XDG_SESSION_*", "XDG_SEAT", "XDG_VTNR", "DBUS_*",
    "GPG_AGENT_INFO", "GPG_TTY", "SESSION_MANAGER", "WINDOWID", "TMUX", "TMUX_PANE", "STY", "PULSE_SERVER",
    "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "KRB5CCNAME",
    "DESKTOP_STARTUP_ID", "GNOME_KEYRING_CONTROL",
)  # fmt: skip


def travels(name: bytes) -> bool:
    """Does a variable of that name go along by default?"""
    text = name.decode("utf-8", "replace")
    return not any(text.startswith(p[:-1]) if p.endswith("*") else text == p for p in SESSION_ONLY)


def for_job(ours: Mapping[bytes, bytes], asked: Sequence[bytes]) -> list[bytes]:
    """Return the job's environment, NAME=VALUE each: `ours` less SESSION_ONLY, then what --env asked.

    `asked` items are NAME (pass it on, whatever it is) or NAME=VALUE. Raises RexecError for an empty name.
    """
    env = {name: value for name, value in ours.items() if travels(name)}
    for item in asked:
        name, has_value, value = item.partition(b"=")
        if not name:
            raise RexecError("--env needs NAME or NAME=VALUE, not %r" % item.decode("utf-8", "replace"))
        if has_value:
            env[name] = value
        elif name in ours:
            env[name] = ours[name]
    return [name + b"=" + value for name, value in env.items()]
