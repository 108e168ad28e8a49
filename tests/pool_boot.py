"""Boots one host of a pool (pool.py). A program of its own, run as root by the submit machine's python3:

    pool_boot.py NAME LOWER STATE       stdin: a line tells it to go on; stdout: the pid of the host's first process

It makes namespaces of its own, prints that pid, and becomes the first process there once its network is made: builds
the root out of LOWER and STATE/upper, says `up`, and reaps what is orphaned until it is killed, and all with it.
"""

from __future__ import annotations

import os
import sys

from tests.desk_boot import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    check,
    libc,
    mount,
    settle,
)

_REAPER = "import os, time\nwhile True:\n try: os.wait()\n except ChildProcessError: time.sleep(1)"
PR_SET_PDEATHSIG, SIGKILL = 1, 9


def main() -> None:
    name, lower, state = sys.argv[1:]
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET), "unshare")
    init = os.fork()
    if init:
        print(init, flush=True)
        os.waitpid(init, 0)
        return
    check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl")
    if not sys.stdin.readline():
        return  # whoever wanted the host is gone
    mount("--make-rprivate", "/")
    options = f"lowerdir={lower},upperdir={state}/upper,workdir={state}/work"
    mount("-t", "overlay", "overlay", "-o", options, f"{state}/root")
    os.chdir(f"{state}/root")
    settle(name)
    print("up", flush=True)
    os.execve("/usr/bin/python3", ["init", "-IS", "-c", _REAPER], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


if __name__ == "__main__":
    main()
