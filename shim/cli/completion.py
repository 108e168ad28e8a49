"""What a shell offers at <TAB> after ``rexec``, and ``rexec completion``, which has it ask."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from checkpoint.errors import CheckpointError
from checkpoint.submit.store import Store
from remoteio.errors import RexecError
from remoteio.printable import printable
from shim.submit.batch import record as batch_record
from shim.submit.hosts import config
from shim.submit.job import record

VARIABLE = "_REXEC_COMPLETE"  # SHELL_complete: a shell asks
SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    """Print what SHELL runs to complete the words after rexec: verbs, options, hosts, jobs, images.

    \b
    For good:
      bash   echo 'eval "$(rexec completion bash)"' >> ~/.bashrc
      zsh    echo 'eval "$(rexec completion zsh)"' >> ~/.zshrc    (after compinit)
      fish   rexec completion fish > ~/.config/fish/completions/rexec.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(completion_command, {}, "rexec", VARIABLE).source())


def answer(asked: str, verbs: Mapping[str, Callable[[], click.Command]], run: click.Command) -> int:
    """Print what can follow the words in the environment; an exit status. `asked`: the value of VARIABLE.

    `verbs` load their commands; `run` is the command of all other words.
    """
    try:
        return shell_complete(_Words(verbs, run), {}, "rexec", VARIABLE, asked)
    except (RexecError, CheckpointError, OSError):
        return 1  # whoever is typing is not to be told of hosts.toml now


def jobs(begun: str) -> list[CompletionItem[Any]]:
    """Offer the ids of jobs."""
    found = [(str(job.id), job) for job in record.every()]
    return [CompletionItem(name, help=_command(job)) for name, job in found if name.startswith(begun)]


def batches(begun: str) -> list[CompletionItem[Any]]:
    """Offer the names of batches."""
    return [CompletionItem(batch.name) for batch in batch_record.every() if batch.name.startswith(begun)]


def _command(job: record.Job) -> str:
    try:
        return printable(shlex.join(job.read().command), 60)
    except RexecError:
        return "?"  # its record is damaged: `rexec jobs` says so


def images(begun: str) -> list[CompletionItem[Any]]:
    """Offer JOB and JOB/IMAGE."""
    store = Store()
    found = [f"{kept.job}/{kept.number}" for job in store.jobs() for kept in store.images(job)]
    return [*jobs(begun), *(CompletionItem(image) for image in found if image.startswith(begun))]


def hosts(begun: str) -> list[CompletionItem[Any]]:
    """Offer names of hosts.toml, also as one more after a comma."""
    before, comma, last = begun.rpartition(",")
    names = [*(host.name for host in config.load().hosts), config.LOCAL]
    return [CompletionItem(before + comma + name) for name in names if name.startswith(last)]


class _Words(click.Group):
    """The command line as a shell sees it. Only asked what can follow, never run."""

    def __init__(self, verbs: Mapping[str, Callable[[], click.Command]], run: click.Command) -> None:
        options = [param for param in run.params if isinstance(param, click.Option)]
        super().__init__("rexec", params=options, context_settings=run.context_settings)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return self._verbs[name]() if name in self._verbs else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self._verbs:
            return super().resolve_command(ctx, args)
        return args[0], _PROGRAM, args[1:]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        if "/" in incomplete:
            return [CompletionItem(incomplete, type="file")]
        options = click.Command.shell_complete(self, ctx, incomplete)
        verbs = [CompletionItem(verb) for verb in self._verbs if verb.startswith(incomplete)]
        return [*options, *verbs] or [CompletionItem(name) for name in _programs(incomplete)]


# A program's own words: files.
_PROGRAM = click.Command(
    "program",
    params=[click.Argument(["words"], nargs=-1, type=click.Path())],
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
)


def _programs(begun: str) -> list[str]:
    """Find the programs of that beginning in PATH."""
    found = set()
    for directory in os.environ.get("PATH", "").split(":"):
        try:
            names = os.listdir(directory)
        except OSError:
            continue  # as any shell has it
        found |= {name for name in names if name.startswith(begun) and os.access(f"{directory}/{name}", os.X_OK)}
    return sorted(found)
