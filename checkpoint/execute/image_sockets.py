"""The internet sockets of an image, made to fit the host that it is restored on, before criu reads them. Shipped.

A job has the host's own network: what it was bound to there need not be had here, and criu gives up at the first socket
that it cannot bind or connect. So each is tried here first, and written anew where it must be another:

- A TCP connection that is not kept becomes a socket that is not connected: to read it is an error (ENOTCONN). criu's
  own way, tcp_close, shuts it down, and whoever reads it takes that for the end of what he was sent.
- A UDP socket connected to somebody outside the job asks for this host's own address there, and for another port if
  its own is taken: nobody else knows them but by what it sends.
- What else was bound to an address that this host has not is bound to the loopback's: nobody outside reaches it, as if
  the host had lost that address, and what the job says to itself by it goes on.
- A port that is taken is an error: the job waits for it.

Not taken: the next host's own address in place of the last one's, by which a service that only one network should
reach could be open to others.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from checkpoint.execute import criu_images as images
from checkpoint.execute.criu import CriuError
from checkpoint.execute.spool import Spool
from checkpoint.value import Value
from checkpoint.wire import protobuf

# images/fdinfo.proto, images/sk-inet.proto, images/tcp-stream.proto: the numbers of their fields
_FILE_INET = 4
_ID, _INODE, _FAMILY, _TYPE, _PROTOCOL, _STATE, _PORT, _TO_PORT = 1, 2, 3, 4, 5, 6, 7, 8
_ADDRESS, _TO_ADDRESS, _V6ONLY, _SHUTDOWN = 11, 12, 15, 19
_UNSENT = 12
# One of the sequence numbers is the FIN's: inq_seq and rcv_wup stand after it, and so rcv_wnd is shorter by one.
_BY_FIN = {2: -1, 17: -1, 16: 1}
_SHUT_BOTH = 3
CLOSED, CLOSE_WAIT, LISTENS = 7, 8, 10  # include/net/tcp_states.h
# What a connection becomes that is closed at one end or both, both of them in the image: the FIN counts as sent and
# lost, so that the kernel sends it again. criu would make one itself, as if it came from the other end; the kernel
# answers it within 40 ms, and if the other end has not been made by then, it resets the connection.
# FIN_WAIT2 -> FIN_WAIT1; CLOSE_WAIT -> ESTABLISHED, LAST_ACK and CLOSING -> FIN_WAIT1 (include/net/tcp_states.h)
_RESENDS = {5: 4, CLOSE_WAIT: 1, 9: 4, 11: 4}
_HAS_ITS_FIN = (CLOSE_WAIT, 9, 11)
_TCP, _UDP, _UDPLITE = socket.IPPROTO_TCP, socket.IPPROTO_UDP, 136
_MAPPED = b"\0" * 10 + b"\xff\xff"
_UNSPECIFIED, _LOOPBACK = {4: b"\0" * 4, 16: b"\0" * 16}, {4: b"\x7f\0\0\1", 16: b"\0" * 15 + b"\1"}


class InetSocket(Value):
    """A socket of the image.

    id              criu's, by which descriptors name it
    inode           the kernel's, by which its queues are named
    family          AF_INET, AF_INET6
    type, protocol  SOCK_STREAM …, IPPROTO_TCP …
    state           of include/net/tcp_states.h
    address, port   of its own; of 4 or 16 bytes
    to, to_port     of the other end; port 0: it is not connected
    v6only          it takes no IPv4
    """

    __slots__ = ("address", "family", "id", "inode", "port", "protocol", "state", "to", "to_port", "type", "v6only")
    id: int
    inode: int
    family: int
    type: int
    protocol: int
    state: int
    address: bytes
    port: int
    to: bytes
    to_port: int
    v6only: bool

    def __init__(
        self, *, id: int, inode: int, family: int, type: int, protocol: int, state: int, address: bytes, port: int,
        to: bytes, to_port: int, v6only: bool,
    ) -> None:  # fmt: skip
        self._set(
            id=id, inode=inode, family=family, type=type, protocol=protocol, state=state, address=address, port=port,
            to=to, to_port=to_port, v6only=v6only,
        )  # fmt: skip

    def but(self, **changes: object) -> InetSocket:
        """Copy it with those changes."""
        return InetSocket(**{**{name: getattr(self, name) for name in self.__slots__}, **changes})

    @property
    def ends(self) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
        """Both ends, each an address and a port; the address of IPv4 has 4 bytes also if IPv6 speaks it."""
        return (plain(self.address), self.port), (plain(self.to), self.to_port)


class PortError(CriuError):
    """One sentence: a port or an address of the job cannot be had on this host."""


class Changed(Value):
    """A socket that is to be another.

    socket   as it is to be
    words    what the job loses by it, the rest of a sentence, or ""
    """

    __slots__ = ("socket", "words")
    socket: InetSocket
    words: str

    def __init__(self, socket: InetSocket, words: str = "") -> None:
        self._set(socket=socket, words=words)


def plain(address: bytes) -> bytes:
    """Give the IPv4 address that an IPv6 address stands for (RFC 4291, 2.5.5.2), or the address itself."""
    return address[12:] if len(address) == 16 and address[:12] == _MAPPED else address


def text(address: bytes) -> str:
    """Write an address for people."""
    address = plain(address)
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


# ------------------------------------------------------------------------------------------------ the image


def fit(spool: Spool, keep_tcp: bool, alone: bool = False) -> list[str]:
    """Make the sockets of the image in the spool fit this host; say what the job loses, a sentence's rest each.

    `alone`: they are made in a network that has a loopback and nothing else, not in the one that is seen here.

    Raises CriuError, PortError (a port is taken), OSError.
    """
    files = images.entries(spool.read(images.FILES_NAME), images.FILES)
    found = {s.id: s for s in map(parse, files) if s is not None}
    if not found:
        return []
    names = Names(spool, alone)
    changed = fitted(list(found.values()), keep_tcp, names)
    out = [images.head(images.FILES)]
    for raw in files:
        socket_ = parse(raw)
        change = changed.get(socket_.id) if socket_ is not None else None
        out.append(images.entry(rewritten(raw, change.socket) if change is not None else raw))
    spool.write(images.FILES_NAME, b"".join(out))
    names_there = spool.names()
    for s in found.values():
        stream = "tcp-stream-%x.img" % s.inode
        if stream in names_there:
            now = changed[s.id].socket.state if s.id in changed else s.state
            _rewrite_stream(spool, stream, s.state in _HAS_ITS_FIN and now != s.state)
    return [change.words for change in changed.values() if change.words]


def parse(file: bytes) -> InetSocket | None:
    """Read the internet socket of a file_entry; None if it is something else. Raises CriuError."""
    try:
        raw = protobuf.content(protobuf.decode(file), _FILE_INET)
        if not raw:
            return None
        f = protobuf.decode(raw)
    except protobuf.ProtobufError as e:
        raise CriuError(f"an entry of it {e}") from e

    def number(field: int) -> int:
        return protobuf.integer(f, field) or 0

    family = number(_FAMILY)
    size = 4 if family == socket.AF_INET else 16
    return InetSocket(
        id=number(_ID), inode=number(_INODE), family=family, type=number(_TYPE), protocol=number(_PROTOCOL),
        state=number(_STATE), address=_address(f.get(_ADDRESS, []), size), port=number(_PORT),
        to=_address(f.get(_TO_ADDRESS, []), size), to_port=number(_TO_PORT), v6only=bool(number(_V6ONLY)),
    )  # fmt: skip


def _address(words: list[int | bytes], size: int) -> bytes:
    """Put an address together: words of 32 bits, in the order that memory has them."""
    raw = b"".join(struct.pack("=I", word & 0xFFFFFFFF) for word in words if isinstance(word, int))
    return raw[:size].ljust(size, b"\0")


def rewritten(file: bytes, new: InetSocket) -> bytes:
    """Write a file_entry anew with its internet socket as `new` has it. Raises ProtobufError."""
    out = b""
    for number, value, whole in protobuf.records(file):
        if number != _FILE_INET or not isinstance(value, bytes):
            out += whole
            continue
        closed = new.state == CLOSED and not new.port and not new.to_port
        gone = (_STATE, _PORT, _TO_PORT, _ADDRESS, _TO_ADDRESS, *([_SHUTDOWN] if closed else []))
        kept = b"".join(record for field, _, record in protobuf.records(value) if field not in gone)
        fields: list[tuple[int, int]] = [(_STATE, new.state), (_PORT, new.port), (_TO_PORT, new.to_port)]
        for field, address in ((_ADDRESS, new.address), (_TO_ADDRESS, new.to)):
            fields += [(field, word) for (word,) in struct.iter_unpack("=I", address)]
        if closed and new.protocol != _TCP:
            fields.append((_SHUTDOWN, _SHUT_BOTH))  # who waits for what comes is woken
        out += protobuf.encode([(_FILE_INET, kept + protobuf.encode(fields))])
    return out


def _rewrite_stream(spool: Spool, name: str, without_fin: bool) -> None:
    """Have what a connection had not sent yet count as sent and lost: the kernel sends it again, later.

    criu would send it while it makes the socket; the other end may not be there yet, and the connection be reset.
    `without_fin`: the end of the other's data has not come yet, see _RESENDS.
    """
    raw = spool.read(name)
    stream, at = images.first(raw, images.TCP_STREAM)
    fields = b""
    for number, value, whole in protobuf.records(stream):
        if without_fin and number in _BY_FIN and isinstance(value, int):
            whole = protobuf.encode([(number, (value + _BY_FIN[number]) & 0xFFFFFFFF)])
        fields += whole if number != _UNSENT else b""
    spool.write(name, raw[:8] + images.entry(fields + protobuf.encode([(_UNSENT, 0)])) + raw[at:])


# ------------------------------------------------------------------------------------------------ what fits


def fitted(sockets: list[InetSocket], keep_tcp: bool, names: Names) -> dict[int, Changed]:
    """Find the sockets that must be others here, by criu's id. Raises PortError."""
    held = {(s.protocol, *s.ends) for s in sockets if s.to_port}
    bound = {(s.protocol, plain(s.address), s.port) for s in sockets if s.port}
    own = {plain(s.address) for s in sockets}
    out = {}
    for s in sockets:
        to, port = s.ends[1]
        any_to = (b"\0" * len(to), b"\0" * 16) if to in own or to[:1] == b"\x7f" else ()
        if s.protocol == _TCP and port:
            change = _connection(s, keep_tcp, (s.protocol, *s.ends[::-1]) in held, names)
        elif s.protocol in (_UDP, _UDPLITE) and port and bound.isdisjoint((s.protocol, a, port) for a in (to, *any_to)):
            change = _asks_outside(s, names)
        else:
            change = _moved(s, names)
        if change.socket is not s:
            out[s.id] = change
    return out


