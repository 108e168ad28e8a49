"""What a byte stream to a host is, and how its failures are told in one sentence each."""

from __future__ import annotations

import os
import pwd
import re
from abc import ABC, abstractmethod

from remoteio.errors import RexecError
from remoteio.printable import printable

# Of what a carrier says on stderr, so much is kept.
TAIL_BYTES = 64 << 10
# To reach a host; the user's own ConnectTimeout goes before it.
CONNECT_SECONDS = 15


def user_config() -> str:
    """Name the user's own configuration of ssh as ssh does: it goes by passwd(5), whatever $HOME says."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = os.path.expanduser("~")  # ssh itself goes nowhere without an entry; paramiko does
    return f"{home}/.ssh/config"


class TransportError(RexecError):
    """No byte stream to the host could be had, or it broke: what failed, why, what to do."""


class Dropped(TransportError):
    """The host closed the connection before it asked who comes: it has too many just then, and another try may do."""


class Cut(TransportError):
    """The connection was there, and broke: another may do."""


class NameUnknown(TransportError):
    """No host is called so: perhaps it was misspelt."""


class OptionUnknown(TransportError):
    """The ssh here is older than an option that we give it, and is not given it again."""


class Stream(ABC):
    """A byte stream to a process on ``destination``.

    ``read_fd`` and ``write_fd`` are blocking descriptors and may be one socket. Whoever opened the stream closes it.
    """

    destination: str
    read_fd: int
    write_fd: int
    lingers = False  # what is written to it gets there though this process ends
    served = False  # at its other end is who serves the files, not the host: shim/submit/resident.py
    trip = 0  # microseconds that a round trip takes, as far as is known

    @abstractmethod
    def wait(self, timeout: float | None) -> int | None:
        """The exit status (-n: killed by signal n; 255: the connection's), None if there is none in ``timeout`` s."""

    @abstractmethod
    def stderr_tail(self) -> str:
        """Return the end of what came on stderr: the remote's words, banners too, and for a local process its own."""

    @abstractmethod
    def failure(self) -> TransportError:
        """Tell why the stream ended, as one sentence: in the carrier's own words, banners kept out."""

    def settle(self) -> None:  # noqa: B027 - most carriers ask nothing
        """Take the terminal back from a carrier that asked a person for something: the far end has answered."""

    def asked(self) -> bool:
        """Whether the carrier wanted something of a person, such as a password."""
        return False

    @abstractmethod
    def close(self, *, done: bool = False) -> None:
        """End the stream and what carries it; the remote sees the end of its input. ``done``: await nothing of it."""


UNKNOWN_NAME = "cannot reach {dest}: the name {what} is unknown; check its spelling, or name it in ~/.ssh/config"
KEY_CHANGED = (
    "refused to connect to {dest}: its host key is not the one known, which is what an attack looks like; if the "
    "machine was set up anew, remove the old key with `ssh-keygen -R` and connect once with ssh"
)
KEY_UNKNOWN = (
    "refused to connect to {dest}: its host key is not known yet; connect once with `ssh {dest}` and compare the key "
    "it shows"
)
LOGIN_REFUSED = (
    "{dest} refused the login: no key or password of yours was accepted (it takes {what}); check the user name and "
    "that `ssh {dest}` lets you in"
)
REFUSED = "cannot reach {dest}: it refused the connection; start sshd there, or check the port"
NO_ROUTE = "cannot reach {dest}: there is no route to it; check that it is up and the network is the right one"
TIMED_OUT = "cannot reach {dest}: it did not answer in time; check that it is up and that no firewall is in between"
CLOSED = "{dest} closed the connection; try `ssh {dest}`, and look at its sshd log"
DROPPED = (
    "{dest} closed the connection before the login, at each try; see there whether sshd runs, and whether it counts "
    "too many (MaxStartups and PerSourcePenalties of sshd_config)"
)

# The first rule found in ssh's own words decides. The texts are those of OpenSSH's ssh.c, sshconnect.c,
# sshconnect2.c, readconf.c and of strerror(3); {dest} is the destination as the user named it.
_RULES: tuple[tuple[str, str], ...] = (
    (r"Could not resolve hostname (?P<what>\S+?):", UNKNOWN_NAME),
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", KEY_CHANGED),
    (r"Host key verification failed|host key is known for", KEY_UNKNOWN),
    (r"Permission denied \((?P<what>[^)]*)\)", LOGIN_REFUSED),
    (
        r"Too many authentication failures",
        "{dest} refused the login: too many keys were offered; name the right one with IdentityFile and "
        "IdentitiesOnly in ~/.ssh/config",
    ),
    (r"Connection refused", REFUSED),
    (r"No route to host|Network is unreachable", NO_ROUTE),
    (r"timed out", TIMED_OUT),
    (
        r"(?P<what>Bad owner or permissions on \S+|Bad configuration option: \S+|[^\n]*: terminating, [^\n]*)",
        "cannot reach {dest}: ssh does not accept its configuration ({what}); correct it",
    ),
)
# Before the host has said what protocol it speaks: kex.c, sshconnect.c; the second is how older ones are called. From
# OpenSSH 10 on only packet.c says it, as of any close before the login; afterwards it is "Connection to … closed".
_DROPPED = (
    r"(?:kex|ssh)_exchange_identification: (?:read: |write: )?(?:Connection (?:closed|reset)|Broken pipe)"
    r"|banner exchange: [^\n]*(?:Connection (?:closed|reset)|Broken pipe)"
    r"|(?m:^Connection (?:closed|reset) by \S+ port \d+)"
)
_CLOSED = r"[Cc]onnection to \S+ closed|Connection closed by|Connection reset|kex_exchange_identification|Broken pipe"


def explain_ssh(destination: str, status: int | None, words: str, aside: str = "") -> TransportError:
    """Explain an ``ssh`` that ended with ``status`` (None: still running), having said ``words`` in its log.

    ``aside`` is what came on stderr: banners and the remote's words, and what an ssh says that ProxyJump started.
    """
    for said, where in ((words, ""), (aside, " (so said a host on the way there)")):
        for pattern, text in _RULES:
            found = re.search(pattern, said)
            if found:
                what = {name: printable(word, 300) for name, word in found.groupdict().items()}
                kind = NameUnknown if text == UNKNOWN_NAME and not where else TransportError
                return kind(text.format(dest=destination, **what) + where)
    last = last_line(words)
    if re.search(_DROPPED, words) or re.search(_DROPPED, aside):
        return Dropped(DROPPED.format(dest=destination))
    if re.search(_CLOSED, words):
        return Cut(CLOSED.format(dest=destination))
    if last:
        return TransportError(f"the connection to {destination} failed: ssh says {last!r}; try `ssh {destination}`")
    how = "without a word" if status is None else f"with status {status}, without a word"
    ended = TransportError if status is None else Cut
    return ended(f"the connection to {destination} ended {how}; try `ssh {destination}`")


def last_line(words: str) -> str:
    """Return the last line of ``words`` that is not blank, printable, or an empty string."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return printable(lines[-1][-300:]) if lines else ""


def has_aes(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Tell if the CPU has AES instructions, as the first processor's flags say (x86 ``flags``, arm ``Features``)."""
    with open(cpuinfo, "rb") as file:
        return b" aes " in file.read(8192).replace(b"\n", b" ")
