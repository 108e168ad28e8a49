"""Starts a job that can be checkpointed, as `rexec --checkpoint --detach` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from shim.submit.api import arguments
from shim.submit.api.arguments import Text
from shim.submit.api.errors import ArgumentError
from shim.submit.api.job_handle import Job
from shim.submit.api.streams import File, given_input
from shim.submit.foreground.description import describe
from shim.submit.job import detached, submission


def start(
    command: Sequence[Text],
    *,
    hosts: str | Sequence[str] | None = None,
    owner: str = "",
    every: float | str = 0,
    keep: int = submission.KEEP,
    cwd: Text | None = None,
    env: Mapping[str, str] | None = None,
    scratch: Sequence[Text] = (),
    stdin: bytes | File | None = None,
) -> Job:
    """Start a command as a job that can leave a machine and go on elsewhere; returns once it has its supervisor.

    A process of its own supervises it, which goes on when this one ends. What it writes is in
    Job.stdout and Job.stderr.

    hosts   where it may run, in order, or "any" of hosts.toml; None: any, and if that names none this machine
    owner   when it leaves a host for its owner: "keyboard", "none" or a table of hosts.toml; empty: as each host has it
    every   seconds between checkpoints while it runs, or as --every has them ("10m"); 0: only one, early on; "never"
    keep    how many images are kept

    The others are as for `run`. Raises ArgumentError at once for what cannot be meant, HostsError for a host that is
    none, PolicyError for an unknown policy, SubmitError or JobError where the job cannot be put on record.
    """
    words = arguments.command_words(command)
    names = arguments.hosts(hosts)
    if not isinstance(owner, str):
        raise ArgumentError(f"owner is {owner!r:.80}: give the name of a policy")
    pause = submission.parse_every(every, "every") if isinstance(every, str) else arguments.seconds(every, "every")
    images = arguments.whole(keep, "keep", 1)
    directory = None if cwd is None else arguments.text(cwd, "cwd")
    variables, places = arguments.variables(env), arguments.texts(scratch, "scratch")
    with ExitStack() as held:
        given = None if stdin is None else given_input(stdin, held)
        spec = describe(words, directory=directory, env=variables, scratch=places, stdio=(0, 1, 2))
        wanted = submission.Wanted(submission.host_names(names), owner, pause, images, detach=True)
        made = submission.create(spec, wanted)
        detached.start(made, stdin=given)
        return Job(made)
