"""Runs a command on a host, as subprocess.run does here: without images, and to its end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Unpack

from remoteio.wire import frames
from remoteio.wire.link import Link
from remoteio.wire.session_link import SessionLink
from shim.submit import host_frames
from shim.submit.api import arguments, errors
from shim.submit.api.arguments import ScopeOptions, Text
from shim.submit.api.streams import File, given_input, output, written
from shim.submit.foreground.description import describe
from shim.submit.hosts.connect import connect_first
from shim.submit.hosts.dialler import Dialler
from shim.submit.plain_run import PlainRun, RunResult, StreamEnd, to_the_end
from shim.submit.scope import JobRights, with_tmp
from shim.submit.spent import Spent
from shim.wire.job_spec import JobSpec


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended.

    args            its words
    host            the host it ran on
    returncode      its exit status, or -N where signal N ended it
    stdout, stderr  what it wrote; None where that went to a file
    refused         sentences: what it was kept from of the files here, and which option would have let it
    """

    args: tuple[str, ...]
    host: str
    returncode: int
    stdout: bytes | None
    stderr: bytes | None
    refused: tuple[str, ...] = ()


class _Alone:
    """Watches a run that nobody sits in front of."""

    def __init__(self, stdin: int) -> None:
        self._stdin = stdin

    def greeted(self, hello: host_frames.Hello) -> None:
        """Nobody is there to be told of its clock: `hosts` says it."""

    def begun(self) -> dict[int, StreamEnd]:
        return {frames.STDIN: StreamEnd(os.dup(self._stdin))}

    def stopped(self) -> None:
        """It goes on when somebody sends it a SIGCONT, as a stopped child of subprocess.run does."""

    def away(self, why: str) -> None:
        """Nobody is there to be told: the call takes longer."""

    def joined(self) -> None:
        """Nor of this."""

    def unleased(self, why: str) -> None:
        """Nor of this."""

    def spent(self, cost: Spent) -> None:
        """Nor of this."""


def run(
    command: Sequence[Text],
    *,
    on: str | None = None,
    cwd: Text | None = None,
    env: Mapping[str, str] | None = None,
    scratch: Sequence[Text] = (),
    forward: Sequence[str] = (),
    stdin: bytes | File | None = None,
    stdout: File | None = None,
    stderr: File | None = None,
    check: bool = False,
    sync: bool = False,
    **scope: Unpack[ScopeOptions],
) -> Result:
    """Run a command on a host, with this machine's files and as this user, and wait for its end.

    command         its words
    on              the host: a name of hosts.toml, [user@]host as for ssh, or "local"; None: the first of hosts.toml
                    that answers, and if there is none this machine
    cwd             the directory it runs in; None: this process's
    env             variables on top of this process's environment, which goes along but for what describes this login
                    (docs/job.md)
    scratch         directories here at which it finds private space on the host's own disk
    forward         ports that lead from one end to the other, as --forward has them (docs/forward.md)
    stdin           what it reads: bytes, or an open file (its descriptor is read); None: nothing
    stdout, stderr  where what it writes goes: an open file (to its descriptor); None: into the Result
    check           raise CommandFailed where its status is not 0
    sync            it waits for each change of a file, as with `rexec --sync` (docs/consistency.md)
    scope           what it has of the files here: only, read, write, hide, trust, disk (ScopeOptions)

    Nothing is asked for on a terminal: ssh needs a key or an agent. An exception raised meanwhile in this thread, such
    as KeyboardInterrupt, ends the command on the host too.

    Raises ArgumentError at once for what cannot be meant, CannotStart where the host could not start the command, and
    another RexecError where the host cannot be reached, or is lost with the command.
    """
    words, asked = arguments.command_words(command), arguments.scope(scope)
    host = arguments.host(on, "on")
    directory = None if cwd is None else arguments.text(cwd, "cwd")
    variables, places = arguments.variables(env), arguments.texts(scratch, "scratch")
    ports = arguments.ports(forward)
    with ExitStack() as held:
        given = given_input(stdin, held)
        outputs = {frames.STDOUT: output(stdout, "stdout", held), frames.STDERR: output(stderr, "stderr", held)}
        spec = describe(words, directory=directory, env=variables, scratch=places, stdio=(0, 1, 2), forward=ports)
        found, stream, _ = connect_first(host, batch=True)
        spec.host = os.fsencode(found.name)
        rights = JobRights(asked.on(found.trust, found.disk), sync=sync)
        spec.scratch = with_tmp(rights.scope, spec.scratch, spec.cwd)
        link = SessionLink(stream.read_fd, stream.write_fd)
        dialler = Dialler(found, link)
        kept: list[str] = []
        ended = to_the_end(lambda: _run(link, spec, outputs, given, rights, dialler, kept), found, stream)
        if ended.status is None:
            raise errors.CannotStart(ended.reason, ended.code)
        out, err = (
            None if file is not None else written(outputs[kind])
            for kind, file in ((frames.STDOUT, stdout), (frames.STDERR, stderr))
        )
        code = os.waitstatus_to_exitcode(ended.status)
        result = Result(tuple(map(os.fsdecode, words)), found.name, code, out, err, tuple(kept))
    if check and result.returncode:
        what = f"{result.args[0]} on {result.host}"
        raise errors.CommandFailed(what, result.returncode, result.stdout, result.stderr)
    return result


def _run(
    link: Link,
    spec: JobSpec,
    outputs: Mapping[int, int],
    given: int,
    rights: JobRights,
    dialler: Dialler,
    kept: list[str],
) -> RunResult:
    """`kept`: gets what the job was refused."""
    ends = {kind: StreamEnd(os.dup(fd)) for kind, fd in outputs.items()}
    plain = PlainRun(link, spec, ends, _Alone(given), rights, dialler)
    try:
        return plain.run()
    finally:
        kept += plain.refused().sentences
        plain.release()
