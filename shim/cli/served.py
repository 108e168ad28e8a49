"""Serves many runs of one batch in this process, each by threads of its own: what its supervisor starts (serving.py).

Over the socket whose number it is given come lines of JSON: ``run`` with a `rexec CMD`'s words and where its output
goes, ``end`` of one. It answers with ``reached`` and ``ended``, as --json-log has them. A run shares the rest with
`rexec CMD`, to which plain.py and run.py belong; it has no terminal and no signals of its own.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint.errors import CheckpointError
from remoteio.errors import RexecError, named
from remoteio.submit import own_share
from remoteio.wire import frames
from shim.cli import plain, run
from shim.submit import left_on_host, own_code, own_process
from shim.submit.batch.runs import opened
from shim.submit.desk.wanted import Wanted
from shim.submit.hosts.kept import Kept
from shim.submit.plain_run import PlainRun, RunResult, StreamEnd
from shim.submit.refusals_told import Told
from shim.submit.scope import JobRights, Scope
from shim.wire.job_spec import JobSpec

if TYPE_CHECKING:
    from remoteio.wire.session_link import SessionLink
    from shim.submit.desk.place import Place
    from shim.submit.host_frames import Hello
    from shim.submit.hosts.dialler import Dialler
    from shim.submit.spent import Spent

_PATIENCE = 10.0  # seconds that the runs may take to end once their supervisor has
_FAILED = {"code": 125}


def main() -> None:
    """Be what the supervisor starts, until it has closed its end."""
    own_code.import_only_ours()
    control, most = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    control.set_inheritable(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each file the jobs have open is open here
    own_share.shared_by(most)
    for module in ("shim.submit.desk.place", "shim.submit.hosts.dialler", "remoteio.wire.session_link"):
        import_module(module)
    own_process.settle()
    runs = _Runs(control, (resource.RLIMIT_NOFILE, soft, hard))
    with control.makefile("rb") as lines, suppress(ConnectionError):  # its supervisor was killed with words unread
        for line in lines:
            runs.obey(json.loads(line))
    runs.end()
    os._exit(0)


class _Runs:
    """The runs, by number. One thread begins and ends them; each says for itself how it is."""

    def __init__(self, control: socket.socket, limit: tuple[int, int, int]) -> None:
        self._control, self._limit = control, limit
        self._lock = threading.Lock()
        self._runs: dict[int, _Served] = {}

    def obey(self, row: dict[str, Any]) -> None:
        """Do what the supervisor says."""
        if "end" in row:
            if (found := self._runs.get(row["end"])) is not None:
                found.end(signal.SIGKILL if row["at_once"] else signal.SIGTERM)
            return
        number = row["run"]
        served = self._runs[number] = _Served(row, self._limit, lambda event, **more: self._say(number, event, more))
        try:
            served.thread.start()
        except RuntimeError as e:
            self._say(number, "ended", {**_FAILED, "reason": f"no thread is to be had for it: {e}"})

    def _say(self, number: int, event: str, more: Mapping[str, object]) -> None:
        if event == "ended":
            self._runs.pop(number, None)
        with self._lock, suppress(OSError):  # its supervisor has ended, and with it all of this does
            self._control.sendall(json.dumps({**more, "run": number, "event": event}).encode() + b"\n")

    def end(self) -> None:
        """End all of them; what does not end within a moment is let go of."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + _PATIENCE
            left = list(self._runs.values())
            for each in left:
                each.end(number)
            for each in left:
                each.thread.join(max(0.0, until - time.monotonic()))


