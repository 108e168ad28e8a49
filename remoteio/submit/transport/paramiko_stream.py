"""A byte stream to a host through paramiko, for machines that have no ``ssh`` program."""

from __future__ import annotations

import getpass
import glob
import io
import os
import queue
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import paramiko
from paramiko.ssh_exception import (
    AuthenticationException,
    BadAuthenticationType,
    BadHostKeyException,
    SSHException,
)

from remoteio.submit.transport import stream
from remoteio.submit.transport.job_control import apart, end_group, settings_kept
from remoteio.submit.transport.stream import CONNECT_SECONDS, TAIL_BYTES, Stream, TransportError, user_config

# Small beside a fast link's bandwidth times its delay, and a transfer crawls (paramiko's own is 2 MiB).
_WINDOW_BYTES = 16 << 20
_CHUNK_BYTES = 256 << 10


class UnknownHostKey(SSHException):
    """The host showed a key that known_hosts does not have."""


class _Transport(paramiko.Transport):
    """paramiko answers a channel's CLOSE from the thread that reads, which amid a key exchange waits for what it alone
    could read: 30 s, then an error, and what had come but was not taken yet is lost. Here another thread waits."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._late: queue.SimpleQueue[paramiko.Message] = queue.SimpleQueue()
        self._sends_late = False

    def _send_user_message(self, data: paramiko.Message) -> None:
        if threading.current_thread() is not self or (self.clear_to_send.is_set() and not self._sends_late):
            super()._send_user_message(data)  # type: ignore[misc]
            return
        self._late.put(data)
        if not self._sends_late:
            self._sends_late = True
            threading.Thread(target=self._send_late, name="late", daemon=True).start()

    def _send_late(self) -> None:
        while self.is_active():
            try:
                super()._send_user_message(self._late.get())  # type: ignore[misc]
            except (OSError, SSHException, EOFError):
                return  # the connection has ended: whoever reads is told


def _transport(sock: Any, **settings: Any) -> paramiko.Transport:
    # As with the ssh program: AEAD AES first where the CPU has AES, nothing removed.
    transport = _Transport(sock, **settings)
    options = transport.get_security_options()
    if stream.has_aes():
        options.ciphers = tuple(sorted(options.ciphers, key=lambda name: not name.endswith("-gcm@openssh.com")))
    return transport


class _Reject(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise UnknownHostKey(hostname)


class _Client(paramiko.SSHClient):
    """A client that ends the ProxyCommand it is connected through. paramiko's own gets the signals that are for the job
    too, is no command of a shell, and at its end is read from for ever."""

    def __init__(self) -> None:
        super().__init__()
        self._proxy: subprocess.Popen[bytes] | None = None

    def by_command(self, command: str) -> socket.socket:
        """Start `command` as ssh_config(5) has it, and return the socket that is its input and output."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._proxy = subprocess.Popen(
                apart(["/bin/sh", "-c", f"exec {command}"]),
                stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        return ours

    def close(self) -> None:
        super().close()
        if self._proxy is not None:
            end_group(self._proxy)
            try:
                self._proxy.wait(2.0)
            except subprocess.TimeoutExpired:
                self._proxy.kill()
                self._proxy.wait()


class ParamikoStream(Stream):
    """A stream that a channel of paramiko carries; threads move its bytes to and from a socketpair."""

    def __init__(self, destination: str, clients: list[paramiko.SSHClient], channel: paramiko.Channel) -> None:
        self.destination = destination
        self._clients = clients
        self._channel = channel
        self._ours, self._theirs = socket.socketpair()
        self.read_fd = self.write_fd = self._ours.fileno()
        self._tail = bytearray()
        self._broken: str = ""
        self._threads = [
            threading.Thread(target=pump, name=f"{name} {destination}", daemon=True)
            for pump, name in ((self._up, "to"), (self._down, "from"), (self._stderr, "stderr of"))
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, timeout: float | None) -> int | None:
        if not self._channel.status_event.wait(timeout):
            return None
        status = self._channel.exit_status
        # No status came: the connection broke, or a signal ended the remote.
        return 255 if status < 0 else status

    def stderr_tail(self) -> str:
        return bytes(self._tail).decode("utf-8", "replace")

    def failure(self) -> TransportError:
        status = self.wait(1.0)
        said = self._broken or (stream.last_line(self.stderr_tail()) if status != 255 else "")
        if said:
            return TransportError(f"the connection to {self.destination} ended: {said}")
        return TransportError(stream.CLOSED.format(dest=self.destination))

    def close(self, *, done: bool = False) -> None:
        self._ours.close()
        # The remote's orderly end; if it does not come, the transport goes down all the same.
        if not done:
            self._channel.status_event.wait(2.0)
        _close(self._clients)
        for thread in self._threads:
            thread.join()
        self._theirs.close()

    def _up(self) -> None:
        try:
            while data := self._theirs.recv(_CHUNK_BYTES):
                self._channel.sendall(data)
            self._channel.shutdown_write()
        except (OSError, SSHException, EOFError) as error:
            self._ended(error)

    def _down(self) -> None:
        try:
            while data := self._channel.recv(_CHUNK_BYTES):
                if not self._deliver(data):
                    return  # nobody reads it any more, and what was written last is still to go: see _up
            self._theirs.shutdown(socket.SHUT_WR)
        except (OSError, SSHException, EOFError) as error:
            self._ended(error)

    def _deliver(self, data: bytes) -> bool:
        try:
            self._theirs.sendall(data)
        except OSError:
            return False
        return True

    def _stderr(self) -> None:
        while data := self._channel.recv_stderr(4096):
            self._tail += data
            del self._tail[:-TAIL_BYTES]

    def _ended(self, error: Exception) -> None:
        # Both directions end at once, so that neither end waits for a half that is gone.
        self._broken = self._broken or str(error)
        self._channel.close()
        try:
            self._theirs.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # closed by us meanwhile


