"""How long an agent stays, and what becomes of its job: by a link that is cut when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import pytest

from remoteio.errors import RexecError
from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.execute.agent import job_tree, stay
from shim.execute.agent.job_tree import JobTree
from shim.execute.init import messages
from shim.execute.init.messages import Message
from shim.execute.init.sandbox import Sandbox
from shim.wire import lease, sysctl
from shim.wire.job_spec import JobSpec

WEEK = 7 * 24 * 3600.0


class Cut:
    """A link whose stream was cut, or is there."""

    def __init__(self) -> None:
        self.cut, self.dropped = True, 0

    def drop(self, why: str) -> None:
        self.dropped += 1

    def shut(self, why: str) -> None:
        pass


class NoDoor:
    """A door at which nobody is."""

    def cut(self) -> None:
        pass


class Job:
    """A job that stands or goes, of an agent whose lease is 60 s and whose clock is `now`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, can: bool = True) -> None:
        def fail(error: BaseException) -> None:
            raise error

        monkeypatch.setattr(stay, "_now", lambda: self.now)
        monkeypatch.setattr(stay, "fail", fail)
        self.now, self.stands, self.link = 1000.0, False, Cut()
        made = JobSpec(
            argv=[b"true"], env=[], cwd=b"/", uid=0, gid=0, groups=[], umask=0, hostname=b"here", limits=[], scratch=[],
            stdio=[], tty=[],
        )  # fmt: skip
        made.lease = 60
        self.stay = stay.Stay(cast(SessionLink, self.link), made, "", lambda: b"")
        self.stay._door = cast(stay.Door, NoDoor())
        self.stay.known = True
        if can:
            self.stay.stand, self.stay.rise = self._stand, self._rise

    def _stand(self) -> bool:
        self.stands = True
        return True

    def _rise(self) -> None:
        self.stands = False

    def after(self, seconds: float) -> None:
        """Look so long after the last that was heard."""
        self.now = self.stay._heard + seconds
        self.stay._look(seconds, WEEK)


def test_a_job_stands_still_after_its_lease_and_goes_on_with_the_first_that_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Job(monkeypatch)
    job.after(60)
    assert not job.stands
    job.after(61)
    job.after(WEEK / 7)
    assert job.stands
    job.link.cut = False
    job.after(WEEK / 7 + 1)
    assert job.stands and not job.link.dropped, "there is a stream, and nothing has come by it"
    job.stay.heard()
    job.after(0)
    assert not job.stands
    job.after(lease.AGENT + 1)
    assert job.link.dropped == 1
    job.link.cut = True
    job.after(61)
    assert job.stands, "once more"


def test_a_job_that_stands_still_is_ended_when_nobody_comes_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(monkeypatch)
    job.after(61)
    job.after(60 + lease.STILL)
    with pytest.raises(LinkClosed, match="nobody has come back"):
        job.after(61 + lease.STILL)


def test_a_stream_that_has_just_come_is_not_given_up_for_the_silence_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(monkeypatch)
    job.after(30)
    job.link.cut = False
    job.after(31)
    job.after(31 + lease.AGENT)
    assert not job.link.dropped
    job.after(32 + lease.AGENT)
    assert job.link.dropped == 1


@pytest.mark.parametrize("can", [False, True])
def test_what_cannot_stand_still_is_ended_with_its_lease(monkeypatch: pytest.MonkeyPatch, can: bool) -> None:
    """A plain job, one that is being saved just then, or where the kernel ends a mount that waits."""
    job = Job(monkeypatch, can)
    if can:
        monkeypatch.setattr(sysctl, "fuse_waits", lambda value: 30)
        job.stay._cut("it was cut")
    with pytest.raises(LinkClosed, match="the lease is over"):
        job.after(61)
    assert not job.stands


class Tree(JobTree):
    """A tree whose init notes what it is told."""

    def __init__(self, answer: Callable[[], bytes] = lambda: b"5 6") -> None:
        super().__init__(cast(Sandbox, None))
        self.said: list[tuple[Message, bytes]] = []
        self._answer = answer

    def ask(
        self, message: Message, payload: bytes = b"", fds: tuple[int, ...] = (), limit: float | None = 0
    ) -> bytes:  # fmt: skip
        self.said.append((message, payload))
        return self._answer()

    def look(self) -> None:
        pass


def test_a_tree_goes_on_when_neither_its_owner_nor_its_lease_wants_it_to_stand() -> None:
    stop, go = (messages.STOP_TREE, b""), (messages.CONTINUE_TREE, b"5 6")
    steps: dict[tuple[str, ...], list[tuple[Message, bytes]]] = {
        ("rise",): [],
        ("stand", "rise", "rise"): [stop, go],
        ("freeze", "stand", "rise"): [stop],
        ("freeze", "stand", "rise", "thaw"): [stop, go],
        ("freeze", "stand", "thaw"): [stop],
        ("stand", "freeze", "rise"): [stop],
        ("stand", "freeze", "rise", "thaw"): [stop, go],
        ("stand", "freeze", "thaw", "rise"): [stop, go],
    }
    for names, said in steps.items():
        tree = Tree()
        for name in names:
            getattr(tree, name)()
        assert tree.said == said, names


def test_a_tree_that_stands_until_home_is_back_is_not_saved_before_it_goes() -> None:
    tree, saved = Tree(), threading.Event()
    tree.stand()

    def save() -> None:
        with tree.to_save():
            assert tree.said[-1][0] is messages.CONTINUE_TREE
            saved.set()

    saving = threading.Thread(target=save)
    saving.start()
    assert not saved.is_set()
    tree.rise()
    saving.join(60)
    assert saved.is_set()


def test_of_a_job_that_has_ended_nothing_is_stopped_and_its_end_waits_for_home() -> None:
    def gone() -> bytes:
        raise job_tree.Gone("the job has ended")

    tree = Tree(gone)
    tree.stand()
    tree.rise()
    assert tree.goes.is_set()

    def dumb() -> bytes:
        raise RexecError("it does not answer")

    with pytest.raises(RexecError):
        Tree(dumb).stand()
