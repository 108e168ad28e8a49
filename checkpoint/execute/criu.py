"""The only caller of criu: requests built purely, answers and statistics parsed, its log told in plain words.

criu is run as `criu swrk FD` inside the job's namespaces and spoken to over a SOCK_SEQPACKET socket in protobuf
(criu's images/rpc.proto, 4.1). That interface, not the command line, because its notifications let the agent decide
while the tree is frozen (after a dump) or not yet running (after a restore): the command line needs a shell script
for it, which would run from the job's own files.

Shipped: runs on the execute host.
"""

from __future__ import annotations

import os
import re

from checkpoint.errors import CheckpointError
from checkpoint.execute import capabilities
from checkpoint.value import Value
from checkpoint.wire import protobuf
from checkpoint.wire.criu_bundle import EMPTY_DIR
from checkpoint.wire.protobuf import content, encode, integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

# Descriptors of the criu process. It sees its own files only through them: the job's root has other files.
SOCKET_FD, BUNDLE_FD, IMAGES_FD, WORK_FD, FIRST_INHERITED_FD = 3, 4, 5, 6, 10
LOG_NAME, STDERR_NAME, STATISTICS = "criu.log", "criu.stderr", "stats-dump"
CONFIG_NAME = "criu.conf"
# "File validation by size" and the plug-in directory have no field in rpc.proto; the configuration file has them. The
# directory of the log has one, which criu would look up in /proc of the socket's owner: another pid namespace.
CONFIG = (
    "file-validation filesize\nskip-file-rwx-check\n"
    f"libdir /proc/self/fd/{BUNDLE_FD}/{EMPTY_DIR}\nwork-dir /proc/self/fd/{WORK_FD}\n"
)
GHOST_LIMIT = (1 << 32) - 1
DUMP, RESTORE, NOTIFY = 1, 2, 6
CPU_CAP_NONE = 0
MODE_IGNORE = 0
NETWORK_LOCK_SKIP = 3
# (kernel, criu): from that kernel on an older criu cannot dump; 6.13 moved the vdso's data pages. Before 4.0 its
# service takes no path for the images.
OLDEST = (((6, 13), (4, 1)), ((0, 0), (4, 0)))


class CriuError(CheckpointError):
    """One sentence for the user: what criu could not do, why, and where its log is."""


class Answer(Value):
    """A message from criu.

    kind      DUMP, RESTORE, NOTIFY …
    success   whether it is done
    script    the name of a notification, or ""
    pid       the root's, or 0
    message   criu's own words, or ""
    """

    __slots__ = ("kind", "message", "pid", "script", "success")
    kind: int
    success: bool
    script: str
    pid: int
    message: str

    def __init__(self, kind: int, success: bool, script: str, pid: int, message: str) -> None:
        self._set(kind=kind, success=success, script=script, pid=pid, message=message)


def _decode(raw: bytes) -> protobuf.Fields:
    try:
        return protobuf.decode(raw)
    except protobuf.ProtobufError as error:
        raise CriuError(f"criu sent a message that {error}; is it really criu?") from error


def pipe_key(inode: int) -> str:
    """Name an inherited pipe as CRIU does. Without the colon it silently restores one that leads nowhere."""
    return f"pipe:[{inode}]"


def tty_key(rdev: int, dev: int) -> str:
    """Name a pty slave as CRIU does: by st_rdev of the terminal and st_dev of its devpts, in hex."""
    return f"tty[{rdev:x}:{dev:x}]"


def _common(unprivileged: bool, timeout: int) -> list[tuple[int, int | bool | str | bytes]]:
    return [
        (1, -1),  # images_dir_fd would be looked up in /proc of the socket's owner: another pid namespace
        (68, f"/proc/self/fd/{IMAGES_FD}"),
        (9, 4),  # log_level
        (10, LOG_NAME),
        (8, True),  # file_locks
        (12, True),  # notify_scripts
        (20, CPU_CAP_NONE),  # compat.py compares CPUs before anything is moved
        (34, MODE_IGNORE),  # manage_cgroups_mode: the execute host's cgroups are not the job's
        (35, GHOST_LIMIT),
        (45, timeout),
        (46, True),  # tcp_skip_in_flight: who asks a listener from outside the job is not kept either way
        (51, f"/proc/self/fd/{WORK_FD}/{CONFIG_NAME}"),
        (67, unprivileged),
    ]


def _tcp(keep_tcp: bool) -> list[tuple[int, int | bool | str | bytes]]:
    return [(5, True), (64, NETWORK_LOCK_SKIP)] if keep_tcp else [(52, True)]


