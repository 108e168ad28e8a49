"""Run one generation of a job, on one host, from the first frame to the end of its link.

A generation has a number, written down before its host hears of it and never used again. It is fresh, or goes on from
an image, which its host is given first, and told GO only when it has made the tree again: never do two generations act.
What it does until its next image is seen but through its streams, files and ports; if it is lost, it is as if it had
not been, but for those: shim/submit/job/home.py knows how far they had come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from checkpoint.submit.delivery import deliver
from checkpoint.wire.image_wire import ImageWireError
from checkpoint.wire.manifest import ImageFile, Manifest, WrittenFile
from remoteio.errors import HostMisbehaves, ProtocolError, RexecError
from remoteio.submit.export.carried_locks import held
from remoteio.submit.export.written_files import OpenFiles, WrittenFiles, opened
from remoteio.wire import frames
from remoteio.wire.link import Arrivals, LinkClosed, Window, credit
from shim.submit import clock_skew, host_frames, refused
from shim.submit.faults import SAID
from shim.submit.host_session import HostSession
from shim.submit.job import agent_file, image_manifest, placement_events
from shim.submit.job.contact import Contact
from shim.submit.job.dumps_due import DumpsDue
from shim.submit.job.home import JobHome
from shim.submit.job.image_intake import Intake
from shim.submit.job.image_manifest import Run, Seen
from shim.submit.job.spent_so_far import SpentSoFar
from shim.submit.scope import JobRights
from shim.submit.shapes import ShapeError
from shim.wire import job_messages
from shim.wire.job_spec import JobSpec

_STIR = 5.0  # seconds


class Generation:
    """Runs one generation on the host at the other end of `contact`; tells what happens, as a placement_events.Event.

    Whatever goes wrong while it is served, by the host's fault or our own, ends this generation and nothing else.

    Threads, without a lock of its own; each attribute is written by one of them, in one step:
    - `serve` blocks the visit's, which reads what the others have left behind once the link has ended
    - the session's leader calls `take` and `greeted`, one frame after the other; what the host is known to have done
      (told, moved, _dumping, _seen, _ends, _vacating from its news) is its to write, and `unheard` the lease's
    - the supervisor's calls `start` and `order`, which write `runs`; an order to VACATE sets _vacating too, which only
      REFUSED takes back
    - the intake's writes `left`, before the host can hear of it and say anything more; REFUSED takes it back
    - those of `_aside` write `unfit`, `_unbrought`, and end it; any may call what has not been named
    """

    goes_on = False  # it runs already: taken_up.py

    def __init__(
        self, home: JobHome, number: int, host: str, contact: Contact, spec: JobSpec,
        stopped: Callable[[Generation], None], rights: JobRights,
    ) -> None:  # fmt: skip
        """`stopped`: called when the job has stopped, in a thread that may wait; `rights`: what it has of the files."""
        self.number, self.host, self._stopped = number, host, stopped
        self._home, self._spec, self._link = home, spec, contact.link
        self._files = WrittenFiles(home.changes, home.undo.watch, agent_file.log(home.job.path, number, self.goes_on))
        self._session = HostSession(self._link, spec, self, self._files, rights, contact.dialler)
        self._contact, self.spent = contact, SpentSoFar(self._session.send, home.costs, number)
        contact.begin(spec, self._session, self.cut)
        self._seen = Seen((), OpenFiles([], []), [])
        self._before: tuple[WrittenFile, ...] = ()  # of the latest image that the job has gone on from, or made
        self._image: Manifest | None = None
        self._window: Window | None = None
        self._out, self._arrivals = Window(Window.IMAGE), Arrivals(Window.IMAGE)
        self._intake: Intake | None = None
        self._dumping, self._due = -1, DumpsDue()
        self.told = False  # the host has said that nothing of the job is left there
        self.moved = self.heard = False  # heard: its host has said that it has begun here, or it has, by its output
        self.runs = False  # the job has run here, or may have: its locks are those that were asked for here
        self.left = False  # with its image committed
        self.unheard = False  # the link was cut because nothing came over it any more
        self.unfit = ""  # why this host will not do now: a deed of its own, or an error of ours while we served it
        self.unleased = lambda why: home.tell(placement_events.Fault(why))
        self._brought = self._vacating = False  # _brought: the criu that it asked for
        self._stirred, self._unbrought = 0.0, ""  # _unbrought: why the host is not brought the criu that it asked for
        self._ends: set[int] = set()  # streams that ended while it left: by the tree's being killed, it seems

    # what the job's home wants

    def start(self, image: Manifest | None) -> None:
        """Send START, and when the host is ready for it the image."""
        self._image = image
        if image is not None:
            self._before = image.written
        else:
            self.runs = True
            self._attach_outputs()  # a job may say something before its host has said that it runs
        self._session.send(frames.START, self._spec.pack())

    def order(self, what: str, serial: int, **more: object) -> None:
        """Send an ORDER, unless the link is gone: then its end is being told."""
        if what == job_messages.GO:
            self.runs = True
            self._session.goes_on()
            self._home.carried.release()
            self._attach_outputs()
            self._attach_input()
        elif what == job_messages.END and self._session.export is not None:
            self._session.export.fence.end()
        elif what == job_messages.THAW and self.left and self._session.export is not None:
            self._home.carried.release()  # the job's own descriptors here have held them all the time
            self._session.export.fence.open()
            self.left = False
        elif what in (job_messages.CHECKPOINT, job_messages.VACATE):
            self._vacating = self._vacating or what == job_messages.VACATE
            self._due.order(serial)
        self._session.send(frames.ORDER, job_messages.order(what, serial, **more))

    def signal(self, number: int) -> None:
        self._session.send(frames.SIGNAL, bytes((number,)))

    def resize(self, size: bytes) -> None:
        """Tell it the terminal's size, a WINSIZE payload."""
        self._session.send(frames.WINSIZE, size)

    def pause(self) -> None:
        """Tell the host that this process is about to be stopped: no sign of life is due."""
        self._session.pause()

    def resume(self) -> None:
        """Tell the host that this process goes on."""
        self._session.resume()

    def cut(self) -> None:
        """End the link: whoever waits for it is woken."""
        self._session.cut()

    def progress(self) -> tuple[int, int, int]:
        """See Intake.progress."""
        return (0, 0, 0) if self._intake is None else self._intake.progress()

    def serve(self) -> str:
        """Serve until the link ends; return why. Then no image of this generation is being committed any more."""
        try:
            self._session.serve()
        except Exception as error:  # the boundary: what a host causes here ends its own generation, and no more
            why = self._sentence("serving", error)
            if not isinstance(error, RexecError):
                self.unfit = self.unfit or why
        why = self.unfit or why
        self._session.close()  # or an order that comes late goes to whoever has the descriptor's number next
        for window in filter(None, (self._window, self._out)):
            window.close()
        if self._intake is not None:
            self._intake.abort()
            self._intake.join()
        self._tell_refused()
        if self.runs and not (self.told or self.left):
            self._keep_locks()  # it is lost: the job may go on from its last image
        self._session.release(self._held_up)
        return why

    def _sentence(self, doing: str, error: Exception) -> str:
        if isinstance(error, (ProtocolError, ImageWireError)):  # against what is agreed with a host
            return str(HostMisbehaves(self.host, error))
        return str(error) if isinstance(error, SAID) else self._home.fault(f"{doing} {self.host}", error)

    def _tell_refused(self) -> None:
        if self._session.export is not None:
            for sentence in refused.sentences(self._session.export.inodes.allowed.refusals.counted()):
                self._home.tell(placement_events.Fault(sentence))

    def _held_up(self) -> None:
        self._home.say(f"a disk here does not answer what was asked for on {self.host}; the job goes on when it does")

    def _keep_locks(self) -> None:
        """Hold the job's file locks while no host runs it."""
        if self._session.export is not None:
            try:
                self._home.carried.keep(self._session.export.inodes)
            except OSError as error:
                doing = f"keeping the job's file locks, which were asked for on {self.host}"
                self._home.tell(placement_events.Fault(self._home.fault(doing, error)))

    def _aside(self, name: str, run: Callable[[], None]) -> None:
        """Have something done beside the link, in a thread of its own; what goes wrong there ends this generation."""

        def guarded() -> None:
            try:
                run()
            except LinkClosed:
                return  # whoever receives says so
            except Exception as error:  # see serve
                self.unfit = self._sentence(f"{name} for", error)
                if self._session.export is None:  # nothing has been started there
                    self._home.tell(placement_events.Failed(self.number, 125, self.unfit))
                self.cut()

        self._session.outside(threading.Thread(target=guarded, name=name, daemon=True).start)

    # what comes over the link: HostSession's handler

    def silent(self) -> None:
        self.unheard = True
        self.cut()

    def greeted(self, hello: host_frames.Hello) -> None:
        self._session.outside(lambda: self._contact.greeted(hello.door))
        if warning := clock_skew.skew_told(hello, time.time_ns()):
            self._home.say(warning)
        image = self._image
        if image is not None and self._session.export is not None:
            self._session.export.locks.claims = self._home.carried.claims()
            self._aside("delivering the image", lambda: self._deliver(image))

    def take(self, kind: int, payload: bytes | memoryview) -> None:
        home, tell = self._home, self._home.tell
        if kind in home.outputs:
            if payload:
                self.heard = self.runs
                home.outputs[kind].put(self._link, payload)
            elif self._vacating:
                self._ends.add(kind)
            else:
                home.outputs[kind].end(self._link)
        elif kind == frames.CREDIT:
            stream, count = host_frames.credit(payload)
            window = self._out if stream == frames.IMAGE else self._window
            if window is not None:
                window.credited(count)
            if window is self._out:
                self._stir()
        elif kind == frames.CLOSED and self._window is not None:
            self._window.close()
        elif kind == frames.STARTED:
            if self._image is None:  # else its streams have been its own since GO
                self.heard = True
                self._attach_input()
            tell(placement_events.Began(self.number))
        elif kind == frames.STOPPED:
            self._aside("stopping", lambda: self._stopped(self))
        elif kind == frames.EXIT:
            self.told, status = True, host_frames.exit_status(payload)
            tell(placement_events.Exited(self.number, status))
        elif kind == frames.FAIL:
            (code, text), self.told = host_frames.failure(payload), True
            tell(placement_events.Failed(self.number, 125 if code == frames.NOT_NOW else code, text))
        elif kind == frames.IMAGE:
            self._arrivals.came(len(payload))
            if self._intake is not None and self._dumping >= 0:
                self._stir()
                self._intake.put(payload)
            else:
                self._took(len(payload))  # that all was delivered; or of a dump that was given up
        elif kind == frames.NEWS:
            self._news(host_frames.news(payload, self._session.export is not None))
        elif kind == frames.SPENT:
            self.spent.told(payload)
        elif kind == frames.FORWARD:
            home.forwards.put(self._link, payload)

    def _stir(self) -> None:
        """Part of an image has come or gone; that is told now and then."""
        now = time.monotonic()
        if now - self._stirred > _STIR:
            self._stirred = now
            self._home.tell(placement_events.Stirs(self.number))

    def _attach_outputs(self) -> None:
        """The job may run here from now on: what it says comes over this link."""
        streams = self._image.streams if self._image is not None else None
        self._home.forwards.begin(self._link)
        for kind, output in self._home.outputs.items():
            offset = 0 if streams is None else streams.stdout if kind == frames.STDOUT else streams.stderr
            output.begin(self._link, offset)

    def _attach_input(self) -> None:
        """The job runs here from now on: what it is given goes over this link."""
        streams = self._image.streams if self._image is not None else None
        if self._home.input is not None:
            offset = streams.stdin + len(streams.stdin_unread) if streams is not None else 0
            self._window = self._home.input.begin(self._link, offset)

    def _news(self, news: host_frames.News) -> None:
        what, serial, why = news.what, news.serial, news.why
        if what in (job_messages.LEAVING, job_messages.DUMPING):
            self._vacating = self._due.leaves(what, serial, self.left) or self._vacating
            self._begin_intake(serial)
            self.spent.want()  # the log tells it with the image
        elif what == job_messages.DUMPED and self._session.export is not None:
            # Here, before anything that the job may write from now on is done.
            inodes, lost = self._session.export.inodes, self._session.export.late.lost()
            self._home.mark(serial)
            self._files.pinned.saves(False)
            written = image_manifest.written(self._files.rows(), self._before)
            self._seen = Seen(written, opened(inodes, self._files.pinned, lost), held(inodes))
            if (unfit := self._seen.unfit()) and self._intake is not None:
                self._intake.abort()
                self.order(job_messages.THAW, serial, why=unfit)
        elif what == job_messages.REFUSED and serial == self._dumping:
            self._give_up()
            if self._home.input is not None:
                self._home.input.unkeep()
            self._vacating = self.left = False
            for kind in self._ends:
                self._home.outputs[kind].end(self._link)
            self._ends.clear()
        elif what in (job_messages.MOVED, job_messages.DEAD):
            self.told, self.moved = True, what == job_messages.MOVED
        elif what == job_messages.UNABLE:
            why = self._unbrought or why
            if self._spec.checkpoint is not None and self._spec.checkpoint.anyway:
                self._home.say(f"the job runs on {self.host} without checkpoints: {why}")
            else:
                self.told = True
        elif what == job_messages.CRIU:
            if self._brought:
                raise ShapeError("it asks for criu a second time")
            self._brought = True
            self._aside("bringing criu", self._bring_criu)
        self._home.tell(placement_events.News(self.number, what, serial, why, news.at_once))

    def _begin_intake(self, serial: int) -> None:
        if serial == self._dumping:
            return
        self._give_up()
        self._dumping = serial
        self._files.pinned.saves(True)
        home, source = self._home, max(self._image.number if self._image is not None else 0, self._home.restored)
        for output in home.outputs.values():
            output.dumping()
        if home.input is not None:
            home.input.keep()

        def describe(number: int, head: bytes, files: tuple[ImageFile, ...]) -> Manifest:
            run = Run(home.name, number, self.number, self.host, self._spec)
            return home.describe(serial, run, head, files, self._seen)

        def commits(manifest: Manifest, added: int) -> None:
            home.committed(serial, manifest, source)
            self._before = manifest.written
            if self._vacating and self._session.export is not None:
                self._keep_locks()  # before the host is told, and kills what holds them
                self._session.export.fence.keep()
                home.settle()  # what its mount wrote back after the dump, the image has seen
                self.left = True
            home.tell(image_manifest.committed(self.number, serial, manifest, added))

        def fails(error: Exception) -> None:
            self.order(job_messages.THAW, serial, why=self._sentence("taking in an image from", error))

        try:
            self._intake = Intake(
                home.store, home.name, careful=self._vacating, describe=describe, took=self._took, commits=commits,
                send=self._tell_sender, fails=fails, keep=home.record.keep, restored=source, before=self._intake,
            )  # fmt: skip
        except RuntimeError as error:  # no thread can be had for it
            fails(error)

    def _give_up(self) -> None:
        self._dumping = -1
        self._home.unmark()
        if self._intake is not None:
            self._intake.abort()

    def _tell_sender(self, payload: bytes) -> None:
        self._out.give(-len(payload))  # it gives credit for these too, though none is waited for
        self._session.send(frames.IMAGE, payload)

    def _took(self, size: int) -> None:
        self._arrivals.done(size)
        self._session.send(*credit(frames.IMAGE, size))

    # what goes there in bulk

    def _deliver(self, manifest: Manifest) -> None:
        last: list[bytes] = []
        with self._home.store.open(manifest.job, manifest.number) as image:
            for payload in deliver(image):
                if last and not self._give(last):
                    return
                last = payload
        # Nothing of it is restored before its last payload has come, and from then on the job's files are read.
        self._home.rewind(manifest, self.number)
        self._files.pinned.show(self._home.pinned(manifest))
        self._give(last)

    def _give(self, payload: list[bytes]) -> bool:
        """Send part of an image as soon as there is room; False: nobody takes it any more."""
        if not self._out.take_all(sum(map(len, payload))):
            return False
        self._link.send(frames.IMAGE, *payload)
        return True

    def _bring_criu(self) -> None:
        try:
            for part in self._home.criu():
                self._link.send(frames.BUNDLE, part)
        except SAID as error:
            self._unbrought = str(error)  # it says what it can do without
        self._link.send(frames.BUNDLE, b"")
