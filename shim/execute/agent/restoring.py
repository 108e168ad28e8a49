"""Going on from an image on this host: spool, namespaces, criu's restore, the gate, supervision. Shipped.

States, in the thread that restores: collecting the image's files into the spool, while namespaces and init are made;
criu at work; built, and waiting at criu's `post-restore` (the gate) for home, which alone knows whether this is the
newest generation; running. Nothing of the job runs before the gate is open, so what fails before it is FAIL, and the
job can go on elsewhere; after it the failure is the job's end (DEAD), which goes on from its last image.

The job may end as soon as it runs, before init knows which of its children is the job: init keeps the status of every
child that has ended by then (TreeControl.reaped), and looks among them at GOES_ON.
"""

from __future__ import annotations

import json
import os
import queue
import time

from checkpoint.execute import criu, forked, restore
from checkpoint.execute.restore import RestartError
from checkpoint.wire import image_wire
from checkpoint.wire.manifest import Manifest
from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.link import LinkClosed, credit
from shim.execute.agent import fault_points, thread_scheduling
from shim.execute.agent.checkpoint_parts import CheckpointParts
from shim.execute.agent.criu_process import Place
from shim.execute.agent.diagnostics import aside
from shim.execute.agent.job_tree import ASK_S, Gone
from shim.execute.init import messages
from shim.wire import job_messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.execute.owner.word import OwnerWord

RESTORE_S = 30  # criu's own limit