def dump_request(
    pid: int, *, unprivileged: bool, leave_running: bool, ttys: tuple[str, ...] = (), timeout: int = 30,
    keep_tcp: bool = False,
) -> bytes:  # fmt: skip
    """Make the criu_req that dumps the tree of pid, as criu's pid namespace numbers it.

    leave_running   the tree goes on after the commit, else it is killed
    ttys            tty_key of each terminal whose master is outside
    timeout         seconds to freeze it
    keep_tcp        established TCP connections are restored (root only; both ends in the tree)
    """
    options = _common(unprivileged, timeout) + _tcp(keep_tcp)
    options += [(2, pid), (3, leave_running)]
    options += [(37, key) for key in ttys]
    return encode([(1, DUMP), (2, encode(options))])


def restore_request(
    inherited: tuple[tuple[int, str], ...], *, unprivileged: bool, timeout: int = 30, keep_tcp: bool = False
) -> bytes:
    """Make the criu_req that restores a tree, as a child of criu's parent.

    inherited: (descriptor of criu, pipe_key or tty_key at the dump).
    """
    options = _common(unprivileged, timeout) + _tcp(keep_tcp)
    options += [(26, True)]  # rst_sibling: the namespace's init reaps the root and learns its exit status
    options += [(27, encode([(1, key), (2, fd)])) for fd, key in inherited]
    return encode([(1, RESTORE), (2, encode(options))])


def notify_reply(go_on: bool) -> bytes:
    """Answer a notification. False after `post-dump` thaws the tree; after `post-restore` it kills the copy."""
    return encode([(1, NOTIFY), (3, go_on)])


def parse_answer(raw: bytes) -> Answer:
    """Read a criu_resp. Raises CriuError."""
    fields = _decode(raw)
    notify = _decode(content(fields, 5))
    restore = _decode(content(fields, 4))
    return Answer(
        integer(fields, 1) or 0,
        bool(integer(fields, 2)),
        content(notify, 1).decode(errors="replace"),
        integer(restore, 1) or integer(notify, 2) or 0,
        content(fields, 9).decode(errors="replace"),
    )


def argv(loader: str, library_dirs: list[str], criu: str) -> list[str]:
    """Make the command of criu from a bundle held open at BUNDLE_FD; all three are paths within the bundle."""
    base = f"/proc/self/fd/{BUNDLE_FD}/"
    path = ":".join(base + d for d in library_dirs)
    return [base + loader, "--library-path", path, base + criu, "swrk", str(SOCKET_FD)]


def environment() -> dict[str, str]:
    """Make criu's environment: nothing of the job's; it needs a PATH only to be quiet."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


# ------------------------------------------------------------------------------------------------ versions


def parse_version(text: str) -> tuple[int, ...]:
    """Read (4, 1, 1) from `criu --version` ("Version: 4.1.1") or uname's release. Raises CriuError if there is none."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not found:
        raise CriuError(f"criu did not say its version but {text.strip()[:80]!r}; is it really criu?")
    return tuple(int(part) for part in found.groups() if part is not None)


def too_old(version: tuple[int, ...], kernel: tuple[int, ...]) -> str:
    """Say why this criu cannot work on this kernel, or ""."""
    for since, needed in OLDEST:
        if kernel >= since:
            if version < needed:
                have, want = ".".join(map(str, version)), ".".join(map(str, needed))
                return f"criu {have} is too old for kernel {'.'.join(map(str, kernel))}, which needs {want} or newer"
            return ""
    return ""


# ------------------------------------------------------------------------------------------------ the log

