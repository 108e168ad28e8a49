"""A job that holds one of everything a checkpoint must keep, and says after a move what of it still works.

Run as a program: argv is a directory of its own and what else to hold. It prints "ready", waits for the file `go`,
reads a line from stdin, and prints a report.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time


def main(home: str, options: list[str]) -> None:
    libc = ctypes.CDLL(None)
    os.chdir(home)
    got: dict[str, object] = {}
    counts = [0, 0]
    stop = threading.Event()

    def count(which: int) -> None:
        while not stop.is_set():
            counts[which] += 1
            time.sleep(0.01)

    threads = [threading.Thread(target=count, args=(i,)) for i in (0, 1)]
    for t in threads:
        t.start()
    memfd = os.memfd_create("kept")
    os.write(memfd, b"memfd content")
    deleted = open("deleted", "w+")  # noqa: SIM115
    deleted.write("deleted content")
    deleted.flush()
    os.unlink("deleted")
    append = open("append", "a+")  # noqa: SIM115
    append.write("before\n")
    append.flush()
    locked = open("locked", "w")  # noqa: SIM115
    fcntl.flock(locked, fcntl.LOCK_EX)
    ranged = open("ranged", "w")  # noqa: SIM115
    fcntl.lockf(ranged, fcntl.LOCK_EX, 10, 5)
    a, b = socket.socketpair()
    a.send(b"in flight")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{home}/socket")
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"{home}/socket")
    server = listener.accept()[0]
    event = libc.eventfd(5, 0)
    epoll = select.epoll()
    epoll.register(b.fileno(), select.EPOLLIN)
    timer = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
    libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 3600, 0), None)
    watch = libc.inotify_init1(os.O_NONBLOCK) if "inotify" in options else 0
    if watch:
        libc.inotify_add_watch(watch, b".", 0x100)  # IN_CREATE
    shared = mmap.mmap(-1, 4096)
    signals = []
    signal.signal(signal.SIGUSR1, lambda *_: signals.append("USR1"))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGALRM, lambda *_: signals.append("ALRM"))
    signal.setitimer(signal.ITIMER_REAL, 3600)
    child = os.fork()
    if child == 0:
        while True:
            shared[0:4] = (int.from_bytes(shared[0:4], "little") + 1).to_bytes(4, "little")
            time.sleep(0.01)
    pipeline = subprocess.Popen("while read x; do echo got $x; done | cat", shell=True, stdin=-1, stdout=-1, bufsize=0)
    subprocess.run("sleep 3600 >/dev/null 2>&1 & echo $! >orphan", shell=True, check=True)
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")
    pid, ppid = os.getpid(), os.getppid()
    print("ready", flush=True)

    while not os.path.exists(f"{home}/go"):
        time.sleep(0.01)
    word = sys.stdin.readline().strip()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    before, was = list(counts), int.from_bytes(shared[0:4], "little")
    time.sleep(0.2)
    stop.set()
    for t in threads:
        t.join()
    got["stdin"] = word
    got["ids"] = (os.getpid(), os.getppid()) == (pid, ppid)
    got["threads"] = counts[0] > before[0] and counts[1] > before[1]
    got["child"] = int.from_bytes(shared[0:4], "little") > was
    got["memfd"] = os.pread(memfd, 100, 0).decode()
    deleted.seek(0)
    got["deleted"] = (deleted.read(), os.fstat(deleted.fileno()).st_nlink)
    append.write("after\n")
    append.flush()
    append.seek(0)
    got["append"] = append.read()
    got["epoll"] = [fd == b.fileno() for fd, _ in epoll.poll(1)]
    got["socketpair"] = b.recv(100).decode()
    client.send(b"named")
    got["unix"] = server.recv(100).decode()
    value = (ctypes.c_uint64 * 1)()
    libc.eventfd_read(event, value)
    got["eventfd"] = value[0]
    left = (ctypes.c_long * 4)()
    libc.timerfd_gettime(timer, left)
    got["timerfd"] = 3000 < left[2] <= 3600
    got["itimer"] = 3000 < signal.getitimer(signal.ITIMER_REAL)[0] <= 3600
    os.close(os.open(f"{home}/created", os.O_CREAT | os.O_WRONLY))
    got["inotify"] = watch > 0 and b"created" in os.read(watch, 4096)
    got["signals"] = signals
    got["cwd"] = os.readlink("/proc/self/cwd").endswith("(deleted)")
    probe = "import fcntl,sys; f=open(sys.argv[1],'r+'); getattr(fcntl,sys.argv[2])(f,6,*map(int,sys.argv[3:]))"
    for name, how in (("locked", ["flock"]), ("ranged", ["lockf", "10", "5"])):
        other = [sys.executable, "-c", probe, f"{home}/{name}", *how]
        got[name] = subprocess.run(other, stderr=-3, cwd="/", check=False).returncode != 0
    assert pipeline.stdin and pipeline.stdout
    pipeline.stdin.write(b"line\n")
    got["pipeline"] = pipeline.stdout.readline().decode()
    with open(f"{home}/orphan") as f:
        orphan = int(f.read())
    os.kill(orphan, 0)
    with open(f"/proc/{orphan}/stat") as f:
        got["orphan"] = int(f.read().split()[3]) == os.getpid()
    os.kill(child, signal.SIGKILL)
    got["waited"] = os.waitpid(child, 0)[1]
    print(json.dumps(got), flush=True)
    sys.stdout.flush()
    os._exit(7)


main(sys.argv[1], sys.argv[2:])
