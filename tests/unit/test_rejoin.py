"""Another stream joins an agent: only this run's, by this user, on this machine; and one that has ended is known."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from copy import copy
from pathlib import Path

import pytest

from remoteio.wire import frames
from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.execute import rejoin
from shim.execute.agent.door import Door
from shim.wire import rendezvous
from shim.wire.rendezvous import Whereabouts
from tests.until import stop, until

SECRET = bytes(range(32))


class Agent:
    """A process of its own that answers each frame of STDIN by one of STDOUT, over whatever stream there is."""

    def __init__(self, directory: Path) -> None:
        ours, theirs = socket.socketpair()
        where_r, where_w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ours.close()
                _serve(theirs, directory, where_w)
            finally:
                os._exit(3)
        theirs.close()
        os.close(where_w)
        with open(where_r, "rb") as said:
            self.where = Whereabouts.unpack(said.read().split(b"\0"))
        self.stream = ours
        self.link = SessionLink(ours.fileno(), ours.fileno())
        self.link.last(lambda why: None)
        self.relays: list[Relay] = []

    def end(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.link.close()
        self.stream.close()
        for relay in self.relays:
            relay.ours.close()
            relay.thread.join(60)
            assert relay.status

    def says(self) -> bytes:
        while True:
            for kind, payload in self.link.receive():
                assert kind == frames.STDOUT
                return bytes(payload)


def _serve(stream: socket.socket, directory: Path, told: int) -> None:
    link = SessionLink(stream.fileno(), stream.fileno())
    door = Door(str(directory), SECRET, link, lambda: frames.frame(frames.STDOUT, b"anew"))
    link.last(lambda why: door.cut())
    stream.close()
    os.write(told, b"\0".join(door.open()))
    os.close(told)
    while True:
        for _, payload in link.receive():
            link.send(frames.STDOUT, payload)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.end()


class Relay:
    """shim/execute/rejoin.py in a thread, as at the far end of a second connection."""

    def __init__(self, question: bytes) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(10)
        fd = theirs.detach()
        self.status: list[int] = []
        self.thread = threading.Thread(target=lambda: self.status.append(rejoin.main(fd, os.dup(fd))), daemon=True)
        self.thread.start()
        self.ours.sendall(question)

    def answer(self) -> tuple[str, int, str]:
        said = b""
        while not said.endswith(b"\n"):
            said += self.ours.recv(1)
        return rendezvous.answer(said)


def ask(agent: Agent, want: str = rendezvous.JOIN, secret: bytes = SECRET, **changed: object) -> Relay:
    where = copy(agent.where)
    for name, value in changed.items():
        setattr(where, name, value)
    agent.relays.append(Relay(rendezvous.question(want, secret, where, agent.link.position)))
    return agent.relays[-1]


def test_a_stream_joins_and_what_was_said_meanwhile_is_there(agent: Agent) -> None:
    agent.link.send(frames.STDIN, b"before")
    assert agent.says() == b"before"
    for number in range(3):
        agent.link.drop()
        agent.link.send(frames.STDIN, b"meanwhile %d" % number)
        relay = ask(agent)
        said, position, _ = relay.answer()
        assert said == rendezvous.JOINED
        agent.link.join(relay.ours.fileno(), relay.ours.fileno(), position)
        relay.ours.close()
        assert agent.says() == b"meanwhile %d" % number


def test_an_agent_keeps_nothing_of_the_streams_that_it_had(agent: Agent) -> None:
    """Two descriptors for each cut, and the five hundredth would have been the last."""
    for first in (True, False, False, False):
        agent.link.drop()
        relay = ask(agent)
        agent.link.join(relay.ours.fileno(), relay.ours.fileno(), relay.answer()[1])
        relay.ours.close()
        agent.link.send(frames.STDIN, b"so")
        assert agent.says() == b"so"
        if first:
            has = descriptors(agent)  # the last stream's may still be among them: then it is fewer later
    until(lambda: descriptors(agent) <= has, "it has let go of all but the last stream")


def descriptors(agent: Agent) -> int:
    return len(os.listdir("/proc/%d/fd" % agent.pid))


def test_a_question_that_comes_too_late_costs_no_stream_and_no_job(agent: Agent) -> None:
    """The network has it long after home has another stream, over which both have heard more."""
    agent.link.send(frames.STDIN, b"one")
    assert agent.says() == b"one"
    late = rendezvous.question(rendezvous.JOIN, SECRET, agent.where, 0)
    agent.link.drop()
    relay = ask(agent)
    agent.link.join(relay.ours.fileno(), relay.ours.fileno(), relay.answer()[1])
    relay.ours.close()
    agent.relays.append(Relay(late))
    assert agent.relays[-1].answer()[0] == rendezvous.REFUSED
    assert not agent.link.cut
    agent.link.send(frames.STDIN, b"two")
    assert agent.says() == b"two"


def test_a_position_that_cannot_be_ends_no_agent(agent: Agent) -> None:
    agent.link.drop()
    agent.relays.append(Relay(rendezvous.question(rendezvous.JOIN, SECRET, agent.where, 1 << 40)))
    agent.relays[-1].answer()
    relay = ask(agent)
    said, position, _ = relay.answer()
    assert said == rendezvous.JOINED
    agent.link.join(relay.ours.fileno(), relay.ours.fileno(), position)
    agent.link.send(frames.STDIN, b"after")
    assert agent.says() == b"after"


def test_a_relay_ends_with_its_stream(agent: Agent) -> None:
    agent.link.drop()
    relay = ask(agent)
    relay.answer()
    relay.ours.close()
    relay.thread.join(60)
    assert relay.status == [0]


def test_who_does_not_know_the_secret_is_not_let_in(agent: Agent) -> None:
    agent.link.send(frames.STDIN, b"one")
    assert agent.says() == b"one"
    assert ask(agent, secret=bytes(32)).answer()[0] == rendezvous.REFUSED
    assert ask(agent, rendezvous.END, secret=bytes(32)).answer()[0] == rendezvous.GONE  # its login may kill it anyway


def test_another_who_connects_is_not_waited_for_forever(agent: Agent) -> None:
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    silent.connect(agent.where.path)
    silent.send(b"rubbish")
    agent.link.drop()
    relay = ask(agent)
    assert relay.answer()[0] == rendezvous.JOINED
    silent.close()


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"node": "another"}, rendezvous.ELSEWHERE),
        ({"boot": "of yesterday"}, rendezvous.GONE),
        ({"started": 1}, rendezvous.GONE),
        ({"pid": 1 << 22}, rendezvous.GONE),
        ({"path": "/nowhere/door"}, rendezvous.REFUSED),
    ],
)
def test_only_a_process_that_is_no_more_is_gone(agent: Agent, changed: dict[str, object], said: str) -> None:
    assert ask(agent, **changed).answer()[0] == said


def test_an_agent_that_has_ended_is_gone_even_if_nobody_has_waited_for_it(agent: Agent) -> None:
    os.kill(agent.pid, signal.SIGKILL)
    os.waitid(os.P_PID, agent.pid, os.WEXITED | os.WNOWAIT)
    assert ask(agent).answer()[0] == rendezvous.GONE


def test_an_agent_that_is_stopped_is_waited_for(agent: Agent) -> None:
    agent.link.drop()
    stop(agent.pid)
    relay = ask(agent)
    assert relay.answer()[0] == rendezvous.WAITS
    os.kill(agent.pid, signal.SIGCONT)
    said, position, _ = relay.answer()
    while said == rendezvous.WAITS:
        said, position, _ = relay.answer()
    assert said == rendezvous.JOINED
    agent.link.join(relay.ours.fileno(), relay.ours.fileno(), position)
    agent.link.send(frames.STDIN, b"after")
    assert agent.says() == b"after"


@pytest.mark.parametrize("stopped", [False, True])
def test_an_agent_is_ended(agent: Agent, stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejoin, "_ENDS", 200)
    if stopped:
        stop(agent.pid)
    assert ask(agent, rendezvous.END).answer()[0] == rendezvous.GONE
    os.waitid(os.P_PID, agent.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)


@pytest.mark.parametrize(
    "said", [b"\n", b"[]\n", b'{"want": "join"}\n', rendezvous.line(want="x", secret="", door=[], position=0)]
)
def test_what_is_no_question_is_refused(said: bytes) -> None:
    relay = Relay(said)
    with relay.ours:
        assert relay.answer()[0] == rendezvous.REFUSED


def test_a_closed_session_is_closed(agent: Agent) -> None:
    agent.link.shut("over")
    with pytest.raises(LinkClosed):
        agent.link.send(frames.STDIN, b"x")
