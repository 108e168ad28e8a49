"""Carries connections over a job's link: sockets on one side, FORWARD frames on the other. Shipped; used at both ends.

The rules are in forwards.py. One thread does all of one job's connections, by poll(2): it listens, connects, reads,
writes and sends. The link's thread only takes note of what came.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from remoteio.wire.frames import FORWARD
from remoteio.wire.link import Link, LinkClosed
from shim.wire import loopback
from shim.wire.forwards import CHUNK, COUNT, DATA, END, MOST, RESET, TAKEN, Connection, Connections, Side
from shim.wire.forwards import message as head
from shim.wire.listeners import Listeners
from shim.wire.stream_pumps import guarded
from shim.wire.wakeup import Wakeup

LAST = 10.0  # seconds in which what a job has sent last is taken, or is lost
_ENDED = select.POLLERR | select.POLLHUP
_NOT_YET = (errno.EAGAIN, errno.EINPROGRESS, errno.EINTR)


class _Carried:
    """What carries a connection at this end: its socket, and how far that is."""

    __slots__ = ("connected", "connection", "events", "shut", "sock")

    def __init__(self, connection: Connection, sock: socket.socket, connected: bool) -> None:
        self.connection, self.sock, self.connected = connection, sock, connected
        self.shut = False  # all is written, and its reader knows
        self.events = 0  # what it waits for in poll(2)

    def is_connected(self) -> None:
        """Take note that it is. Raises OSError: it is not, or to itself, as it was given the number that it asked."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error or self.sock.getsockname() == self.sock.getpeername():
            raise ConnectionRefusedError
        self.connected = True

    def end(self) -> None:
        """Have its reader know that all is written."""
        self.shut = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone


