"""Five rates of a filesystem, measured from inside it: run in a directory that `cases.furnish` has filled.

Prints one JSON object: stat_first and stat (files/s; the first pass over files nobody asked for yet, then ten
passes), open_read_close (files/s), read and write (MB/s, 10^6 bytes). Every byte count is checked.
"""

from __future__ import annotations

import json
import os
import time

MIB = 1 << 20


def rates() -> dict[str, float]:
    names = [f"small/{i // 100}/{i:04d}" for i in range(1000)]
    result = {}

    start = time.perf_counter()
    sizes = {os.stat(name).st_size for name in names}
    result["stat_first"] = len(names) / (time.perf_counter() - start)
    assert sizes == {2000}, sizes

    start = time.perf_counter()
    for _ in range(10):
        for name in names:
            os.stat(name)
    result["stat"] = 10 * len(names) / (time.perf_counter() - start)

    start = time.perf_counter()
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        assert len(os.read(fd, 65536)) == 2000, name
        os.close(fd)
    result["open_read_close"] = len(names) / (time.perf_counter() - start)

    start = time.perf_counter()
    fd = os.open("big", os.O_RDONLY)
    for block in range(256):
        data = os.read(fd, MIB)
        assert len(data) == MIB and int.from_bytes(data[:8], "big") == block, block
    os.close(fd)
    result["read"] = 256 * MIB / 1e6 / (time.perf_counter() - start)

    data = bytes(MIB)
    start = time.perf_counter()
    fd = os.open("probe.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for _ in range(256):
        assert os.write(fd, data) == MIB
    os.close(fd)
    result["write"] = 256 * MIB / 1e6 / (time.perf_counter() - start)
    assert os.stat("probe.out").st_size == 256 * MIB
    return result


print(json.dumps(rates()))
