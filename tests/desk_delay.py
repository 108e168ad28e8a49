"""A distant host: an ssh ProxyCommand that holds every byte back for half of a round-trip time, in both directions.

    desk_delay.py NAME ADDRESS PORT       NAME ends in the round trip in milliseconds, and in Mbit/s where the line is
                                          not to be as wide as there is: alpha-far200, alpha-far20-10mbit

For machines whose kernel has no netem. Of a line that is not narrowed at most `WINDOW` chunks are on the way; a narrow
one takes no more than what it can carry in `QUEUE` seconds, as a good router does, and what is to go waits before it.
"""

from __future__ import annotations

import math
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
PACKET = 1 << 12  # bytes of a chunk of a narrow line, which arrives when its last byte does
QUEUE = 0.05  # seconds
NAME = re.compile(r"(?P<rtt>[0-9]+)(-(?P<rate>[0-9]+)mbit)?$")


def name(host: str, rtt: int, rate: int) -> str:
    """Name the host so many milliseconds away, over a line of so many Mbit/s; 0: as it is."""
    return f"{host}-far{rtt}{f'-{rate}mbit' if rate else ''}" if rtt or rate else host


def carry(
    take: Callable[[], bytes], give: Callable[[bytes], object], end: Callable[[], object], delay: float, rate: float
) -> None:
    """Start moving bytes from `take` to `give`, `rate` a second, each `delay` late; `end` once there are no more."""
    on_the_way: queue.Queue[tuple[float, bytes]] = queue.Queue(WINDOW)

    def taker() -> None:
        data, free = b".", 0.0  # when the line has carried all before
        while data:
            try:
                data = take()
            except ConnectionError:
                data = b""
            now = time.monotonic()
            free = max(free, now) + len(data) / rate
            on_the_way.put((free + delay, data))
            time.sleep(max(0.0, free - now - QUEUE))

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
    host, address, port = sys.argv[1:]
    found = NAME.search(host)
    if found is None:
        sys.exit(f"desk_delay: {host} does not end in a number of milliseconds; write alpha-far200, alpha-far20-10mbit")
    delay = int(found["rtt"]) / 2000
    rate = int(found["rate"] or 0) * 125_000 or math.inf
    chunk = CHUNK if rate == math.inf else PACKET
    peer = socket.socket()
    if rate != math.inf:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)  # else megabytes wait here for their turn
    peer.connect((address, int(port)))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    carry(lambda: os.read(0, chunk), peer.sendall, lambda: peer.shutdown(socket.SHUT_WR), delay, rate)
    carry(lambda: peer.recv(chunk), write_all, lambda: os._exit(0), delay, rate)


if __name__ == "__main__":
    main()
