"""What the checkpoint bench moves: 1 GiB of memory, half random and half the same, and a look at the clock every 2 ms.

A clock that stood still for a moment makes it say `gap SECONDS TIME`, then check all its memory, then change one page
in a hundred and say `changed`. With the word `steady` it does none of that: each second it writes to the same pages,
one in a hundred, and says `written SECONDS`, of processor time. Runs on the execute host's python3 as well.
"""

import mmap
import os
import sys
import time
import zlib

SIZE, PAGE, BLOCK = 1 << 30, 4096, 1 << 20
GAP = 0.2  # seconds; more than a busy machine makes a process wait for its turn


def page(number: int) -> bytes:
    return os.urandom(PAGE // 2) + number.to_bytes(8, "little") * (PAGE // 16)


def main() -> None:
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, SIZE, BLOCK):
        memory[at : at + BLOCK] = b"".join(page((at + more) // PAGE) for more in range(0, BLOCK, PAGE))
    whole = zlib.crc32(memory)
    print("ready", flush=True)
    while sys.argv[1:] == ["steady"]:
        time.sleep(1)
        began = time.thread_time()
        for at in range(0, SIZE, 100 * PAGE):
            memory[at] = (memory[at] + 1) % 256
        print(f"written {time.thread_time() - began:.6f}", flush=True)
    last = time.monotonic()
    while True:
        time.sleep(0.002)
        now = time.monotonic()
        if now - last > GAP:
            print(f"gap {now - last:.4f} {time.time():.4f}", flush=True)
            if zlib.crc32(memory) != whole:
                sys.exit("the memory is not what it was")
            for number in range(int.from_bytes(os.urandom(1), "little") % 100, SIZE // PAGE, 100):
                memory[number * PAGE : (number + 1) * PAGE] = page(number + 1)
            whole = zlib.crc32(memory)
            print("changed", flush=True)
            now = time.monotonic()
        last = now


if __name__ == "__main__":
    main()
