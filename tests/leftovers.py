"""What a run of rexec must not leave behind, on the execute host and on the submit machine."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import desk
from tests.desk_hosts import HOSTS, SUBMIT_UID, SUBMIT_USER
from tests.program import MARK, TEMPORARY
from tests.until import HANG

GONE_WITHIN = 5.0  # seconds: what issue and documentation promise for a killed rexec
PATIENCE = HANG

# rexec's own cache stays, and says so; logins and lookups are noted by the host's sshd and libc.
# /var/tmp is there as soon as anything ever was in it: an overlay copies up the directory.
KEPT = re.compile(r"(home/[^/]+|root)/\.cache(/rexec(/.*)?)?$|var/(log|cache|lib)/|var(/tmp)?$")
CRIU = "criu.kdat"  # where criu notes, once a boot, what the kernel can do
VOLATILE = ("tmp", "run", "dev/shm", "dev")


class Left:
    """What a run has left; `took`: in how many seconds after its end all of it was gone."""

    took: float


@contextmanager
def nothing_left_on(destination: str) -> Iterator[Left]:
    """Compare before and after, until nothing is new or PATIENCE is over: then AssertionError with what is.

    `destination` is an ssh name of the desk or `local`. On the host everything counts; on the submit machine, where
    others work too, what is of these tests: processes of SUBMIT_USER or with MARK in their environment, new mounts,
    files in rexec's TMPDIR, and files named after rexec where only the running system keeps any.
    """
    name = destination.rpartition("@")[2].partition("-")[0]
    before = _seen(name)
    run = Left()
    yield run
    ended = time.monotonic()
    while (left := _seen(name) - before) and time.monotonic() < ended + PATIENCE:
        time.sleep(0.05)
    assert not left, "left behind:\n" + "\n".join(sorted(left))
    run.took = time.monotonic() - ended


def _seen(name: str) -> set[str]:
    seen = {f"here: {what}" for what in (*_processes_here(), *_mounts("self"), *_files_here())}
    if name in HOSTS:
        # sshd's listener counts in its title who is about to log in
        lines = {pid: line.partition(" [listener]")[0] for pid, line in desk.processes(name).items()}
        seen |= {f"{name}: process {pid}: {line}" for pid, line in lines.items()}
        seen |= {f"{name}: {what}" for what in (*_mounts(str(desk.pid(name))), *_files_there(name))}
    return seen


def _processes_here() -> Iterator[str]:
    """What ours has in another network namespace is a host's, or another's who tests on this machine."""
    network = os.readlink("/proc/self/ns/net")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.readlink(entry / "ns/net") != network:
                continue
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if entry.owner() == SUBMIT_USER or MARK.encode() in (entry / "environ").read_bytes().split(b"\0"):
                yield f"process {entry.name} of {entry.owner()}: {line}"
        except (FileNotFoundError, ProcessLookupError, PermissionError, KeyError):
            continue  # it ended while we looked, or is closed even to us, as nothing that we start is


def _mounts(process: str) -> Iterator[str]:
    for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines():
        fields = line.split()
        # proc_pid_mountinfo(5): 5 is the mount point; the type and the source follow the dash.
        kind, source = fields[fields.index("-") + 1 :][:2]
        yield f"mount {kind} of {source} on {fields[4]}"


def _files_here() -> Iterator[str]:
    yield from (f"file {TEMPORARY}/{path}" for path in _walk(TEMPORARY))
    for directory in ("/dev/shm", "/run", "/run/user/0", f"/run/user/{SUBMIT_UID}"):
        if os.path.isdir(directory):
            yield from (f"file {entry.path}" for entry in os.scandir(directory) if "rexec" in entry.name)


def _files_there(name: str) -> Iterator[str]:
    """Everything written to the host's disk, and everything in its memory-backed directories."""
    yield from (f"file /{path}" for path in _walk(HOSTS[name].upper) if not KEPT.match(path))
    for directory in VOLATILE:
        root = Path(f"/proc/{desk.pid(name)}/root/{directory}")
        yield from (f"file /{directory}/{path}" for path in _walk(root) if not path.startswith(("pts/", "shm/", CRIU)))


def _walk(top: Path) -> Iterator[str]:
    for directory, subdirectories, files in os.walk(top):
        for entry in (*subdirectories, *files):
            yield os.path.relpath(os.path.join(directory, entry), top)
