"""Byte streams to a host: the ``ssh`` program, paramiko where there is none, or a process on this machine."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress

from remoteio.printable import printable
from remoteio.submit import programs
from remoteio.submit.transport.job_control import JobControl, apart, end_group, open_terminal
from remoteio.submit.transport.stream import (
    CONNECT_SECONDS,
    TAIL_BYTES,
    OptionUnknown,
    Stream,
    TransportError,
    explain_ssh,
    has_aes,
    last_line,
    user_config,
)

# Below the user's own settings: these hold only where ~/.ssh/config and the system's file name none.
# AEAD AES goes first where the CPU has AES instructions; nothing is removed from ssh's own list.
_AES_FIRST = "Ciphers ^aes128-gcm@openssh.com,aes256-gcm@openssh.com\n"
# Whatever the user's configuration says: standard input and output are the link's, both ways, until it ends; nothing is
# forwarded. What ssh has to say goes to a log of ours, where the cause of a failure is looked for.
_FIXED = (
    "ForwardX11=no", "ForwardAgent=no", "ClearAllForwardings=yes", "RemoteCommand=none", "ControlMaster=no",
    "PermitLocalCommand=no", "LogLevel=INFO",
    "UpdateHostKeys=no",  # "ask" would do so in the middle of the job, which has the terminal then
)  # fmt: skip
# From OpenSSH 8.7 on; an older one knows them neither here nor in the user's configuration.
_FIXED_NEW = ("StdinNull=no", "SessionType=default", "ForkAfterAuthentication=no")
_ssh_is_old = threading.Event()  # it has said that it does not know them
_UNKNOWN = re.compile(r"Bad configuration option: (%s)\b" % "|".join(s[: s.index("=")] for s in _FIXED_NEW), re.I)
# Of ssh's flags those that take no value, and among them those with which it carries no command's input and output.
_FLAGS = re.compile(r"-[46AaCfGgKkMNnqsTtVvXxYy]+")
_NO_STREAM = frozenset("fGNnsV")
_NO_STREAM_WITH_VALUE = ("-O", "-Q", "-W")
# A socketpair carried 1 MiB messages through ssh at least as fast as pipes widened to 1 MiB, and faster with this.
_SOCKET_BYTES = 1 << 20
# ssh's only message on stderr that a person has to see while it waits (readpass.c, notify_start).
_TOUCH = b"Confirm user presence"


class ProcessStream(Stream):
    """A stream that a process of ours carries: ssh, or the remote end itself on this machine.

    The thread that opened an ssh stream has to live as long as the stream: PR_SET_PDEATHSIG counts the death of the
    thread that forked (prctl(2)).
    """

    def __init__(
        self, destination: str, process: subprocess.Popen[bytes], sock: socket.socket, log_fd: int = -1,
        config_fd: int = -1, terminal: int = -1,
    ) -> None:  # fmt: skip
        """`terminal`: a descriptor of the one that ssh may ask on, -1: it may not."""
        self.destination = destination
        self._process = process
        self._socket = sock
        self._is_ssh = log_fd >= 0
        self._log_fd = log_fd
        self._log = ""
        self._config_fd = config_fd
        self.read_fd = self.write_fd = sock.fileno()
        self._tail = bytearray()
        self._reader = threading.Thread(target=self._keep_stderr, name=f"stderr of {destination}", daemon=True)
        self._reader.start()
        self._control = JobControl(process.pid, terminal) if terminal >= 0 else None

    def give_away(self) -> None:
        """Close our end of it alone, of which another process has a copy: the stream ends with that."""
        self._socket.close()

    def settle(self) -> None:
        if self._control is not None:
            self._control.settle()

    def asked(self) -> bool:
        return _TOUCH in self._tail or (self._control is not None and self._control.asked)

    def wait(self, timeout: float | None) -> int | None:
        status = self._await(timeout)
        if status is not None:
            # What it said last may still lie in the pipe, on a busy machine for long. A grandchild (ControlPersist) can
            # hold the pipe open.
            self._reader.join(0.5)
            while self._reader.is_alive() and self._unread():
                self._reader.join(0.05)
        return status

    def _await(self, timeout: float | None) -> int | None:
        """Wait for its end, whatever it has still to say."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):  # another thread has just found that it has ended
                pidfd = os.pidfd_open(self._process.pid)
                try:
                    poll = select.poll()
                    poll.register(pidfd, select.POLLIN)
                    if poll.poll(None if timeout is None else max(0, int(timeout * 1000))):
                        self._outlived()
                finally:
                    os.close(pidfd)
        status = self._process.poll()
        if status is not None and self._control is not None:
            self._control.ended()
        return status

    def _unread(self) -> bool:
        assert self._process.stderr is not None
        try:
            poll = select.poll()
            poll.register(self._process.stderr)
        except ValueError:
            return False  # it has just been closed, read to its end
        return bool(poll.poll(0))

    def stderr_tail(self) -> str:
        return bytes(self._tail).decode("utf-8", "replace")

    def failure(self) -> TransportError:
        status = self.wait(1.0)
        if self._control is not None and self._control.refused:
            return TransportError(
                f"cannot reach {self.destination}: ssh has something to ask, and nobody can bring rexec to the "
                "foreground of its terminal; run it there, or give ssh a key that needs no passphrase"
            )
        if self._is_ssh and status in (None, 255):
            self._read_log()
            if not _ssh_is_old.is_set() and _UNKNOWN.search(self._log + self.stderr_tail()):
                _ssh_is_old.set()
                return OptionUnknown(f"cannot reach {self.destination}: its ssh is older than OpenSSH 8.7; try again")
            return explain_ssh(self.destination, status, self._log, self.stderr_tail())
        said = last_line(self.stderr_tail()) or "no word"
        return TransportError(f"the process on {self.destination} ended with status {status}, its last word: {said}")

    def _read_log(self) -> None:
        if self._log_fd >= 0:
            size = os.fstat(self._log_fd).st_size
            self._log = os.pread(self._log_fd, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")

    def close(self, *, done: bool = False) -> None:
        self._socket.close()
        if done:
            self._end()
        # ssh ends by itself once the remote has ended; it is not waited for longer than a person would. Nor for what it
        # says where nothing of it is awaited: a ProxyCommand may be slower to end, and to let go of the pipe.
        wait = self._await if done else self.wait
        if wait(2.0) is None:
            self._end()
            if wait(2.0) is None:
                self._process.kill()
                wait(None)
        self._read_log()
        for fd in (self._log_fd, self._config_fd):
            if fd >= 0:
                os.close(fd)
        self._log_fd = self._config_fd = -1

    def _outlived(self) -> None:
        """Take note that the process has ended, while nobody has waited for it: its number is still its own."""

    def _end(self) -> None:
        if self._is_ssh:
            end_group(self._process)  # a ProxyCommand too
        else:
            self._process.terminate()

    def _keep_stderr(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        with pipe:
            while chunk := os.read(pipe.fileno(), 4096):
                self._tail += chunk
                del self._tail[:-TAIL_BYTES]
                for line in chunk.splitlines() if _TOUCH in chunk else ():
                    if _TOUCH in line:  # it may as well be the host that says it
                        os.write(2, printable(line.decode("utf-8", "replace"), 300).encode() + b"\n")


def open_host(destination: str, command: str, options: Sequence[str] = (), *, batch: bool = False) -> Stream:
    """Run ``command`` on ``destination`` by the ``ssh`` program, or by paramiko where there is none. See the two."""
    if programs.find("ssh"):
        return open_ssh(destination, command, options, batch=batch)
    # Only here, because to import it takes longer than all the rest of a start.
    from remoteio.submit.transport.paramiko_stream import open_paramiko

    return open_paramiko(destination, command, options, batch=batch)


def open_ssh(destination: str, command: str, options: Sequence[str] = (), *, batch: bool = False) -> Stream:
    """Run ``command`` on ``destination`` ([user@]host, alias or ssh:// URI) through the ``ssh`` program.

    The user's configuration is in force: aliases, ProxyJump, agents, keys and ControlMaster work as with ssh itself.
    ``options`` are further arguments of ssh. Passwords are asked for on the terminal unless ``batch``.
    No signal to our process group reaches it, or what it starts: those are for the job, which hears of them over it.
    Raises TransportError where there is no ``ssh``, and for options with which it carries no stream; what ssh finds out
    later is told by ``Stream.failure``.
    """
    ssh = programs.find("ssh")
    if ssh is None:
        raise TransportError("there is no ssh program here; install openssh-client")
    config_fd = os.memfd_create("rexec-ssh-config")
    log_fd = os.memfd_create("rexec-ssh-log")
    try:
        user_files, arguments = split_config_option(options)
        _refuse_no_stream(destination, arguments)
        os.write(config_fd, ssh_config(user_files, has_aes()).encode())
        argv = ssh_argv(ssh, destination, command, arguments, _path_of(config_fd), _path_of(log_fd), batch=batch)
        process, sock = spawn(apart(argv), session=batch)
        return ProcessStream(destination, process, sock, log_fd, config_fd, -1 if batch else open_terminal())
    except BaseException:
        os.close(log_fd)
        os.close(config_fd)
        raise


def open_local(argv: Sequence[str]) -> Stream:
    """Run ``argv`` on this machine, its standard input and output being one end of a socketpair."""
    return ProcessStream("local", *spawn(list(argv), session=True))


def split_config_option(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``-F FILE`` out of ssh's arguments: (the configuration files in force, the other arguments)."""
    files = [user_config(), "/etc/ssh/ssh_config"]
    rest: list[str] = []
    words = iter(options)
    for word in words:
        if word.startswith("-F"):
            file = word[2:] or next(words, "")
            files = [] if file == "none" else [os.path.abspath(os.path.expanduser(file))]
        else:
            rest.append(word)
    return files, rest


def ssh_config(user_files: Sequence[str], aes: bool) -> str:
    """Write ssh's configuration: the user's own first, since ssh keeps the first value it meets (ssh_config(5)).

    So what follows holds only where the user says nothing, whatever Host, Match and Include rules the user has; no
    parsing here and no `ssh -G` (a further process, and Match exec would run twice) could be as right.
    """
    includes = "".join(f'Include "{file}"\n' for file in user_files)
    return f"{includes}Match all\nConnectTimeout {CONNECT_SECONDS}\n{_AES_FIRST if aes else ''}"


def ssh_argv(
    ssh: str, destination: str, command: str, options: Sequence[str], config: str, log: str, *, batch: bool
) -> list[str]:
    """Return the command line of ssh: a bare byte stream, no terminal, no escape character, nothing forwarded.

    Of settings ssh keeps the first it meets, of flags the last: so these go before the user's, and those after.
    """
    fixed = [*_FIXED, *(() if _ssh_is_old.is_set() else _FIXED_NEW)]
    if batch:
        fixed.append("BatchMode=yes")
    settings = [word for setting in fixed for word in ("-o", setting)]
    flags = ["-T", "-e", "none"]
    return [ssh, "-F", config, "-E", log, *settings, *options, *flags, "--", destination, command]


def _refuse_no_stream(destination: str, options: Sequence[str]) -> None:
    for word in options:
        if (_FLAGS.fullmatch(word) and _NO_STREAM & set(word)) or word.startswith(_NO_STREAM_WITH_VALUE):
            raise TransportError(
                f"cannot reach {destination} with the option {word} of ssh, which leaves a job no input or output; "
                "take it out of `options` in hosts.toml"
            )


def _path_of(fd: int) -> str:
    # ssh closes what it inherits, and an ssh that it starts for ProxyJump reads the same file: hence our pid.
    return f"/proc/{os.getpid()}/fd/{fd}"


def spawn(argv: list[str], *, session: bool) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a program, in a session of its own or else in a process group; and our end of its input and output."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
    with theirs:
        try:
            process = subprocess.Popen(
                argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=session,
                process_group=None if session else 0,
            )
        except OSError as error:
            ours.close()
            raise TransportError(f"cannot start {argv[0]}: {error.strerror}") from error
    return process, ours
