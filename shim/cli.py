"""``rexec``: the command line. What it is asked is done elsewhere."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence

import click

from remoteio.carriers import Stream
from remoteio.errors import RexecError
from remoteio.link import Link, LinkClosed
from remoteio.transport import open_local, open_ssh
from shim import bootstrap, environment, terminal_state
from shim.spec import JobSpec
from shim.standard import die_like, fill
from shim.supervisor import Ended, Supervisor

FAILED = 125
VERBS = ("run",)


@click.command(context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]})
@click.option("--on", "host", metavar="HOST", help="Where: an ssh destination, a name of hosts.toml, or `local`.")
@click.option("--cd", "directory", metavar="DIR", help="Working directory of the command (default: this one).")
@click.option("--env", "env", metavar="NAME[=VALUE]", multiple=True, help="Pass or set a variable.")
@click.option("--tty/--no-tty", "tty", default=None, help="A terminal (default: if stdin and stdout are one).")
@click.option("--scratch", "scratch", metavar="PATH", multiple=True, help="PATH is private space on the execute host.")
@click.option("-v", "verbose", is_flag=True, help="Say what happens.")
@click.option("-q", "quiet", is_flag=True, help="Say nothing but failures.")
@click.option("--json-log", "json_log", metavar="FILE", help="Append what happens to FILE, a JSON object a line.")
@click.argument("command", metavar="CMD [ARG]...", nargs=-1, type=click.UNPROCESSED, required=True)
def run(
    host: str | None,
    directory: str | None,
    env: tuple[str, ...],
    tty: bool | None,
    scratch: tuple[str, ...],
    verbose: bool,
    quiet: bool,
    json_log: str | None,
    command: tuple[str, ...],
) -> None:
    """Run CMD on another machine as if it ran here."""
    if tty is None:
        tty = os.isatty(0) and os.isatty(1)
    spec = describe(command, directory, env, tty, scratch)
    stream = _open(host or "local")
    bootstrap.start(stream, "shim.agent:main")
    link = Link(stream.read_fd, stream.write_fd)
    try:
        ended = Supervisor(link, spec, lambda text: None if quiet else say(text), lambda *a, **k: None).run()
    except LinkClosed as e:
        raise stream.failure() from e
    stream.close()
    sys.exit(_leave(ended))


def _open(host: str) -> Stream:
    if host == "local":
        return open_local(bootstrap.local_argv())
    return open_ssh(host, bootstrap.command())


def describe(
    command: Sequence[str], directory: str | None, env: Sequence[str], tty: bool, scratch: Sequence[str]
) -> JobSpec:
    """This process's own circumstances, as the job is to find them. Raises RexecError."""
    opened = fill()
    if tty and not os.isatty(0):
        raise RexecError("--tty needs a terminal as standard input; without one, leave it out")
    try:
        cwd = os.path.abspath(directory) if directory else os.getcwd()
    except FileNotFoundError as e:
        raise RexecError("the directory you are in has been removed: cd to another") from e
    if not os.path.isdir(cwd):
        raise RexecError(f"{cwd} is no directory: give --cd one that exists")
    if not os.access(cwd, os.X_OK):
        raise RexecError(f"you may not enter {cwd}: cd to another directory or give --cd")
    umask = os.umask(0)  # and 0 it stays: the export creates files with the job's own umask applied
    limits = []
    for name in dir(resource):
        if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE":
            number = getattr(resource, name)
            limits.append((number, *resource.getrlimit(number)))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each file the job has open is open here
    for path in scratch:
        if not os.path.isdir(path):
            raise RexecError(f"--scratch {path}: no such directory here; the job needs a place to see it at")
    return JobSpec(
        argv=[os.fsencode(word) for word in command],
        env=environment.for_job(
            {**os.environb, b"PWD": os.fsencode(cwd)} if directory else os.environb, [os.fsencode(item) for item in env]
        ),
        cwd=os.fsencode(cwd),
        uid=os.geteuid(),
        gid=os.getegid(),
        groups=os.getgroups(),
        umask=umask,
        hostname=os.fsencode(socket.gethostname()),
        limits=limits,
        scratch=[os.fsencode(os.path.abspath(path)) for path in scratch],
        stdio=[fd for fd in opened if not tty or (fd == 2 and not os.isatty(2))],
        tty=terminal_state.read(0) if tty else [],
    )


def _leave(ended: Ended) -> int:
    if ended.status is None:
        say(ended.reason)
        return ended.code
    return die_like(ended.status, ended.keys)


def say(text: str) -> None:
    """One sentence to the person."""
    if sys.stderr is not None:  # it is None if 2 was closed when we were started
        print("rexec:", text, file=sys.stderr, flush=True)


def main() -> None:
    """The console script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is a job to have it, Ctrl-C simply ends this
    try:
        run.main(args=sys.argv[1:], prog_name="rexec", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        sys.exit(FAILED)
    except RexecError as e:
        say(str(e))
        sys.exit(FAILED)
