"""Four processes that compute at once; says how long they took, from when all stood ready to the last one's end."""

from __future__ import annotations

import os
import sys
import time

ROUNDS = 40_000_000


def compute() -> None:
    value = 1
    for _ in range(ROUNDS):
        value = value * 1103515245 + 12345 & 0x7FFFFFFF
    assert value == 181_507_585, value


def main() -> None:
    ready, go = os.pipe(), os.pipe()
    for _ in range(4):
        if os.fork() == 0:
            os.write(ready[1], b".")
            os.read(go[0], 1)
            compute()
            os.write(1, b"done\n")
            os._exit(0)
    for _ in range(4):
        os.read(ready[0], 1)
    began = time.perf_counter()
    os.write(go[1], b"....")
    for _ in range(4):
        assert os.wait()[1] == 0
    sys.stderr.write(f"inside={time.perf_counter() - began:.3f}\n")


main()