def open_paramiko(destination: str, command: str, options: Sequence[str] = (), *, batch: bool = False) -> Stream:
    """Run ``command`` on ``destination`` ([user@]host, alias or ssh:// URI) through paramiko.

    ~/.ssh/config is read for what paramiko can do: HostName, User, Port, IdentityFile, IdentitiesOnly, ProxyJump,
    ProxyCommand, UserKnownHostsFile, HostKeyAlias, ConnectTimeout; keys come from files and the agent. A host key that
    known_hosts does not have is refused. Of ssh's arguments ``options`` may hold -F, -p, -l, -i and -o of the above. A
    password or passphrase is asked for on the terminal, once, unless ``batch``. Raises TransportError.
    """
    files, settings = read_options(options)
    config = paramiko.SSHConfig()
    route = _Route(config, batch)
    try:
        for file in files:
            for part in parts(file):
                config.parse(io.StringIO(part))
        route.to(destination, settings)
        channel = route.transport().open_session(window_size=_WINDOW_BYTES)
        channel.exec_command(command)
        return ParamikoStream(destination, route.clients, channel)
    except (OSError, SSHException, EOFError, paramiko.ConfigParseError) as error:
        _close(route.clients)
        raise explain(destination, error) from error
    except BaseException:
        _close(route.clients)
        raise


