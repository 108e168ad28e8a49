"""Those who are attached to a job, at its supervisor's end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.frames import FrameError, FrameReader, frame
from shim.submit.job.control_socket import Connection
from shim.submit.job.replayed_streams import OutputOnce, Reader, ReplayedInput

MOST = 8 << 20  # bytes that may wait for one who reads slowly; who is slower loses the connection, not the job its time


class Attached:
    """One client. `forward` is given the frames (kind, payload) that are for the job's host."""

    def __init__(
        self, connection: Connection, outputs: dict[int, OutputOnce], input: ReplayedInput | None,
        forward: Callable[[int, bytes], None],
    ) -> None:  # fmt: skip
        self._sock = connection.sock
        self._outputs, self._input, self._forward = outputs, input, forward
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Serve until the client goes, or `end`."""
        readers: dict[int, Reader] = {kind: self._reader(kind) for kind in self._outputs}
        for kind, reader in readers.items():
            self._outputs[kind].attach(reader)
        writer = threading.Thread(target=self._write, name="attached", daemon=True)
        writer.start()
        try:
            self._read()
        except (OSError, FrameError, RexecError):
            pass  # it has gone, or is no rexec; or what it types cannot be kept
        finally:
            for kind, reader in readers.items():
                self._outputs[kind].detach(reader)
            self._queue.put(None)
            writer.join()

    def end(self, kind: int, payload: bytes) -> None:
        """Return the job's end, as an EXIT or FAIL frame; all its output has been given to the readers."""
        self._put(frame(kind, payload))
        self._queue.put(None)

    def _reader(self, kind: int) -> Reader:
        def read(data: bytes) -> None:
            if data:
                self._put(frame(kind, data))

        return read

    def _put(self, data: bytes) -> None:
        with self._lock:
            self._waiting += len(data)
            waiting = self._waiting
        self._queue.put(data if waiting <= MOST else None)

    def _write(self) -> None:
        try:
            while (data := self._queue.get()) is not None:
                self._sock.sendall(data)
                with self._lock:
                    self._waiting -= len(data)
        except OSError:
            return  # it has gone
        finally:
            self._shut()

    def _shut(self) -> None:
        import socket

        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has gone

    def _read(self) -> None:
        reader = FrameReader()
        while True:
            n = self._sock.recv_into(reader.buffer())
            if not n:
                return
            for kind, payload in reader.filled(n):
                if kind == frames.STDIN and self._input is not None and payload:
                    self._input.feed(bytes(payload))
                elif kind in (frames.WINSIZE, frames.SIGNAL):
                    self._forward(kind, bytes(payload))
