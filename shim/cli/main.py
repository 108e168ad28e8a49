"""``rexec``: all of the command line. What it asks for is done elsewhere, and imported only when asked."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from typing import NoReturn

import click

from remoteio.errors import RexecError
from shim.cli import durations, parameters, plain, run
from shim.cli.program import VERBS
from shim.cli.program import main as main  # of a console script that was made before it lay there
from shim.cli.say import FAILED
from shim.submit import scope

_HELP = {"help_option_names": ["-h", "--help"]}


@click.command("rexec", context_settings={"allow_interspersed_args": False, **_HELP})
@click.option(
    "--on",
    "on",
    metavar="HOST",
    shell_complete=parameters.host_names,
    help="Where to run it: [user@]host as for ssh, a name of hosts.toml, or `local`."
    "  HOST,HOST… or `any` of hosts.toml: on one of them, when it has room; with --checkpoint: where it may run.",
)
@click.option("--cd", "directory", metavar="DIR", help="Working directory of the command; here by default.")
@click.option("--env", metavar="NAME[=VALUE]", multiple=True, help="Pass or set an environment variable.")
@click.option(
    "--tty/--no-tty",
    default=None,
    help="Give it a terminal; by default if stdin and stdout are one, and without --detach.",
)
@click.option(
    "--scratch", metavar="PATH", multiple=True, help="Make PATH private space on the execute host's own disk."
)
@click.option("--only", is_flag=True, help="Show it the system's files, the working directory and what is named alone.")
@click.option(
    "--read", metavar="PATH", multiple=True, help="Let it read PATH, whatever is kept from jobs, and not change it."
)
@click.option("--write", metavar="PATH", multiple=True, help="Let it change PATH, whatever is kept from jobs.")
@click.option("--hide", metavar="PATH", multiple=True, help="Do not show it PATH.")
@click.option(
    "--disk",
    metavar="SIZE",
    help="What it may add to the files here, such as 10G, or `all`; by default all but the last GiB or 5 % of a disk.",
)
@click.option(
    "--fds",
    metavar="N,N…",
    help="Descriptors from 3 on that it is to have, or `none`; by default those that it names and that do no harm.",
)
@click.option(
    "--forward",
    metavar="PORT",
    multiple=True,
    help="Let it reach PORT of this machine at its own 127.0.0.1:PORT; PORT:PORT, any:PORT: at another, see"
    " docs/forward.md.  here:PORT: let this machine reach the job's.",
)
@click.option(
    "--lease",
    metavar="D",
    help="How long it waits for rexec when the link is cut: 40m by default, 5m with --checkpoint.",
)
@click.option(
    "--cpus",
    metavar="N",
    type=click.IntRange(1),
    help="How many slots of a host it takes, with --on HOST,HOST… or `any`; 1 by default.",
)
@click.option(
    "--memory", metavar="SIZE", help="With --on HOST,HOST… or `any`: how much of a host's memory is counted for it."
)
@click.option(
    "--priority",
    metavar="N",
    type=int,
    help="Its place among those who wait for slots: higher is sooner; 0 by default.",
)
@click.option(
    "--require",
    metavar="EXPR",
    help="With --on HOST,HOST… or `any`: a ClassAd expression that has to hold on the host, such as 'Memory >= 16000'.",
)
@click.option("--rank", metavar="EXPR", help="Likewise: one that is larger on a host that is better, such as Cpus.")
@click.option(
    "--sync/--no-sync",
    default=None,
    help="Let it wait until each change of a file is made here, or what it says alone wait for them (default"
    "  without --checkpoint).",
)
@click.option("--checkpoint", is_flag=True, help="Make it a job that can leave a machine and go on elsewhere.")
@click.option(
    "--every",
    metavar="D",
    help="With --checkpoint: save it every D too (10m, 1h30m) while it runs; `never`: not even once, early on.",
)
@click.option(
    "--owner", metavar="POLICY", help="With --checkpoint: when to leave: keyboard, none, or one of hosts.toml."
)
@click.option(
    "--keep",
    metavar="D",
    help="How long a connection to the host is kept for the next run: 5m by default, 0: not at all."
    "  With --checkpoint, a number: images to keep; 2 by default.",
)
@click.option(
    "--files",
    type=click.Choice(["rollback", "keep"]),
    help="With --checkpoint: when it goes on from an image, what it did to files since is undone, or stays as it is.",
)
@click.option(
    "--undo-limit",
    metavar="SIZE",
    help="With --checkpoint: how much is kept for that before it is saved anew; 1G by default.",
)
@click.option(
    "--rehearse",
    type=click.Choice(["never", "small", "always"]),
    help="With --checkpoint: which images are tried out on their host, to know if it can leave; small: up to 256 MiB.",
)
@click.option("--for-batch", "batch", hidden=True, default="")  # said by the supervisor of one
@click.option("--detach", is_flag=True, help="With --checkpoint: in the background; prints the job's id.")
@click.option("-v", "verbose", is_flag=True, help="Say what happens.")
@click.option("-q", "quiet", is_flag=True, help="Say nothing but why rexec itself failed.")
@click.option("--json-log", metavar="FILE", help="Append what happens to FILE, one JSON object a line.")
@click.version_option(package_name="rexec", message="%(prog)s %(version)s")
@click.argument("command", metavar="[--] CMD [ARG]...", nargs=-1, type=click.UNPROCESSED, required=True)
def run_command(
    on: str | None,
    directory: str | None,
    env: tuple[str, ...],
    tty: bool | None,
    scratch: tuple[str, ...],
    only: bool,
    read: tuple[str, ...],
    write: tuple[str, ...],
    hide: tuple[str, ...],
    disk: str | None,
    fds: str | None,
    forward: tuple[str, ...],
    lease: str | None,
    cpus: int | None,
    memory: str | None,
    priority: int | None,
    require: str | None,
    rank: str | None,
    sync: bool | None,
    checkpoint: bool,
    every: str | None,
    owner: str | None,
    keep: str | None,
    files: str | None,
    undo_limit: str | None,
    rehearse: str | None,
    batch: str,
    detach: bool,
    verbose: bool,
    quiet: bool,
    json_log: str | None,
    command: tuple[str, ...],
) -> None:
    """Run CMD on another machine as if it ran here: same files, programs, user, directory, terminal and exit status.

    Nothing need be installed there but sshd and Python 3. Without --on the first usable host of
    ~/.config/rexec/hosts.toml is taken, and if there is none, this machine.

    \b
    Other uses:
      rexec hosts [--json]      the hosts known, and whether each can be used
      rexec doctor [HOST]       everything rexec needs there, and how to mend it
      rexec disconnect [HOST]   end the connections that are kept for further runs
      rexec submit -n N CMD...  run CMD many times, on these hosts or on a pool
      rexec dag FILE            run commands that depend on each other on a pool
      rexec pool up|down        a personal HTCondor of your own hosts
      rexec watch, report       how jobs get on, live; what they got, by host
      rexec owner               how long this machine's owner has been away
      rexec priority RUN N      the place of a run that waits for a slot
      rexec jobs                the jobs started with --checkpoint; stat, attach,
                                checkpoint, vacate, hold, release, kill,
                                restart, images and log are about them: see the
                                --help of each
      rexec resume              go on with all jobs whose supervisor is gone;
                                `rexec service` does it by itself
      rexec completion SHELL    have your shell complete all this at <TAB>
      rexec run CMD...          the same as rexec CMD...
      rexec -- hosts            run a program that is called like one of these

    \b
    The exit status is the command's own, or 128+n if signal n ended it, or
      125  rexec failed (it says why)
      126  the command cannot be executed
      127  the command was not found

    \b
    Examples:
      rexec --on alice@bigbox python3 job.py
      rexec --on bigbox make -j32
      seq 200 | xargs -P 50 -I{} rexec --on any ./sim {}
      rexec --on any --memory 8G --require 'Cpus >= 8' --rank 'Memory' ./solve
      tar c . | rexec --on bigbox xz -9 > all.tar.xz
      rexec --checkpoint --on alpha,beta --every 10m ./simulate
    """
    if not checkpoint:
        moving = {"--every": every, "--owner": owner, "--files": files, "--undo-limit": undo_limit}
        for option, given in {**moving, "--rehearse": rehearse, "--detach": detach}.items():
            if given:
                raise RexecError(f"{option} is for jobs that can be checkpointed: say --checkpoint too")
        plain.start(
            command, on=on, directory=directory, env=env, tty=tty, scratch=scratch, only=only, read=read, write=write,
            hide=hide, disk=disk, fds=fds, forward=forward, lease=lease, cpus=cpus, memory=memory, priority=priority,
            require=require, rank=rank, sync=sync, keep=keep, verbose=verbose, quiet=quiet, json_log=json_log,
        )  # fmt: skip
    if tty is None:
        tty = os.isatty(0) and os.isatty(1) and not detach
    asked = scope.asked(only, read, write, hide, disk)
    spec = run.describe(command, directory, env, tty, scratch, fds, forward, True)
    if sync is False:
        raise RexecError("--no-sync is not for jobs that can be checkpointed: say --checkpoint without it")
    spec.scratch = scope.with_tmp(asked, spec.scratch, spec.cwd)
    from shim.cli import checkpoint as with_images
    from shim.submit.job import record, submission

    outputs: tuple[str, ...] = ()
    if batch:
        from shim.submit.batch import record as batches

        outputs = batches.outputs(batch)
    hosts = submission.host_names(on)
    slots = submission.slots(on, plain.slots(cpus, memory, priority, require, rank))
    wanted = submission.Wanted(
        hosts, owner or "", submission.parse_every(every), parameters.images(keep) or submission.KEEP, detach,
        asked, files or submission.ROLLBACK, submission.parse_undo(undo_limit), rehearse or record.SMALL,
        durations.lease(lease, True), slots, batch, outputs,
    )  # fmt: skip
    # The threads that served the job hold nothing any more; to take the interpreter down around them costs 30 ms.
    os._exit(with_images.submit(spec, wanted, quiet=quiet))


def load(verb: str) -> click.Command:
    """Import the command of a verb."""
    module, name = VERBS[verb]
    command: click.Command = getattr(import_module(module), name)
    command.context_settings.update(_HELP)
    return command


def by_click(words: list[str]) -> NoReturn:
    """Do what the words ask for, and end this process. Raises RexecError, CheckpointError."""
    chosen: click.Command = run_command
    if words and words[0] in VERBS:
        chosen, words = load(words[0]), words[1:]
    elif words and words[0] == "run":
        words = words[1:]
    program = "rexec" if chosen is run_command else f"rexec {chosen.name}"
    try:
        status = chosen.main(args=words, prog_name=program, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)  # click gives an exit's status back
    except click.ClickException as e:
        e.show()
        sys.exit(FAILED)


def complete(asked: str) -> NoReturn:
    """Answer a shell that completes a command line. `asked`: what it says."""
    from shim.cli import completion

    sys.exit(completion.answer(asked, {verb: partial(load, verb) for verb in VERBS}, run_command))