def read_options(options: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Read from ssh's arguments the configuration files, and the settings (keys in lower case) that go before them.

    Raises TransportError for an argument that only the ssh program understands.
    """
    files = [Path(user_config()), Path("/etc/ssh/ssh_config")]
    settings: dict[str, str] = {}
    names = {"-p": "port", "-l": "user", "-i": "identityfile"}
    words = iter(options)
    for word in words:
        flag, value = word[:2], word[2:]
        if flag not in ("-F", "-o", *names):
            raise TransportError(f"the option {word} needs the ssh program; install openssh-client")
        value = value or next(words, "")
        if flag == "-F":
            files = [] if value == "none" else [Path(value).expanduser()]
        elif flag == "-o":
            name, _, value = value.replace("=", " ", 1).partition(" ")
            settings.setdefault(name.lower(), value.strip())
        else:
            settings.setdefault(names[flag], value)
    return files, settings


def parts(file: Path) -> Iterator[str]:
    """Read a configuration file, cut where it includes others, theirs in between: paramiko knows no Include.

    Raises TransportError for an Include within a Host or Match block; a file that is not there is empty.
    """
    lines: list[str] = []
    block = ""
    for line in file.read_text("utf-8", "surrogateescape").splitlines() if file.exists() else ():
        word, _, rest = line.strip().replace("=", " ", 1).replace("\t", " ").partition(" ")
        if word.lower() == "include":
            if block:
                raise TransportError(
                    f"{file}: an Include within {block!r} needs the ssh program; install openssh-client"
                )
            yield "\n".join(lines)
            lines = []
            for pattern in shlex.split(rest):
                for path in sorted(glob.glob(str(Path("~/.ssh").expanduser() / os.path.expanduser(pattern)))):
                    yield from parts(Path(path))
            continue
        if word.lower() in ("host", "match"):
            block = line.strip()
        lines.append(line)
    yield "\n".join(lines)


def split_destination(destination: str) -> tuple[str, str, str]:
    """Part into (user, host, port) ``[user@]host`` or ``ssh://[user@]host[:port]``; what is not said is empty."""
    port = ""
    if destination.startswith("ssh://"):
        destination = destination[6:].rstrip("/")
        head, colon, tail = destination.rpartition(":")
        if colon and tail.isdecimal():
            destination, port = head, tail
    user, _, host = destination.rpartition("@")
    return user, host.strip("[]"), port


def explain(destination: str, error: Exception) -> TransportError:
    """Return the failure of paramiko, in the same sentences as that of ssh."""
    if isinstance(error, UnknownHostKey):
        text = stream.KEY_UNKNOWN
    elif isinstance(error, BadHostKeyException):
        text = stream.KEY_CHANGED
    elif isinstance(error, BadAuthenticationType):
        text = stream.LOGIN_REFUSED.replace("{what}", ",".join(error.allowed_types))
    elif isinstance(error, AuthenticationException):
        text = stream.LOGIN_REFUSED.replace(" (it takes {what})", "")
    elif isinstance(error, socket.gaierror):
        return stream.NameUnknown(stream.UNKNOWN_NAME.format(dest=destination, what=split_destination(destination)[1]))
    elif isinstance(error, ConnectionRefusedError):
        text = stream.REFUSED
    elif isinstance(error, TimeoutError):
        text = stream.TIMED_OUT
    elif isinstance(error, OSError) and not isinstance(error, ConnectionError):
        text = stream.NO_ROUTE
    elif isinstance(error, SSHException) and "protocol banner" in str(error):
        return stream.Dropped(stream.DROPPED.format(dest=destination))
    elif isinstance(error, (ConnectionError, EOFError)) or not str(error):
        text = stream.CLOSED
    else:
        return TransportError(
            f"the connection to {destination} failed: {error}; try again with openssh-client installed"
        )
    return TransportError(text.format(dest=destination))


class _Route:
    """Connects to a host, and first to those it is reached through; ``clients`` are all of them, the host's last."""

    def __init__(self, config: paramiko.SSHConfig, batch: bool) -> None:
        self.clients: list[paramiko.SSHClient] = []
        self._config = config
        self._batch = batch

    def transport(self) -> paramiko.Transport:
        """Return that of the last host. Raises EOFError if it has ended."""
        transport = self.clients[-1].get_transport()
        if transport is None:
            raise EOFError
        return transport

    def to(self, destination: str, settings: dict[str, str]) -> None:
        user, host, port = split_destination(destination)
        found = self._config.lookup(host)
        found.update(settings)
        found.setdefault("hostname", host)
        for key, value in (("user", user), ("port", port)):
            if value:
                found[key] = value
        jumps = found.get("proxyjump", "none")
        for jump in jumps.split(",") if jumps != "none" else []:
            # Each hop goes through the one before it, whatever its own entry says: ssh_config(5), ProxyJump.
            self.to(f"ssh://{jump}", {"proxyjump": "none", "proxycommand": "none"})
        try:
            self._login(found, None)
        except AuthenticationException:
            if self._batch or not os.isatty(2):
                raise
            self.clients.pop().close()
            with settings_kept():
                secret = getpass.getpass(f"password or passphrase for {destination}: ")
            self._login(found, secret)

    def _login(self, found: paramiko.SSHConfigDict, password: str | None) -> None:
        client = _Client()
        client.set_missing_host_key_policy(_Reject())
        client.load_system_host_keys()
        for file in [*found.get("userknownhostsfile", "").split(), "/etc/ssh/ssh_known_hosts"]:
            if os.path.exists(os.path.expanduser(file)):
                client.load_system_host_keys(os.path.expanduser(file))
        name, number = found["hostname"], int(found.get("port", "22"))
        # The name that known_hosts has for it: an alias stands alone, without a port (ssh_config(5)).
        known_as = (found["hostkeyalias"], 22) if "hostkeyalias" in found else (name, number)
        # The type stubs have neither lists of files here nor in the lookup's answer.
        keys: Any = found.get("identityfile", [])
        files: Any = [os.path.expanduser(key) for key in ([keys] if isinstance(keys, str) else keys)]
        others = found.get("identitiesonly", "no") != "yes"
        seconds = int(found.get("connecttimeout", CONNECT_SECONDS))
        sock = self._socket(client, found, name, number, seconds)
        self.clients.append(client)
        client.connect(
            *known_as,
            found.get("user", getpass.getuser()),
            password,
            key_filename=files,
            timeout=seconds,
            sock=sock,
            transport_factory=_transport,
            allow_agent=others,
            look_for_keys=others,
        )

    def _socket(
        self, client: _Client, found: paramiko.SSHConfigDict, name: str, number: int, seconds: int
    ) -> paramiko.Channel | socket.socket:
        if self.clients:
            return self.transport().open_channel("direct-tcpip", (name, number), ("127.0.0.1", 0))
        if found.get("proxycommand", "none") != "none":
            return client.by_command(found["proxycommand"])
        sock = socket.create_connection((name, number), seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def _close(clients: list[paramiko.SSHClient]) -> None:
    for client in reversed(clients):
        client.close()
