"""What a job has in its own /dev/shm, /dev and --scratch: the host that it goes on at has it too."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.mover_as_user import PYTHON, Make, Run, begun, more
from tests.until import until

FILES = """
import _multiprocessing, os, sys
from multiprocessing import Lock, shared_memory
closed, opened = shared_memory.SharedMemory(create=True, size=5000), shared_memory.SharedMemory(create=True, size=5000)
name = closed.name
semaphore = _multiprocessing.SemLock(1, 0, 9, '/named', False)
closed.buf[:4], opened.buf[4990:4994] = b'shut', b'open'
closed.close()
removed = os.open("/dev/shm/removed", os.O_RDWR | os.O_CREAT)
os.write(removed, b"removed")
os.unlink("/dev/shm/removed")

os.chdir("scratch")
os.makedirs("a/b")
with open("a/b/twice", "wb") as file:
    file.truncate(1 << 40)
    os.pwrite(file.fileno(), b"deep", 1 << 39)
os.link("a/b/twice", "again")
os.symlink("../nowhere", "a/link")
os.mkfifo("fifo")
fifo = os.open("fifo", os.O_RDWR)
os.write(fifo, b"in the fifo")
with open("s\\udcff", "w") as file:
    file.write("odd")
os.chmod("s\\udcff", 0o4)
os.utime("s\\udcff", ns=(1, 2))
os.mkdir("shut")
os.chmod("shut", 0o2500)
os.utime("shut", ns=(3, 4))
os.chmod(".", 0o1750)
keep = open("kept", "w+")
keep.write("before ")
keep.flush()
large = os.urandom(300_000)
with open("large", "wb") as file:
    file.write(large)

def look():
    out = []
    for where, directories, files, at in os.fwalk("."):
        for name in sorted(directories + files):
            st = os.stat(name, dir_fd=at, follow_symlinks=False)
            out.append((where, name, oct(st.st_mode), st.st_nlink, st.st_size, st.st_uid, st.st_gid, st.st_mtime_ns))
    # how many blocks it has changes by itself, as they are written to the disk
    return out, oct(os.stat(".").st_mode), os.stat(".").st_mtime_ns, os.stat("again").st_blocks < 1000

before = look()
print("ready", flush=True)
for _ in range(2):
    sys.stdin.readline()
    assert look() == before, (look(), before)
    closed = shared_memory.SharedMemory(name)
    assert bytes(closed.buf[:4]) == b"shut" and bytes(opened.buf[4990:4994]) == b"open"
    again = shared_memory.SharedMemory(opened.name)
    opened.buf[0] = opened.buf[0] + 1
    assert again.buf[0] == opened.buf[0] > 0, "two memories of one name"
    again.close()
    closed.close()
    assert not semaphore.acquire(False)
    _multiprocessing.SemLock._rebuild(0, 1, 9, "/named").release()
    assert semaphore.acquire(False), "another semaphore has the name"
    assert sorted(os.listdir("/dev/shm")) == sorted(["sem.named", name, opened.name]), os.listdir("/dev/shm")
    assert os.pread(removed, 9, 0) == b"removed" and not os.path.exists("/dev/shm/removed")
    assert os.stat("again").st_ino == os.stat("a/b/twice").st_ino
    with open("again", "rb") as file:
        assert os.pread(file.fileno(), 6, 1 << 39) == b"deep\\0\\0"
    assert os.readlink("a/link") == "../nowhere"
    with open("large", "rb") as file:
        assert file.read() == large
    with open("kept") as file:
        assert file.read() == "before "
    assert keep.tell() == 7
    print("right", flush=True)
assert os.read(fifo, 99) == b"in the fifo"
_multiprocessing.sem_unlink('/named')
closed = shared_memory.SharedMemory(name)
closed.unlink(), opened.unlink()
print(os.listdir("/dev/shm"))
"""


def test_files_open_closed_and_mapped_come_along_twice(run: Run) -> None:
    """Without it an open one had the image restore nowhere, and a closed one was gone without a word."""

    def body(make: Make, home: Path) -> None:
        (home / "scratch").mkdir()
        mover = make(PYTHON, "-c", FILES)
        mover.scratch = [os.fsencode(home / "scratch")]
        at = begun(mover)
        until(lambda: mover.out == b"ready\n", "it is ready")
        for _ in range(2):
            at = at.move("local")
            size = len(mover.out)
            at.type(b"\n")
            until(lambda size=size: len(mover.out) > size or mover.err, "nothing is said")  # type: ignore[misc]
        assert at.end() == 0, mover.err
        assert mover.out == b"ready\nright\nright\n[]\n"
        assert list((home / "scratch").iterdir()) == []  # nothing of it at home

    run(body)


NAMELESS = """
import time
from multiprocessing import Lock
lock = Lock()
lock.acquire()
print("ready", flush=True)
while True:
    time.sleep(.01)
    print(lock.acquire(block=False), flush=True)
