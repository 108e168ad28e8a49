"""Submit side: one job that can be checkpointed, from start to end, wherever it runs.

shim/submit/job/placement.py decides; here its decisions are carried out, each that takes time in a thread of its own,
and what happens is told back to it as events, one after the other, in the main thread.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from checkpoint.submit import obtain_criu
from checkpoint.submit.job_images import StoreBusy, StoreError
from checkpoint.submit.store import Store
from checkpoint.wire.manifest import ImageFile, Manifest, WrittenFile
from remoteio.errors import RexecError
from remoteio.submit.export.carried_locks import Carried
from remoteio.submit.export.changes import Changes
from remoteio.submit.export.written_files import Row
from remoteio.submit.transport.stream import Stream
from remoteio.wire import frames
from remoteio.wire.link import Link
from shim.submit import faults, threads
from shim.submit.hosts import bootstrap, config
from shim.submit.hosts.connect import connect
from shim.submit.job import (
    control_socket,
    file_rollback,
    image_manifest,
    next_host,
    placement,
    placement_events,
    recorder,
)
from shim.submit.job.control_server import Callers, Subject
from shim.submit.job.events import Event, Kind
from shim.submit.job.generation import Generation, Home
from shim.submit.job.next_host import AllowedHosts
from shim.submit.job.placement_events import Images, Phase, Place, Result, State, Wants
from shim.submit.job.record import Job
from shim.submit.job.recorder import Records
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.shapes import ShapeError
from shim.wire import lease
from shim.wire.job_spec import CheckpointSpec, JobSpec

_LAST_WORDS = 2.0  # seconds for those who are attached, or have asked, to take the job's end
Reach = Callable[..., tuple[Stream, bootstrap.Facts]]


class MoveError(RexecError):
    """The job cannot go on: one sentence."""


class JobSupervisor:
    """Supervises one job. `outputs` and `input` are its streams here; `watch` is told of every change of phase."""

    def __init__(
        self,
        job: Job,
        outputs: dict[int, OutputOnce],
        input: ReplayedInput | None,
        *,
        patient: bool,
        force: bool = False,
        say: Callable[[str], None],
        watch: Callable[[State, State], None] = lambda before, after: None,
        stopped: Callable[[Generation], None] = lambda stay: None,
        ready: Callable[[], None] = lambda: None,
        reach: Reach = connect,
    ) -> None:
        """`patient`: wait for a host even before the job has ever run. `force`: go on though its files changed since
        the image.

        `stopped` is called when the job has stopped, as a shell would see it; `ready` when the job can be talked to.
        """
        self.job = job
        self.record = job.read()
        self.spec = self.record.job_spec()
        self._outputs, self._input = outputs, input
        self._store = Store()
        self._name = str(job.id)
        self._say, self._watch, self._reach = say, watch, reach
        self._stopped, self._ready = stopped, ready
        self._forced = self.record.image if force else 0  # the image to go on from though its files were changed
        self._records = Records(job, say)
        self._events: queue.SimpleQueue[placement_events.Event | BaseException] = queue.SimpleQueue()
        self._stays: dict[int, Generation] = {}
        self._starts: dict[int, queue.SimpleQueue[int]] = {}
        self._lock = threading.Lock()
        self._carried = Carried()
        self._changes = Changes.of(self.record.after, self.record.image)
        self._forget = False
        self._noted: set[str] = set()  # what was unexpected; as many as there are phases and words
        self._leave = ""  # why this process ends before its job
        left = (
            self.record.phase in placement_events.ACTING
        )  # by a supervisor that was killed; it may have been just now
        self.state = State(
            phase=Phase.LOST if left else Phase.CHOOSING,
            why="its supervisor ended" if left else "",
            began=self.record.image > 0,
            wants=Wants(every=self.record.every, patient=patient, images=self.record.image > 0),
            place=Place(generation=self.record.generation, host=self.record.host if left else ""),
            images=Images(newest=self.record.image),
        )
        self._callers = Callers(
            Subject(
                outputs, input, bool(self.record.tty), self.tell, lambda: self.state, self.stay, self._progress,
                self._force,
            )
        )  # fmt: skip
        if input is not None:
            input.heavy = lambda: self.tell(placement_events.Heavy())

    # the main thread

    def run(self) -> Result:
        """Until the job has ended. Raises RexecError or CheckpointError where this process itself cannot go on."""
        control_socket.serve(self.job.control, self._callers.handle)
        self._ready()
        try:
            return self._run()
        except faults.SAID as error:
            self._dies(str(error))
            raise
        except BaseException as error:
            text = self._fault(f"supervising job {self._name}", error)
            self._dies(text)
            raise MoveError(text) from error
        finally:
            for stay in self._stays.values():
                stay.cut()
            self.job.control.unlink(missing_ok=True)

    def _dies(self, why: str) -> None:
        """This process ends before its job: who looks for it afterwards is to find out why."""
        self.record = replace(self.record, reason=why)
        self._records.write(self.record)
        self._note(Event(time.time(), Kind.NOTE, reason=f"its supervisor ends: {why}"))

    def _why(self, doing: str, error: BaseException) -> str:
        return str(error) if isinstance(error, faults.SAID) else self._fault(doing, error)

    def _fault(self, doing: str, error: BaseException) -> str:
        return faults.record(self.job.path / "errors", doing, error)

    def _run(self) -> Result:
        if not self.record.image:
            self._note(Event(time.time(), Kind.SUBMIT, host=os.uname().nodename, command=_words(self.record.command)))
        else:
            self._note(Event(time.time(), Kind.NOTE, reason=f"restarted by its user, from image {self.record.image}"))
        self._do(placement.begin(self.state, time.monotonic()))
        while self.state.result is None and not self._leave:
            due = placement.deadline(self.state)
            wait = inf if due is None else max(due - time.monotonic(), 0.0)
            if self._records.behind:
                wait = min(wait, recorder.AGAIN)
            try:
                event = self._events.get(timeout=None if wait == inf else wait)
            except queue.Empty:
                event = placement_events.Tick()
            if isinstance(event, BaseException):
                raise event
            if self._records.behind:
                self._records.retry()
            try:
                self._do(placement.step(self.state, event, time.monotonic()))
            except placement.UnexpectedEvent as error:
                self._unexpected(error)
        if self.state.result is None:
            result = Result(None, 125, self._leave)
            self._note(Event(time.time(), Kind.NOTE, reason=self._leave))
        else:
            result = self.state.result
        return self._end(result)

    def tell(self, event: placement_events.Event) -> None:
        """Something happened; from any thread."""
        self._events.put(event)

    def quit(self) -> None:
        """Save the job, park it and return; from any thread, and safe in a signal's handler."""
        self._events.put(placement_events.Quit())

    def fail(self, error: BaseException) -> None:
        """A thread of ours has ended by that; it ends the run. From any thread."""
        self._events.put(error)

    def send_signal(self, number: int) -> bool:
        """Give the job a signal; False: it does not run just now. Safe in a signal's handler."""
        stay = self._stays.get(self.state.place.generation)
        if stay is None or self.state.phase not in (Phase.RUNNING, Phase.FROZEN):
            return False
        if not threads.begin(lambda: stay.signal(number)):
            self._say(f"signal {number} could not be passed on, as no thread can be had: raise `ulimit -u`")
        return True

    def stay(self) -> Generation | None:
        """The generation that runs, if one does."""
        return (
            self._stays.get(self.state.place.generation) if self.state.phase in (Phase.RUNNING, Phase.FROZEN) else None
        )

    def _progress(self) -> tuple[int, int, int] | None:
        stay = self._stays.get(self.state.place.generation)
        return None if stay is None else stay.progress()

    def _force(self) -> None:
        self._forced = self.state.images.newest

    def _unexpected(self, error: placement.UnexpectedEvent) -> None:
        """What an agent of ours never says changes nothing; that it was said stands in the log, once."""
        if str(error) not in self._noted:
            self._noted.add(str(error))
            self._note(Event(time.time(), Kind.NOTE, host=self.state.place.host, reason=f"not understood: {error}"))

    def _do(self, steps: placement_events.Steps) -> None:
        before = self.state
        self.state, actions = steps
        after = self.state
        self._account(before, after)
        for action in actions:
            if isinstance(action, placement_events.Connect) and not self._records.recorded:
                # Its number must outlive this process: else a later one would give it again.
                self.tell(placement_events.Unreached(action.generation, self._records.behind))
            else:
                self._act(action)
        if before.phase != after.phase:
            self._watch(before, after)

    def _account(self, before: State, after: State) -> None:
        """Keep the record abreast; on the disk before anything is done, so that no generation is ever used twice."""
        with self._lock:
            self._account_for(before, after)

    def _account_for(self, before: State, after: State) -> None:
        running = (Phase.RUNNING, Phase.FROZEN)
        record, now = self.record, time.time()
        new = replace(
            record, phase=str(after.phase), why=after.why, host=after.place.host,
            generation=after.place.generation, image=after.images.newest, held=after.wants.held,
            after=() if after.phase in placement_events.ACTING else self._changes.rows(),
        )  # fmt: skip
        if after.phase in running and not record.since:
            new = replace(new, since=now)
        elif after.phase not in running and record.since:
            new = replace(new, since=0.0, ran=record.ran + max(now - record.since, 0.0))
        if before.phase == Phase.STARTING and after.phase == Phase.RUNNING and before.images.newest:
            new = replace(new, moves=record.moves + 1)
        if after.result is not None:
            new = replace(new, status=after.result.status, code=after.result.code, reason=after.result.reason)
        if new != record:
            self.record = new
            self._records.write(new)

    def _act(self, action: placement_events.Action) -> None:
        if isinstance(action, placement_events.Choose):
            self._thread(lambda: self._choose(action), lambda why: placement_events.NoHost(action.turn, why))
        elif isinstance(action, placement_events.Connect):
            self._starts[action.generation] = queue.SimpleQueue()
            self._thread(
                lambda: self._visit(action.generation, action.host),
                lambda why: placement_events.Unreached(action.generation, why),
            )
        elif isinstance(action, placement_events.Start):
            self._starts[action.generation].put(action.image)
        elif isinstance(action, placement_events.Order):
            self._order(self._stays[action.generation], action)
        elif isinstance(action, placement_events.Close):
            if action.generation in self._starts:
                self._starts[action.generation].put(-1)
            if action.generation in self._stays:
                self._stays[action.generation].cut()
        elif isinstance(action, placement_events.Reply):
            self._callers.answer(action.token, action.done, action.text)
        elif isinstance(action, placement_events.Finish):
            self._forget = action.forget
        elif isinstance(action, placement_events.Leave):
            self._leave = f"{action.why}: `rexec restart {self._name}` goes on from its last image"
        elif isinstance(action, placement_events.Log):
            self._note(Event(time.time(), action.kind, **action.fields))  # type: ignore[arg-type]

    def _order(self, stay: Generation, order: placement_events.Order) -> None:
        try:
            stay.order(order.what, order.serial)
        except Exception as error:  # as in Generation.serve: it is this generation's end
            stay.unfit = self._fault(f"ordering {order.what} on {stay.host}", error)
            stay.cut()

    def _note(self, event: Event) -> None:
        self._records.append(event)

    def _thread(self, run: Callable[[], None], failed: Callable[[str], placement_events.Event]) -> None:
        """Have it done in a thread of its own; the event `failed` makes is told of whatever goes wrong there."""

        def guarded() -> None:
            try:
                run()
            except Exception as error:  # see Generation.serve
                self.tell(failed(self._why(f"looking after job {self._name}", error)))

        if not threads.begin(guarded):
            self.tell(failed(f"this machine gives job {self._name} no more threads; raise `ulimit -u`"))

    def _end(self, result: Result) -> Result:
        if result.status is not None:
            for output in self._outputs.values():
                while not output.drain(_LAST_WORDS) and not self._dismissed():
                    continue
        payload = (result.status if result.status is not None else result.code).to_bytes(4, "little")
        kind = frames.EXIT if result.status is not None else frames.FAIL
        self._callers.end(kind, payload + (result.reason.encode() if kind == frames.FAIL else b""))
        if self._forget:
            self._forget_images()
        self._callers.await_gone(_LAST_WORDS)
        while self._records.behind and self.state.wants.patient and not self._dismissed(recorder.AGAIN):
            self._records.retry()  # or `rexec jobs` would never tell that it has ended
        self._records.close()
        return result

    def _dismissed(self, wait: float = 0.0) -> bool:
        """The job has ended: is this process told not to wait any longer, within `wait` seconds?"""
        try:
            event = self._events.get(timeout=wait)
        except queue.Empty:
            return False
        if isinstance(event, BaseException):
            raise event
        self._do(placement.step(self.state, event, time.monotonic()))
        return isinstance(event, placement_events.Quit)

    def _forget_images(self) -> None:
        """The job has ended well, and nobody had asked for them."""
        for stay in self._stays.values():
            stay.cut()  # it may have ended in the middle of a dump
        deadline = time.monotonic() + _LAST_WORDS
        try:
            while self._name in self._store.jobs():
                try:
                    self._store.rm(self._name)
                except StoreBusy:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
        except (StoreError, OSError) as error:
            self._note(Event(time.time(), Kind.NOTE, reason=f"its images are still there: {error}"))
            return
        self.record = replace(self.record, saved=0.0, saved_size=0)
        self._records.write(self.record)

    # in threads of their own

    def _choose(self, choose: placement_events.Choose) -> None:
        image = None
        if choose.image:
            try:
                image = self._manifest(choose.image)
                self._rewind(image)
            except faults.SAID as error:
                self.tell(placement_events.NoHost(choose.turn, str(error)))
                return
        wish = AllowedHosts(self.record.hosts, self.record.owner)
        # What is wrong in hosts.toml may be put right at any time: that is waited for.
        self.tell(next_host.choose_host(choose, wish, config.load(), image))

    def _manifest(self, number: int) -> Manifest:
        with self._store.open(self._name, number) as image:
            return image.manifest

    def _rewind(self, image: Manifest) -> None:
        """Nothing of the job runs anywhere: undo what it alone has done to its files since the image."""
        found = file_rollback.look(image, self._changes.since(image.number))
        if found.changed and self._forced != image.number:
            more = f" and {len(found.changed) - 1} more" if len(found.changed) > 1 else ""
            raise MoveError(
                f"{found.changed[0].clause} since image {image.number} was made{more}: "
                f"`rexec restart {self._name} --force` goes on all the same"
            )
        both = [*found.both, *(named for named in found.changed if os.path.isfile(named.path))]
        for cut in found.cut:
            try:
                if file_rollback.cut_back(cut):
                    self._changes.undone(cut.key)  # should another file make us begin again
                else:
                    both.append(file_rollback.mixed(cut.path, cut.seen))
            except OSError as error:
                raise MoveError(
                    f"what the job added to {cut.path} since image {image.number} was made cannot be taken back: "
                    f"{error.strerror}"
                ) from error
        for named in both:
            self._keep(named, image.number)
        self._changes.begin(image.number, frozenset(found.keys))
        with self._lock:
            self.record = replace(self.record, after=self._changes.rows())
            self.job.write(self.record)

    def _keep(self, named: file_rollback.Named, number: int) -> None:
        """What cannot be told apart is kept as it is now, whatever the job makes of the file that stays."""
        since = f"{named.clause} since image {number} was made"
        try:
            copy = file_rollback.keep(named.path, self.job.path / "kept", f"job{self._name}-image{number}")
        except OSError as error:
            raise MoveError(
                f"{since}, and no copy of it can be kept in {self.job.path / 'kept'}: {error.strerror}; make room there"
            ) from error
        text = f"{since}: it stays as it is, a copy of it as it is now is {copy}, and the image saw {named.seen} bytes"
        self._note(Event(time.time(), Kind.NOTE, reason=text))
        self._say(text)

    def _visit(self, generation: int, name: str) -> None:
        """One generation, from the connection to its end: ssh has to be started and ended by one thread."""
        try:
            known = config.load()
            host = config.resolve(name, known)
            policy = next_host.owner_of(host, self.record.owner, known)
            stream, _ = self._reach(host, "shim.execute.main:main", batch=self.record.detached or generation > 1)
        except RexecError as error:
            self.tell(placement_events.Unreached(generation, str(error)))
            return
        try:
            home = Home(
                self._name, self._store, self._outputs, self._input, self.tell, self._describe, self._commits,
                self._criu, self._stopped, self._say, self.record.keep, self._carried, self._changes, self._fault,
            )  # fmt: skip
            named = next_host.is_named(
                name,
                AllowedHosts(self.record.hosts, self.record.owner),
                self.state.search.driven,
                self.state.wants.host,
            )
            owner = json.dumps([policy.name, policy.table() if policy.watched else None])
            self.tell(placement_events.Connected(generation))
            number = self._starts[generation].get()
            if number < 0:
                return
            image = self._manifest(number) if number else None
            spec = self._start_spec(generation, owner, named, image)
            stay = Generation(home, generation, name, Link(stream.read_fd, stream.write_fd), spec)
            self._stays[generation] = stay
            stay.start(image)
            why = stay.serve()
            if stay.unheard:
                why = f"it has not been heard of for {lease.HOME:.0f} s"
            elif not (stay.told or stay.unfit) and host.ssh is not None:
                why = str(stream.failure())
            if stay.moved or stay.left:
                self._changes.settle()  # what its mount wrote back after the dump, the image has seen
            self.tell(placement_events.Closed(generation, why, unfit=bool(stay.unfit)))
        except Exception as error:  # see Generation.serve
            why = self._why(f"going on on {name}", error)
            # Before START nothing can run there; later all that can ends with the link.
            begun = generation in self._stays
            self.tell(
                placement_events.Closed(generation, why) if begun else placement_events.Failed(generation, 125, why)
            )
        finally:
            stream.close()

    def _start_spec(self, generation: int, owner: str, named: bool, image: Manifest | None) -> JobSpec:
        spec = self.record.job_spec()
        found = self._bundle()
        spec.checkpoint = CheckpointSpec(
            job=self._name,
            generation=generation,
            owner=owner,
            named=named,
            restore=b"" if image is None else self._bare(image).to_bytes(),
            criu="" if found is None else found.hash,
            anyway=self.state.place.anyway,
        )
        return spec

    def _bundle(self) -> obtain_criu.Bundle | None:
        try:
            return obtain_criu.kept(obtain_criu.home())
        except OSError as error:
            raise MoveError(f"{error.filename} cannot be looked into: {error.strerror}; mend its mode") from error

    def _bare(self, image: Manifest) -> Manifest:
        return image_manifest.bare(image, file_rollback.replaced(image, self._forced == image.number))

    def _criu(self) -> bytes:
        found = self._bundle()
        if found is None:
            raise MoveError(
                "the host has no criu that works, and there is none here to bring: run `rexec doctor --fix`"
            )
        return found.read()

    # images

    def _describe(
        self,
        generation: int,
        number: int,
        head: bytes,
        files: tuple[ImageFile, ...],
        seen: image_manifest.Seen,
    ) -> Manifest:
        """See shim/submit/job/image_manifest.py."""
        written = self._written(seen.rows)
        run = image_manifest.Run(self._name, number, generation, self.state.place.host, self.spec)
        manifest = image_manifest.manifest(run, head, files, written, seen)
        counted, given = manifest.streams.stdin + len(manifest.streams.stdin_unread), self._input
        if given is not None and counted > given.size:
            raise ShapeError(f"its image counts {counted} bytes of standard input, of {given.size} that there are")
        return manifest

    def _written(self, rows: list[Row]) -> tuple[WrittenFile, ...]:
        """What this generation wrote, and what those before it did, as it is now."""
        found = {os.fsdecode(path): WrittenFile(os.fsdecode(path), *rest) for path, *rest in rows}
        if self.state.images.newest:
            for old in self._manifest(self.state.images.newest).written:
                if old.path not in found and (now := image_manifest.as_now(old)) is not None:
                    found[old.path] = now
        return tuple(found[path] for path in sorted(found))

    def _commits(self, manifest: Manifest) -> None:
        """The image is durable; called before its sender is told."""
        if self._input is not None:
            self._input.saved(manifest.streams.stdin + len(manifest.streams.stdin_unread))
        with self._lock:
            self.record = replace(self.record, saved=manifest.time_ns / 1e9, saved_size=manifest.size)


def _words(command: tuple[str, ...]) -> str:
    return shlex.join(command)
