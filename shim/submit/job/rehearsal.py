"""Restore an image on the host where its job runs, up to the point before GO, and drop it: is the job movable?

It is a second agent there, with namespaces and a network of its own, which is given the image as any host is that a job
goes on from. It reads the job's files, and changes nothing of them (export/fence.ReadOnly). Nothing of the job ever
runs in it: it is never told GO.

What it shows is of the image, not of this moment: where the job's files are others by now, or the restored tree would
have had to make some, a failure says nothing, and the job is tried again when it has resources of another kind.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from checkpoint.submit.delivery import deliver
from checkpoint.wire.manifest import Manifest
from remoteio.errors import RexecError
from remoteio.submit.export.fence import ReadOnly
from remoteio.submit.transport.stream import Stream
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed, Window
from shim.submit import host_frames
from shim.submit.host_session import HostSession
from shim.submit.hosts import config
from shim.submit.job.home import JobHome
from shim.submit.job.placement_events import Rehearsed
from shim.submit.job.record import SMALL
from shim.submit.scope import JobRights
from shim.submit.units import size
from shim.wire import job_messages
from shim.wire.job_spec import JobSpec

_SMALL = 256 << 20  # bytes
WITHIN = 60.0  # seconds
_NOBODY = '["none", null]'  # no owner is watched for: nothing of it runs
_MOVED_ON = "a file that the job had open is another by now, or is gone"
Reach = Callable[..., tuple[Stream, object]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rehearsal has shown: `movable` None: nothing, and `why` not; empty: it was dropped."""

    movable: bool | None
    why: str = ""


class Rehearsal:
    """One rehearsal of the image `number` beside generation `generation` on `host`.

    Threads: `run` blocks one of its own; `cut` may be called by any. The session's write `_verdict`, once.
    """

    def __init__(self, home: JobHome, generation: int, host: str, number: int) -> None:
        self.generation, self.host, self._home, self._number = generation, host, home, number
        self._verdict: Verdict | None = None
        self._session: HostSession | None = None
        self._fence = ReadOnly()
        self._window = Window(Window.IMAGE)
        self._over = threading.Event()

    def run(self, reach: Reach) -> Rehearsed:
        """Rehearse; what came of it. Raises RexecError: nothing, since its host could not be asked."""
        image = self._home.image(self._number)
        if self._home.record.rehearse == SMALL and image.size > _SMALL:
            shown = Verdict(
                None, f"its image of {size(image.size)} is larger than {size(_SMALL)}: say --rehearse always"
            )
            return self._rehearsed(shown)
        shown = self._look(image, reach)
        if shown.movable is False and (self._fence.refused or not _as_it_was(image)):
            shown = Verdict(None, _MOVED_ON if not self._fence.refused else "restoring it makes files")
        return self._rehearsed(shown)

    def cut(self) -> None:
        """Drop it: the job leaves its host, or has ended."""
        self._over.set()
        if self._session is not None:
            self._session.cut()

    def _rehearsed(self, shown: Verdict) -> Rehearsed:
        return Rehearsed(self.generation, self._number, shown.movable, shown.why)

    def _look(self, image: Manifest, reach: Reach) -> Verdict:
        host = config.resolve(self.host, config.load())
        stream, _ = reach(host, "shim.execute.main:main", batch=True)
        try:
            link = Link(stream.read_fd, stream.write_fd)
            home = self._home.rights(host.trust, host.disk)
            rights = JobRights(home.scope, home.made, sync=home.sync)  # it adds nothing
            spec = self._spec(image)
            session = self._session = HostSession(link, spec, _Heard(self, image), rights=rights)
            session.send(frames.START, spec.pack())
            late = threading.Timer(WITHIN, self._late)
            late.start()
            try:
                if not self._over.is_set():
                    session.serve()
            except (RexecError, OSError) as error:
                if not self._over.is_set():
                    self.shows(Verdict(None, str(error)))
            finally:
                late.cancel()
                session.close()
                self._window.close()
                session.release()
        finally:
            stream.close()
        return self._verdict or Verdict(None)

    def _spec(self, image: Manifest) -> JobSpec:
        spec = self._home.start_spec(self.generation, _NOBODY, True, False, image)
        assert spec.checkpoint is not None
        spec.checkpoint.rehearsal, spec.host = max(image.size, 1), os.fsencode(self.host)
        return spec

    def _late(self) -> None:
        self.shows(Verdict(None, f"it was not restored within {WITHIN:.0f} s"))
        self.cut()

    # called by the session's handler

    def shows(self, verdict: Verdict) -> None:
        """Take note of what it has shown, if nothing was before."""
        self._verdict = self._verdict or verdict

    def greeted(self, image: Manifest) -> None:
        """Have the image delivered, and nothing changed."""
        session = self._session
        assert session is not None and session.export is not None
        session.export.fence = self._fence
        session.outside(threading.Thread(target=self._deliver, args=(image,), name="rehearsal", daemon=True).start)

    def serves(self) -> bool:
        """Tell whether the host has greeted."""
        return self._session is not None and self._session.export is not None

    def credited(self, payload: bytes | memoryview) -> None:
        """Let more of the image be sent."""
        stream, count = host_frames.credit(payload)
        if stream == frames.IMAGE:
            self._window.credited(count)

    def done(self) -> None:
        """Have it dropped: it has shown what it was to show."""
        assert self._session is not None
        self._session.send(frames.ORDER, job_messages.order(job_messages.KILL, 0))

    def _deliver(self, image: Manifest) -> None:
        session = self._session
        assert session is not None and session.export is not None
        try:
            session.export.instead.pinned.show(self._home.pinned(image))
            with self._home.store.open(image.job, image.number) as opened:
                for payload in deliver(opened):
                    if not self._window.take_all(sum(map(len, payload))):
                        return
                    session.send(frames.IMAGE, *payload)
        except LinkClosed:
            return  # whoever receives says so
        except Exception as error:  # the boundary: it ends this rehearsal, and nothing else
            self.shows(Verdict(None, self._home.why(f"rehearsing image {image.number}", error)))
            session.cut()