class Forwarder:
    """Carries the connections of one job at one end of a link, and of another link after that.

    before  waits until what the job has said may be told. Raises ConnectionResetError: it is not to be told
    done    it has stopped

    Threads: its own does what is said above; the link's calls `put`; any may call `listen` (once), `begin`, `reset` and
    `stop`. `_lock` guards `_connections` with all that these have, `_touched` and `_until`; nothing is waited for, and
    nothing sent, while it is held. `_carried` is its own thread's.
    """

    def __init__(self, side: Side) -> None:
        self._side = side
        self._listeners = Listeners(side)
        self._lock = threading.Lock()
        self._connections: Connections | None = None  # None: there is no link
        self._touched: dict[Connection, None] = {}  # to be looked at, in that order
        self._until: float | None = None  # when it stops at the latest, if it is to
        self._carried: dict[int, _Carried] = {}
        self._poll, self._wakeup = select.poll(), Wakeup()
        self.before: Callable[[], None] = lambda: None
        self.done = threading.Event()

    def listen(self) -> None:
        """Listen where somebody at this end is to connect. Raises RexecError."""
        self._listeners.listen()
        self._wakeup.set()

    def start(self, fail: Callable[[BaseException], None]) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=guarded, args=(self._run, fail), name="forwarder", daemon=True).start()

    def begin(self, link: Link | None) -> None:
        """Have what connects from now on go over this link, or be reset; what went over the one before is reset."""
        with self._lock:
            self._drop()
            first = int.from_bytes(os.urandom(3), "little") if self._side.at_home else 0
            self._connections = None if link is None else Connections(self._side, link, first)
        self._wakeup.set()

    def reset(self) -> None:
        """Reset all connections: another home has taken the other end, and knows of none."""
        with self._lock:
            if self._connections is not None:
                self._drop()
                self._connections.restart()
        self._wakeup.set()

    def _drop(self) -> None:
        for connection in () if self._connections is None else self._connections.known.values():
            connection.lost = True
            self._touched[connection] = None

    def put(self, payload: bytes | memoryview) -> None:
        """Take a FORWARD frame; empty: as ``stop``. Never blocks. Raises ProtocolError."""
        if not payload:
            self.stop()
            return
        with self._lock:
            about = None if self._connections is None else self._connections.take(payload)
            if about is not None:
                self._touched[about] = None
        self._wakeup.set()

    def stop(self) -> None:
        """End soon: the job has ended. At its host all that it sent last is sent, and at home it is written."""
        with self._lock:
            if self._until is None:
                self._until = time.monotonic() + LAST
        self._wakeup.set()

    # its own thread

    def _run(self) -> None:
        self._poll.register(self._wakeup.fd, select.POLLIN)
        try:
            over = False
            while True:
                found = self._poll.poll(0 if over else self._wait())
                for fd, events in found:
                    if fd == self._wakeup.fd:
                        self._wakeup.clear()
                    elif fd in self._carried:
                        self._goes_on(self._carried[fd], events)
                    elif fd in self._listeners:
                        self._accept(fd)
                if over and not found:
                    return
                over = self._look()
        finally:
            for carried in list(self._carried.values()):
                carried.connection.told = True  # a reset would take away what is being written there
                self._close(carried)
            self._listeners.close()
            self._wakeup.close()
            self.done.set()

    def _wait(self) -> int | None:
        """Let in who connects, if there is room; returns in how many milliseconds it is to be looked again."""
        with self._lock:
            room = self._connections is None or self._connections.ours() < MOST
            until = self._until
        self._listeners.wait(self._poll, room)
        return None if until is None else max(int((until - time.monotonic()) * 1000), 0)

    def _look(self) -> bool:
        """Look at what the link has changed. True: it is to stop, and all is done."""
        with self._lock:
            touched, self._touched = self._touched, {}
        carrying = {carried.connection: carried for carried in self._carried.values()} if touched else {}
        for connection in touched:
            if connection in carrying:
                self._settle(carrying[connection])
            elif connection.lost:
                self._reset(connection)
            elif not connection.begun:
                self._connect(connection)
        with self._lock:
            if self._until is None:
                return False
            known = () if self._connections is None else self._connections.known.values()
            left = any(each.out if self._side.at_home else not each.sent_end for each in known)
            return not left or time.monotonic() >= self._until

    def _accept(self, fd: int) -> None:
        let_in = self._listeners.accept(fd)
        if let_in is None:
            return
        with self._lock:
            opened = None if self._connections is None else self._connections.open(let_in[1])
        if opened is None:
            loopback.abort(let_in[0])
            return
        self._send(*opened)
        self._carry(opened[0], let_in[0], True)

    def _connect(self, connection: Connection) -> None:
        connection.begun = True
        sock = _connecting(connection.forward.target)
        if sock is None:
            self._lose(connection)
        else:
            self._carry(connection, sock, False)

    def _carry(self, connection: Connection, sock: socket.socket, connected: bool) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # whoever sends has waited as he likes
        self._carried[sock.fileno()] = carried = _Carried(connection, sock, connected)
        self._settle(carried)

    def _goes_on(self, carried: _Carried, events: int) -> None:
        connection = carried.connection
        try:
            if not carried.connected:
                carried.is_connected()
            else:
                if events & (select.POLLOUT | _ENDED):
                    self._write(carried)
                if events & (select.POLLIN | _ENDED) and not connection.sent_end:
                    self._read(carried)
        except OSError as e:
            if e.errno not in _NOT_YET:
                self._lose(connection)
        self._settle(carried)

    def _read(self, carried: _Carried) -> None:
        connection = carried.connection
        with self._lock:
            room = min(connection.room, CHUNK)
        if not room:
            return
        data = carried.sock.recv(room)
        with self._lock:
            connection.room -= len(data)
            connection.sent_end = not data
        self.before()
        self._send(connection, head(DATA if data else END, connection.number), data)

    def _write(self, carried: _Carried) -> None:
        connection = carried.connection
        with self._lock:  # it does not wait
            if not connection.out:
                return
            written = carried.sock.send(connection.out)
            del connection.out[:written]
            connection.owed -= written
        self._send(connection, head(TAKEN, connection.number), COUNT.pack(written))

    def _settle(self, carried: _Carried) -> None:
        """Do what is due once something has changed, and wait for what is to come."""
        connection = carried.connection
        with self._lock:
            ends = connection.came_end and not connection.out and carried.connected
            over = connection.lost or (ends and connection.sent_end)
            events = select.POLLOUT if connection.out or not carried.connected else 0
            if carried.connected and connection.room and not connection.sent_end:
                events |= select.POLLIN
        if ends and not carried.shut and not connection.lost:
            carried.end()
        if over:
            self._close(carried)
        elif events != carried.events:
            carried.events = events
            if events:
                self._poll.register(carried.sock, events)
            else:
                self._poll.unregister(carried.sock)

    def _lose(self, connection: Connection) -> None:
        """Have it be reset at both ends."""
        connection.lost = True
        with self._lock:
            self._touched[connection] = None
        self._wakeup.set()

    def _reset(self, connection: Connection) -> None:
        """Tell the other end that it is reset."""
        with self._lock:
            if self._connections is not None:
                self._connections.forget(connection)
        self._send(connection, head(RESET, connection.number))

    def _close(self, carried: _Carried) -> None:
        """Let go of it: it is over, or all is."""
        connection = carried.connection
        if carried.events:
            self._poll.unregister(carried.sock)
        del self._carried[carried.sock.fileno()]
        if carried.shut and not connection.lost:
            carried.sock.close()  # who reads there has all that was written before the end
        else:
            loopback.abort(carried.sock)
        if connection.sent_end and connection.came_end and not connection.lost:
            with self._lock:
                if self._connections is not None:
                    self._connections.forget(connection)
        else:
            self._reset(connection)

    def _send(self, connection: Connection, *payload: bytes) -> None:
        """Send a frame of it, unless all is said; it may have to wait."""
        if connection.told:
            return
        connection.told = payload[0][0] == RESET
        try:
            connection.link.send(FORWARD, *payload)
        except LinkClosed:  # whoever receives says so
            connection.told = True
            self._lose(connection)


def _connecting(target: tuple[str, int]) -> socket.socket | None:
    """Begin to connect; None: nobody listens there, or there is no descriptor left for it."""
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return None
    sock.setblocking(False)
    if sock.connect_ex(target) in (0, *_NOT_YET):
        return sock
    sock.close()
    return None