"""


def test_a_semaphore_without_a_name_needs_root(run: Run, uid: int) -> None:
    """Of a file that is only mapped and has no name the kernel lets nobody else have a descriptor."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", NAMELESS)
        at = begun(mover)
        until(lambda: mover.out.startswith(b"ready"), "it is ready")
        if uid:
            at.order("vacate", 1)
            why = at.wait("refused")["why"]
            assert re.fullmatch(r"process \d+ \(python3\) has /dev/shm/sem\.\w+ mapped, which was removed: .*", why)
            more(mover)
        else:
            at = at.move("local")
            more(mover)
        at.order("kill", 0)
        assert at.end() == 9
        assert b"True" not in mover.out

    run(body)


SYSTEM_V = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
semaphores, queue, nameless = libc.semget(77, 3, 0o1600), libc.msgget(78, 0o1600), libc.msgget(0, 0o1600)
assert libc.semctl(semaphores, 1, 16, 5) == 0
message = (ctypes.c_long * 3)(6, 7, 8)
assert libc.msgsnd(queue, ctypes.byref(message), 16, 0) == 0

def memory():
    shared = libc.shmget(79, 10000, 0o1600)
    at = libc.shmat(shared, None, 0)
    ctypes.memmove(at, b"memory", 6)
    return shared, at

shared, at = memory() if os.getuid() == 0 and sys.argv[1] == "0" else (-1, None)
print("ready", flush=True)
for turn in range(2):
    sys.stdin.readline()
    assert (libc.semget(77, 0, 0), libc.msgget(78, 0)) == (semaphores, queue)
    assert libc.semctl(semaphores, 1, 12) == 5 + turn and libc.semctl(semaphores, 1, 16, 6 + turn) == 0
    if at is not None:
        again = libc.shmat(shared, None, 0)
        assert libc.shmget(79, 0, 0) == shared and ctypes.string_at(at, 6) == ctypes.string_at(again, 6) == b"memory"
        ctypes.memmove(again, b"MEMORY", 6)
        assert ctypes.string_at(at, 6) == b"MEMORY"
        ctypes.memmove(again, b"memory", 6)
        assert libc.shmdt(ctypes.c_void_p(again)) == 0
    print("right", flush=True)
name = b"/queue"
queued = libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None)
assert queued >= 0
os.close(queued)
print("queued", flush=True)
sys.stdin.readline()
assert libc.mq_unlink(name) == 0
got = (ctypes.c_long * 3)()
assert libc.msgrcv(queue, ctypes.byref(got), 16, 0, 0) == 16 and list(got) == [6, 7, 8]
if at is None:
    shared, at = memory()
print("shared", flush=True)
sys.stdin.readline()
"""


def test_system_v_ipc_comes_along_and_its_memory_needs_root(run: Run, uid: int) -> None:
    """CRIU saves a namespace for it that is not its own; the memory it reads by a link that is root's alone.

    Of POSIX message queues it knows nothing: one that nobody had open would be gone without a word.
    """

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", SYSTEM_V, str(uid))
        at = begun(mover)
        until(lambda: mover.out, "it is ready")
        for _ in range(2):
            at = at.move("local")
            size = len(mover.out)
            at.type(b"\n")
            until(lambda size=size: len(mover.out) > size or mover.err, "nothing is said")  # type: ignore[misc]
        until(lambda: b"queued" in mover.out or mover.err, "nothing is said")
        why = at.checkpoint(1)["why"]
        assert why == "the job has POSIX message queues (mq_open), open or not, which CRIU cannot save"
        at.type(b"\n")
        until(lambda: b"shared" in mover.out or mover.err, "nothing is said")
        assert mover.out == b"ready\nright\nright\nqueued\nshared\n", mover.err
        said = at.checkpoint(2)
        if uid:
            assert said["why"].startswith("the job has System V shared memory (`ipcs -m` lists it)")
        else:
            assert said["what"] == "committed"
        at.type(b"\n")
        assert at.end() == 0

    run(body)
