"""The sockets of a running job: which connections a move keeps or closes, and what of them CRIU cannot save. Shipped.

From /proc/net/tcp and the kernel's sock_diag (sock_diag(7)), before anything is frozen. Connections are kept all or
none, see connections().

What is under way is nowhere that CRIU could take it from where an end of the connection is in no process: not accepted
yet, or closed. A moment later it may be read: so such a job is refused now, and tried again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from contextlib import suppress

from checkpoint.execute.image_sockets import CLOSE_WAIT, CLOSED, LISTENS, plain
from checkpoint.execute.syscalls import copied
from checkpoint.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from checkpoint.execute.preflight import Descriptor, Task

    End = tuple[bytes, int]
    Held = dict[int, tuple[Task, Descriptor]]

_UNACCEPTED = (1, 3, CLOSE_WAIT)  # of a socket that no process has: TCP_ESTABLISHED, TCP_SYN_RECV
_UNREAD = 0x541B  # SIOCINQ of asm-generic/ioctls.h
# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_SOCK_DIAG, _BY_FAMILY, _REQUEST_ALL, _DONE, _ERROR = 4, 20, 0x301, 3, 2
_SHOW_FILE, _SHOW_PEER, _SHOW_PENDING, _SHOW_QUEUES = 2, 4, 8, 16
_SHOW = _SHOW_FILE | _SHOW_PEER | _SHOW_PENDING | _SHOW_QUEUES
_FILE, _PEER, _PENDING, _QUEUES = 1, 2, 3, 4


class Tcp(Value):
    """A line of /proc/net/tcp or tcp6.

    inode           of the socket; 0: of no process, or not yet
    local, remote   address and port of both ends; the address of IPv4 has 4 bytes also if IPv6 speaks it
    state           TCP_ESTABLISHED … of include/net/tcp_states.h
    """

    __slots__ = ("inode", "local", "remote", "state")
    inode: int
    local: End
    remote: End
    state: int

    def __init__(self, inode: int, local: End, remote: End, state: int) -> None:
        self._set(inode=inode, local=local, remote=remote, state=state)


class Unix(Value):
    """A unix socket.

    inode     its own
    peer      that of the socket that it is connected to, or 0
    pending   inodes of those that have connected and are not accepted yet, 0 for one that is closed; else ()
    unread    bytes, or of one that listens connections, that wait to be taken
    sent      bytes that its other end has not read yet
    file      inode of the file that it is bound to, 32 bits of it; 0: none
    """

    __slots__ = ("file", "inode", "peer", "pending", "sent", "unread")
    inode: int
    peer: int
    pending: tuple[int, ...]
    unread: int
    sent: int
    file: int

    def __init__(self, inode: int, peer: int, pending: tuple[int, ...], unread: int, sent: int, file: int) -> None:
        self._set(inode=inode, peer=peer, pending=pending, unread=unread, sent=sent, file=file)


class Connection(Value):
    """A TCP connection of the job.

    words   "the TCP connection that is descriptor 3 of process 12 (sh)"
    other   where its other end is: WITHIN the job, or gone having sent all; OUTSIDE; UNACCEPTED: within, but nobody has
            it yet; CLOSED_UNSENT: gone, with data under way
    """

    __slots__ = ("other", "words")
    words: str
    other: str

    def __init__(self, words: str, other: str) -> None:
        self._set(words=words, other=other)


WITHIN, OUTSIDE, UNACCEPTED, CLOSED_UNSENT = (
    "within the job", "outside the job", "not accepted yet", "closed at its other end, with data under way",
)  # fmt: skip


def held(tasks: list[Task]) -> Held:
    """Map the inode of each socket of the tree → who has it, and as which descriptor."""
    out: Held = {}
    for task in tasks:
        for fd in task.descriptors:
            if fd.target.startswith("socket:["):
                out.setdefault(int(fd.target[8:-1]), (task, fd))
    return out


def connections(tasks: list[Task], before: list[Tcp], tcp: list[Tcp]) -> list[Connection]:
    """List the TCP connections of the tree, looked at after `before` and before `tcp`. Not obstacles.

    All are kept, or none: criu without a lock on the network cannot take one apart that others send to. What was not
    there before, or not in this process, may be the job's without having been seen: it counts as WITHIN, and if its
    other end is not in the image, it is closed by who goes on from that (image_sockets.py).
    """
    ours = held(tasks)
    known = {(t.local, t.remote, t.inode) for t in before}
    table = {(t.local, t.remote): t for t in tcp if t.state not in (CLOSED, LISTENS)}
    ports = {t.local[1] for t in tcp if t.state == LISTENS and t.inode in ours}
    out = []
    for (local, remote), row in table.items():
        if row.inode not in ours:
            continue
        task, fd = ours[row.inode]
        there = table.get((remote, local))
        here = remote[0][:1] == b"\x7f" or remote[0] in (b"\0" * 15 + b"\1", local[0])
        if (there is not None and there.inode in ours) or (here and row.state == CLOSE_WAIT and _gone(there)):
            other = WITHIN
        elif there is None or there.inode:
            new = any(t is not None and (t.local, t.remote, t.inode) not in known for t in (row, there))
            other = WITHIN if new else OUTSIDE
        elif not _gone(there):
            other = UNACCEPTED if remote[1] in ports else OUTSIDE
        else:
            other = CLOSED_UNSENT
        words = f"the TCP connection that is descriptor {fd.number} of process {task.pid} ({task.name})"
        out.append(Connection(words, other))
    return out


def _gone(there: Tcp | None) -> bool:
    """Tell whether no process has that end any more; who has a FIN of it (CLOSE_WAIT) has all that came before."""
    return there is None or (not there.inode and there.state not in _UNACCEPTED)


def ended_unread(tasks: list[Task], tcp: list[Tcp]) -> list[str]:
    """Say which TCP sockets are closed at both ends and not read to their end: CRIU has no queue of a closed one."""
    listed = {row.inode for row in tcp}
    out = []
    for inode, (task, fd) in held(tasks).items():
        if inode not in listed and fd.protocol in ("TCP", "TCPv6"):
            size = _unread(task.host_pid, fd.number)
            if size:
                out.append(_cannot(task, fd, f"a TCP connection that has ended with {size} bytes not read yet"))
    return out


def _unread(pid: int, number: int) -> int:
    """Count the bytes that wait in that process's socket; 0 if that cannot be had: it ended, or may not be asked."""
    try:
        copy = copied(pid, number)
    except OSError:
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(copy, _UNREAD, b"\0" * 4))[0])
    except OSError:
        return 0  # another file by now
    finally:
        os.close(copy)


