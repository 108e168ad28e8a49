"""The table of what agent, keeper and init say to each other has all that they say, and nothing else."""

from __future__ import annotations

import ast
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.execute.init import messages
from shim.execute.init.messages import AGENT, INIT, KEEPER, TABLE, Message

EXECUTE = Path(messages.__file__).parents[1]
NAMED = {name: value for name, value in vars(messages).items() if isinstance(value, Message)}
SPOKEN_IN = {
    EXECUTE / "init" / "init.py": INIT,
    EXECUTE / "init" / "tree_control.py": INIT,
    EXECUTE / "init" / "images.py": INIT,
    EXECUTE / "init" / "keeper.py": KEEPER,
    EXECUTE / "init" / "sandbox.py": AGENT,
    **dict.fromkeys((EXECUTE / "agent").glob("*.py"), AGENT),
}
SENDERS = {"send": "messages", "ask": "", "tell": "", "_tell_init": ""}


def calls(path: Path) -> Iterator[tuple[str, str, ast.Call]]:
    """(method, on what, call) of each call of a method in a file."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, ast.unparse(node.func.value), node


def sent(path: Path) -> set[Message]:
    """The messages of the table that are given, by their names, to what sends them."""
    return {
        NAMED[node.attr]
        for method, on, call in calls(path)
        if method in SENDERS and on.endswith(SENDERS[method])
        for argument in call.args
        for node in ast.walk(argument)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "messages" and node.attr in NAMED
    }


def test_every_message_that_is_sent_is_in_the_table_and_sent_by_whom_it_says() -> None:
    answers = {message.answer for message in TABLE}
    said = {message for path in SPOKEN_IN for message in sent(path)}
    assert {
        (path.name, message) for path, who in SPOKEN_IN.items() for message in sent(path) if message.sender != who
    } == set()
    assert said | answers - {None} == set(TABLE)


def test_nothing_is_sent_past_the_table() -> None:
    past = [
        (path.name, ast.unparse(call))
        for path in SPOKEN_IN
        for method, on, call in calls(path)
        if method in ("send", "sendall", "sendmsg", "send_fds", "recv", "recvmsg", "recv_fds")
        and not on.endswith(("messages", "link", "dump"))  # the last: checkpoint's, which is given what sends
        and path.name != "door.py"  # which speaks with another process of the login's
    ]
    assert past == []


def test_the_table_has_each_message_once_under_its_name_and_no_letter_twice_in_a_direction() -> None:
    assert {message.name: message for message in TABLE} == NAMED
    letters = [(message.sender, message.receiver, message.letter) for message in TABLE]
    assert len(set(letters)) == len(letters)
    assert all(len(message.letter) == 1 for message in TABLE)
    for message in TABLE:
        if message.answer is not None:
            assert (message.answer.sender, message.answer.receiver) == (message.receiver, message.sender)


def test_the_bytes_on_the_sockets() -> None:
    """They are as they have always been: an agent and the processes it forks are of one rexec, a test's may not be."""
    said = {f"{message.sender} {message.receiver}": "" for message in TABLE}
    for message in TABLE:
        said[f"{message.sender} {message.receiver}"] += message.letter.decode()
    assert said == {
        "keeper agent": "MF", "agent keeper": "GS", "keeper init": "O",
        "init agent": "PSTEFcxzwyionhludrR", "agent init": "AKTGZWYIONHLDR",
    }  # fmt: skip


@pytest.mark.parametrize("message", TABLE, ids=repr)
def test_a_message_arrives(message: Message) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        messages.send(ours, message, b"1 2", [ours.fileno()] * message.descriptors)
        said, payload, fds = messages.receive(theirs, message.sender, message.receiver)
        assert (said, payload, len(fds)) == (message, b"1 2", message.descriptors)
        for fd in fds:
            socket.socket(fileno=fd).close()
        ours.close()
        assert messages.receive(theirs, message.sender, message.receiver) == (None, b"", [])


def test_what_is_not_in_the_table_is_refused() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(b"K9")
        with pytest.raises(messages.UnknownMessage, match="no message of init to agent begins with b'K'"):
            messages.receive(theirs, INIT, AGENT)
