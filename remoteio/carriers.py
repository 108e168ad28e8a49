"""What the ``ssh`` program says when it fails, in one sentence of ours. Pure."""

from __future__ import annotations

import re

from remoteio.errors import RexecError


class TransportError(RexecError):
    """No byte stream to the host could be had, or it broke: what failed, why, what to do."""


# The first rule found in ssh's own words decides. The texts are those of OpenSSH's ssh.c, sshconnect.c,
# sshconnect2.c, readconf.c and of strerror(3); {dest} is the destination as the user named it.
_RULES: tuple[tuple[str, str], ...] = (
    (
        r"Could not resolve hostname (?P<what>\S+?):",
        "cannot reach {dest}: the name {what} is unknown; check its spelling, or name it in ~/.ssh/config",
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "refused to connect to {dest}: its host key is not the one known, which is what an attack looks like; if the "
        "machine was set up anew, remove the old key with `ssh-keygen -R` and connect once with ssh",
    ),
    (
        r"Host key verification failed|host key is known for",
        "refused to connect to {dest}: its host key is not known yet; connect once with `ssh {dest}` and compare the "
        "key it shows",
    ),
    (
        r"Permission denied \((?P<what>[^)]*)\)",
        "{dest} refused the login: no key or password of yours was accepted (it takes {what}); check the user name and "
        "that `ssh {dest}` lets you in",
    ),
    (
        r"Too many authentication failures",
        "{dest} refused the login: too many keys were offered; name the right one with IdentityFile and "
        "IdentitiesOnly in ~/.ssh/config",
    ),
    (
        r"Connection refused",
        "cannot reach {dest}: it refused the connection; start sshd there, or check the port",
    ),
    (
        r"No route to host|Network is unreachable",
        "cannot reach {dest}: there is no route to it; check that it is up and the network is the right one",
    ),
    (
        r"timed out",
        "cannot reach {dest}: it did not answer in time; check that it is up and that no firewall is in between",
    ),
    (
        r"(?P<what>Bad owner or permissions on \S+|Bad configuration option: \S+|[^\n]*: terminating, [^\n]*)",
        "cannot reach {dest}: ssh does not accept its configuration ({what}); correct it",
    ),
    (
        r"Connection closed by|Connection reset|kex_exchange_identification|Broken pipe",
        "{dest} closed the connection; try `ssh {dest}`, and look at its sshd log",
    ),
)


def explain_ssh(destination: str, status: int | None, words: str) -> TransportError:
    """The failure of an ``ssh`` that ended with ``status`` (None: still running) having said ``words``."""
    for pattern, text in _RULES:
        found = re.search(pattern, words)
        if found:
            return TransportError(text.format(dest=destination, **found.groupdict()))
    said = last_line(words)
    if said:
        return TransportError(f"the connection to {destination} failed: ssh says {said!r}; try `ssh {destination}`")
    how = "without a word" if status is None else f"with status {status}, without a word"
    return TransportError(f"the connection to {destination} ended {how}; try `ssh {destination}`")


def last_line(words: str) -> str:
    """The last line of ``words`` that is not blank, or an empty string."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1] if lines else ""
