"""Who serves the files of one run after another: which runs it takes, for how long, and from whom."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from remoteio.errors import ProtocolError
from remoteio.wire import frames
from remoteio.wire.leases import EVERYTHING
from remoteio.wire.link import Link, LinkClosed
from shim.submit import resident, resident_words
from shim.submit.hosts import beside
from shim.submit.hosts.config import Host
from shim.submit.resident import Resident
from shim.submit.resident_words import Offer
from shim.submit.scope import PROJECT, Scope
from shim.submit.served_session import ServedSession
from shim.wire import kept
from shim.wire.descriptors import WRITE, Descriptor
from shim.wire.job_spec import JobSpec


def spec(**more: Any) -> JobSpec:
    values: dict[str, Any] = {"uid": 0, "gid": 0, "groups": [], "umask": 0o22, "hostname": b"here", "limits": []}
    values |= {"argv": [b"true"], "env": [], "cwd": b"/", "scratch": [], "stdio": [0, 1, 2], "tty": []}
    return JobSpec(**{**values, **more})


def offer(**more: Any) -> Offer:
    return Offer(**{"scope": Scope(), "sync": False, "lease": 60, "around": resident_words.around(), **more})


def test_an_offer_is_read_as_it_was_made() -> None:
    made = offer(scope=Scope("full", ("/a",), (), ("/b",), None), sync=True)
    ((kind, payload),) = frames.FrameReader().feed(made.pack())
    assert kind == frames.ORDER and resident_words.offer(payload) == made
    for wrong in (b"{}", b"[]", b'{"scope": {"trust": "all"}, "sync": false, "lease": 1, "around": {}}', b"\xff"):
        with pytest.raises((ProtocolError, ValueError)):
            resident_words.offer(wrong)


@pytest.mark.parametrize(
    "one, other",
    [
        (offer(), offer(sync=True)), (offer(), offer(lease=61)), (offer(), offer(around={"HOME": "/elsewhere"})),
        (offer(), offer(scope=Scope(hide=("/x",)))),
    ],
)  # fmt: skip
def test_a_session_is_for_runs_that_ask_for_the_same(one: Offer, other: Offer) -> None:
    assert resident._like(one, spec()) == resident._like(one, spec(argv=[b"other"], umask=0o77, stdio=[]))
    assert resident._like(one, spec()) != resident._like(other, spec())
    for more in ({"uid": 1}, {"gid": 1}, {"groups": [1]}, {"hostname": b"there"}, {"cwd": b"/proc"}):
        assert resident._like(one, spec()) != resident._like(one, spec(**more))


def test_what_has_more_than_files_pipes_and_a_terminal_is_left_alone() -> None:
    assert resident._simple(offer(), spec(descriptors=[Descriptor(5, WRITE)]))
    for asked, job in (
        (offer(scope=Scope(PROJECT)), spec()), (offer(scope=Scope(disk=5)), spec()),
        (offer(), spec(scratch=[b"/scratch"])), (offer(), spec(forwards=[object()])),
        (offer(), spec(descriptors=[Descriptor(3 + k, WRITE) for k in range(51)])),
    ):  # fmt: skip
        assert not resident._simple(asked, job)


_NONE = SimpleNamespace(allowed=SimpleNamespace(refusals=SimpleNamespace(counted=dict)))


class _Ended:
    """A session whose job has just ended."""

    received, sent, export, carried = 1, 2, None, (0, 0)

    def __init__(self) -> None:
        self.host_session = self.link = self


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("what", ["it may rest", "old", "large", "failed", "cold", "full"])
def test_a_session_is_not_for_ever(
    what: str, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    control, keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(resident, "LONGEST", -1.0 if what == "old" else 100.0)
    monkeypatch.setattr(resident, "MOST_MEMORY", 1 if what == "large" else 1 << 40)
    with control, keeper:
        made = Resident(Host("box", "box"), -1, control)
        resting = {EVERYTHING: 1.0} if what == "cold" else {}
        leases = SimpleNamespace(resting=resting, numbers={1: None}, most=1 if what == "full" else 2)
        monkeypatch.setattr(_Ended, "export", SimpleNamespace(leases=leases, inodes=_NONE))
        made._session = _Ended()  # type: ignore[assignment]
        made._run = resident._Run(os.dup(ends[0].fileno()))
        made.take(frames.FAIL if what == "failed" else frames.EXIT, bytes(4))
        assert made.usable == (what == "it may rest") and made._run.over
        if made.usable:
            assert keeper.recv(10) == b"rests"
        made._run.close()


def test_what_the_resident_says_is_what_a_session_says(ends: tuple[socket.socket, socket.socket]) -> None:
    told: list[Any] = []

    class Handler:
        def __getattr__(self, name: str) -> Any:
            return lambda *said: told.append((name, *said))

    session, other = ServedSession(Link(ends[0].fileno(), ends[0].fileno()), Handler()), ends[1]
    news = resident_words.news
    for payload in (news(away="cut"), news(joined=True), news(unleased="none left"), news(silent=True)):
        other.send(frames.frame(frames.NEWS, payload))
    other.send(frames.frame(frames.STDOUT, b"said"))
    over = {"rows": [{"path": "/x"}], "sentences": ["no"], "received": 5, "sent": 6}
    other.send(frames.frame(frames.NEWS, news(over=over)))
    other.send(frames.frame(frames.NEWS, resident_words.failed(ProtocolError("it lies"))))
    with pytest.raises(ProtocolError, match="it lies"):
        session.serve()
    assert told[:4] == [("away", "cut"), ("joined",), ("unleased", "none left"), ("silent",)]
    assert told[4][:2] == ("take", frames.STDOUT) and not session.away
    assert session.refused == ([{"path": "/x"}], ["no"])
    other.close()
    with pytest.raises(LinkClosed):
        session.serve()


def test_a_run_whose_end_cannot_be_dealt_with_ends_the_session_and_is_waited_for_by_nobody(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    over: list[bytes] = []
    monkeypatch.setattr(Resident, "_over", lambda _, why: over.append(why))
    monkeypatch.setattr(Resident, "_learn", lambda _, run: {}[run])
    made, run = Resident(Host("box", "box"), -1, ends[0]), resident._Run(os.dup(ends[0].fileno()))
    made._session, run.over = _Ended(), True  # type: ignore[assignment]
    ends[1].close()
    made._hear_run(run)
    assert run.gone.is_set() and len(over) == 1


def test_a_first_run_that_its_host_does_not_take_is_waited_for_by_nobody(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_taken(self: Resident, offer: Offer, spec: JobSpec, owed: int, run: Any) -> bool:
        self._run, self.usable = run, False  # as where the host has not answered
        return False

    monkeypatch.setattr(Resident, "_takes", not_taken)
    monkeypatch.setattr(resident, "_read", lambda link: (offer(), spec()))
    found = Resident(Host("far", "far"), -1, ends[0])
    ours, theirs = socket.socketpair()
    with ours:
        found.serve(theirs.detach(), 0)
    ending = threading.Thread(target=found.end, daemon=True)
    ending.start()
    ending.join(5)
    assert not ending.is_alive()


def test_a_run_is_not_begun_where_the_host_is_out_of_touch() -> None:
    sent: list[int] = []
    link = SimpleNamespace(cut=True, send=lambda kind, payload: sent.append(kind))
    files = SimpleNamespace(next_job=lambda names: True)
    session = SimpleNamespace(link=link, told=set(), host_session=SimpleNamespace(export=None, files=files))
    assert not resident._Session.next(session, offer(), spec()) and not sent  # type: ignore[arg-type]
    link.cut = False
    assert resident._Session.next(session, offer(), spec()) and sent == [frames.START]  # type: ignore[arg-type]


def test_a_run_that_is_not_taken_yet_is_told_nothing(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[int] = []
    monkeypatch.setattr(resident.os, "_exit", gone.append)
    made = Resident(Host("box", "box"), -1, ends[0])
    made._run = resident._Run(os.dup(ends[0].fileno()))
    made.unleased("none left")
    assert not made._run.taken and not gone
    made.away("cut")
    assert not made._run.taken and gone == [0], "it is begun elsewhere"
    made._run.take()
    made.away("cut")
    assert gone == [0] and ends[1].recv(1) == kept.YES
    made._run.close()


def test_a_process_with_other_namespaces_or_rights_is_not_alike() -> None:
    assert beside.alike(os.getpid()) and not beside.alike(0) and not beside.alike(1 << 22)
    waits = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    without = [["unshare", "--uts"], ["setpriv", "--no-new-privs"], ["setpriv", "--bounding-set=-chown"]]
    for argv in (waits, *([*words, *waits] for words in without)):
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"\n"
            assert beside.alike(process.pid) == (argv is waits), argv
            process.communicate()


def test_a_run_that_is_declined_is_asked_again_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever serves others' files; and is given the plain connection then."""
    from shim.submit.hosts import kept as hosts_kept

    asked = []

    def ask(path: object, *words: bytes) -> socket.socket:
        asked.append(words[0])
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        run, agent = socket.socketpair()
        socket.send_fds(its, [b"yes 0 3.11 5" if words[0] == b"run" else b"again 0 3.11 5"], [run.fileno()])
        run.close()

        def answer() -> None:
            with agent:
                agent.recv(100)
                if words[0] == b"run":
                    agent.send(kept.YES)

        threading.Thread(target=answer).start()
        its.close()
        return ours

    monkeypatch.setattr(hosts_kept, "ask", ask)
    taken = hosts_kept.Kept(60, served=True)
    found = taken.take(Host("box", "box"), lambda stream: b"?", lambda: None)
    assert asked == [b"served", b"run"]
    assert found is not None and not found[0].served and found[1].runtime == "waits"
    found[0].close()
    taken.close()
