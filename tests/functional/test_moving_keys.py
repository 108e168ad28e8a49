"""Memory protection keys of a job that is moved: it has them, and its threads their rights, as if it had not been."""

from __future__ import annotations

from tests.job_commands import Mover, here, said, vacate, well
from tests.real_programs import PYTHON

# On a CPU that has none pkey_alloc fails, here as there. The second thread has rights that the first does not have.
KEYS = """
import ctypes, mmap, os, threading, time
libc = ctypes.CDLL(None)
keys = [libc.pkey_alloc(0, rights) for rights in (2, 0, 2, 1)]
memory = mmap.mmap(-1, 8192)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
def second():
    libc.pkey_set(keys[3], 0)
    ready.set()
    go.wait()
    print([libc.pkey_get(key) for key in keys], flush=True)
ready, go = threading.Event(), threading.Event()
thread = threading.Thread(target=second)
thread.start()
ready.wait()
print(keys, libc.pkey_mprotect(ctypes.c_void_p(at), ctypes.c_size_t(4096), 3, keys[2]), flush=True)
while not os.path.exists("go"):
    time.sleep(.02)
go.set()
thread.join()
print([libc.pkey_get(key) for key in keys])
print(libc.pkey_mprotect(ctypes.c_void_p(at), ctypes.c_size_t(8192), 3, keys[2]), libc.pkey_alloc(0, 0))
print(libc.pkey_set(keys[2], 0), [libc.pkey_free(key) for key in keys], libc.pkey_alloc(0, 0))
"""


def test_keys_and_rights_are_held_over_a_move(mover: Mover) -> None:
    (mover.dir / "job.py").write_text(KEYS)
    (mover.dir / "go").touch()
    expected = here(mover, PYTHON, "job.py")
    (mover.dir / "go").unlink()
    job = mover.submit(PYTHON, "job.py")
    said(mover, job, "]")
    vacate(mover, job)
    (mover.dir / "go").touch()
    assert well(mover, job) == expected