_HARMLESS = re.compile(r"rlimit: Can't setup RLIMIT_NOFILE|net: Unexpected error: -1\(|tun: Unable to create tun")
# First match wins; \1 … are the pattern's groups.
_WORDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"Unknown shit (\d+) .*?(anon_inode:)?\[?io_uring", r"the job uses io_uring, which CRIU cannot save"),
        (r"[Uu]nexpected rt vDSO|vdso: Unexpected", "this criu is too old for this kernel's vdso; criu 4.1 is needed"),
        (r"Can't lookup mount=(\d+) for fd=(\d+) path=(\S+)",
         r"descriptor \2 (\3) was opened outside the job's namespaces"),
        (r"Can't dump file (\d+) of that type \[(\d+)\] \((\S+?)\)?$", r"descriptor \1 is a \3: CRIU cannot save it"),
        (r"Can't dump ?ghost file (\S+) of (\d+) size", r"deleted file \1 of \2 bytes is too big to go into the image"),
        (r"Dumping .*tty.*|.*tty.*(?:no|without) (?:session leader|master)", "a terminal is held outside the job"),
        (r"File (\S+) has bad size (\d+) \(expect (\d+)\)",
         r"file \1 has \2 bytes now but had \3 when the image was made"),
        (r"Can't open file (\S+) on restore: (.*)|Can't open file (\S+)",
         r"a file the job had open cannot be opened again: \1\3"),
        (r"Can not set (?:flock|(?:posix|ofd) lock)", "a file lock that the job held is held by another program now"),
        (r"[Ss]eize(?:d)? .*?(\d+).*traced|[Pp]rocess (\d+) is (?:already )?traced|Unable to interrupt task: (\d+)",
         r"process \1\2\3 is being traced by a debugger"),
        (r"Timeout reached", "the job's processes did not stop in time; one may wait for a file that is not answered"),
        (r"(?:Pid|pid|PID) (\d+) (?:is|already).*(?:taken|exist|mismatch)|Pid (\d+) do not match expected (\d+)",
         r"process number \1\3 is already taken in the namespace"),
        (r"Can't fork for (\d+): File exists", r"process number \1 is already taken in the namespace"),
        (r"The criu itself is within dumped tree", "criu itself is part of the job's tree"),
        (r"Can't create link remap for (\S+?)\. |Can't open mapped \[(\S+) \(deleted\)\]",
         r"\1\2, which the job uses, was removed or replaced, and CRIU cannot find it"),
        (r"Unaccessible path opened|Failed to resolve mapping",
         "a file that the job uses was removed or replaced, and CRIU cannot find it"),
        (r"Connected TCP socket|TCP connection", "an established TCP connection leads out of the job"),
        (r"[Ee]xternal socket is used|external.*unix|Can't dump half of stream unix|[Uu]nix socket .* without peer",
         "a unix socket leads to a process outside the job"),
        (r"Unsupported proto (\d+) for socket", r"a socket of protocol \1 is of a kind that CRIU cannot save"),
        (r"Unknown socket collected \(family (\d+)\)", r"a socket of family \1 is of a kind that CRIU cannot save"),
        (r"In-flight connection", "a TCP connection is not accepted yet"),
        (r"write queue on an in-flight", "data is under way in a unix connection that is not accepted yet"),
        (r"closed in-flight socket", "a unix connection was closed before it is accepted"),
        (r"corked dgram socket", "a UDP socket gathers what it is to send (UDP_CORK), which CRIU cannot save"),
        (r"The socket has data to read", "a netlink socket has messages that are not read yet, which CRIU cannot save"),
        (r"netlink socket \S+ (?:has|is bound)", "a netlink socket listens to groups that CRIU cannot save"),
        (r"Control messages in queue|More than 1 SCM|2nd SCM_RIGHTS",
         "a unix socket has descriptors or credentials under way, which CRIU cannot save"),
        (r"couldn't find ifname", "a socket is bound to a link-local address, which CRIU cannot save"),
        (r"find ifindex for (\S+)", r"a socket is bound to the network interface \1, which this host does not have"),
        (r"Can't set 1:25 ", "a socket is bound to a network interface that this host does not have"),
        (r"bind inet socket.*in use", "a port that the job has is taken on this host"),
        (r"bind inet socket", "an address or a port that the job has cannot be had on this host"),
        (r"Task \d+ with SysVIPC", "System V shared memory is not saved"),
        (r"Can't find suitable path for handle|Can't dump that handle", "CRIU cannot find what an inotify watch is on"),
        (r"session leader of (?:zombie process )?(\d+)\(", r"the session of process \1 was begun outside the job"),
        (r"Can't infect \(pid: (\d+)\)", r"CRIU could not get into process \1"),
        (r"No space left on device", "the disk is full where the image is written"),
        (r"[Pp]id (\d+) .*(?:not found|No such process)|Unable to detach from (\d+)", r"process \1\2 has ended"),
        (r"fstat exe link: Stale", "the job's working directory was removed, and CRIU cannot look at it"),
        (r"Stale file handle", "a fifo, a socket or a path that the job holds was removed, and CRIU cannot look at it"),
        (r"Operation not permitted|Permission denied", "the kernel did not permit it"),
    )
)  # fmt: skip


_TASK = re.compile(r"Dumping task \(pid: (\d+) comm: (.*)\)$")
_TASKS_DONE = re.compile(r"\) Dumping (?:file-locks|pstree)")
_DESCRIPTOR = re.compile(r"\) \d+ fdinfo (\d+): pos:")
_RESTORED = re.compile(r"^\([\d.]+\) +(\d+): Error \(")


def _first_error(log: str) -> tuple[str, str]:
    """Find the first `Error (` line of criu's log that matters, without time stamp and source position, and its place.

    That is what criu was at: "process 12 (sh), descriptor 3", or as much of it as it says. Both are "" where none is.
    """
    task = descriptor = ""
    for line in log.splitlines():
        if "Error (" in line and not _HARMLESS.search(line):
            restored = _RESTORED.match(line)
            if restored and not task:
                task = f"process {restored[1]}"
            return re.sub(r"^.*?Error \([^)]*\): ", "", line).strip(), task + (descriptor if task else "")
        found = _TASK.search(line)
        if found:
            task, descriptor = f"process {found[1]} ({found[2]})", ""
        elif _TASKS_DONE.search(line):
            task = ""
        elif "--------" in line:  # before and after the files of one
            descriptor = ""
        else:
            found = _DESCRIPTOR.search(line)
            descriptor = f", descriptor {found[1]}" if found else descriptor
    return "", ""


