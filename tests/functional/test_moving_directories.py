"""A directory that the job is reading when it moves: its position leads to the same entries, whatever was removed."""

from __future__ import annotations

import os
from pathlib import Path

from tests.mover_as_user import PYTHON, Make, Run, begun
from tests.until import until

READ = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
libc.readdir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]

def names(stream, most=1 << 30):
    found = []
    while len(found) < most and (entry := libc.readdir(stream)):
        found.append(ctypes.string_at(entry + 19))  # d_name
    return found

stream = libc.opendir(b"kept")
first = names(stream, 900)
position = libc.telldir(stream)
rest = names(stream)
for name in first:
    if name not in (b".", b".."):
        os.unlink(b"kept/" + name)
with os.scandir("removed") as listing:
    for k, entry in enumerate(listing):
        os.unlink(entry)
        if k == 1500:
            print("ready", flush=True)
            sys.stdin.readline()
libc.seekdir(stream, position)
print(len(os.listdir("removed")), len(rest), names(stream) == rest)
"""


def test_what_is_read_on_after_a_move_is_what_was_left_before(run: Run, uid: int) -> None:
    """Of 30,000 names that a job removed as it read them, 6,963 were left, without an error."""

    def body(make: Make, home: Path) -> None:
        for name, many in (("removed", 4000), ("kept", 1500)):
            (home / name).mkdir()
            for k in range(many):
                os.close(os.open(home / name / f"file{k}", os.O_CREAT | os.O_WRONLY))
        mover = make(PYTHON, "-c", READ)
        at = begun(mover)
        until(lambda: mover.out == b"ready\n", "it is in the middle")
        at = at.move("local")
        at.type(b"\n")
        assert at.end() == 0, mover.err
        assert mover.out.split(b"\n")[1] == b"0 602 True", mover.out

    run(body)
