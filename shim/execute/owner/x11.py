"""X11 displays as tellers of the owner's input: the MIT-SCREEN-SAVER extension. Shipped: bare python3 >= 3.9.

What is said on the wire is in x11_wire.py.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

from shim.execute.owner import x11_wire
from shim.execute.owner.source import LOOK, RESCAN, Source
from shim.wire.wakeup import await_any

# The server counts in whole milliseconds.
_ROUNDING = 0.003
# A display that refused us, or hangs, is asked again this much later: each try may cost half a second.
RETRY = 60.0


class X11Error(Exception):
    """A display cannot be asked; the text is a clause that says why."""


def authority_files(server: int) -> list[str]:
    """Tell where the cookie of the server with this process id may be: its own -auth file, and this user's."""
    files = []
    try:
        with open(f"/proc/{server}/cmdline", "rb") as cmdline:
            arguments = cmdline.read().split(b"\0")
    except OSError:
        # Ended, or hidden from us (hidepid): the other places remain.
        arguments = []
    if b"-auth" in arguments[:-1]:
        files.append(os.fsdecode(arguments[arguments.index(b"-auth") + 1]))
    if "XAUTHORITY" in os.environ:
        files.append(os.environ["XAUTHORITY"])
    files.append(f"/run/user/{os.getuid()}/gdm/Xauthority")
    files.append(os.path.join(os.path.expanduser("~"), ".Xauthority"))
    return files


