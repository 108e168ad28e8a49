"""Keep what of a job stays at home while it goes from host to host: streams, images, file locks, and its files' story.

A job's generations come and go, each on a host of its own choosing; what each of them needs of the ones before it is
here, and only here. So nothing of a generation has to outlive it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from checkpoint.submit import obtain_criu
from checkpoint.submit.job_images import StoreError
from checkpoint.submit.store import Store
from checkpoint.wire.manifest import ImageFile, Manifest
from remoteio.errors import RexecError
from remoteio.submit.export.added import Added
from remoteio.submit.export.carried_locks import CarriedLocks
from remoteio.submit.export.changes import Changes
from remoteio.submit.export.pinned import Pin
from remoteio.wire import frames
from shim.submit import faults, threads
from shim.submit.forwarding import JobForwards
from shim.submit.job import agent_file, file_rollback, image_manifest, kept_copies, pins, placement_events
from shim.submit.job.image_intake import images_left
from shim.submit.job.image_manifest import Run, Seen
from shim.submit.job.kept_copies import KeepError, Tail
from shim.submit.job.pins import Pins
from shim.submit.job.record import Job, Record
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.job.spent_so_far import Costs
from shim.submit.job.undo_home import KEEP, JobUndo
from shim.submit.job.undo_plan import Plan
from shim.submit.scope import JobRights
from shim.submit.shapes import ShapeError
from shim.wire.job_spec import CheckpointSpec, JobSpec

_PATIENCE = 10.0  # seconds that another rexec, which prunes the job's images, is waited for


class MoveError(RexecError):
    """The job cannot go on: one sentence."""


class JobHome:
    """Holds what a job's generations share, one after the other.

    job       its directory
    name      its number, as text
    record    as it was when this process began
    outputs   where its output goes, by kind of frame
    input     what it is given; None: nothing ever
    forwards  the ports that lead to it, and from it here
    store     its images
    carried   its file locks while no host runs it
    changes   what it has done to its files since its images
    undo      what is kept to undo what it has done to its files since its images
    pins      what is kept of the files that its images have open
    made      the directories that it has made, which are its own (JobRights.made)
    added     what it has added to the files here
    newest    the number of its last image; 0: there is none
    restored  the number of the newest image that a host has restored; 0: none was
    saved     when that was made, in seconds since 1970, and how large it is
    forced    the image that it goes on from though its files were changed since
    costs     what it has cost, for its log
    tell      is given what happens, as an event, by any thread
    say       is given sentences for the person

    Threads: of the generations only the one that is dumped calls `describe` and `committed`, and an intake waits for
    the one before it; `rewind` is called by each that goes on from an image, before it does, and `_rewinding` guards
    `_tails` and `_rewound`, the newest that has called it; `forced` is set by whoever answers the control socket, and
    read once for each start. All else never changes, or has its own locks.
    """

    def __init__(
        self, job: Job, record: Record, outputs: dict[int, OutputOnce], input: ReplayedInput | None,
        tell: Callable[[placement_events.Event], None], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Raises RexecError: one of its ports cannot be opened here."""
        self.job, self.name, self.record = job, str(job.id), record
        self.outputs, self.input = outputs, input
        self.tell, self.say = tell, say
        self.forwards = JobForwards(record.job_spec().forwards, lambda e: self._note(self.fault("forwarding", e)))
        self.store = Store(patience=_PATIENCE)
        self.carried = CarriedLocks()
        self.changes = Changes.of(record.after, record.image)
        self.made = {(device, inode): born for device, inode, born in record.made}
        self.added = Added(record.added)
        self.newest, self.restored = record.image, record.restored
        self.saved = record.saved, record.saved_size
        self.undo = JobUndo(
            job.path, record.files != KEEP, record.undo_limit, lambda: tell(placement_events.Heavy()), self._unkept
        )
        self.pins = Pins(job.path, self._note)
        self.forced, self.costs = 0, Costs()
        self._tails: list[Tail] = []
        self._rewinding = threading.Lock()
        self._rewound = 0

    def close(self) -> None:
        """Close the streams and the undo journal: the job is over."""
        self.forwards.close()
        self.undo.close()
        self.pins.close()
        for output in self.outputs.values():
            output.close()
        if self.input is not None:
            self.input.close()

    def fault(self, doing: str, error: BaseException) -> str:
        """Put an error of our own on record; what to say of it, as a sentence."""
        return faults.record(self.job.path / "errors", doing, error)

    def why(self, doing: str, error: BaseException) -> str:
        """Say what went wrong: in the error's own words, if it has some for the user."""
        return str(error) if isinstance(error, faults.SAID) else self.fault(doing, error)

    def in_thread(self, run: Callable[[], None], failed: Callable[[str], placement_events.Event]) -> None:
        """Have it done in a thread of its own; the event `failed` makes is told of whatever goes wrong there."""

        def guarded() -> None:
            try:
                run()
            except Exception as error:  # see Generation.serve
                self.tell(failed(self.why(f"looking after job {self.name}", error)))

        if not threads.begin(guarded):
            self.tell(failed(f"this machine gives job {self.name} no more threads; raise `ulimit -u`"))

    def rights(self, trust: str | None, disk: int | None = None) -> JobRights:
        """What it has of the files here, on a host that hosts.toml says so of: the same on each that says the same."""
        return JobRights(self.record.job_scope().on(trust, disk), self.made, self.added)

    def remembered(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        """The directories that it has made, as Record.made has them; `rows`: as they were."""
        made = self.made.copy()  # in one step: a generation adds to it
        same = len(made) == len(rows) and all(made.get((row[0], row[1])) == row[2] for row in rows)
        return rows if same else tuple([device, inode, born] for (device, inode), born in made.items())

    # where it goes on

    def image(self, number: int) -> Manifest:
        """Read an image's manifest. Raises MoveError."""
        try:
            with self.store.open(self.name, number) as image:
                return image.manifest
        except StoreError as error:
            raise MoveError(str(error)) from error

    def start_spec(self, generation: int, owner: str, named: bool, anyway: bool, image: Manifest | None) -> JobSpec:
        """Make what a host is told to start; `image`: to go on from. Raises MoveError, CheckpointError."""
        found = self._bundle()
        restore = b""
        if image is not None:
            replaced = file_rollback.replaced(self.undo.as_now(image), self.goes_on_anyway(image))
            restore = image_manifest.bare(image, replaced).to_bytes()
        spec = self.record.job_spec()
        spec.checkpoint = CheckpointSpec(
            job=self.name,
            generation=generation,
            owner=owner,
            named=named,
            restore=restore,
            criu="" if found is None else found.hash,
            anyway=anyway,
        )
        return spec

    def criu(self) -> Iterator[memoryview]:
        """Read the archive of criu that is kept here to be brought, in parts. Raises MoveError, CheckpointError."""
        found = self._bundle()
        if found is None:
            raise MoveError(
                "the host has no criu that works, and there is none here to bring: run `rexec doctor --fix`"
            )
        data = memoryview(found.read())
        for at in range(0, len(data), frames.MAX_PAYLOAD):
            yield data[at : at + frames.MAX_PAYLOAD]

    def _bundle(self) -> obtain_criu.Bundle | None:
        try:
            return obtain_criu.kept(obtain_criu.home())
        except OSError as error:
            raise MoveError(f"{error.filename} cannot be looked into: {error.strerror}; mend its mode") from error

    def forget_agent(self, generation: int) -> None:
        """Take note that nothing of that generation acts any more."""
        try:
            agent_file.forget(self.job.path, generation)
        except OSError as error:
            self._note(f"{error.filename} cannot be removed: {error.strerror}; a restart asks the host that it names")

    # its files

    def check(self, image: Manifest) -> file_rollback.Look:
        """Find out what is to be done to the job's files before it goes on from the image; nothing is changed.

        Raises MoveError: it cannot go on with them as they are, unless it is forced.
        """
        return self._check(image, self._plan(image))

    def _plan(self, image: Manifest) -> Plan | None:
        return self._plan_to(image.number)

    def _plan_to(self, image: int) -> Plan | None:
        try:
            return self.undo.plan(image)
        except OSError as error:
            raise MoveError(f"the undo journal of job {self.name} cannot be read: {error.strerror}") from error

    def _check(self, image: Manifest, plan: Plan | None) -> file_rollback.Look:
        if self.undo.is_past(image.number) and not self.goes_on_anyway(image):
            raise MoveError(
                f"its files have begun to go back to image {self.undo.begun}, which is older: `rexec restart "
                f"{self.name}/{self.undo.begun}` goes on from that, `--force` from this one, with the files of that"
            )
        if plan is None:
            covered = pins.covered(self.job.path, image.number)
            found = file_rollback.look(image, self.changes.since(image.number), covered)
        else:
            found = self.undo.look(image, plan)
        if found.changed and not self.goes_on_anyway(image):
            more = f" and {len(found.changed) - 1} more" if len(found.changed) > 1 else ""
            raise MoveError(
                f"{found.changed[0].clause} since image {image.number} was made{more}: "
                f"`rexec restart {self.name} --force` goes on all the same"
            )
        return found

    def rewind(self, image: Manifest, generation: int) -> None:
        """Undo what the job alone has done to its files since the image: it goes on from it, as that generation.

        Called when a host has taken all else that it needs for that, not before: whatever keeps the job from going on
        till then leaves its files as they are. Raises MoveError.
        """
        with self._rewinding:
            if generation < self._rewound:
                raise MoveError("the job goes on elsewhere")  # and what it does there is not to be undone
            self._rewound = generation
            self._rewind(image)

    def goes_on_anyway(self, image: Manifest) -> bool:
        """Is the job to go on from that image whatever has become of its files?"""
        return self.forced == image.number or self.record.files == KEEP

    def _rewind(self, image: Manifest) -> None:
        begun = self.undo.begun
        if begun not in (0, image.number):
            self.check(image)
            # Half-way back they are of no image, and only as they go on to that one is it known what was done.
            plan = self._plan_to(begun)
            if plan is not None:
                self._put_back(begun, plan)
        plan = self._plan(image)
        if plan is not None:
            self._undo(image, plan)
            return
        found = self.check(image)
        self._drop_tails()
        both = [*found.both, *(named for named in found.changed if file_rollback.is_file(named.path))]
        for cut in found.cut:
            since = f"what the job has added to {cut.path} since image {image.number} was made"
            try:
                tail = file_rollback.cut_back(cut, self._kept, self._mark(image.number))
            except KeepError as error:
                raise MoveError(f"{since} is not taken back: {error}") from error
            except OSError as error:
                text = f"{since} cannot be taken back: {error.strerror}; let it be written to, and the job goes on"
                raise MoveError(text) from error
            if tail is None:
                both.append(file_rollback.mixed(cut.path, cut.seen))
                continue
            self._tails.append(tail)
            self.changes.undone(cut.key)  # should another file make us begin again
            self._note(f"{since}, {cut.last[0] - cut.size} bytes, is taken back, for it adds that again: {tail.copy}")
        for named in both:
            self._keep(named, image.number)
        self.changes.begin(image.number, found.paths)
        self.undo.begin(image.number)

    def _undo(self, image: Manifest, plan: Plan) -> None:
        """Put back all that the job has changed since the image, by its journal."""
        self._check(image, plan)
        self._put_back(image.number, plan)
        found = self._check(image, Plan())
        self.changes.begin(image.number, found.paths)

    def _put_back(self, image: int, plan: Plan) -> None:
        try:
            said = self.undo.undo(plan, image, self._mark(image), self._kept)
        except (OSError, KeepError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            what = f"{os.fsdecode(error.filename)}: " if isinstance(error, OSError) and error.filename else ""
            raise MoveError(
                f"what the job has done to its files since image {image} cannot be put back ({what}{why}); mend "
                "that, and the job goes on"
            ) from error
        for sentence in said:
            self._note(sentence)
            self.say(sentence)

    def pinned(self, image: Manifest) -> list[tuple[Pin, int]]:
        """Open what is kept of files that the image has open and that are others by now. Raises OSError."""
        return pins.opened(self.job.path, self.undo.as_now(image))

    def _keep(self, named: file_rollback.Named, number: int) -> None:
        """Keep what cannot be told apart as it is now, whatever the job makes of the file that stays."""
        since = f"{named.clause} since image {number} was made"
        try:
            copy = kept_copies.keep(named.path, self._kept, self._mark(number))
        except KeepError as error:
            raise MoveError(f"{since}, and {error}") from error
        text = f"{since}: it stays as it is, a copy of it as it is now is {copy}, and the image saw {named.seen} bytes"
        self._note(text)
        self.say(text)

    def _unkept(self, why: str) -> None:
        self._note(
            f"what the job changes cannot be kept to be undone any more ({why}): until its next image, files stay as "
            "they are when it goes on from one"
        )

    def _note(self, text: str) -> None:
        self.tell(placement_events.Fault(text))

    def _mark(self, number: int) -> str:
        return f"job{self.name}-image{number}"

    @property
    def _kept(self) -> Path:
        return self.job.path / "kept"

    def drop_tails(self) -> None:
        """Remove the copies of what was cut off and is there again, in the same place; all others stay."""
        if self._rewinding.acquire(blocking=False):  # else a host that was given up is being prepared for: they stay
            try:
                self._drop_tails()
            finally:
                self._rewinding.release()

    def _drop_tails(self) -> None:
        for tail in tuple(self._tails):
            if tail.is_there_again():
                self._tails.remove(tail)
                tail.copy.unlink(missing_ok=True)

    # its images

    def mark(self, serial: int) -> None:
        """Take note that the dump of that number sees the job's files as they are: the job stands still."""
        self.changes.mark(serial)
        self.undo.mark(serial)

    def unmark(self) -> None:
        """Take note that the dump under way will be no image."""
        self.changes.unmark()
        self.undo.unmark()

    def settle(self) -> None:
        """Take note that what was done since the latest image, with which the job has left, the image has seen."""
        self.changes.settle()
        self.undo.settle()

    def describe(self, serial: int, run: Run, head: bytes, files: tuple[ImageFile, ...], seen: Seen) -> Manifest:
        """Make the manifest of the dump of that number, which has arrived.

        See shim/submit/job/image_manifest.py for what is raised.
        """
        manifest = image_manifest.manifest(run, head, files, seen)
        counted, given = manifest.streams.stdin + len(manifest.streams.stdin_unread), self.input
        if given is not None and counted > given.given:
            raise ShapeError(f"its image counts {counted} bytes of standard input, of {given.given} that it was given")
        self.undo.bind(serial, run.number)  # before there is such an image: it never is without
        self.pins.begin(run.number, seen.opened)
        return manifest

    def committed(self, serial: int, manifest: Manifest, source: int) -> None:
        """Take note that the image of that dump is durable; called before its sender is told.

        `source`: the image that the job has gone on from, which stays.
        """
        self.changes.commit(serial, manifest.number, {file.inode: file.path for file in manifest.written})
        left = images_left(self.record.keep, source)
        images = (*self.store.numbers(self.name)[-left:], source)
        self.undo.retain(images)
        self.pins.keep(manifest.number, images)
        if self.input is not None:
            self.input.saved(manifest.streams.stdin + len(manifest.streams.stdin_unread))
        self.newest, self.saved = manifest.number, (manifest.time_ns / 1e9, manifest.size)

    def forget_images(self) -> None:
        """Remove the job's images: it has ended well, and nobody had asked for them. Raises StoreError, OSError."""
        if self.name in self.store.jobs():
            self.store.rm(self.name)
        self.saved = 0.0, 0
        self.undo.forget()
        self.pins.forget()
