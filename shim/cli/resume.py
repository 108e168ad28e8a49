"""``rexec resume`` and ``rexec service``: jobs whose supervisor is gone go on, by hand or when this machine is back.

The service is a unit of systemd's user manager that says `rexec resume` when that starts. It stays active afterwards,
so the supervisors that it began are its processes: at a shutdown they get SIGTERM, and time to save their jobs.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click

from remoteio.errors import RexecError
from shim.cli import submit
from shim.cli.parameters import job_ids
from shim.cli.say import tell
from shim.submit.api import revived
from shim.submit.api.revived import Revived
from shim.submit.batch import record as batches
from shim.submit.job import placement_steps, record
from shim.submit.job.logout import LINGER
from shim.submit.job.phase import Phase
from shim.submit.job.record import Job

UNIT = "rexec.service"
_TEXT = """\
# Written by `rexec service install`; `rexec service remove` removes it.
[Unit]
Description=Jobs of rexec go on where their last images are

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={program} resume
# What a supervisor takes to save its job, at most, and a moment more.
TimeoutStopSec={seconds}

[Install]
WantedBy=default.target
"""


def left() -> list[Job]:
    """Find the detached jobs that have lost their supervisor though nobody wanted that, and have an image.

    Those of a batch are looked after by its own supervisor.
    """
    found = []
    for directory in record.every():
        try:
            seen = directory.read()
        except RexecError as error:
            tell(str(error))  # the others are there all the same
            continue
        goes_on = seen.phase != Phase.ENDED and seen.why != placement_steps.HELD_WHY
        if seen.detached and seen.image and goes_on and not seen.batch and not directory.supervised():
            found.append(directory)
    return found


@click.command("resume")
@click.option("--on", hidden=True)  # said by the supervisor of a batch
@click.argument("wanted", metavar="[JOB]...", nargs=-1, shell_complete=job_ids)
def resume_command(wanted: tuple[str, ...], on: str | None) -> None:
    """Have jobs whose supervisor is gone go on, in the background; by default all of them.

    A job that still runs goes on where it is, if that can be; else from its last image, as after this machine was
    switched off; which is said. A batch (b7) begins what waits, and what ran when its supervisor ended begins anew.

    Without JOB these are all batches, and the jobs that were started with --detach, have an image, and are not held.
    `rexec service install` has it done by itself.
    """
    for name in submit.resumed([word for word in wanted if batches.named(word)] if wanted else None):
        click.echo(f"batch {name} goes on")
    wanted_jobs = [word for word in wanted if not batches.named(word)]
    failed = False
    begun: list[tuple[int, Callable[[], Revived]]] = []
    for each in [record.find(word) for word in wanted_jobs] if wanted else left():
        try:
            begun.append((each.id, revived.revive(each, on)))
        except RexecError as error:
            failed = True
            tell(f"job {each.id} does not go on: {error}")
    for number, whence in begun:  # each waits for its own host: at once
        try:
            found = whence()
        except RexecError as error:
            failed = True
            tell(str(error))
            continue
        for sentence in found.kept:
            tell(sentence)
        click.echo(f"job {number} goes on {found.whence}")
    if failed:
        sys.exit(125)


@click.group("service")
def service_command() -> None:
    """Have detached jobs go on by themselves when this machine is back."""


@service_command.command("install")
def install_command() -> None:
    """Write and enable the unit rexec.service of your systemd user manager: it says `rexec resume` when that starts.

    That is at your next login, or when the machine starts if lingering is enabled for you (`loginctl enable-linger`).
    """
    program = shutil.which(sys.argv[0])
    if program is None:
        raise RexecError(f"{sys.argv[0]} is no program that can be found again: install rexec first")
    unit = _unit()
    unit.parent.mkdir(parents=True, exist_ok=True)
    quoted = '"' + os.path.abspath(program).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
    unit.write_text(_TEXT.format(program=quoted, seconds=int(placement_steps.GRACE) + 15))
    try:
        _systemctl("daemon-reload")
        _systemctl("enable", UNIT)
    except RexecError:
        unit.unlink()
        raise
    lingers = os.path.exists(f"{LINGER}/{getpass.getuser()}")
    when = "when this machine starts" if lingers else "at your next login"
    more = "" if lingers else "; run `loginctl enable-linger` to have them go on when the machine starts"
    click.echo(f"{unit} is enabled: jobs that have lost their supervisor go on {when}{more}")


@service_command.command("remove")
def remove_command() -> None:
    """Disable and remove that unit. Jobs that it began go on."""
    unit = _unit()
    if not unit.exists():
        raise RexecError(f"there is no {unit}: nothing is to be removed")
    _systemctl("disable", UNIT)
    unit.unlink()
    _systemctl("daemon-reload")
    click.echo(f"{unit} is removed")


def _unit() -> Path:
    above = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(above, "systemd/user", UNIT)


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(["systemctl", "--user", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        why = "there is no systemctl"
    else:
        if done.returncode == 0:
            return
        why = (done.stderr.strip().splitlines() or [f"systemctl ended with {done.returncode}"])[-1]
    raise RexecError(
        f"this login has no systemd that could do it ({why}): have `rexec resume` said otherwise when the machine is "
        "back, as by @reboot in your crontab"
    )
