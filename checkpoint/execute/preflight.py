"""Can this job be dumped as it is now? What CRIU cannot save is found in /proc, and named by process and descriptor.

The look is taken from the agent's side, before anything is frozen. Shipped: runs on the execute host.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress

from checkpoint.execute import terminals
from checkpoint.value import Value

# What CRIU 4.1 restores, of the kernel's anonymous inodes (criu/files.c, criu/include/*fd.h).
ANON_KINDS = ("eventfd", "eventpoll", "timerfd", "signalfd", "inotify", "pidfd")
# What CRIU 4.1 restores, by the names of include/net/sock.h's struct proto, without the v6 of some.
PROTOCOLS = ("TCP", "UDP", "UDP-Lite", "UDPLITE", "RAW", "PING", "UNIX", "UNIX-STREAM", "NETLINK", "PACKET")
# (major, minor) of the character devices that are the same everywhere: null zero full random urandom tty ptmx.
DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))
PTS_MAJORS = range(136, 144)
NAMESPACES = ("mnt", "pid", "user", "net", "ipc", "uts", "time", "cgroup")
SECCOMP_FILTER = 2
_DELETED = " (deleted)"
_SYS_RESOURCE = 1 << 24  # include/uapi/linux/capability.h
# CRIU opens each file anew by its name. What is of a thread or of a descriptor is not there yet by then,
_LATER = re.compile(r"/proc/(\d+)/(?:task/(?!\1(?:/|$))\d+|(?:task/\d+/)?fdinfo/\d)")
# and the next host has other hardware and other groups.
_OF_THIS_HOST = re.compile(
    r"/proc/(?:acpi|asound|bus|driver|fs|irq|scsi|\d+/(?:task/\d+/)?net/[^/]+|sys/net/ipv[46]/(?:conf|neigh))/"
    r"|/sys/(?!fs/cgroup/[^/]*$|kernel/mm/|devices/system/(?:cpu|node)/[^/]*$)."
)


class Reach(Value):
    """What CRIU may do here, and is handed.

    rootless   it is root of the job's user namespace only
    limits     it may ask for the limits (prlimit(2)) of processes of other users
    terminal   st_rdev of the job's terminal, (major, minor), or None
    """

    __slots__ = ("limits", "rootless", "terminal")
    rootless: bool
    limits: bool
    terminal: tuple[int, int] | None

    def __init__(self, rootless: bool, limits: bool = True, terminal: tuple[int, int] | None = None) -> None:
        self._set(rootless=rootless, limits=limits, terminal=terminal)


class Descriptor(Value):
    """A descriptor of a process.

    number   its number
    target   what /proc/PID/fd/N links to
    kind     S_IFMT of its file
    device   st_rdev, (major, minor)
    fault    why its file cannot be looked at, not even by CRIU; then kind and device are 0
    protocol the kernel's name of a socket's protocol: TCP, MPTCP, UNIX …; "" of what is none, or if it cannot be had
    within   st_dev
    leads    of /dev/tty: the terminal that it was when it was opened, (major, minor); None: none any more
    """

    __slots__ = ("device", "fault", "kind", "leads", "number", "protocol", "target", "within")
    number: int
    target: str
    kind: int
    device: tuple[int, int]
    fault: str
    protocol: str
    within: int
    leads: tuple[int, int] | None

    def __init__(
        self, number: int, target: str, kind: int, device: tuple[int, int], fault: str = "", protocol: str = "",
        within: int = 0, leads: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self._set(
            number=number, target=target, kind=kind, device=device, fault=fault, protocol=protocol, within=within,
            leads=leads,
        )  # fmt: skip


class Task(Value):
    """A process of the tree.

    pid           as the job numbers it
    host_pid      as this process does
    name          the kernel's, of 15 bytes
    descriptors   those it has open
    tracer        the pid of who traces it, or 0
    seccomp       its mode
    namespaces    name → which, as /proc/PID/ns links to it
    mapped        device files that it has mapped
    files         names of the files that it has mapped: its program, libraries
    private       those of them that it has mapped for itself (MAP_PRIVATE)
    cwd           what /proc/PID/cwd links to
    ids           its real, effective and saved user and group ids
    """

    __slots__ = (
        "cwd", "descriptors", "files", "host_pid", "ids", "mapped", "name", "namespaces", "pid", "private", "seccomp",
        "tracer",
    )  # fmt: skip
    pid: int
    host_pid: int
    name: str
    descriptors: list[Descriptor]
    tracer: int
    seccomp: int
    namespaces: dict[str, str]
    mapped: list[str]
    files: frozenset[str]
    cwd: str
    ids: tuple[int, ...]
    private: frozenset[str]

    def __init__(
        self, pid: int, host_pid: int, name: str, descriptors: list[Descriptor], tracer: int, seccomp: int,
        namespaces: dict[str, str], mapped: list[str], files: frozenset[str], cwd: str, ids: tuple[int, ...],
        private: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._set(
            pid=pid, host_pid=host_pid, name=name, descriptors=descriptors, tracer=tracer, seccomp=seccomp,
            namespaces=namespaces, mapped=mapped, files=files, cwd=cwd, ids=ids, private=private,
        )  # fmt: skip


def obstacles(tasks: list[Task], reach: Reach) -> list[str]:
    """Say why CRIU cannot dump these processes, a sentence each; tasks[0] is the tree's root."""
    out = []
    shown = {fd.device for task in tasks for fd in task.descriptors if fd.kind == stat.S_IFCHR}
    for task in tasks:
        who = f"process {task.pid} ({task.name})"
        if task.tracer:
            out.append(f"{who} is traced by process {task.tracer}: end the debugger or strace first")
        if reach.rootless and task.seccomp == SECCOMP_FILTER:
            out.append(f"{who} has a seccomp filter, which CRIU can save only as root")
        if not (reach.limits or reach.rootless) and any(task.ids):
            out.append(
                f"{who} has another user or group than root, and root may not ask for its limits here "
                "(CAP_SYS_RESOURCE is lacking: the host is a container)"
            )
        for name in NAMESPACES:
            if task.namespaces.get(name) != tasks[0].namespaces.get(name):
                out.append(f"{who} is in a {name} namespace of its own, which is not saved")
        for path in task.mapped:
            out.append(f"{who} has the device {path} mapped, which CRIU cannot save")
        for fd in task.descriptors:
            why = _descriptor(fd, reach, shown)
            if why:
                out.append(f"{who} has descriptor {fd.number} ({fd.target}), {why}")
    return out + _removed_within_removed(tasks)


