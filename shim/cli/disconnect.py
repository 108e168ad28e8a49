"""``rexec disconnect``: end the connections that are kept for further runs."""

from __future__ import annotations

import click

from shim.cli.parameters import host_names
from shim.submit.hosts import config, kept


@click.command("disconnect")
@click.argument("hosts", metavar="[HOST]...", nargs=-1, shell_complete=host_names)
def disconnect_command(hosts: tuple[str, ...]) -> None:
    """End the connections to HOST that are kept for further runs; without one, all. Jobs that run go on.

    Prints the destinations that were connected.
    """
    known = config.load()
    meant = [host.ssh for host in (config.resolve(name, known) for name in hosts) if host.ssh is not None]
    for destination in kept.end(meant) if meant or not hosts else ():
        click.echo(destination)
