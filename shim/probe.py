"""Facts of an execute host, taken there."""

from __future__ import annotations

import os


def main(read_fd: int, write_fd: int) -> int:
    """Answer whatever comes with the same, until the input ends."""
    while data := os.read(read_fd, 65536):
        os.write(write_fd, data)
    return 0