def explain(log: str) -> str:
    """Tell criu's first error in plain words, criu's own kept in brackets; "criu gave no reason" without one.

    With the process and the descriptor that criu was at, where it says so.
    """
    line, at = _first_error(log)
    if not line:
        return "criu gave no reason"
    for pattern, words in _WORDS:
        found = pattern.search(line)
        if found:
            plain = words
            for group, text in enumerate(found.groups(), 1):
                plain = plain.replace(f"\\{group}", text or "")
            return f"{at}: {plain} (criu: {line})" if at else f"{plain} (criu: {line})"
    return f"{at}: CRIU gave up there (criu: {line})" if at else f"criu: {line}"


# ------------------------------------------------------------------------------------------------ statistics

_DUMP_STATS = {1: "freezing_us", 2: "frozen_us", 3: "memdump_us", 4: "memwrite_us", 5: "pages_scanned",
               6: "pages_skipped_parent", 7: "pages_written"}  # fmt: skip
_RESTORE_STATS = {1: "pages_compared", 2: "pages_skipped_cow", 3: "forking_us", 4: "restore_us", 5: "pages_restored"}


def parse_stats(raw: bytes) -> dict[str, int]:
    """Read a stats-dump or stats-restore image as {name: value}, times in microseconds. Raises CriuError.

    Layout: u32 image magic, u32 stats magic, u32 length, then stats_entry of criu's images/stats.proto.
    """
    size = int.from_bytes(raw[8:12], "little")
    if len(raw) < 12 + size or size == 0:
        raise CriuError("criu's statistics file is cut short; was the dump interrupted?")
    entry = _decode(raw[12 : 12 + size])
    for number, names in ((1, _DUMP_STATS), (2, _RESTORE_STATS)):
        inner = content(entry, number)
        if inner:
            fields = _decode(inner)
            return {name: integer(fields, field) or 0 for field, name in names.items()}
    raise CriuError("criu's statistics file has neither dump nor restore times")


# ------------------------------------------------------------------------------------------------ one run


def prepare(work: str) -> None:
    """Write what criu reads besides the request into the directory of its log. Raises OSError."""
    # all are ours, whoever criu is: its log must be readable before it has ended
    for name, text in ((CONFIG_NAME, CONFIG), (LOG_NAME, ""), (STATISTICS, "")):
        fd = os.open(os.path.join(work, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as f:
            f.write(text)


def converse(sock: socket.socket, request: bytes, notified: Callable[[Answer], bool]) -> Answer:
    """Send a request and answer criu's notifications by what notified says, until criu's last word.

    Raises CriuError if criu dies in between, and what notified raises: closing the socket then aborts what criu does.
    """
    sock.send(request)
    while True:
        raw = sock.recv(1 << 16)
        if not raw:
            raise CriuError("criu died before it had finished; its log is kept")
        answer = parse_answer(raw)
        if answer.kind != NOTIFY:
            return answer
        sock.send(notify_reply(notified(answer)))


def failure(what: str, work: str) -> str:
    """Tell the user in a sentence why the criu of that directory failed, and where its log is."""
    path = os.path.join(work, LOG_NAME)
    if not os.path.getsize(path):
        path = os.path.join(work, STDERR_NAME)
        with open(path, errors="replace") as f:
            said = f.read().strip().splitlines()
        return f"{what} failed: criu did not start ({said[-1] if said else 'it said nothing'})"
    with open(path, errors="replace") as f:
        return f"{what} failed: {explain(f.read())}; criu's log is {path}"


def become(loader: str, library_dirs: list[str], criu: str, fds: dict[int, int]) -> None:
    """Exec criu, in a forked child in the job's namespaces, with exactly these descriptors {number there: here}.

    Does not return; raises OSError if criu cannot be run.
    """
    import fcntl

    capabilities.take_along()
    floor = max([*fds, *fds.values()]) + 1
    high = {target: fcntl.fcntl(source, fcntl.F_DUPFD, floor) for target, source in fds.items()}
    for target, fd in high.items():
        os.dup2(fd, target, inheritable=True)
    low = 0
    for target in [*sorted(fds), 1 << 16]:
        if low < target:  # closerange(0, 0) closes every descriptor there is
            os.closerange(low, target)
        low = target + 1
    command = argv(loader, library_dirs, criu)
    os.execve(command[0], command, environment())
