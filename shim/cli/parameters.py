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


def image_names(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem[Any]]:
    """Offer JOB and JOB/IMAGE, as click's shell_complete."""
    from shim.cli import completion

    return completion.images(begun)


job_argument = click.argument("job", metavar="JOB", shell_complete=job_ids)
jobs_argument = click.argument("job", metavar="[JOB]", required=False, shell_complete=job_ids)
image_argument = click.argument("image", metavar="JOB[/IMAGE]", shell_complete=image_names)
