"""A distant host: an ssh ProxyCommand that holds every byte back for half of a round-trip time, in both directions.

    desk_delay.py NAME ADDRESS PORT       NAME ends in the round trip in milliseconds: alpha-far200

For machines whose kernel has no netem. The bandwidth is not limited; at most `WINDOW` chunks are on the way.
"""

from __future__ import annotations

import os
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Callable

CHUNK = 1 << 16  # bytes
WINDOW = 1024  # chunks: 64 MiB


def carry(take: Callable[[], bytes], give: Callable[[bytes], object], end: Callable[[], object], delay: float) -> None:
    """Start moving bytes from `take` to `give`, each chunk `delay` seconds late; `end` once there are no more."""
    on_the_way: queue.Queue[tuple[float, bytes]] = queue.Queue(WINDOW)

    def taker() -> None:
        data = b"."
        while data:
            try:
                data = take()
            except ConnectionError:
                data = b""
            on_the_way.put((time.monotonic() + delay, data))

    def giver() -> None:
        while True:
            due, data = on_the_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                end()
                return
            try:
                give(data)
            except (ConnectionError, BrokenPipeError):
                os._exit(1)

    threading.Thread(target=taker, daemon=True).start()
    threading.Thread(target=giver).start()


def write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    name, address, port = sys.argv[1:]
    digits = re.search(r"[0-9]+$", name)
    if digits is None:
        sys.exit(f"desk_delay: {name} does not end in a number of milliseconds; write alpha-far200")
    delay = int(digits[0]) / 2000
    peer = socket.create_connection((address, int(port)))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    carry(lambda: os.read(0, CHUNK), peer.sendall, lambda: peer.shutdown(socket.SHUT_WR), delay)
    carry(lambda: peer.recv(CHUNK), write_all, lambda: os._exit(0), delay)


if __name__ == "__main__":
    main()
