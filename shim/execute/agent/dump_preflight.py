"""The look before a dump: what CRIU could not save of a job, and what must be known before criu has it. Shipped."""

from __future__ import annotations

import os
from collections.abc import Sequence

from checkpoint.execute import live_sockets, preflight
from checkpoint.execute.dump import DumpError
from shim.execute.agent.checkpoint_parts import CheckpointParts
from shim.execute.init import messages
from shim.wire import job_messages

NAMED = 5  # of what stands in the way of a dump


class Found:
    """Holds what the look has found of a job that can be saved.

    keep_tcp     both ends of each of its connections are in the tree
    mapped       files
    private      those of them that are mapped so that what others write there need not be seen
    controlling  what it has open as /dev/tty: st_rdev and st_dev
    """

    __slots__ = ("controlling", "keep_tcp", "mapped", "private")

    def __init__(
        self,
        keep_tcp: bool = False,
        tasks: Sequence[preflight.Task] = (),
        controlling: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.keep_tcp, self.controlling = keep_tcp, list(controlling)
        self.mapped = sorted(frozenset().union(*(task.files for task in tasks)))
        self.private = sorted(frozenset().union(*(task.private for task in tasks)))

    def told(self) -> dict[str, object]:
        """What of it goes into the head of the image."""
        return {"controlling": self.controlling, "mapped": self.mapped, "private": self.private}


def look(parts: CheckpointParts, leave: bool) -> Found:
    """Look at the job, which runs; home is told which connections it loses if it leaves. Raises DumpError, Gone."""
    tree = parts.tree
    unix, rows = live_sockets.unix(), live_sockets.tcp(tree.root())
    tasks = preflight.look(tree.root())
    whole = preflight.tree(tree.root()) == [task.host_pid for task in tasks]
    apart = parts.sandbox.plan.apart
    found = preflight.obstacles(tasks, preflight.Reach(apart, _may_ask_limits(), terminal(parts)))
    found += preflight.ipc(tree.ask(messages.ASK_IPC).decode().split(), apart, os.uname().release)
    found += preflight.ended_sessions(tree.root())
    found += [] if parts.sandbox.plan.root else preflight.hidden(tree.root())
    own = tree.ask(messages.ASK_OWN_FILES, b"1" if apart else b"", limit=None).decode()
    if own:
        found.append(own)
    unix_now, rows_now = live_sockets.unix(), live_sockets.tcp(tree.root())
    found += live_sockets.ended_unread(tasks, rows_now) + live_sockets.pending(tasks, unix_now)
    found += live_sockets.outside(tasks, unix, unix_now) if whole else []
    tcp = live_sockets.connections(tasks, rows, rows_now)
    # All or none; and only root may take one apart (TCP_REPAIR).
    others = [connection.other for connection in tcp]
    keep_tcp = bool(tcp) and not apart and live_sockets.OUTSIDE not in others
    forbidden = [live_sockets.UNACCEPTED, *([live_sockets.CLOSED_UNSENT] if keep_tcp else [])]
    found += [f"{c.words} is {c.other}, which CRIU cannot save" for c in tcp if c.other in forbidden]
    if found:
        more = "; and %d more" % (len(found) - NAMED) if found[NAMED:] else ""
        raise DumpError("; ".join(found[:NAMED]) + more)
    controlling = preflight.by_controlling(tasks)
    if leave and tcp and not keep_tcp:
        more = " and %d more" % (len(tcp) - 1) if tcp[1:] else ""
        parts.news(job_messages.CLOSES, why=tcp[0].words + more)
    return Found(keep_tcp, tasks, tuple(controlling))


def terminal(parts: CheckpointParts) -> tuple[int, int] | None:
    """Return the numbers of the device that the job's own terminal is, if it has one."""
    tty = parts.streams.tty
    return (os.major(tty[0]), os.minor(tty[0])) if tty is not None else None


def _may_ask_limits() -> bool:
    with open("/proc/self/status") as f:
        return preflight.may_ask_limits(f.read())
