"""Puts a job's files back to what an image saw: the newest change first, what the job has done and nothing else.

Killed at any step it is begun again and does the rest: what was found out before the first step is in `undoing`, in
the journal's directory, and how far it has come is in `undoing.step`. That may be on the disk before what was done is:
after a power cut what counts is what `undoing` says, which is written after that. What is done twice is done once.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from remoteio.submit.undo.births import Which
from remoteio.submit.undo.journal import Journal, synced
from remoteio.submit.undo.records import Attribute, Data, First, Gone, Hole, Made, Moved
from shim.submit.job import undo_plan
from shim.submit.job.file_rollback import is_written
from shim.submit.job.kept_copies import keep
from shim.submit.job.output_file import boot_id
from shim.submit.job.undo_contents import Contents, copy
from shim.submit.job.undo_names import Names
from shim.submit.job.undo_plan import MIXED, Entry, Plan, Story
from shim.submit.job.undo_window import Window

_EVERY = 256  # steps between two times that all is on the disk
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


@dataclass(slots=True)
class Undone:
    """What came of it.

    said      for the person: a sentence for each file that is not simply as it was
    renewed   the inode numbers that files have which had to be made anew, by those that the image has of them
    """

    said: list[str] = field(default_factory=list)
    renewed: dict[int, int] = field(default_factory=dict)


class Undoing:
    """Undoes all that `plan` has, which is of `journal` since `image`.

    `mark` names what is kept beside a file; `kept` is where copies go.
    """

    def __init__(self, journal: Journal, plan: Plan, image: int, mark: str, kept: Path) -> None:
        self._journal, self._plan, self._image, self._mark, self._kept = journal, plan, image, mark, kept
        directory = os.fsencode(journal.directory)
        self._notes = Path(journal.directory, "undoing")
        self._step = Path(journal.directory, "undoing.step")
        self._said: list[str] = []
        self._contents = Contents(journal, plan, image, mark, kept, self._say)
        self._names = Names(self._contents, directory, plan, image, mark, self._say, self._note)
        self._steps, self._window = 0, Window()

    def run(self) -> Undone:
        """Do it, or the rest of it. Raises OSError, KeepError: begin again when what it says has been mended."""
        self._steps = self._begin()
        entries = self._plan.entries
        try:
            for entry in reversed(entries[: len(entries) - self._steps]):
                said = len(self._said)
                if not self._window.bears(entry):
                    self._note()
                self._undo(entry)
                self._back(entry)
                self._steps += 1
                settled = self._window.add(entry) and not self._took_out(entry)
                if not settled or said != len(self._said) or self._steps % _EVERY == 0:
                    self._note()
                self._note_step(self._steps)
            self._contents.sync()
        finally:
            self._contents.close()
        return Undone(self._said, self._renewed())

    def _renewed(self) -> dict[int, int]:
        """Those that the image has: each number's first."""
        first: dict[int, int] = {}
        for number, story in enumerate(self._plan.stories):
            first.setdefault(story.key[1], -1 if story.made else number)
        renewed = self._contents.renewed
        return {ino: renewed[number].ino for ino, number in first.items() if number in renewed}

    def end(self) -> None:
        """Forget how far it had come: the journal has begun anew."""
        for path in (self._notes, self._step, *self._notes.parent.glob("*.tail")):
            path.unlink(missing_ok=True)

    # how far it has come

    def _begin(self) -> int:
        """Take up what an earlier try has found out, or find it out: how many steps are done."""
        entries, stories = self._plan.entries, self._plan.stories
        try:
            noted = json.loads(self._notes.read_bytes())
        except FileNotFoundError:
            noted = {}
        if (
            noted.get("last") == self._plan.last
            and noted.get("image") == self._image
            and noted.get("entries") == len(entries)
        ):
            for number, (story, verdict) in enumerate(zip(stories, noted["verdicts"])):
                story.verdict, story.cut = verdict, number in noted["cut"]
            for segment, sums in self._plan.sums.items():
                sums.believed = segment in noted["sums"]
            self._contents.busy, self._said[:] = set(noted["busy"]), noted["said"]
            self._contents.renewed.update({number: Which(*new) for number, *new in noted["renewed"]})
            steps = int(noted["steps"])
            if noted["boot"] == os.fsdecode(boot_id()):
                steps = max(steps, self._noted_step())
            for entry in reversed(entries[len(entries) - steps :]):
                self._back(entry)
            return steps
        self._step.unlink(missing_ok=True)
        for number, story in enumerate(stories):
            if story.verdict == MIXED:
                self._keep_both(number, story)
        for sums in self._plan.sums.values():
            if sums.believed:
                sums.sync()
        self._note()
        return 0

    def _note(self) -> None:
        contents = self._contents
        contents.sync()
        noted = {
            "boot": os.fsdecode(boot_id()), "steps": self._steps,
            "image": self._image, "last": self._plan.last, "entries": len(self._plan.entries),
            "busy": sorted(contents.busy),
            "said": self._said, "verdicts": [story.verdict for story in self._plan.stories],
            "cut": [number for number, story in enumerate(self._plan.stories) if story.cut],
            "sums": [segment for segment, sums in self._plan.sums.items() if sums.believed],
            "renewed": [[number, *new] for number, new in contents.renewed.items()],
        }  # fmt: skip
        new = f"{self._notes}.new"
        with open(os.open(new, _CREATE | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            json.dump(noted, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, self._notes)
        synced(self._journal.directory)
        self._window.clear()

    def _noted_step(self) -> int:
        try:
            return int.from_bytes(self._step.read_bytes()[:8], "little")
        except FileNotFoundError:
            return 0

    def _note_step(self, steps: int) -> None:
        fd = os.open(self._step, _CREATE, 0o600)
        try:
            os.pwrite(fd, steps.to_bytes(8, "little"), 0)
        finally:
            os.close(fd)

    # before the first step

    def _keep_both(self, number: int, story: Story) -> None:
        """Both have changed it: what it is now is kept, where something of it is put back."""
        path = os.fsdecode(story.path)
        st = os.lstat(story.path)
        if is_written(path, (st.st_dev, st.st_ino)):
            self._contents.busy.add(number)
        if all(known is None for _, _, known in story.parts):
            return  # the job has made it: it gets another name
        if story.overlap:
            beside = self._contents.beside(story.path)
            copy(story.path, beside + b".part")
            os.rename(beside + b".part", beside)  # whole or not at all
            self._contents.named(beside)
            self._say(
                f"both the job and others have changed {path} since image {self._image}: what the job changed is as it "
                f"was, and {os.fsdecode(beside)} is the file as it was until now"
            )
        elif number in self._contents.busy and (not story.saved or self._contents.has_added(story)):
            kept = keep(path, self._kept, self._mark)
            self._say(
                f"both the job and others have added to {path} since image {self._image}, and others have it open for "
                f"writing: it stays as it is, and a copy of it is {kept}"
            )
        elif story.saved:
            self._say(
                f"both the job and others have changed {path} since image {self._image}, each in places of its own: "
                "what the job changed is as it was, what others changed stays"
            )

    # one step

    def _undo(self, entry: Entry) -> None:
        segment, record, number, partner = entry
        if isinstance(record, Data):
            self._contents.put_back(segment, record, number)
        elif isinstance(record, Hole):
            self._contents.empty(segment, record, number)
        elif isinstance(record, First):
            self._contents.as_first(segment, record, number)
        elif isinstance(record, Attribute):
            self._names.attribute(record, number)
        elif isinstance(record, Made):
            self._names.unmake(segment, record, number)
            self._contents.named(record.path)
        elif isinstance(record, Gone):
            self._names.restore(segment, record, number)
            self._contents.named(record.path)
        elif isinstance(record, Moved):
            if record.directory:
                self._contents.sync()  # what is below it is found by other names then
            self._names.move_back(record, number, partner)
            self._contents.named(record.old, record.new)

    def _took_out(self, entry: Entry) -> bool:
        """Was that a step after which the file's bytes are in other places?"""
        return isinstance(entry.record, First) and self._plan.stories[entry.story].verdict == MIXED

    def _back(self, entry: Entry) -> None:
        """Where files are once that step is undone."""
        segment, record, number, _ = entry
        at, also = self._contents.at, self._contents.also
        directory = os.fsencode(self._journal.directory)
        if isinstance(record, Moved):
            for each in tuple(at) if record.directory else (number,):
                at[each], *also[each] = (
                    undo_plan.moved(path, record.new, record.old, bool(record.other))
                    for path in (at[each], *also[each])
                )
        elif isinstance(record, Gone) and at[number] == undo_plan.kept_path(directory, segment, record.what):
            at[number] = record.path

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.append(sentence)
