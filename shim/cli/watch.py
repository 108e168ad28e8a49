"""``rexec watch``: jobs as they wait, run, move and end; as bars on a terminal, as lines anywhere else."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from remoteio.printable import printable
from shim.cli.parameters import job_and_batch_ids
from shim.cli.say import shown, tell
from shim.cli.watched import DONE, ENDED, FAILED, STATES, Group, Watched
from shim.submit import lives

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_LOOK = 1.0  # seconds from one look to the next
_COLOURS = {
    DONE: "green", FAILED: "red", lives.RUNNING: "blue", lives.FROZEN: "cyan", lives.MOVING: "magenta",
    lives.HELD: "yellow", lives.WAITING: "bright_black",
}  # fmt: skip
_SHORT = {
    lives.WAITING: "WAIT", lives.RUNNING: "RUN", lives.FROZEN: "FROZ", lives.MOVING: "MOVE", lives.HELD: "HELD",
    DONE: "DONE", FAILED: "FAIL",
}  # fmt: skip
_HOSTS, _WIDE = 12, 90


@click.command("watch")
@click.argument("jobs", metavar="[BATCH|JOB]...", nargs=-1, shell_complete=job_and_batch_ids)
def watch_command(jobs: tuple[str, ...]) -> None:
    """Show how jobs get on, until all have ended: a bar for each batch, and for each program that runs as jobs.

    Without a name, all that have not ended yet, and what is started meanwhile. Where standard output is no terminal, a
    line is written for each change.

    \b
      waiting   for a slot, or for any host that will do
      running   on a host
      frozen    its owner is back: it stands still there
      moving    between two hosts
      held      by `rexec hold`, or since its supervisor is gone
      done      ended with status 0
      failed    ended otherwise, or killed

    \b
    Examples:
      rexec watch
      rexec watch b7 | tee progress
    """
    _catch()
    watched = Watched(jobs)
    first = watched.look()
    if all(group.over for group in first) and not jobs:
        tell("no job is under way; `rexec submit CMD` and `rexec --checkpoint CMD` start some")
        return
    if sys.stdout.isatty():
        _draw(watched, first)
    else:
        _write(watched, first)


def _catch() -> None:
    """Have the terminal put in order again, whatever ends this."""
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _looks(watched: Watched, groups: list[Group]) -> Iterator[list[Group]]:
    """Look again and again, until all have ended; runs that have are no more there."""
    while True:
        yield groups
        if all(group.over for group in groups):
            return
        time.sleep(_LOOK)
        groups = watched.look()


def _write(watched: Watched, first: list[Group]) -> None:
    before: dict[str, str] = {}
    for groups in _looks(watched, first):
        now = {f"{group.name}  {shown(group.command)}": _counted(group) for group in groups}
        for name, counted in now.items():
            if before.get(name) != counted:
                click.echo(f"{time.strftime('%H:%M:%S')}  {name}: {counted}")
        for name in before.keys() - now.keys():
            click.echo(f"{time.strftime('%H:%M:%S')}  {name}: none is left")
        sys.stdout.flush()
        before = now


def _counted(group: Group) -> str:
    said = ", ".join(f"{group.states[state]} {state}" for state in STATES if group.states[state])
    return f"{said}; {group.note}" if group.note else said


def _draw(watched: Watched, first: list[Group]) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for groups in _looks(watched, first):
            live.update(picture(groups, time.time(), console.width, console.height), refresh=True)


def picture(groups: Sequence[Group], now: float, width: int, height: int) -> RenderableType:
    """Draw them as a table with a bar in each line, as many as a screen of that size has room for."""
    from rich.console import Group as Lines
    from rich.table import Table
    from rich.text import Text

    wide = width >= _WIDE
    table = Table(box=None, expand=True, padding=(0, 2 if wide else 1, 0, 0), header_style="bold")
    table.add_column("NAME", no_wrap=True, max_width=width // 5 if wide else 10)
    table.add_column("ENDED", no_wrap=True, justify="right")
    table.add_column("", ratio=1, min_width=8)
    total: Counter[str] = sum((group.states for group in groups), Counter())
    seen = [state for state in STATES if total[state] or state in (lives.WAITING, lives.RUNNING, DONE)]
    for state in seen:
        table.add_column(state.upper() if wide else _SHORT[state], justify="right", style=_COLOURS[state], no_wrap=True)
    room = max(height - 5, 3)
    for group in groups[:room]:
        ended = sum(group.states[state] for state in ENDED)
        name = Text(printable(group.name, 24), style="bold", overflow="ellipsis")
        if wide and group.command and group.name != os.path.basename(group.command[0]):
            name.append(f" {shown(group.command)}", style="not bold")
        numbers = [str(group.states[state] or "") for state in seen]
        table.add_row(name, f"{ended}/{group.count}", _Bar(group.states), *numbers)
    notes = [Text(f"{group.name}: {group.note}", style="yellow") for group in groups if group.note]
    hosts: Counter[str] = sum((group.hosts for group in groups), Counter())
    lines: list[RenderableType] = [_head(total, now), table]
    if len(groups) > room:
        lines.append(Text(f"and {len(groups) - room} more lines"))
    return Lines(*lines, *([_on(hosts)] if hosts else []), *notes[:3])


def _head(total: Counter[str], now: float) -> Text:
    from rich.text import Text

    ended, count = sum(total[state] for state in ENDED), total.total()
    head = Text("rexec watch", style="bold")
    head.append(f"  {time.strftime('%H:%M:%S', time.localtime(now))}  {ended} of {count} have ended", style="default")
    return head


def _on(hosts: Counter[str]) -> Text:
    from rich.text import Text

    told = [f"{printable(host, 40)} {number}" for host, number in hosts.most_common(_HOSTS)]
    if len(hosts) > _HOSTS:
        told.append(f"and {len(hosts) - _HOSTS} more hosts")
    return Text.assemble(("on  ", "bold"), "  ".join(told), no_wrap=True, overflow="ellipsis")


class _Bar:
    """A bar as wide as its column, divided as the jobs are: those that have ended first."""

    _ORDER = (DONE, FAILED, lives.RUNNING, lives.FROZEN, lives.MOVING, lives.HELD, lives.WAITING)

    def __init__(self, states: Counter[str]) -> None:
        self._states = states

    def __rich_console__(self, console: object, options: object) -> Iterator[Text]:
        from rich.text import Text

        width = max(getattr(options, "max_width", 16), 1)
        bar = Text(no_wrap=True)
        for state, cells in zip(self._ORDER, parts([self._states[state] for state in self._ORDER], width), strict=True):
            bar.append("━" * cells, style=_COLOURS[state])
        yield bar


def parts(counts: Sequence[int], width: int) -> list[int]:
    """Divide `width` cells as the counts are: to the nearest cell, and one at least of each that is there. Pure."""
    total = sum(counts)
    if not total:
        return [0] * len(counts)
    found = [max(round(count * width / total), 1) if count else 0 for count in counts]
    while (over := sum(found) - width) and (over < 0 or max(found) > 1):
        largest = found.index(max(found))
        found[largest] -= 1 if over > 0 else -1
    return found
