"""Starts a job that can be checkpointed, as `rexec --checkpoint --detach` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Unpack

from shim.submit.api import arguments
from shim.submit.api.arguments import ScopeOptions, Text
from shim.submit.api.errors import ArgumentError
from shim.submit.api.job_handle import Job
from shim.submit.api.streams import File, given_input
from shim.submit.foreground.description import describe
from shim.submit.job import detached, submission, undo_home
from shim.submit.job.record import REHEARSE, SMALL
from shim.submit.scope import with_tmp


def start(
    command: Sequence[Text],
    *,
    hosts: str | Sequence[str] | None = None,
    owner: str = "",
    every: float | str = 0,
    keep: int = submission.KEEP,
    files: str = submission.ROLLBACK,
    undo_limit: int | str | None = None,
    rehearse: str = SMALL,
    cwd: Text | None = None,
    env: Mapping[str, str] | None = None,
    scratch: Sequence[Text] = (),
    forward: Sequence[str] = (),
    stdin: bytes | File | None = None,
    **scope: Unpack[ScopeOptions],
) -> Job:
    """Start a command as a job that can leave a machine and go on elsewhere; returns once it has its supervisor.

    A process of its own supervises it, which goes on when this one ends. It writes to Job.stdout and Job.stderr.

    hosts   where it may run, in order, or "any" of hosts.toml; None: any, and if that names none this machine
    owner   when it leaves a host for its owner: "keyboard", "none" or a table of hosts.toml; empty: as each host has it
    every   seconds between checkpoints while it runs, or as --every has them ("10m"); 0: only one, early on; "never"
    keep, files, undo_limit, rehearse    as the options have them; undo_limit: bytes or a size ("2G"), None: 1 GiB
    The others are as for `run`. Raises ArgumentError at once for what cannot be meant, HostsError for a host that is
    none, PolicyError for an unknown policy, SubmitError or JobError where the job cannot be put on record.
    """
    words, asked = arguments.command_words(command), arguments.scope(scope)
    names, policy, pause = arguments.hosts(hosts), arguments.policy(owner), _pause(every)
    images, undo = arguments.whole(keep, "keep", 1), _checked(files, undo_limit, rehearse)
    directory, variables = None if cwd is None else arguments.text(cwd, "cwd"), arguments.variables(env)
    places, slots, ports = arguments.texts(scratch, "scratch"), submission.slots(names, None), arguments.ports(forward)
    with ExitStack() as held:
        given = None if stdin is None else given_input(stdin, held)
        spec = describe(words, directory=directory, env=variables, scratch=places, stdio=(0, 1, 2), forward=ports)
        spec.scratch = with_tmp(asked, spec.scratch, spec.cwd)
        wanted = submission.Wanted(submission.host_names(names), policy, pause, images, True, asked, *undo, slots=slots)
        detached.start(made := submission.create(spec, wanted), stdin=given)
        return Job(made)


def _pause(every: float | str) -> float:
    return submission.parse_every(every, "every") if isinstance(every, str) else arguments.seconds(every, "every")


def _checked(files: str, undo_limit: int | str | None, rehearse: str) -> tuple[str, int, str]:
    if files not in (submission.ROLLBACK, undo_home.KEEP):
        raise ArgumentError(f'files is {files!r:.80}: say "rollback" or "keep"')
    if rehearse not in REHEARSE:
        raise ArgumentError(f'rehearse is {rehearse!r:.80}: say "never", "small" or "always"')
    return files, submission.parse_undo(undo_limit, "undo_limit"), rehearse
