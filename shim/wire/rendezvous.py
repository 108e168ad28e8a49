"""How the agent of a run is found again when its stream was cut: who it is, and what is asked and said there.
Shipped; used at both ends.

A second program on the host, shim/execute/rejoin.py, is asked one line of JSON and answers in such lines. It hands its
own standard input and output to the agent, so the last line of them is the agent's, and what follows is the session.
"""

from __future__ import annotations

import os

from remoteio.errors import ProtocolError

JOIN, END = "join", "end"  # what may be asked; and, by a home that knows nothing of the job any more:
TAKE = "take"
JOINED = "joined"  # the agent's own answer, with its position
GONE = "gone"  # the agent has ended, and with it the job
ELSEWHERE = "elsewhere"  # this is another machine
WAITS = "waits"  # the agent is there and does not answer: it is stopped, or frozen
REFUSED = "refused"  # something is wrong that another try may not have
LINE = 8192  # bytes of a line
SECRET = 32  # bytes
_MOST = (1 << 63) - 1


class Whereabouts:
    """Where an agent is, so that no other is taken for it, and none that has ended for one that has not.

    path     of its socket
    node     the machine's own name
    boot     which of its boots (/proc/sys/kernel/random/boot_id, random(4))
    pid      of the agent
    started  when that was started, in ticks after the boot: its number may be another's by now (proc_pid_stat(5))
    """

    __slots__ = ("boot", "node", "path", "pid", "started")

    def __init__(self, path: str, node: str, boot: str, pid: int, started: int) -> None:
        self.path, self.node, self.boot, self.pid, self.started = path, node, boot, pid, started

    def pack(self) -> list[bytes]:
        """Make the items of HELLO's `door`."""
        numbers = [b"%d" % self.pid, b"%d" % self.started]
        return [os.fsencode(self.path), os.fsencode(self.node), self.boot.encode(), *numbers]

    @classmethod
    def unpack(cls, items: list[bytes]) -> Whereabouts:
        """Read what ``pack`` has made. Raises ProtocolError."""
        if len(items) != 5 or any(len(item) > 4096 for item in items) or not items[0].startswith(b"/"):
            raise ProtocolError("where its agent is found again is not a path, a machine, a boot and a process")
        path, node, boot, pid, started = items
        if not (pid.isdigit() and started.isdigit() and max(len(pid), len(started)) < 20):
            raise ProtocolError("the process of its agent is not told by two numbers")
        return cls(os.fsdecode(path), os.fsdecode(node), boot.decode("ascii", "replace"), int(pid), int(started))


def line(**fields: object) -> bytes:
    """Write one line: a question or an answer."""
    import json  # where it is needed: an agent's start does without, and hardly any is joined

    return json.dumps(fields).encode() + b"\n"


def question(want: str, secret: bytes, where: Whereabouts, position: int) -> bytes:
    """Write what a relay is asked. `position`: how much of the session has come here."""
    door = [item.decode("utf-8", "surrogateescape") for item in where.pack()]
    return line(want=want, secret=secret.hex(), door=door, position=position)


def asked(data: bytes) -> tuple[str, bytes, Whereabouts, int]:
    """Read what ``question`` has written. Raises ProtocolError."""
    import json

    try:
        fields = json.loads(data)
        door = [item.encode("utf-8", "surrogateescape") for item in fields["door"]]
        want, secret, position = fields["want"], bytes.fromhex(fields["secret"]), int(fields["position"])
    except (ValueError, TypeError, LookupError, AttributeError) as e:
        raise ProtocolError("what is asked of the host is of another version of rexec (%s)" % e) from e
    if want not in (JOIN, END, TAKE) or len(secret) != SECRET:
        raise ProtocolError("what is asked of the host is of another version of rexec")
    return want, secret, Whereabouts.unpack(door), position


def answer(data: bytes) -> tuple[str, int, str]:
    """Read an answer: which it is, the agent's position, and a sentence. Raises ProtocolError."""
    import json

    try:
        fields = json.loads(data)
    except ValueError as e:
        raise ProtocolError("what answers there is no rexec: %r" % data[:80]) from e
    if not isinstance(fields, dict) or fields.get("said") not in (JOINED, GONE, ELSEWHERE, WAITS, REFUSED):
        raise ProtocolError("what answers there is no rexec: %r" % data[:80])
    position, why = fields.get("position", 0), fields.get("why", "")
    if not isinstance(position, int) or not 0 <= position <= _MOST or not isinstance(why, str):
        raise ProtocolError("it answers with a position or a reason that is none")
    return fields["said"], position, why[:1000]


def started(stat: bytes) -> tuple[str, int]:
    """Return of a /proc/PID/stat the state (Z: it has ended) and when the process was started."""
    fields = stat.rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[19])
