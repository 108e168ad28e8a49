"""The installed `rexec` console script, run as a real process by root or by the ordinary submit user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# rexec's TMPDIR here, for leftovers.py to look into; /tmp is full of other people's files.
TEMPORARY = Path(f"/var/tmp/desk-session-{os.getpid()}")
# In the environment of all that these tests start, and so of what that starts in turn.
MARK = f"REXEC_TEST_SESSION={os.getpid()}"
Argument = str | bytes | os.PathLike[str]


class Rexec:
    """Runs `rexec`: called, to its end; by `popen`, as a process to talk to.

    The environment is that of a fresh login with TMPDIR and, last, `env` on top; `cwd` is the user's home unless given;
    `options` are rexec's own and `--on` is put before them. Output is bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        TEMPORARY.mkdir()
        TEMPORARY.chmod(0o1777)

    def close(self) -> None:
        shutil.rmtree(TEMPORARY)

    def __call__(
        self,
        argv: Sequence[Argument],
        *,
        on: str,
        as_user: str = "root",
        options: Sequence[Argument] = (),
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a job and wait for it, `timeout` seconds at most: subprocess.TimeoutExpired with its output so far."""
        process = self.popen(argv, on=on, as_user=as_user, options=options, env=env, cwd=cwd, stdin=subprocess.PIPE)
        with process:
            try:
                out, err = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired as expired:
                process.kill()
                out, err = process.communicate()
                words = f"{process.args!r} took more than {timeout} s; stdout {out[-500:]!r}, stderr {err[-2000:]!r}"
                raise AssertionError(words) from expired
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def popen(
        self,
        argv: Sequence[Argument],
        *,
        on: str,
        as_user: str = "root",
        options: Sequence[Argument] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start a job in a session of its own, so that the tests' terminal is not its terminal."""
        return self.start(
            ["--on", on, *options, "--", *argv], as_user=as_user, env=env, cwd=cwd,
            stdin=stdin, stdout=stdout, stderr=stderr,
        )  # fmt: skip

    def start(
        self,
        arguments: Sequence[Argument],
        *,
        as_user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start rexec with just these arguments: its verbs (`rexec hosts`), or a command line that is wrong."""
        environment = {"TMPDIR": str(TEMPORARY), **(env or {})}
        return as_login(
            as_user, [self.path, *arguments], env=environment, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr
        )


class _Process(subprocess.Popen[bytes]):
    """Where a test has failed within its ``with``, nobody tells it any more what it waits for."""

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self.kill()
        super().__exit__(*error)


def as_login(
    user: str,
    argv: Sequence[Argument],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = subprocess.PIPE,
    stderr: int | None = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a program here as `user` who has just logged in: ids, groups, umask, a clean environment, home as cwd.

    Where it is rexec, it keeps no connection.
    """
    entry = pwd.getpwnam(user)
    fresh = {
        "HOME": entry.pw_dir,
        "USER": user,
        "LOGNAME": user,
        "SHELL": entry.pw_shell,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "REXEC_KEEP": "0",
        **dict([MARK.split("=")]),
    }
    return _Process(
        argv, user=entry.pw_uid, group=entry.pw_gid, extra_groups=os.getgrouplist(user, entry.pw_gid), umask=0o022,
        env={**fresh, **(env or {})}, cwd=cwd or entry.pw_dir, stdin=stdin, stdout=stdout, stderr=stderr,
        start_new_session=True,
    )  # fmt: skip


def newuidmap() -> Path | None:
    """The program here that maps a user's subordinate ids (Debian's uidmap), if there is one that will run."""
    found = shutil.which("newuidmap", path="/usr/bin:/bin")
    return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class Combo:
    """Who runs rexec here, and where it logs in; `dir` is an empty directory of that user's, and the default cwd."""

    rexec: Rexec
    as_user: str
    on: str
    dir: Path

    @property
    def uid(self) -> int:
        return pwd.getpwnam(self.as_user).pw_uid

    @property
    def home(self) -> Path:
        return Path(pwd.getpwnam(self.as_user).pw_dir)

    @property
    def mapped(self) -> bool:
        """Whether a job has every id that there is, by what its login may do; else its user's own alone."""
        if self.on != "local":
            return "-" not in self.on  # root
        return self.as_user == "root" or newuidmap() is not None

    def run(
        self,
        argv: Sequence[Argument],
        *,
        options: Sequence[Argument] = (),
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """As Rexec's call, for this combination."""
        return self.rexec(
            argv, on=self.on, as_user=self.as_user, options=options, stdin=stdin, env=env, cwd=cwd or self.dir,
            timeout=timeout,
        )  # fmt: skip

    def popen(
        self,
        argv: Sequence[Argument],
        *,
        options: Sequence[Argument] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """As Rexec.popen, for this combination."""
        return self.rexec.popen(
            argv, on=self.on, as_user=self.as_user, options=options, env=env, cwd=cwd or self.dir,
            stdin=stdin, stdout=stdout, stderr=stderr,
        )  # fmt: skip

    def here(self, argv: Sequence[Argument], *, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command here, without rexec, as the same user in the same directory: what a job is compared with."""
        with as_login(self.as_user, argv, cwd=self.dir, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(stdin)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
