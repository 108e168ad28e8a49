"""Going on from an image on this host: spool, namespaces, criu's restore, the gate, supervision. Shipped."""

from __future__ import annotations

import json
import os
import queue
import time

from checkpoint.execute import criu, restore
from checkpoint.execute.restore import RestartError
from checkpoint.wire import image_wire
from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.link import LinkClosed, credit
from shim.execute.agent import dumping, typeahead
from shim.execute.agent.agent import aside
from shim.execute.agent.job_tree import ASK_S, Gone, Mobile
from shim.execute.init import messages
from shim.wire import job_messages

RESTORE_S = 30  # criu's own limit


class Restorer:
    """One restore; `receive` is given the store's payloads meanwhile."""

    def __init__(self, agent: Mobile) -> None:
        self._agent = agent
        self._spool = agent.spool("restore")
        self._arriving = restore.SpooledImage(self._spool)
        self._payloads: queue.SimpleQueue[bytes | memoryview | None] = queue.SimpleQueue()
        self._runs = False  # it was let go on
        self.whole = False  # all its files are in the spool

    def receive(self, payload: bytes | memoryview) -> None:
        """One payload of deliver; its window bounds what can be waiting."""
        self._payloads.put(payload)

    def _collect(self) -> None:
        """Hashed and written here while the link's thread reads on. Raises ImageWireError, OSError."""
        while not self._arriving.complete:
            payload = self._payloads.get()
            if payload is None:
                raise Gone("the job's first process has ended")
            self._arriving.receive(payload)
            self._agent.link.send(*credit(frames.IMAGE, len(payload)))
        self.whole = True
        self._agent.link.send(frames.IMAGE, image_wire.STORED)

    def end(self) -> None:
        """The job has ended: `run` returns as soon as it can."""
        self._payloads.put(None)

    def run(self) -> None:
        """Until the job runs, or it is told that it cannot. Raises LinkClosed."""
        agent = self._agent
        try:
            self._collect()
            began = time.monotonic()
            dumping.reached("arrived")
            with agent.still:
                self._restore(began)
            dumping.reached("restored")
        except LinkClosed:
            raise
        except Exception as e:  # whatever it was, it is for the submit side to decide what becomes of the job
            if agent.over.wait(ASK_S if isinstance(e, Gone) else 0.0):
                return  # its end is being told
            why = str(e) if isinstance(e, (RestartError, RexecError)) else "the restart failed: %s" % e
            if self._runs:
                agent.news(job_messages.DEAD, why=why)
            else:
                agent.link.send(frames.FAIL, (125).to_bytes(4, "little"), why.encode("utf-8", "surrogateescape"))
            agent.link.flush()
            agent.leave()
            os._exit(0)
        dumping.tidy(self._spool)

    def _restore(self, began: float) -> None:
        agent = self._agent
        assert agent.manifest is not None
        stats = agent.manifest.stats
        pipes = {int(k): int(str(inode)) for k, inode in _table(stats["pipes"]).items()}
        old, stopped = stats["terminal"], stats["stopped"]
        if not isinstance(stopped, list):
            raise RestartError("the image does not say which of its processes had been stopped")
        tty = (int(old[0]), int(old[1])) if isinstance(old, list) else None
        numbers: dict[int, int] = {}  # the job's number -> criu's
        inherited = []
        for at, (k, key) in enumerate(sorted(restore.keys(pipes, tty).items())):
            numbers[k] = criu.FIRST_INHERITED_FD + at
            inherited.append((numbers[k], key))
        restore.put_locks(self._spool, stats["locks"])
        checked = stats["replaced"]
        assert isinstance(checked, list)
        restore.drop_sizes(self._spool, frozenset(map(str, checked)))
        sock, fds = dumping.start(agent.able().bundle, self._spool)
        try:
            agent.ask(messages.RESTORE, json.dumps({str(k): n for k, n in numbers.items()}).encode(), fds)
        finally:
            for fd in fds:
                os.close(fd)

        def gate() -> bool:
            dumping.reached("post-restore")
            agent.criu(False)
            assert agent.manifest is not None
            if tty is not None:  # criu has made its settings those of the old one
                typeahead.put(agent.master, agent.slave, agent.manifest.streams.stdin_unread)
            agent.news(job_messages.RESTORED, seconds=time.monotonic() - began)
            self._runs = agent.gate.get()
            return self._runs

        request = criu.restore_request(
            tuple(inherited),
            unprivileged=agent.sandbox.plan.apart,
            timeout=RESTORE_S,
            keep_tcp=stats["keep_tcp"] is True,
        )
        agent.criu(True)
        try:
            pid = restore.restore(sock, request, self._spool, agent.log, gate)
            dumping.reached("runs")
            # from here on init knows whose end is the job's
            agent.tell(messages.GOES_ON, b"%d %d" % (pid, int(str(stats["last_pid"]))))
        finally:
            sock.close()
        if stats["frozen"]:
            agent.ask(messages.CONTINUE_TREE, b" ".join(b"%d" % int(n) for n in stopped), limit=None)
        try:
            agent.await_criu(RESTORE_S)
        except RexecError as e:
            aside(str(e))  # the job runs


def _table(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}