def _removed_within_removed(tasks: list[Task]) -> list[str]:
    """CRIU makes a removed directory again, with all above it, and then removes of them what the job holds only."""
    held = {}
    for task in tasks:
        who = f"process {task.pid} ({task.name})"
        links = {f"descriptor {fd.number}": fd.target for fd in task.descriptors}
        for what, target in {**links, "its working directory": task.cwd}.items():
            if target.endswith(_DELETED):
                held[target[: -len(_DELETED)]] = f"{who} holds the removed {target[: -len(_DELETED)]} as {what}"
    out = []
    for path, words in held.items():
        above = os.path.dirname(path)
        if above not in held and any(above.startswith(other + "/") for other in held):
            out.append(
                f"{words}, and one of the removed directories that it was in, but not all: CRIU cannot save that"
            )
    return out


def _descriptor(fd: Descriptor, reach: Reach, shown: set[tuple[int, int]]) -> str:
    if fd.fault:
        return f"which CRIU cannot look at: {fd.fault}"
    if fd.target.startswith("anon_inode:"):
        kind = fd.target[len("anon_inode:") :].strip("[]")
        if kind == "inotify" and reach.rootless:
            return "an inotify watch, which CRIU can save only as root"
        if kind == "io_uring":  # node of Debian 13 has them (libuv 1.50), UV_USE_IO_URING=0 or not
            return (
                "of kind io_uring, which CRIU cannot save; programs do without where, as root, "
                "`sysctl -w kernel.io_uring_disabled=2` was said"
            )
        return "" if kind in ANON_KINDS else f"of kind {kind}, which CRIU cannot save"
    if fd.protocol and fd.protocol.removesuffix("v6") not in PROTOCOLS:
        known = "; a program in Go does without where GODEBUG=multipathtcp=0 is set" if "MPTCP" in fd.protocol else ""
        return f"a socket of {fd.protocol.removeprefix('AF_')}, which CRIU cannot save{known}"
    if fd.kind == stat.S_IFBLK:
        return "a block device, which CRIU cannot save"
    if fd.kind == stat.S_IFCHR and fd.device not in DEVICES and fd.device[0] not in PTS_MAJORS:
        return "a device that CRIU cannot save"
    if _is_controlling(fd) and fd.leads is None:
        return "of a terminal that is gone, which CRIU cannot save"
    if _is_controlling(fd) and fd.leads != reach.terminal and fd.leads not in shown:
        return "of a terminal that nobody in the job has open by its own name: CRIU cannot save that"
    if _LATER.match(fd.target):
        return "of a thread or a descriptor, which CRIU cannot open anew: it is not there yet when CRIU does"
    if _OF_THIS_HOST.match(fd.target):
        return "a file of this host, which another may not have"
    return ""


