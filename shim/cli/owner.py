"""``rexec owner``: how long this machine's owner has been away."""

from __future__ import annotations

import os
import sys

import click

from remoteio.errors import RexecError
from shim.cli.parameters import Alone
from shim.submit import own_code
from shim.wire.owner_policy import parse_duration

_PROGRAM = "shim.execute.owner_ad"  # by name: what looks at keyboards is the execute side's


@click.command("owner", cls=Alone, instead="`rexec hosts --why {}` tells it of a host")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("--condor", is_flag=True, help="Print attributes of a machine, as a job of HTCondor's STARTD_CRON does.")
@click.option("--every", metavar="D", help="Again after D (10s, 1m), and within a second of the owner's input.")
def owner_command(as_json: bool, condor: bool, every: str | None) -> None:
    """Show how long this machine's owner has been away, and what tells of it.

    By terminals, keyboards, desktops and displays, Wayland's too: the same that has a job of rexec's stand still here.

    \b
    With --condor, in HTCondor's configuration on a machine that somebody sits at:
      STARTD_CRON_JOBLIST = $(STARTD_CRON_JOBLIST) OWNER
      STARTD_CRON_OWNER_EXECUTABLE = /usr/local/bin/rexec
      STARTD_CRON_OWNER_ARGS = owner --condor --every 10s
      STARTD_CRON_OWNER_MODE = WaitForExit
      STARTD_CRON_OWNER_PERIOD = 10s
      START = RexecOwnerIdle > 15 * 60
    """
    if as_json and condor:
        raise RexecError("--json and --condor are two forms of the same: name one")
    seconds = 0.0 if every is None else parse_duration(every, "--every")
    if every is not None and not seconds:
        raise RexecError("--every 0 would never wait: say 1s or more")
    form = "json" if as_json else "condor" if condor else "table"
    sys.stdout.flush()
    words = [*own_code.command(_PROGRAM), form, str(seconds)]
    os.execv(words[0], words)
