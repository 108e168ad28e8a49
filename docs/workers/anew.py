"""Workers that begin anew when they have moved: their connections have not moved with them.

A master says `port = listen()`; a worker is a job with `--forward any:PORT`, which runs `anew.py PORT COMMAND`.
Nothing is said over that connection but that the master is there: it breaks when the job has moved.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress


def listen() -> int:
    """Be there for the workers, as long as this process runs; at which port."""
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=_answer, args=(server,), daemon=True).start()
    return int(server.getsockname()[1])


def _answer(server: socket.socket) -> None:
    kept = []
    while True:
        kept.append(server.accept()[0])
        with suppress(OSError):  # it has moved again
            kept[-1].sendall(b"!")


def home(port: str) -> tuple[str, int]:
    """Where a job finds a port of home's, or home finds it itself."""
    host, _, number = os.environ.get(f"REXEC_FORWARD_{port}", f"127.0.0.1:{port}").partition(":")
    return host, int(number)


def _run(command: str, master: socket.socket) -> None:
    """Until it ends, or its connections are those of another host."""
    running = subprocess.Popen(command, shell=True, start_new_session=True)

    def watch() -> None:
        with suppress(OSError):
            master.recv(1)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)

    watching = threading.Thread(target=watch)
    watching.start()
    running.wait()
    with suppress(OSError):
        master.shutdown(socket.SHUT_RDWR)
    watching.join()


def main(port: str, command: str) -> None:
    unanswered = 0  # in a row: one may be a job that moves just then
    while unanswered < 5:
        with suppress(OSError), socket.create_connection(home(port)) as master:
            if master.recv(1):
                unanswered = 0
                _run(command, master)
                continue
        unanswered += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