def _connection(s: InetSocket, keep_tcp: bool, within: bool, names: Names) -> Changed:
    if s.type != socket.SOCK_STREAM:
        return _moved(s, names)
    # Its other end may be gone, having sent all that it had to.
    ended = s.state == CLOSE_WAIT and (plain(s.to)[:1] == b"\x7f" or s.to in (_LOOPBACK[16], s.address))
    if keep_tcp and within:
        change = _moved(s, names)
        state = _RESENDS.get(s.state, s.state)
        return Changed(change.socket.but(state=state), change.words) if state != s.state else change
    if keep_tcp and ended:
        return _moved(s, names)
    size = len(s.address)
    new = s.but(state=CLOSED, address=_UNSPECIFIED[size], port=0, to=_UNSPECIFIED[size], to_port=0)
    # What was not kept from the start was said when it left.
    return Changed(new, f"the TCP connection that is {names.of(s.id)}" if keep_tcp else "")


def _moved(s: InetSocket, names: Names) -> Changed:
    """Have a socket with addresses that this host has; its port must be free."""
    new = s
    if not names.has(s.address):
        new = new.but(address=_loopback(s.address))
    if s.to_port and not names.has(s.to):
        new = new.but(to=_loopback(s.to))
    if s.port and s.type != socket.SOCK_RAW and s.protocol in (_TCP, _UDP, _UDPLITE) and not names.alone:
        why = cannot_bind(new)
        if why == errno.EADDRINUSE:
            words = f"port {s.port}, which is {names.of(s.id)}, is taken on this host"
            raise PortError(f"{words}: the job can go on here when it is free")
        if why:
            raise PortError(
                f"{names.of(s.id)} cannot have port {s.port} of {text(new.address)} on this host: {os.strerror(why)}"
            )
    if new is s or s.to_port:
        return Changed(new)
    words = f"port {s.port} of {text(s.address)}, which is {names.of(s.id)}: this host does not have that address"
    return Changed(new, words + f", and the job has {text(new.address)} for it")