def by_controlling(tasks: list[Task]) -> list[tuple[int, int]]:
    """List st_rdev and st_dev of what the tree has open as /dev/tty, once each: CRIU keeps it if it is handed in."""
    files = {fd.within for task in tasks for fd in task.descriptors if _is_controlling(fd)}
    return [(os.makedev(*terminals.CONTROLLING), within) for within in sorted(files)]


def _is_controlling(fd: Descriptor) -> bool:
    return fd.kind == stat.S_IFCHR and fd.device == terminals.CONTROLLING


def may_ask_limits(status: str) -> bool:
    """Tell from /proc/PID/status of a process whether root's CRIU, started by it, may ask for others' limits."""
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) & _SYS_RESOURCE)


def ipc(kinds: list[str], rootless: bool, release: str) -> list[str]:
    """Say why CRIU cannot save what there is of System V's `shm`, `sem` and `msg`, and of POSIX message queues, `mq`.

    `release`: the kernel's. CRIU reads the memory by /proc/PID/map_files, which wants a capability over the machine,
    and writes the limits of the namespace that it makes anew, which only root might before Linux 6.9.
    """
    if "mq" in kinds:
        return ["the job has POSIX message queues (mq_open), open or not, which CRIU cannot save"]
    if rootless and "shm" in kinds:
        return ["the job has System V shared memory (`ipcs -m` lists it), which CRIU can save only as root"]
    if rootless and kinds and tuple(int(number) for number in re.findall(r"\d+", release)[:2]) < (6, 9):
        return ["the job has System V semaphores or message queues, which CRIU can save only as root before Linux 6.9"]
    return []


# ------------------------------------------------------------------------------------------------ the look