class _Heard:
    """What the host says, as HostSession's handler."""

    def __init__(self, rehearsal: Rehearsal, image: Manifest) -> None:
        self._rehearsal, self._image = rehearsal, image

    def greeted(self, hello: host_frames.Hello) -> None:
        self._rehearsal.greeted(self._image)

    def silent(self) -> None:
        self._rehearsal.cut()

    def unleased(self, why: str) -> None:
        """It is over before anything is leased."""

    def take(self, kind: int, payload: bytes | memoryview) -> None:
        rehearsal = self._rehearsal
        if kind == frames.CREDIT:
            rehearsal.credited(payload)
        elif kind == frames.FAIL:
            rehearsal.shows(Verdict(False, host_frames.failure(payload)[1]))
        elif kind == frames.NEWS:
            news = host_frames.news(payload, rehearsal.serves())
            if news.what == job_messages.RESTORED:
                rehearsal.shows(Verdict(True))
                rehearsal.done()
            elif news.what in (job_messages.UNABLE, job_messages.DEAD):
                rehearsal.shows(Verdict(None, news.why))
            elif news.what == job_messages.CRIU:
                rehearsal.shows(Verdict(None, "the criu that made the image is no more on its host"))
                rehearsal.cut()


def _as_it_was(image: Manifest) -> bool:
    """Tell whether each file that the image has open has its name still, and none that is mapped is gone."""
    opened, mapped = image.stats.get("open"), image.stats.get("mapped")
    for path, inode, _ in opened if isinstance(opened, list) else []:
        try:
            if os.stat(path, follow_symlinks=False).st_ino != inode:
                return False
        except OSError:
            return False
    return all(os.path.lexists(path) for path in (mapped if isinstance(mapped, list) else []))