def _asks_outside(s: InetSocket, names: Names) -> Changed:
    if names.alone:  # nobody outside is to be reached from there
        size = len(s.address)
        return Changed(s.but(state=CLOSED, address=_UNSPECIFIED[size], port=0, to=_UNSPECIFIED[size], to_port=0))
    new = s if is_here(s.address) else s.but(address=_unspecified(s.address))
    if new.port and cannot_bind(new):
        new = new.but(port=0)
    try:
        with _like(new) as trial:
            trial.bind((text_of(new.address), 0))
            trial.connect((text_of(new.to), new.to_port))
    except OSError as e:
        size = len(s.address)
        new = s.but(state=CLOSED, address=_UNSPECIFIED[size], port=0, to=_UNSPECIFIED[size], to_port=0)
        return Changed(new, f"the UDP socket to {text(s.to)} that is {names.of(s.id)}: {e.strerror or e} on this host")
    return Changed(new)


def _loopback(address: bytes) -> bytes:
    return _MAPPED + _LOOPBACK[4] if plain(address) is not address else _LOOPBACK[len(address)]


def _unspecified(address: bytes) -> bytes:
    return _MAPPED + _UNSPECIFIED[4] if plain(address) is not address else _UNSPECIFIED[len(address)]


def text_of(address: bytes) -> str:
    """Write an address as bind(2) of its family takes it."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def is_here(address: bytes) -> bool:
    """Tell whether this host has that address, or any is meant; one that needs an interface's name is criu's affair."""
    address = plain(address)
    if not any(address) or address[:1] == b"\x7f" or address[:1] == b"\xfe":
        return True
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.bind((text_of(address), 0))
    except OSError as e:
        return e.errno != errno.EADDRNOTAVAIL
    return True


def cannot_bind(s: InetSocket) -> int:
    """Bind a socket as criu will, and listen if it is to: 0, or the errno why not."""
    try:
        with _like(s) as trial:
            trial.bind((text_of(s.address), s.port))
            if s.protocol == _TCP and s.state == LISTENS:
                trial.listen(1)
    except OSError as e:
        return 0 if e.errno == errno.EINVAL and s.address[:1] == b"\xfe" else e.errno or errno.EIO
    return 0


def _like(s: InetSocket) -> socket.socket:
    """Make a socket as criu makes one before it binds it (criu/sk-inet.c, open_inet_sk)."""
    made = socket.socket(s.family, s.type, s.protocol)
    if s.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(s.v6only))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return made


# ------------------------------------------------------------------------------------------------ whose they are


class Names:
    """Says who holds a file of the image, by criu's id, and knows which addresses there are; `alone`: see `fit`."""

    def __init__(self, spool: Spool, alone: bool = False) -> None:
        self._spool, self.alone = spool, alone
        self._holders: dict[int, tuple[int, int]] | None = None

    def has(self, address: bytes) -> bool:
        """Tell whether a socket can have that address."""
        if not self.alone:
            return is_here(address)
        address = plain(address)
        return not any(address[:-1]) or address[:1] == b"\x7f" or address[:1] == b"\xfe"

    def of(self, id: int) -> str:
        """Name the process and the descriptor of a file. Raises CriuError, ProtobufError, OSError."""
        if self._holders is None:
            self._holders = {file: (pid, number) for file, pid, number in images.holders(self._spool)}
        if id not in self._holders:
            return "a descriptor of the job"
        pid, number = self._holders[id]  # criu has the job's own numbers: it was in its namespace
        core = protobuf.decode(images.first(self._spool.read(f"core-{pid}.img"), images.CORE)[0])
        task = protobuf.decode(protobuf.content(core, 3))  # images/core.proto
        return f"descriptor {number} of process {pid} ({protobuf.content(task, 6).decode(errors='replace')})"
