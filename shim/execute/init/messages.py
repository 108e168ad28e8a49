"""The messages between the agent, the job's keeper and the job's init: one table, and how one is sent and received.

Shipped. Three pairs of SOCK_SEQPACKET sockets (unix(7)): agent and keeper, agent and init, keeper and init; of the
last each sees the end of the other. A message is a letter and a payload, and descriptors where the table says so. Its
letter means what it does only together with its direction.

An answer, if there is one, comes before the answer to any later message: init does one after the other. It may be
FAULT instead, and the job has no part in that. What init says by itself can come between.
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

AGENT, KEEPER, INIT = "agent", "keeper", "init"
MOST = 4096  # bytes of one message
MOST_FDS = 64


class Message:
    """One row of the table.

    name         as the constant below is called
    letter       the first byte of the message
    sender       AGENT, KEEPER or INIT
    receiver     one of the same
    payload      what follows the letter, in words; empty: nothing
    descriptors  how many come along, at most
    answer       the message that answers it, or None
    """

    __slots__ = ("answer", "descriptors", "letter", "name", "payload", "receiver", "sender")

    def __init__(
        self,
        name: str,
        letter: bytes,
        sender: str,
        receiver: str,
        payload: str,
        descriptors: int = 0,
        answer: Message | None = None,
    ) -> None:
        self.name, self.letter, self.sender, self.receiver = name, letter, sender, receiver
        self.payload, self.descriptors, self.answer = payload, descriptors, answer

    def __repr__(self) -> str:
        return self.name


# fmt: off
# The keeper's part: namespaces, and nothing of the job but its end.
MOUNTED = Message("MOUNTED", b"M", KEEPER, AGENT, "", 1)  # the connection to the kernel, which is to be served
KEEPER_FAILED = Message("KEEPER_FAILED", b"F", KEEPER, AGENT, "a sentence")
BUILD = Message("BUILD", b"G", AGENT, KEEPER, "")  # the connection is served: make init, the root and the job
ROOT = Message("ROOT", b"O", KEEPER, INIT, "", 1)  # the job's root, open; with no descriptor: it cannot be opened
STAYS = Message("STAYS", b"S", AGENT, KEEPER, "")  # the agent outlives the job, and has its own directory till then

# What init says by itself.
TERMINAL = Message("TERMINAL", b"P", INIT, AGENT, "st_rdev and st_dev of its slave, of a job to checkpoint", 2)
STARTED = Message("STARTED", b"S", INIT, AGENT, "")
STOPPED = Message("STOPPED", b"T", INIT, AGENT, "number of the signal")
ENDED = Message("ENDED", b"E", INIT, AGENT, "wait status of the job, and µs of processor time; nothing of it is left")
RESTS = Message("RESTS", b"R", INIT, AGENT, "as ENDED; and it waits for the NEXT")
FAILED = Message("FAILED", b"F", INIT, AGENT, "exit code, space, a sentence: the job did not start")
CRIU_ENDED = Message("CRIU_ENDED", b"c", INIT, AGENT, "empty, or what of its is left")

# What init answers.
FAULT = Message("FAULT", b"x", INIT, AGENT, "a sentence: why it could not be done")
TREE_STOPPED = Message("TREE_STOPPED", b"z", INIT, AGENT, "pids that had stood still before")
TREE_CONTINUED = Message("TREE_CONTINUED", b"w", INIT, AGENT, "")
WRITTEN = Message("WRITTEN", b"y", INIT, AGENT, "")
IPC = Message("IPC", b"i", INIT, AGENT, "which of shm, sem, msg, mq there are, a space between")
OWN_FILES = Message("OWN_FILES", b"o", INIT, AGENT, "empty, or a sentence: why they cannot be saved")
TIDIED = Message("TIDIED", b"n", INIT, AGENT, "")
OPEN_FILES = Message("OPEN_FILES", b"h", INIT, AGENT, "")
SPOOLED = Message("SPOOLED", b"l", INIT, AGENT, "")
CONNECTION = Message("CONNECTION", b"u", INIT, AGENT, "", 1)  # over the socket of SPOOL: /dev/fuse, to be served
DUMPING = Message("DUMPING", b"d", INIT, AGENT, "pid of the tree's root, in its namespace")
RESTORING = Message("RESTORING", b"r", INIT, AGENT, "JSON: those of the directories that there are not")

# What init is told.
NEXT = Message("NEXT", b"A", AGENT, INIT, "its pipes' numbers", MOST_FDS)  # a file with START's payload; their ends
SIGNAL = Message("SIGNAL", b"K", AGENT, INIT, "number of the signal, for the job's process group")
SUSPEND = Message("SUSPEND", b"T", AGENT, INIT, "")  # ^Z was typed: stop what it would stop
GOES_ON = Message("GOES_ON", b"G", AGENT, INIT, "pid of the restored tree's root, space, its last pid")  # STARTED comes
STOP_TREE = Message("STOP_TREE", b"Z", AGENT, INIT, "", answer=TREE_STOPPED)  # even while criu holds it
CONTINUE_TREE = Message("CONTINUE_TREE", b"W", AGENT, INIT, "pids that are to stand still", answer=TREE_CONTINUED)
WRITE_BACK = Message("WRITE_BACK", b"Y", AGENT, INIT, "", answer=WRITTEN)  # mappings, to home; own files, to the image
ASK_IPC = Message("ASK_IPC", b"I", AGENT, INIT, "", answer=IPC)
ASK_OWN_FILES = Message("ASK_OWN_FILES", b"O", AGENT, INIT, "1: criu is not root", answer=OWN_FILES)  # private_files.py
# restored, and not yet running: RemovedNames.take_back, removed_above.remove
TIDY = Message("TIDY", b"N", AGENT, INIT, "JSON: what RESTORING said", answer=TIDIED)
LIST_OPEN_FILES = Message("LIST_OPEN_FILES", b"H", AGENT, INIT, "", 1, OPEN_FILES)  # as JSON to the descriptor
SPOOL = Message("SPOOL", b"L", AGENT, INIT, "", 1, SPOOLED)  # a socket, over which CONNECTION comes before
DUMP = Message("DUMP", b"D", AGENT, INIT, "1: we answer which pages there are", 4, DUMPING)  # page_scans.py
RESTORE = Message("RESTORE", b"R", AGENT, INIT, "JSON: ends by criu's numbers; clocks; directories", 4, RESTORING)
# fmt: on

TABLE = (
    MOUNTED, KEEPER_FAILED, BUILD, ROOT, STAYS,
    TERMINAL, STARTED, STOPPED, ENDED, FAILED, CRIU_ENDED,
    FAULT, TREE_STOPPED, TREE_CONTINUED, WRITTEN, IPC, OWN_FILES, TIDIED, OPEN_FILES, SPOOLED, CONNECTION, DUMPING,
    RESTORING,
    RESTS, NEXT, SIGNAL, SUSPEND, GOES_ON, STOP_TREE, CONTINUE_TREE, WRITE_BACK, ASK_IPC, ASK_OWN_FILES, TIDY,
    LIST_OPEN_FILES, SPOOL, DUMP, RESTORE,
)  # fmt: skip
ANSWERS = (*(message.answer for message in TABLE if message.answer is not None), FAULT)
_KNOWN = {(message.sender, message.receiver, message.letter): message for message in TABLE}


class UnknownMessage(Exception):
    """A message that is not in the table: the two ends are not of one rexec."""


def pack(message: Message, payload: bytes = b"") -> bytes:
    """Return the bytes of a message as they cross the socket."""
    return message.letter + payload


def send(sock: socket.socket, message: Message, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Send a message to the process at the other end. Raises BrokenPipeError, ConnectionError if it has ended."""
    if fds:
        socket.send_fds(sock, [pack(message, payload)], fds)
    else:
        sock.send(pack(message, payload))


def receive(sock: socket.socket, sender: str, receiver: str) -> tuple[Message | None, bytes, list[int]]:
    """Wait for the next message: which, its payload and its descriptors; None: the other end has been closed.

    Raises UnknownMessage, and what recvmsg(2) raises.
    """
    said, fds, _, _ = socket.recv_fds(sock, MOST, MOST_FDS)
    if not said:
        return None, b"", fds
    message = _KNOWN.get((sender, receiver, said[:1]))
    if message is None:
        raise UnknownMessage("no message of %s to %s begins with %r" % (sender, receiver, said[:1]))
    return message, said[1:], fds
