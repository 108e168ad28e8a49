"""How the submit machine's users reach the hosts: the ordinary user itself, keys, known hosts, ssh's configuration."""

from __future__ import annotations

import pwd
import shutil
from pathlib import Path

from tests.desk_hosts import (
    HOSTS,
    PORT,
    PORT_NO_USER_NAMESPACES,
    SSH_CONFIG,
    STATE,
    SUBMIT_GROUP,
    SUBMIT_UID,
    SUBMIT_USER,
    SYSTEM_SSH_CONFIG,
    Host,
)
from tests.desk_root import USERS, DeskError, call


def submit_user() -> None:
    call(["groupadd", "--force", SUBMIT_GROUP])
    try:
        entry = pwd.getpwnam(SUBMIT_USER)
    except KeyError:
        call(["useradd", "-m", "-s", "/bin/bash", "-u", str(SUBMIT_UID), "-p", "*", SUBMIT_USER])
        entry = pwd.getpwnam(SUBMIT_USER)
    if entry.pw_uid != SUBMIT_UID:
        raise DeskError(f"user {SUBMIT_USER} has uid {entry.pw_uid}, not {SUBMIT_UID}; remove that user first")
    call(["usermod", "-a", "-G", SUBMIT_GROUP, SUBMIT_USER])


def keys() -> None:
    (STATE / "keys").mkdir(exist_ok=True)
    for user in ("root", SUBMIT_USER):
        _make_key(STATE / "keys" / user, f"{user}@rexec-desk")
        shutil.chown(STATE / "keys" / user, user, user)
    lines = []
    for host in HOSTS.values():
        host.state.mkdir(exist_ok=True)
        _make_key(host.state / "host_key", host.name)
        lines.append(f"rexec-desk-{host.name} {(host.state / 'host_key.pub').read_text()}")
    _write(STATE / "known_hosts", "".join(lines))


def _make_key(path: Path, comment: str) -> None:
    if not path.exists():
        call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])


def configure() -> None:
    config = "\n".join(_ssh_config(host) for host in HOSTS.values())
    _write(STATE / "delay.py", Path(__file__).with_name("desk_delay.py").read_text())
    _write(SSH_CONFIG, config)
    SYSTEM_SSH_CONFIG.parent.mkdir(exist_ok=True)
    _write(SYSTEM_SSH_CONFIG, f"Include {SSH_CONFIG}\n")
    # The ordinary user has everything in its own home, as people do.
    home = Path(pwd.getpwnam(SUBMIT_USER).pw_dir) / ".ssh"
    home.mkdir(mode=0o700, exist_ok=True)
    _write(home / "config", config.replace(f"{STATE}/keys/%u", "~/.ssh/id_ed25519"))
    _write(home / "id_ed25519", (STATE / "keys" / SUBMIT_USER).read_text(), mode=0o600)
    for path in (home, *home.iterdir()):
        shutil.chown(path, SUBMIT_USER, SUBMIT_USER)


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Have `text` in `path`, so that whoever reads it meanwhile finds the old text or the new."""
    if not path.exists() or path.read_text() != text:
        new = path.with_name(f"{path.name}.new")
        new.write_text(text)
        new.chmod(mode)
        new.rename(path)


def _ssh_config(host: Host) -> str:
    users = "".join(f"Host {host.name}-{user}\n    User {user}\n" for user in USERS)
    return f"""\
{users}Host {host.name}-nouserns
    User alice
    Port {PORT_NO_USER_NAMESPACES}
Host {host.name}-far*
    ProxyCommand python3 {STATE}/delay.py %n {host.address} {PORT}
Host {host.name} {host.name}-*
    HostName {host.address}
    HostKeyAlias rexec-desk-{host.name}
    User root
    IdentityFile {STATE}/keys/%u
    IdentitiesOnly yes
    StrictHostKeyChecking yes
    UserKnownHostsFile {STATE}/known_hosts
    ControlMaster no
    ControlPath none
"""
