"""``rexec disconnect``: end the connections that are kept for further runs."""

from __future__ import annotations

import click

from remoteio.errors import RexecError
from shim.cli.parameters import host_names
from shim.cli.say import tell
from shim.submit.hosts import config, kept


@click.command("disconnect")
@click.argument("hosts", metavar="[HOST]...", nargs=-1, shell_complete=host_names)
def disconnect_command(hosts: tuple[str, ...]) -> None:
    """End the connections to HOST that are kept for further runs; without one, all. Jobs that run go on.

    Prints the destinations that were connected. A HOST that is neither connected nor in hosts.toml is an error.
    """
    known = config.load()
    named = [config.resolve(name, known) for name in hosts]
    meant = [host.ssh for host in named if host.ssh is not None]
    ended = set()
    for destination in kept.end(meant) if meant or not hosts else ():
        ended.add(destination)
        click.echo(destination)
    strangers = []
    for host in named:
        if host.ssh in ended:
            continue
        if host.ssh is None or host in known.hosts:
            tell(f"no connection to {host.name} is kept")
        else:
            strangers.append(host.name)
    if strangers:
        name = strangers[0]
        raise RexecError(
            f"no connection to {name} is kept, and hosts.toml names no such host{config.meant(name, known)}"
        )
    if not hosts and not ended:
        tell("no connection is kept")
