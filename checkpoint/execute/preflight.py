"""Can this job be dumped as it is now? What CRIU cannot save is found in /proc, and named by process and descriptor.

The look is taken from the agent's side, before anything is frozen. Shipped: runs on the execute host.
"""

from __future__ import annotations

import os
import stat

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


class Descriptor(Value):
    """A descriptor of a process.

    number   its number
    target   what /proc/PID/fd/N links to
    kind     S_IFMT of its file
    device   st_rdev, (major, minor)
    fault    why its file cannot be looked at, not even by CRIU; then kind and device are 0
    protocol the kernel's name of a socket's protocol: TCP, MPTCP, UNIX …; "" of what is none, or if it cannot be had
    """

    __slots__ = ("device", "fault", "kind", "number", "protocol", "target")
    number: int
    target: str
    kind: int
    device: tuple[int, int]
    fault: str
    protocol: str

    def __init__(
        self, number: int, target: str, kind: int, device: tuple[int, int], fault: str = "", protocol: str = ""
    ) -> None:
        self._set(number=number, target=target, kind=kind, device=device, fault=fault, protocol=protocol)


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
    """

    __slots__ = ("descriptors", "host_pid", "mapped", "name", "namespaces", "pid", "seccomp", "tracer")
    pid: int
    host_pid: int
    name: str
    descriptors: list[Descriptor]
    tracer: int
    seccomp: int
    namespaces: dict[str, str]
    mapped: list[str]

    def __init__(
        self, pid: int, host_pid: int, name: str, descriptors: list[Descriptor], tracer: int, seccomp: int,
        namespaces: dict[str, str], mapped: list[str],
    ) -> None:  # fmt: skip
        self._set(
            pid=pid, host_pid=host_pid, name=name, descriptors=descriptors, tracer=tracer, seccomp=seccomp,
            namespaces=namespaces, mapped=mapped,
        )  # fmt: skip


def obstacles(tasks: list[Task], rootless: bool) -> list[str]:
    """Say why CRIU cannot dump these processes, a sentence each; tasks[0] is the tree's root."""
    out = []
    for task in tasks:
        who = f"process {task.pid} ({task.name})"
        if task.tracer:
            out.append(f"{who} is traced by process {task.tracer}: end the debugger or strace first")
        if rootless and task.seccomp == SECCOMP_FILTER:
            out.append(f"{who} has a seccomp filter, which CRIU can save only as root")
        for name in NAMESPACES:
            if task.namespaces.get(name) != tasks[0].namespaces.get(name):
                out.append(f"{who} is in a {name} namespace of its own, which is not saved")
        for path in task.mapped:
            out.append(f"{who} has the device {path} mapped, which CRIU cannot save")
        for fd in task.descriptors:
            why = _descriptor(fd, rootless)
            if why:
                out.append(f"{who} has descriptor {fd.number} ({fd.target}), {why}")
    return out


def _descriptor(fd: Descriptor, rootless: bool) -> str:
    if fd.fault:
        return f"which CRIU cannot look at: {fd.fault}"
    if fd.target.startswith("anon_inode:"):
        kind = fd.target[len("anon_inode:") :].strip("[]")
        if kind == "inotify" and rootless:
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
    return ""


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


def highest(root: int, proc: str = "/proc") -> int:
    """Find the highest pid of the tree, as the job numbers them."""
    return max(numbers(root, proc).values(), default=0)


def _task(at: str) -> Task:
    with open(at + "/status") as f:
        status = dict(line.split(":", 1) for line in f.read().splitlines() if ":" in line)
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
        descriptors.append(Descriptor(int(name), target, stat.S_IFMT(st.st_mode), device, protocol=protocol))
    namespaces = {}
    for name in NAMESPACES:
        if os.path.lexists(f"{at}/ns/{name}"):
            namespaces[name] = os.readlink(f"{at}/ns/{name}")
    with open(at + "/maps", errors="surrogateescape") as f:
        paths = {line.split(None, 5)[5].rstrip("\n") for line in f if line.count(" /dev/")}
    mapped = sorted(p for p in paths if not p.startswith(("/dev/zero", "/dev/shm/")))
    pid = int(status.get("NSpid", status["Pid"]).split()[-1])
    return Task(
        pid, int(os.path.basename(at)), status["Name"].strip(), descriptors, int(status["TracerPid"]),
        int(status.get("Seccomp", "0")), namespaces, mapped,
    )  # fmt: skip


def _protocol(path: str) -> str:
    """Read the name of a socket's protocol (the kernel's net/socket.c, sockfs_xattr_get); "" if it cannot be had."""
    try:
        return os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""
