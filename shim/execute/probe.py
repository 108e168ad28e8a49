"""Facts of an execute host, taken there: what rexec needs, and what tells why it is missing. Shipped.

Asked with one byte on the link: "t" answers with the time, "f" with the facts, each a line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import time

from checkpoint import procfs
from checkpoint.execute import cipher
from checkpoint.wire import compat
from remoteio.errors import RexecError, named
from remoteio.execute import mount
from shim.execute.init import idmap, namespaces
from shim.execute.owner import load, slots, sources, word
from shim.wire import logout, sysctl
from shim.wire.conditions import Surroundings

_ANSWER_BYTES = 4096
_GPU = re.compile(r"nvidia\d+|kfd|renderD\d+")  # NVIDIA's, AMD's for computing, and any that draws


def main(read_fd: int, write_fd: int) -> int:
    """Answer what is asked until the link ends."""
    while asked := os.read(read_fd, 1):
        answer = time.time() if asked == b"t" else facts()
        line = json.dumps(answer).encode() + b"\n"
        while line:
            line = line[os.write(write_fd, line) :]
    return 0


def facts() -> dict[str, object]:
    """Gather plain data for JSON; sizes in bytes, times in seconds. What could not be found out is None or empty."""
    system = os.uname()
    memory = procfs.memory(_text("/proc/meminfo"))
    uid = os.geteuid()
    login = word.login()
    return {
        "hostname": system.nodename,
        "kernel": system.release,
        "arch": system.machine,
        "cores": len(os.sched_getaffinity(0)),
        "memory_total": memory.get("MemTotal"),
        "memory_available": memory.get("MemAvailable"),
        "load": os.getloadavg()[0],
        "cache_free": _cache_free(),
        "scratch_free": _free(os.environ.get("TMPDIR") or "/var/tmp"),
        "gpu": any(map(_GPU.fullmatch, _listed("/dev") + _listed("/dev/dri"))),
        "criu": _found("criu"),
        "page_size": os.sysconf("SC_PAGESIZE"),
        "cpu_flags": " ".join(sorted(procfs.cpu_features(_text("/proc/cpuinfo")))),
        "uid": uid,
        "login": login,
        "fuse": _fuse(),
        "namespaces": _namespaces(),
        "settings": {name: sysctl.value(name) for name in (*(row[0] for row in sysctl.FORBIDDING), *sysctl.FUSE_WAITS)},
        "logout": logout.kills(login),
        "id_tools": all(_found(tool) for tool in ("newuidmap", "newgidmap")),
        "subuid": idmap.subordinate("/etc/subuid", (str(uid), login)),
        "subordinate_end": max(
            [100000] + [a + n for kind in ("uid", "gid") for a, n in idmap.subordinate("/etc/sub" + kind, None)]
        ),
        "subgid": idmap.subordinate("/etc/subgid", (str(uid), login)),
        "encrypts": cipher.available() is not None,
        "owner": _owner(),
        "compat": compat.host_facts((), namespaces.login_ids()).plain(),
    }


def _owner() -> dict[str, object]:
    # For ranking.choose at home: `idle` seconds or None and why it is `unknown`; `around`: the fields of Surroundings.
    told = sources.owner_facts(time.monotonic())
    around = load.surroundings(os.getloadavg()[0])
    return {
        **told,
        "around": [around.load, around.minute, around.on_battery, around.free_memory],
        "word": _word(around, told["idle"], told["unknown"]),
    }


def _word(around: Surroundings, idle: float | None, unknown: str | None) -> dict[str, object] | None:
    # What the owner here says: the file, why no job may begin now or None, how many may be here, whose are preferred,
    # and why there is no room for one of this login; None: nothing.
    login = word.login()
    try:
        said = word.find()
    except word.WordError as error:
        return {"file": "owner.toml", "refused": str(error), "slots": None, "rank": [], "full": None}
    if said is None:
        return None
    refused = said.refuses(login, around, idle, unknown)
    rank = list(map(" ".join, said.rank))
    return {
        "file": said.file, "refused": refused, "slots": said.slots, "rank": rank, "full": slots.full(said, login),
    }  # fmt: skip


def _text(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


def _cache_free() -> int | None:
    path = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    while not os.path.isdir(path):
        if path in ("", "/"):
            return None
        path = os.path.dirname(path)
    return _free(path)


def _free(path: str) -> int | None:
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _found(tool: str) -> bool:
    return any(os.access(path + "/" + tool, os.X_OK) for path in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"))


def _fuse() -> dict[str, object]:
    # error is the text of open(2)'s errno, empty if it opens.
    try:
        mode = oct(os.stat("/dev/fuse").st_mode & 0o7777)
    except OSError:
        mode = ""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return {"error": error.strerror, "mode": mode}
    return {"error": "", "mode": mode}


def _namespaces() -> dict[str, str]:
    """Do what a job needs, in a child that ends at once: {"step": where it failed, "error": why}, both empty if not."""
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever goes wrong here is the answer; no handler of the parent's may run.
        step = ["start"]
        try:
            _try_namespaces(step)
            text = ""
        except OSError as error:
            text = f"{step[0]}: {error.strerror}"
        except RexecError as error:
            text = f"{step[0]}: {error}"
        except BaseException as error:  # of our own; and an interrupt must not run on here, in the parent's place
            text = f"{step[0]}: an error of rexec's own: {named(error)}"
        os.write(write_fd, text.encode("utf-8", "replace")[:_ANSWER_BYTES])
        os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as file:
        where, _, why = file.read().decode("utf-8", "replace").partition(": ")
    os.waitpid(child, 0)
    return {"step": where, "error": why}


def _try_namespaces(step: list[str]) -> None:
    uid, gid = os.geteuid(), os.getegid()
    flags = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC
    step[0] = "unshare"
    if uid:
        flags |= namespaces.CLONE_NEWUSER
    namespaces.unshare(flags)
    if uid:
        step[0] = "uid_map"
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open("/proc/self/" + name, "w") as file:
                file.write(text)
    where = next(path for path in ("/mnt", "/media", "/srv", "/tmp") if os.path.isdir(path))
    # The pid namespace begins with the next child.
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    step[0] = "mount"
    mount.make_private()
    step[0] = "mount proc"
    mount.mount("proc", where, "proc", mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC)
    step[0] = "mount fuse"
    mount.mount_fuse(mount.open_fuse(), where, 0, 0, mount.MS_NOSUID, False)