def tree(root: int, proc: str = "/proc") -> list[int]:
    """List root and its descendants as /proc numbers them, parents first; what ends meanwhile is left out."""
    out, todo = [], [root]
    while todo:
        pid = todo.pop()
        out.append(pid)
        try:
            for thread in os.listdir(f"{proc}/{pid}/task"):
                with open(f"{proc}/{pid}/task/{thread}/children") as f:
                    todo += [int(child) for child in f.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return out


def numbers(root: int, proc: str = "/proc") -> dict[str, int]:
    """Map what /proc calls the processes of the tree, as text → what they call themselves."""
    out = {}
    for pid in tree(root, proc):
        try:
            with open(f"{proc}/{pid}/status") as f:
                out[str(pid)] = int(next(line for line in f if line.startswith("NSpid:")).split()[-1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended since
    return out


def look(root: int, proc: str = "/proc") -> list[Task]:
    """Look at the tasks of the tree, but for those that /proc does not show us: CRIU in their namespaces sees them.

    One that is ending has no owner any more; one that forbids it (PR_SET_DUMPABLE, an ssh-agent) is uid 0's of its user
    namespace, which is not always ours.
    """
    out = []
    for pid in tree(root, proc):
        try:
            out.append(_task(f"{proc}/{pid}"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return out


def ended_sessions(root: int, proc: str = "/proc") -> list[str]:
    """Say which processes of the tree have ended, as has the leader of their session, a sentence each.

    Their parents have not waited for them yet. CRIU makes the one by the other, or by a helper, and then waits for
    itself: a restore would hang.
    """
    rows = {}
    for pid in tree(root, proc):
        try:
            with open(f"{proc}/{pid}/stat") as f:
                start, _, rest = f.read().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = rest.split()  # proc_pid_stat(5)
        rows[pid] = start.partition("(")[2], fields[0], int(fields[3])
    named = numbers(root, proc)
    gone = ("", "Z", 0)
    return [
        f"process {named.get(str(pid), pid)} ({name}) has ended, as has the leader of its session, and its parent has "
        "not waited for it, which CRIU cannot save"
        for pid, (name, state, session) in rows.items()
        if state == "Z" and session != pid and rows.get(session, gone)[1] == "Z"
    ]


def hidden(root: int, proc: str = "/proc") -> list[str]:
    """Say which processes of the tree forbid being looked at, a sentence each, for a CRIU without a uid 0 to become.

    The kernel gives what is in their /proc/PID to that uid, where there is none to the machine's root, whatever the
    capabilities (task_dump_owner in fs/proc/base.c). One that is ending has no memory any more, which `status` tells.
    """
    found = []
    for pid in tree(root, proc):
        at = f"{proc}/{pid}"
        try:
            os.listdir(at + "/fd")
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            with suppress(FileNotFoundError, ProcessLookupError), open(at + "/status") as f:
                status = dict(line.split(":", 1) for line in f.read().splitlines() if ":" in line)
                if "VmSize" in status:
                    found.append(
                        f"process {status['NSpid'].split()[-1]} ({status['Name'].strip()}) forbids being looked at "
                        "(prctl PR_SET_DUMPABLE, as ssh-agent does), and can be saved only on a host whose login has "
                        "subordinate ids (`rexec doctor` says how)"
                    )
    return found


def highest(root: int, proc: str = "/proc") -> int:
    """Find the highest pid of the tree, as the job numbers them."""
    return max(numbers(root, proc).values(), default=0)


def _descriptors(at: str) -> list[Descriptor]:
    descriptors = []
    for name in sorted(os.listdir(at + "/fd"), key=int):
        try:
            target = os.readlink(f"{at}/fd/{name}")
        except FileNotFoundError:
            continue  # closed since
        try:
            st = os.stat(f"{at}/fd/{name}")
        except FileNotFoundError:
            continue
        except PermissionError:
            # A file of the job's mount, which the kernel shows to nobody outside its user namespace; it has no devices.
            descriptors.append(Descriptor(int(name), target, stat.S_IFREG, (0, 0)))
            continue
        except OSError as e:
            # ESTALE: home keeps no file that has neither a name nor been opened there: a fifo, a socket, O_PATH.
            descriptors.append(Descriptor(int(name), target, 0, (0, 0), e.strerror or str(e)))
            continue
        device = (os.major(st.st_rdev), os.minor(st.st_rdev))
        protocol = _protocol(f"{at}/fd/{name}") if stat.S_ISSOCK(st.st_mode) else ""
        prompt = stat.S_ISCHR(st.st_mode) and device == terminals.CONTROLLING
        leads = terminals.leads_to(int(os.path.basename(at)), int(name)) if prompt else None
        descriptors.append(
            Descriptor(int(name), target, stat.S_IFMT(st.st_mode), device, "", protocol, st.st_dev, leads)
        )
    return descriptors


def _task(at: str) -> Task:
    with open(at + "/status") as f:
        status = dict(line.split(":", 1) for line in f.read().splitlines() if ":" in line)
    descriptors = _descriptors(at)
    namespaces = {}
    for name in NAMESPACES:
        if os.path.lexists(f"{at}/ns/{name}"):
            namespaces[name] = os.readlink(f"{at}/ns/{name}")
    with open(at + "/maps", errors="surrogateescape") as f:
        rows = [line.rstrip("\n").split(None, 5) for line in f if "/" in line]
    paths = {row[5] for row in rows}
    mapped = sorted(p for p in paths if p.startswith("/dev/") and not p.startswith(("/dev/zero", "/dev/shm/")))
    files = frozenset(p for p in paths if p.startswith("/") and not p.startswith("/dev/"))
    pid = int(status.get("NSpid", status["Pid"]).split()[-1])
    ids = tuple(int(n) for key in ("Uid", "Gid") for n in status[key].split()[:3])
    return Task(
        pid, int(os.path.basename(at)), status["Name"].strip(), descriptors, int(status["TracerPid"]),
        int(status.get("Seccomp", "0")), namespaces, mapped, files, os.readlink(at + "/cwd"), ids,
        files & {row[5] for row in rows if row[1].endswith("p")},
    )  # fmt: skip


def _protocol(path: str) -> str:
    """Read the name of a socket's protocol (the kernel's net/socket.c, sockfs_xattr_get); "" if it cannot be had."""
    try:
        return os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""