class _Served:
    """One run, from its words to its end; its thread does all but ``end``."""

    def __init__(self, row: Mapping[str, Any], limit: tuple[int, int, int], say: Callable[..., None]) -> None:
        self._row, self._limit, self._say = row, limit, say
        self.thread = threading.Thread(target=self._serve, name=f"run {row['run']}", daemon=True)
        self._lock = threading.Lock()
        self._asked = 0  # the signal that is to end it
        self._place: Place | None = None
        self._job: _Job | None = None
        self._files: tuple[int, int] = -1, -1
        self._last: dict[str, object] = {**_FAILED, "reason": "it has ended without a word"}
        self._over = False

    def end(self, number: int) -> None:
        """End it as a signal would end its `rexec`. Any thread."""
        with self._lock:
            self._asked, job, place = number, self._job, self._place
        if job is not None:
            job.end(number)
            return
        if place is not None:
            place.leave()  # it is told so, and waits no more
        if number == signal.SIGKILL:
            self._end({"code": 128 + number, "signal": number})  # it sees so once it has reached its host

    def _end(self, row: Mapping[str, object]) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._say("ended", **row)

    def _serve(self) -> None:
        try:
            with ExitStack() as held:
                out, err = (held.enter_context(opened(self._row[name])).fileno() for name in ("out", "err"))
                self._files = out, err
                self._run()
        except OSError as e:
            self._fails(f"the job cannot be started: {e}")
        except (RexecError, CheckpointError) as e:
            self._fails(str(e))
        except BaseException as e:  # it is this run's alone
            traceback.print_exc()
            self._fails(f"an error of rexec's own: {named(e)}; please report it, with what its batch's errors say")
        self._end(self._last)

    def _fails(self, why: str) -> None:
        if self._asked:
            self._last = {"code": 128 + self._asked, "signal": self._asked}
        else:
            self._tell(why)
            self._last = {**_FAILED, "reason": why}

    def _tell(self, text: str) -> None:
        with suppress(OSError):  # the disk it is on is full, or it could not be opened: the log of the batch says it
            os.write(self._files[1], f"rexec: {text}\n".encode("utf-8", "replace"))

    def _run(self) -> None:
        known = plain.usual(self._row["words"])
        if known is None:
            raise RexecError("its options are read by a `rexec` of its own alone")
        plain.begin(known[0], serve=self._to_end, **known[1])

    def _to_end(
        self, spec: JobSpec, on: str | None, asked: Scope, lease: int, keep: int, wanted: Wanted,
        *, sync: bool, verbose: bool, quiet: bool, json_log: str | None,
    ) -> int:  # fmt: skip
        """See run.run."""
        spec.limits = [self._limit if each[0] == self._limit[0] else each for each in spec.limits]
        kept = Kept(keep)
        try:
            with run.place(spec, on, wanted, quiet=True) as place:
                with self._lock:
                    self._place = place
                    if self._asked:
                        raise RexecError("it was asked to end")
                ended = run.to_end(
                    spec, place or on, asked, lease, kept, self._make, (lambda text: None) if quiet else self._tell,
                    self._log, sync=sync, verbose=verbose, quiet=True,
                )  # fmt: skip
        finally:
            if self._job is not None:
                self._job.never_was()
            kept.close()
        if ended.status is None:
            self._tell(ended.reason)
        return 0

    def _make(
        self, link: SessionLink, spec: JobSpec, say: Callable[[str], None], log: run.Log, rights: JobRights,
        dialler: Dialler | None, since_ns: int,
    ) -> _Job:  # fmt: skip
        made = _Job(link, spec, self._files, rights, dialler, Path(self._row["note"]))
        with self._lock:
            self._job = made
            if self._asked:
                made.end(self._asked)
        return made

    def _log(self, event: str, **fields: object) -> None:
        if event == "reached":
            self._say(event, host=fields["host"])
        elif event == "ended":
            self._last = fields
        elif event == "failed":
            print(fields["traceback"], file=sys.stderr, flush=True)


class _Job:
    """A run on the host that it has reached; PlainRun's watcher. Threads: the run's, and any may call ``end``."""

    def __init__(
        self, link: SessionLink, spec: JobSpec, files: tuple[int, int], rights: JobRights, dialler: Dialler | None,
        note: Path,
    ) -> None:  # fmt: skip
        """`note`: where it is put down how its host is asked to end it, while it may run there (left_on_host.py)."""
        self._dialler, self._note, self._noted = dialler, note, b""
        self.lacks = ""
        self.cost: Spent | None = None
        self._asked = 0
        self._lock, self._released = threading.Lock(), False
        ends = {kind: StreamEnd(os.dup(fd)) for kind, fd in zip((frames.STDOUT, frames.STDERR), files, strict=True)}
        self._plain = PlainRun(link, spec, ends, self, rights, dialler)

    def run(self, *, lingers: bool) -> RunResult:
        """See run.Job; this process lives on."""
        ended = self._plain.run()
        if ended.away:
            self._noted = b""  # its host could not be told: it stays on record
        return ended

    def end(self, number: int) -> None:
        """Have the job get a signal, or let go of it where that can do nothing."""
        with self._lock:
            if not self._released:
                self._plain.tell(lambda: self._signalled(number))

    def _signalled(self, number: int) -> None:
        plain = self._plain
        if plain.started and not plain.ended and plain.out_of_touch:
            plain.give_up(RunResult(number, away=True))
        elif number == signal.SIGKILL or not plain.started or plain.ended:
            plain.give_up(RunResult(number))
        else:
            plain.session.send(frames.SIGNAL, bytes((number,)))
            self._asked = number

    def never_was(self) -> None:
        """Give back all that it held, after ``run``."""
        with self._lock:
            over, self._released = self._released, True
        if not over:
            left_on_host.forget(self._note, self._noted)
            self._plain.release()

    def refused(self) -> Told:
        """See run.Job."""
        return self._plain.refused()

    def leaves(self, held: Callable[[int], None]) -> None:
        """Keep nothing for others to close: ``never_was`` does so."""

    def greeted(self, hello: Hello) -> None:
        """Note where its agent is, before it is answered; on a disk that is full, its lease alone ends what is left."""
        if self._dialler is not None:
            with suppress(OSError):
                self._noted = left_on_host.note(self._note, self._dialler)

    def begun(self) -> dict[int, StreamEnd]:
        """Give it nothing to read."""
        return {frames.STDIN: StreamEnd(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))}

    def stopped(self) -> None:
        """It goes on when somebody sends it a SIGCONT."""

    def away(self, why: str) -> None:
        """Wait for its host, unless it was asked to end."""
        if self._asked:
            self._plain.give_up(RunResult(self._asked, away=True))

    def joined(self) -> None:
        """Nobody is there to be told of this either."""

    def unleased(self, why: str) -> None:
        """Keep why its host asks more than it had to."""
        self.lacks = why

    def spent(self, cost: Spent) -> None:
        """Keep what the job has cost."""
        self.cost = cost
