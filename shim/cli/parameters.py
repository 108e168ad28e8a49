"""The parameters that several commands have, and what a shell offers for them at <TAB>.

What is offered is found by shim/cli/completion.py, which reads the store and the jobs' records: it is imported only
when a shell asks, since each command would wait for it otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def host_names(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem[Any]]:
    """Offer names of hosts.toml, as click's shell_complete."""
    from shim.cli import completion

    return completion.hosts(begun)


def job_ids(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem[Any]]:
    """Offer ids of jobs, as click's shell_complete."""
    from shim.cli import completion

    return completion.jobs(begun)


def job_and_batch_ids(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem[Any]]:
    """Offer ids of jobs and names of batches, as click's shell_complete."""
    from shim.cli import completion

    return [*completion.jobs(begun), *completion.batches(begun)]


def image_names(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem[Any]]:
    """Offer JOB and JOB/IMAGE, as click's shell_complete."""
    from shim.cli import completion

    return completion.images(begun)


def images(text: str | None) -> int | None:
    """Return the number of --keep of a job with --checkpoint. Raises click.BadParameter."""
    if text is None:
        return None
    try:
        return int(click.IntRange(1)(text))
    except click.BadParameter as wrong:
        raise click.BadParameter(wrong.message, param_hint="'--keep'") from wrong


class _Listed(click.types.StringParamType):
    """Text that a command prints: whoever leaves it out is told which."""

    def __init__(self, command: str) -> None:
        self._command = command

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"See `{self._command}`."


class _OneJob(_Listed):
    """A job's id, or the name of one of a batch, with --checkpoint: its id then; with anything behind a slash."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from shim.submit.batch import record

        job, slash, rest = value.partition("/")
        return (record.number(job) if record.named(job) else job) + slash + rest


class Alone(click.Command):
    """A command with options alone: whoever gives it a word is told which command takes that."""

    def __init__(self, *args: Any, instead: str = "", **kwargs: Any) -> None:
        """`instead`: a clause, with the word as {}."""
        super().__init__(*args, **kwargs)
        self._instead = instead
        self.allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            raise click.UsageError(f"This takes no argument: {self._instead.format(ctx.args[0])}.", ctx)
        return rest


job_argument = click.argument("job", metavar="JOB", type=_OneJob("rexec jobs"), shell_complete=job_ids)
job_or_batch_argument = click.argument(
    "job", metavar="JOB", type=_Listed("rexec jobs"), shell_complete=job_and_batch_ids
)
jobs_argument = click.argument(
    "job", metavar="[JOB]", required=False, type=_OneJob("rexec jobs"), shell_complete=job_ids
)
image_argument = click.argument(
    "image", metavar="JOB[/IMAGE]", type=_OneJob("rexec images"), shell_complete=image_names
)