def pending(tasks: list[Task], unix: list[Unix]) -> list[str]:
    """Say which unix connections CRIU cannot save because they are not accepted yet."""
    ours = held(tasks)
    sent = {row.inode: row.sent for row in unix}
    out = []
    for row in unix:
        for client in row.pending:
            listens = row.inode in ours
            at = client if client in ours else row.inode if listens and not client else 0
            if not at:
                continue
            if client and not listens:
                why = "a unix socket to a process outside the job"
            elif client and not sent.get(client):
                continue
            elif client:
                why = "a unix socket with data under way in a connection that is not accepted yet"
            else:
                why = "a unix socket with a connection that was closed before it is accepted"
            out.append(_cannot(*ours[at], why))
    return out


def outside(tasks: list[Task], before: list[Unix], after: list[Unix]) -> list[str]:
    """Say which unix sockets are connected to another process than `tasks`, all of the tree, looked at in between.

    What was connected before and is so after was in a process all the time; unless it is under way in a message.
    """
    ours = held(tasks)
    rows = [row for row in after if row.inode in ours]
    if any(row.unread for row in rows):
        return []  # CRIU finds out
    known = {(row.inode, row.peer) for row in before}
    what = "a unix socket to a process outside the job"
    return [
        _cannot(*ours[row.inode], what) for row in rows
        if row.peer and row.peer not in ours and (row.inode, row.peer) in known
    ]  # fmt: skip


def _cannot(task: Task, fd: Descriptor, what: str) -> str:
    return f"process {task.pid} ({task.name}) has descriptor {fd.number} ({fd.target}), {what}, which CRIU cannot save"


# ------------------------------------------------------------------------------------------------ the look


def parse_tcp(text: str) -> list[Tcp]:
    """Read /proc/net/tcp or tcp6 (proc_net_tcp.txt of the kernel)."""
    rows = (line.split() for line in text.splitlines()[1:])
    return [Tcp(int(w[9]), _end(w[1]), _end(w[2]), int(w[3], 16)) for w in rows if len(w) > 9]


def _end(text: str) -> End:
    """Read "0100007F:1F90": words of 32 bits as memory has them, and a port."""
    words, port = text.split(":")
    address = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    return plain(address), int(port, 16)


def tcp(root: int, proc: str = "/proc") -> list[Tcp]:
    """List the TCP sockets of the tree's network namespace."""
    out = []
    for name in ("tcp", "tcp6"):
        # there is no tcp6 without IPv6, and neither of a process that has just ended: the dump says so
        with suppress(FileNotFoundError), open(f"{proc}/{root}/net/{name}") as f:
            out += parse_tcp(f.read())
    return out


def unix() -> list[Unix]:
    """List the unix sockets of this process's network namespace, which is a job's too. Raises OSError."""
    head = struct.pack("=IHHII", 16 + 24, _BY_FAMILY, _REQUEST_ALL, 1, 0)
    asked = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW, 0, 0)
    out: list[Unix] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as link:
        link.send(head + asked)
        while True:
            raw, at = link.recv(1 << 18), 0
            while at < len(raw):
                size, kind = struct.unpack_from("=IH", raw, at)
                if kind == _DONE:
                    return out
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", raw, at + 16)[0]
                    if number == errno.ENOENT:
                        return out  # a kernel without unix_diag: criu says so
                    raise OSError(number, f"unix sockets cannot be listed: {os.strerror(number)}")
                out.append(parse_unix(raw[at + 16 : at + size]))
                at += (size + 3) & ~3


def parse_unix(raw: bytes) -> Unix:
    """Read a struct unix_diag_msg and the attributes after it (linux/unix_diag.h)."""
    inode, at = struct.unpack_from("=I", raw, 4)[0], 16
    waiting: tuple[int, ...] = ()
    peer = unread = sent = file = 0
    while at + 4 <= len(raw):
        size, kind = struct.unpack_from("=HH", raw, at)
        value = raw[at + 4 : at + size]
        if kind == _PEER:
            peer = struct.unpack("=I", value)[0]
        elif kind == _PENDING:
            waiting = struct.unpack(f"={len(value) // 4}I", value)
        elif kind == _FILE:
            file = struct.unpack_from("=I", value)[0]
        elif kind == _QUEUES:
            unread, sent = struct.unpack("=II", value)
        at += max((size + 3) & ~3, 4)
    return Unix(inode, peer, waiting, unread, sent, file)