class Restorer:
    """Restores one job from its image.

    whole  all its files are in the spool: what else comes of an image is for a dump

    Threads: `run` is one of its own, and does all of it; `receive` and `go` are called by the agent's main thread,
    `end` by the one that hears init.
    """

    def __init__(
        self, parts: CheckpointParts, manifest: Manifest, groups: list[int] | None, said: OwnerWord | None
    ) -> None:
        """`groups`: those that its processes have here, if not the image's; `said`: what this machine's owner says.

        Raises RexecError, OSError: there is no place for the image.
        """
        self._parts, self._manifest, self._groups, self._said = parts, manifest, groups, said
        self._place = Place(parts.sandbox, "restore")
        self._spool = self._place.spool
        self._arriving = restore.SpooledImage(self._spool)
        self._payloads: queue.SimpleQueue[bytes | memoryview | None] = queue.SimpleQueue()
        self._gate: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._runs = False  # it was let go on
        self.whole = False

    def receive(self, payload: bytes | memoryview) -> None:
        """Take one payload of the delivery; its window bounds what can be waiting."""
        self._payloads.put(payload)

    def _collect(self) -> None:
        """Hash and write the image's files, while the link's thread reads on. Raises ImageWireError, OSError."""
        while not self._arriving.complete:
            payload = self._payloads.get()
            if payload is None:
                raise Gone("the job's first process has ended")
            self._arriving.receive(payload)
            self._parts.link.send(*credit(frames.IMAGE, len(payload)))
        self.whole = True
        self._parts.link.send(frames.IMAGE, image_wire.STORED)

    def go(self, may: bool) -> None:
        """Let the job go on, or not: home's word at the gate."""
        self._gate.put(may)

    def end(self) -> None:
        """Have `run` return as soon as it can: the job has ended."""
        self._payloads.put(None)
        self._gate.put(False)

    def run(self) -> None:
        """Restore until the job runs, or home has been told that it cannot. Raises LinkClosed."""
        parts, tree = self._parts, self._parts.tree
        try:
            self._collect()
            began = time.monotonic()
            fault_points.reached("arrived")
            with tree.still:
                self._restore(began)
            fault_points.reached("restored")
        except LinkClosed:
            raise
        except Exception as e:  # whatever it was, it is for the submit side to decide what becomes of the job
            if tree.over.wait(ASK_S if isinstance(e, Gone) else 0.0):
                return  # its end is being told
            why = str(e) if isinstance(e, (RestartError, RexecError)) else "the restart failed: %s" % e
            if self._runs:
                parts.news(job_messages.DEAD, why=why)
            else:
                parts.link.send(frames.FAIL, (125).to_bytes(4, "little"), why.encode("utf-8", "surrogateescape"))
            parts.link.flush()
            tree.leave()
            parts.leave()
        self._place.tidy()

    def _restore(self, began: float) -> None:
        parts, tree, stats = self._parts, self._parts.tree, self._manifest.stats
        pipes = {int(k): int(str(inode)) for k, inode in _table(stats["pipes"]).items()}
        old, stopped, threads = stats["terminal"], stats["stopped"], _rows(stats.get("threads"))
        if not isinstance(stopped, list):
            raise RestartError("the image does not say which of its processes had been stopped")
        checked = stats["replaced"]
        if not isinstance(checked, list):
            raise RestartError("the image does not say which of its files had been replaced")
        tty = (int(old[0]), int(old[1])) if isinstance(old, list) else None
        ends = sorted(restore.keys(pipes, tty).items())
        if tty is not None:
            ends += [(-1, criu.tty_key(*by_name)) for by_name in _controlling(stats)]
        numbers = {criu.FIRST_INHERITED_FD + at: k for at, (k, _) in enumerate(ends)}  # criu's -> the job's
        inherited = [(number, key) for number, (_, key) in zip(numbers, ends)]
        restore.put_locks(self._spool, stats["locks"])
        directories = restore.order_removed(self._spool)
        restore.loosen_files(self._spool, frozenset(map(str, checked)), _called(stats))
        forked.mark(self._spool)
        if self._groups is not None:
            restore.set_groups(self._spool, self._groups)
        keep_tcp = stats["keep_tcp"] is True
        keys = restore.protection_keys_of(self._spool)
        lost = restore.fit_sockets(self._spool, keep_tcp, parts.sandbox.plan.alone)
        asked = {
            "ends": {str(n): k for n, k in numbers.items()},
            "clocks": restore.clocks_shown(self._spool) if parts.sandbox.plan.apart else None,
            "rootless": not parts.sandbox.plan.root,
            "above": directories,
        }
        sock, fds = self._place.start(parts.means.criu().bundle, tree)
        try:
            above = tree.ask(messages.RESTORE, json.dumps(asked).encode(), fds, limit=None)
        finally:
            for fd in fds:
                os.close(fd)

        def tidy() -> None:
            tree.ask(messages.TIDY, above)

        def ready() -> None:
            tidy()
            if keys.held and not stats["frozen"]:
                tree.ask(messages.STOP_TREE)  # it stands still once criu lets go of it

        def gate() -> bool:
            fault_points.reached("post-restore")
            parts.relay.criu(False)
            tidy()
            threads[:] = thread_scheduling.put_back(tree.init(), threads)
            if tty is not None:  # criu has made its settings those of the old one
                parts.streams.type_ahead(self._manifest.streams.stdin_unread)
            if lost:
                parts.news(job_messages.CLOSES, why="; ".join(lost))
            parts.news(job_messages.RESTORED, seconds=time.monotonic() - began)
            self._runs = self._gate.get()
            return self._runs

        request = criu.restore_request(
            tuple(inherited),
            unprivileged=parts.sandbox.plan.apart,
            timeout=RESTORE_S,
            keep_tcp=keep_tcp,
        )
        parts.relay.criu(True)
        try:
            pid = restore.restore(sock, request, self._place.work, parts.log, gate, ready)
            fault_points.reached("runs")
            thread_scheduling.put_back(tree.init(), threads)
            if self._said is not None:
                thread_scheduling.lower(tree.init(), self._said)
            # from here on init knows whose end is the job's
            tree.tell(messages.GOES_ON, b"%d %d" % (pid, int(str(stats["last_pid"]))))
        finally:
            sock.close()
        if keys.held and (without := keys.give(tree.init())):
            aside("processes that have not their memory protection keys: %s" % without)
        if stats["frozen"]:
            tree.go_on([int(n) for n in stopped])
        elif keys.held:
            tree.go_on(keys.stopped)
        try:
            tree.await_criu(RESTORE_S)
        except RexecError as e:
            aside(str(e))  # the job runs


def _rows(value: object) -> list[tuple[int, int, list[int]]]:
    return [(int(tid), int(io), list(cpus)) for tid, io, cpus in (value if isinstance(value, list) else [])]


def _controlling(stats: dict[str, object]) -> list[tuple[int, int]]:
    """st_rdev and st_dev of what the job had open as /dev/tty: its terminal by another name, if it has one."""
    rows = stats.get("controlling", [])
    return [(int(rdev), int(dev)) for rdev, dev in rows] if isinstance(rows, list) else []


def _called(stats: dict[str, object]) -> dict[str, str]:
    """For names that are gone, one that the file still has: what home has put down (image_manifest.py)."""
    rows = stats.get("called", [])
    return {str(path): str(now) for path, now in rows} if isinstance(rows, list) else {}


def _table(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}