class Display:
    """A connection to one X server. X11Error if it cannot be asked for idle times."""

    __slots__ = ("_asked_at", "_buffer", "_question", "_socket", "name")

    def __init__(self, path: str, timeout: float = 0.5) -> None:
        number = os.path.basename(path)[1:]
        self.name = ":" + number
        self._asked_at: float | None = None
        self._buffer = b""
        try:
            setup = self._connect(path, number, timeout)
            major = self._extension(b"MIT-SCREEN-SAVER")
            if major == 0:
                raise X11Error(f"display {self.name} lacks the extension MIT-SCREEN-SAVER")
            if self._extension(b"XWAYLAND") != 0:
                raise X11Error(f"display {self.name} is Xwayland, which sees only part of the input")
            self._question = x11_wire.query_info(major, x11_wire.root_window(setup))
            self._socket.setblocking(False)
        except (OSError, struct.error, IndexError) as error:
            self.close()
            raise X11Error(f"display {self.name} cannot be asked: {error}") from None
        except X11Error:
            self.close()
            raise

    def _connect(self, path: str, number: str, timeout: float) -> bytes:
        """Tries without a cookie, then each one that can be read; the server's setup."""
        reason = ""
        tried: list[bytes] = [b""]
        for cookie in tried:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._socket.sendall(x11_wire.setup_request(cookie))
            head = self._exactly(8)
            (length,) = struct.unpack_from("<H", head, 6)
            body = self._exactly(length * 4)
            if head[0] == 1:
                return body
            reason = body[: head[1]].decode(errors="replace").strip()
            if not cookie:
                credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                tried += _readable_cookies(struct.unpack("iII", credentials)[0], number)
            self._socket.close()
        raise X11Error(f"display {self.name} does not admit this user ({reason})")

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise X11Error(f"display {self.name} closed the connection")
            data += part
        return data

    def _extension(self, name: bytes) -> int:
        """The major opcode of an extension, 0 if the server lacks it."""
        self._socket.sendall(x11_wire.query_extension(name))
        reply = self._exactly(x11_wire.REPLY)
        if reply[0] != 1:
            raise X11Error(f"display {self.name} answered QueryExtension with an error")
        return x11_wire.major_opcode(reply)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()

    def ask(self) -> None:
        """Sends the question for the idle time, unless one is on its way."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            try:
                self._socket.sendall(self._question)
            except OSError as error:
                raise X11Error(f"display {self.name} is gone: {error.strerror}") from None

    def answer(self) -> tuple[float, float] | None:
        """Tell between which times the last input was, if the answer has come; never waits.

        The server answered at some time between our asking and our reading, which may be late: so it is a span.
        """
        try:
            part = self._socket.recv(4096)
        except BlockingIOError:
            return None
        except OSError as error:
            raise X11Error(f"display {self.name} is gone: {error.strerror}") from None
        if not part:
            raise X11Error(f"display {self.name} closed the connection")
        self._buffer += part
        span = None
        while len(self._buffer) >= x11_wire.REPLY:
            packet, self._buffer = self._buffer[: x11_wire.REPLY], self._buffer[x11_wire.REPLY :]
            # Events that nobody can refuse (MappingNotify) come between; they are 32 bytes long too.
            if packet[0] == 0:
                raise X11Error(f"display {self.name} answered QueryInfo with an error")
            if packet[0] == 1 and self._asked_at is not None:
                idle = x11_wire.idle_seconds(packet)
                span = self._asked_at - idle, time.monotonic() - idle
                self._asked_at = None
        return span


def _readable_cookies(server: int, number: str) -> list[bytes]:
    found = []
    for path in authority_files(server):
        try:
            with open(path, "rb") as file:
                found += x11_wire.cookies(file.read(), number)
        except OSError:
            # Not there, or not ours: the next place.
            continue
    return list(dict.fromkeys(found))


class X11Source(Source):
    """Every X display of the machine that lets us in."""

    name = "x11"
    seat = True
    interval = LOOK

    def __init__(self, now: float, sockets: str = "/tmp/.X11-unix") -> None:
        self._sockets = sockets
        self._epoll = select.epoll()
        self._displays: dict[str, Display] = {}
        self._lasts: dict[str, float] = {}
        self._refused: dict[str, tuple[str, float]] = {}
        self._last: float | None = None
        self._asked = now
        self._scan(now)

    def absent(self) -> str | None:
        if self._displays:
            return None
        return next((why for why, _ in self._refused.values()), f"no display below {self._sockets}")

    def displays(self) -> set[str]:
        """Return the names (":0") of the displays that are seen."""
        return {display.name for display in self._displays.values()}

    def fileno(self) -> int | None:
        return self._epoll.fileno()

    def last_input(self, now: float) -> float | None:
        return None if self._last is None else min(self._last, now)

    def close(self) -> None:
        for display in self._displays.values():
            display.close()
        self._epoll.close()

    def poll(self, now: float) -> str | None:
        touched = None
        ask = now - self._asked >= self.interval * 0.9
        if ask:
            self._asked = now
        for path, display in list(self._displays.items()):
            try:
                if self._note(path, display.answer()):
                    touched = f"display {display.name}"
                if ask:
                    display.ask()
            except X11Error as error:
                self._refused[path] = str(error), now
                display.close()
                del self._displays[path], self._lasts[path]
        if now - self._scanned >= RESCAN:
            self._scan(now)
        return touched

    def _note(self, path: str, span: tuple[float, float] | None) -> bool:
        if span is None:
            return False
        earliest, latest = span
        before = self._lasts.get(path)
        touched = before is not None and earliest > before + _ROUNDING
        # The same input, seen again, is known the more exactly.
        self._lasts[path] = latest if before is None or touched else min(before, latest)
        self._last = max(self._lasts.values())
        return touched

    def _scan(self, now: float) -> None:
        self._scanned = now
        try:
            names = [name for name in os.listdir(self._sockets) if name[:1] == "X" and name[1:].isdecimal()]
        except FileNotFoundError:
            names = []
        paths = [os.path.join(self._sockets, name) for name in names]
        self._refused = {
            path: refusal for path, refusal in self._refused.items() if path in paths and now - refusal[1] < RETRY
        }
        for path in paths:
            if path in self._displays or path in self._refused:
                continue
            try:
                display = Display(path)
            except X11Error as error:
                self._refused[path] = str(error), now
                continue
            try:
                # The first answer is waited for: without it the display says nothing about its idle time.
                display.ask()
                if not await_any([display.fileno()], 0.5):
                    raise X11Error(f"display {display.name} does not answer")
                self._note(path, display.answer())
            except X11Error as error:
                self._refused[path] = str(error), now
                display.close()
                continue
            self._displays[path] = display
            self._epoll.register(display.fileno(), select.EPOLLIN)
