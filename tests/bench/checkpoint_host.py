"""The checkpoint bench's hand on an execute host: raw criu in namespaces of its own, and a watch over a job of rexec's.

checkpoint_host.py dump|restore DIRECTORY      as pid 1; DIRECTORY has criu/, job.py, img/ and the job's output out
checkpoint_host.py watch                       the process running job.py, until its memory is free
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time

JOB = 1001  # its pid in the namespace


def criu(directory: str, *words: str) -> float:
    """Seconds it took."""
    bundle = directory + "/criu"
    began = time.monotonic()
    done = subprocess.run(
        [bundle + "/ld.so", "--library-path", bundle + "/lib", bundle + "/criu", *words, "-D", directory + "/img",
         "-o", "criu.log", "--file-validation", "filesize", "--libdir", bundle + "/none"], stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    seconds = time.monotonic() - began
    if done.returncode:
        with open(directory + "/img/criu.log") as log:
            sys.exit("raw criu failed: " + " ".join(line for line in log if "Error (" in line)[:500])
    return seconds


def said(directory: str, word: bytes) -> bytes:
    """The line of the job's output that begins with `word`, once it is there."""
    while True:
        with open(directory + "/out", "rb") as out:
            for line in out:
                if line.startswith(word) and line.endswith(b"\n"):
                    return line
        time.sleep(0.005)


def dump(directory: str) -> None:
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(JOB - 1))
    with open(directory + "/out", "wb") as out:
        job = subprocess.Popen(
            ["/usr/bin/python3", directory + "/job.py"], stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.DEVNULL, cwd=directory, start_new_session=True,
        )  # fmt: skip
    said(directory, b"ready")
    seconds = criu(directory, "dump", "-t", str(job.pid))
    with open(directory + "/img/stats-dump", "rb") as stats:
        print(json.dumps({"seconds": seconds, "stats": base64.b64encode(stats.read()).decode()}))


def restore(directory: str) -> None:
    began = time.time()
    criu(directory, "restore", "-d")
    first = float(said(directory, b"gap").split()[2])
    said(directory, b"changed")  # so its memory is whole
    os.kill(JOB, signal.SIGKILL)
    print(json.dumps({"seconds": first - began}))


def _field(pid: str, name: str, which: int) -> int:
    with open("/proc/%s/%s" % (pid, name)) as f:
        return int(f.read().rpartition(")")[2].split()[which])


def _parents() -> dict:
    found = {}
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                found[pid] = str(_field(pid, "stat", 1))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
    return found


def _name(pid: str) -> str:
    with open("/proc/%s/comm" % pid) as f:
        return f.read().strip()


def _beside(job: str, top: str) -> int:
    """Bytes resident in all that runs beneath `top`, with it, but for the job."""
    parents = _parents()
    total = 0
    for pid in parents:
        up = pid
        while up in parents and up not in (top, job):
            up = parents[up]
        if up == top:
            try:
                total += _field(pid, "statm", 1) * os.sysconf("SC_PAGE_SIZE")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
    return total


def _find() -> str:
    while True:
        for pid in os.listdir("/proc"):
            if pid.isdigit():
                try:
                    with open("/proc/%s/cmdline" % pid, "rb") as f:
                        words = f.read().split(b"\0")
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has just ended
                if len(words) > 1 and words[1].endswith(b"/checkpoint_job.py"):
                    return pid
        time.sleep(0.1)


def watch() -> None:
    job = top = _find()
    parents = _parents()
    while not _name(parents[top]).startswith(("sshd", "sh", "bash")):
        top = parents[top]
    print("found", flush=True)
    most = turn = 0
    while True:
        try:
            if not _field(job, "statm", 1):
                break
            if turn % 20 == 0:  # seldom: only rexec is looked at like this, and the look takes from the same processors
                most = max(most, _beside(job, top))
        except (FileNotFoundError, ProcessLookupError):
            break
        turn += 1
        time.sleep(0.025)
    print(json.dumps({"free": time.time(), "beside": most}), flush=True)


if __name__ == "__main__":
    {"dump": dump, "restore": restore}[sys.argv[1]](sys.argv[2]) if len(sys.argv) > 2 else watch()
