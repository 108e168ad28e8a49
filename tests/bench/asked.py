"""How long what is asked for takes beside guesses: run in a directory that `cases.furnish` has filled.

Prints one JSON object: the mean milliseconds in which a file is found, opened and read that nobody could guess, alone
("alone"), while a thread reads files in no order ("beside_reads"), and while it reads as many in an order, of which the
next come ahead ("beside_guesses"). The thread reads some 300 KB a second, a quarter of a line of 10 Mbit/s.
"""

from __future__ import annotations

import json
import random
import statistics
import threading
import time

EACH, PAUSE = 50, 0.1
names = [f"lone/{i:03d}/file" for i in range(3 * EACH)]
random.Random(1).shuffle(names)


def asked() -> float:
    taken = []
    for _ in range(EACH):
        name = names.pop()
        began = time.perf_counter()
        with open(name, "rb") as file:
            assert len(file.read()) == 2000, name
        taken.append(time.perf_counter() - began)
    return statistics.mean(taken) * 1000


def beside(files: list[str]) -> float:
    over = threading.Event()

    def reads() -> None:
        for name in files:
            with open(name, "rb") as file:
                assert len(file.read()) == 30_000, name
            if over.wait(PAUSE):
                return

    reader = threading.Thread(target=reads)
    reader.start()
    try:
        return asked()
    finally:
        over.set()
        reader.join()


ordered, shuffled = ([f"{place}/{i:03d}" for i in range(300)] for place in ("ordered", "shuffled"))
random.Random(2).shuffle(shuffled)
print(json.dumps({"alone": asked(), "beside_reads": beside(shuffled), "beside_guesses": beside(ordered)}))
