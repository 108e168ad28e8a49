"""The job's namespaces and its root: a keeper outside, the mounts inside. Shipped.

::

    agent ── keeper ── init (pid 1 of the job's pid namespace) ── job
             in the host's files;   in the job's root
             outlives the agent
             to clean up

The keeper makes the namespaces and mounts the connection, so that the kernel names the processes of requests by the
host's pids. Init gets a mount namespace of its own, builds the job's root there and enters it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable

from remoteio.errors import RexecError
from remoteio.execute import machine, mount
from remoteio.syscalls import libc
from shim.execute.init import idmap
from shim.wire import sysctl
from shim.wire.job_spec import JobSpec

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # netdevice(7)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 4, 24, 36
JOB_PIDS = 1000  # the job's are higher
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
# what a uid 0 that is root in name only keeps: chown dac_override fowner fsetid kill setgid setuid setpcap
# net_bind_service net_raw sys_chroot mknod audit_write setfcap
_TAME = frozenset((0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))


def unshare(flags: int) -> None:
    """Call unshare(2). Raises RexecError, which names the setting that forbids it."""
    if libc.unshare(flags) == 0:
        return
    e = ctypes.get_errno()
    host = machine.name()
    if flags & CLONE_NEWUSER:
        raise RexecError(
            "%s does not let users make namespaces (%s): %s" % (host, os.strerror(e), forbidding_setting())
        )
    raise RexecError(
        "%s does not let root make namespaces (%s): is it a container without CAP_SYS_ADMIN?" % (host, os.strerror(e))
    )


def forbidding_setting() -> str:
    """Return the kernel setting that keeps users from making namespaces here, and the command that mends it."""
    found = sysctl.forbidden_by(sysctl.value)
    if found is not None:
        return "let its root type: sysctl -w %s=%s" % (found[0], found[2])
    return "a security module or container there forbids it; rexec doctor HOST says more"


def die_with_parent() -> None:
    """Have this process killed when its parent ends: prctl(2) PR_SET_PDEATHSIG."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def tell_of_parents_end(number: int) -> None:
    """Have this process sent that signal when the thread that made it ends, though its process may not be able to."""
    libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def lead(terminal: int) -> None:
    """In the first process of a tree that criu can take as a whole: a session of its own, and no orphan leaves it."""
    import fcntl
    import termios

    os.setsid()
    if terminal >= 0:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def some_pid() -> int:
    """Choose by chance the pid before the job's own: jobs that run at once share files named by pid (/tmp/x.$$) here.

    Far from 32768, where the kernel may begin anew: proc_sys_kernel(5), pid_max.
    """
    return JOB_PIDS + int.from_bytes(os.urandom(2), "little") % (1 << 14)


def number_pids() -> None:
    """In init, once the root has been entered: the job's pids begin at `some_pid`, where the kernel can do that."""
    try:
        with open("/proc/sys/kernel/ns_last_pid", "w") as f:
            f.write("%d" % some_pid())
    except OSError:
        return  # a kernel without CONFIG_CHECKPOINT_RESTORE: they begin at 2


def tame_root() -> None:
    """Leave a root in name only without the capabilities that are about the machine: capabilities(7)."""
    for cap in range(64):
        if cap not in _TAME and libc.prctl(_PR_CAPBSET_DROP, cap, 0, 0, 0) != 0:
            return  # past the last capability this kernel has


class Plan:
    """How the job's namespaces are to be made on this host, for this login.

    user    the login is not root
    ids     which ids the job has: see ``login_ids``
    apart   the namespaces include one for users
    helper  newuidmap and newgidmap map its ids
    single  they map but one id, the login's
    root    they have a uid 0
    alone   they have a network of their own: a rehearsal's names and ports are held by the job itself
    """

    __slots__ = ("alone", "apart", "gids", "helper", "ids", "root", "single", "uids", "user")

    def __init__(self, spec: JobSpec, image: str = "") -> None:
        """`image`: the `ids` of the image that the job goes on from, one that can go on here (compat.ids_differ)."""
        uid, gid = os.geteuid(), os.getegid()
        self.user = uid != 0
        self.alone = spec.checkpoint is not None and spec.checkpoint.rehearsal > 0
        self.ids = image if image in (idmap.ROOT, idmap.ZERO) else login_ids()
        if self.ids == idmap.ROOT and image != idmap.ROOT and (image or (spec.checkpoint is not None and spec.uid)):
            # criu needs CAP_SYS_RESOURCE over the job: a container's root lacks it, but not in a namespace of its own
            self.ids = idmap.BOTH
        self.apart = self.user or self.ids == idmap.BOTH
        self.helper = self.user and self.ids == idmap.BOTH
        self.single = self.user and not self.helper
        self.uids = self.gids = [idmap.ALL]
        if self.apart and not self.user:
            self.uids = self.gids = idmap.NOT_ROOT
        if self.helper:
            self.uids = idmap.plan(spec.uid, uid, _ranges("uid"))
            self.gids = idmap.plan(spec.gid, gid, _ranges("gid"))
        elif self.ids == idmap.ZERO:
            self.uids, self.gids = [(0, uid, 1)], [(0, gid, 1)]
        elif self.user:
            self.uids, self.gids = [(spec.uid, uid, 1)], [(spec.gid, gid, 1)]
        self.root = any(first == 0 for first, _, _ in self.uids)

    def groups(self, spec: JobSpec) -> list[int]:
        """List the further groups that a job has, as it sees them; beside a root without a namespace for users.

        Those that any host with such ids has, for the job may go there; or what it cannot be without: setgroups(2) is
        not for who maps but its own id (user_namespaces(7)).
        """
        if self.ids == idmap.BOTH:
            return [g for g in spec.groups if g < idmap.WHOLE or g == spec.gid]
        mine = {outside: inside for inside, outside, _ in self.gids}
        with open("/proc/sys/kernel/overflowgid") as f:
            strange = int(f.read())
        return [mine.get(g, strange) for g in os.getgroups()]

    @property
    def criu(self) -> tuple[int, int]:
        """The user and group on this host that criu is, whose the files of an image must be."""
        return (idmap.SPARE, idmap.SPARE) if self.apart and not self.user else (os.geteuid(), os.getegid())

    def trusted(self, spec: JobSpec) -> bool:
        """Tell whether the job is root on this host, which then has nothing to keep from it."""
        return not self.apart and spec.uid == 0

    def ranges(self, lines: list[tuple[int, int, int]]) -> list[bytes]:
        """Write them as HELLO does: "first count" each; nothing where every id is mapped (that anybody has)."""
        return [b"%d %d" % (first, count) for first, _, count in lines] if self.user else []


def login_ids() -> str:
    """Tell which ids a job of this login can have, as compat.Facts.uid_map names them."""
    if os.geteuid() == 0:
        return idmap.ROOT
    whole = all(len(idmap.plan(0, 0, _ranges(kind))) > 1 for kind in ("uid", "gid"))
    return idmap.BOTH if whole and _tool("newuidmap") and _tool("newgidmap") else idmap.OWN


def _ranges(kind: str) -> list[tuple[int, int]]:
    uid = os.geteuid()
    return idmap.subordinate("/etc/sub" + kind, (str(uid), _login(uid)))


def _login(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _tool(name: str) -> str:
    return next(
        (d + "/" + name for d in ("/usr/bin", "/bin", "/usr/sbin", "/sbin") if os.access(d + "/" + name, os.X_OK)), ""
    )


def make(plan: Plan) -> None:
    """Make, in the keeper, the namespaces, their ids mapped. Raises RexecError."""
    _make(plan)
    if plan.alone:
        import fcntl
        import struct

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
            fcntl.ioctl(any_, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _make(plan: Plan) -> None:
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | (CLONE_NEWNET if plan.alone else 0)
    if not plan.apart:
        unshare(flags)
        return
    helper = _map_helper(plan) if plan.helper or not plan.user else None
    unshare(flags | CLONE_NEWUSER)
    if helper is not None:
        helper()
        return
    for name, text in (("setgroups", "deny"), ("uid_map", idmap.text(plan.uids)), ("gid_map", idmap.text(plan.gids))):
        try:
            with open("/proc/self/" + name, "w") as f:
                f.write(text)
        except OSError as e:
            raise RexecError(
                "%s refuses the namespace its user id (%s): %s" % (machine.name(), e.strerror, forbidding_setting())
            ) from e


def _map_helper(plan: Plan) -> Callable[[], None]:
    """A child outside the coming namespace that maps this process's ids; call the result after. Raises RexecError."""
    me = os.getpid()
    go_r, go_w = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_w)
        done = False
        try:
            if os.read(go_r, 1):
                done = _map("uid", me, plan.uids, plan.helper) and _map("gid", me, plan.gids, plan.helper)
        finally:
            os._exit(0 if done else 1)
    os.close(go_r)

    def run() -> None:
        os.write(go_w, b"x")
        os.close(go_w)
        if os.waitpid(child, 0)[1] != 0:
            raise RexecError(
                (
                    "newuidmap failed on %s: is it setuid root, and are /etc/subuid and /etc/subgid right?"
                    if plan.helper
                    else "root of %s may not map user ids: is it a container without CAP_SETUID or CAP_SETFCAP?"
                )
                % machine.name()
            )

    return run


def _map(kind: str, pid: int, lines: list[tuple[int, int, int]], helper: bool) -> bool:
    """Map the ids of a process in a new user namespace, by newuidmap or as root."""
    if helper:
        tool = "new%smap" % kind
        child = os.spawnv(os.P_NOWAIT, _tool(tool), [tool, str(pid)] + [str(n) for line in lines for n in line])
        return os.waitpid(child, 0)[1] == 0
    with open("/proc/%d/%s_map" % (pid, kind), "w") as f:
        f.write(idmap.text(lines))
    return True


def mount_root(fd: int, plan: Plan, spec: JobSpec) -> str:
    """Mount, in the keeper, the connection. Returns where, as the host sees it. Raises RexecError."""
    where = next((d for d in ("/mnt", "/media", "/srv") if os.path.isdir(d)), "/tmp")
    trusted = plan.trusted(spec)
    try:
        mount.make_private()
        mount.mount_fuse(
            fd,
            where,
            spec.uid if plan.user else 0,
            spec.gid if plan.user else 0,
            0 if trusted else mount.MS_NOSUID,
            trusted,
        )
    except OSError as e:
        raise RexecError(
            "%s refuses to mount the job's files: %s; rexec doctor says more" % (machine.name(), e.strerror)
        ) from e
    return where


def begin(where: str, scratch: list[str], plan: Plan) -> list[int]:
    """In init, before all else: do what takes the login's own rights on the host, and give them up.

    Returns descriptors of the directories of --scratch, which root's job may not find by itself. Raises RexecError.
    """
    try:
        unshare(CLONE_NEWNS)
        if not plan.user:
            mount.read_further_ahead(where)
        fds = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC) for path in scratch]
        if plan.apart and not plan.user:
            # until here it is the host's root, whom its own namespace does not know
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # or its own /proc/self is the host's root's
    except OSError as e:
        raise _no_root(e) from e
    return fds


def _no_root(e: OSError) -> RexecError:
    what = e.strerror if e.filename is None else "%s: %s" % (e.filename, e.strerror)
    host = machine.name()
    return RexecError("the job's root cannot be made on %s (%s); rexec doctor %s says more" % (host, what, host))


def build_root(where: str, spec: JobSpec, scratch: list[int], plan: Plan) -> None:
    """In init: mount what is the execute host's own (/proc /sys /dev, scratch) into the root at `where`; then enter it.

    Every path beneath `where` is already the submit machine's. `scratch`: what ``begin`` returned. Raises RexecError.
    """
    gid5 = any(first <= 5 < first + count for first, _, count in plan.gids)
    try:
        for path, fd in zip(spec.scratch, scratch):
            mount.bind("/proc/self/fd/%d" % fd, where + os.fsdecode(path))
            os.close(fd)
        mount.mount("proc", where + "/proc", "proc", mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC)
        mount.bind("/sys", where + "/sys", mount.MS_REC)
        if not plan.trusted(spec):
            mount.read_only(where + "/sys")  # in cgroups of the login's own, whatever else is in them can be killed
        dev = where + "/dev"
        mount.mount("dev", dev, "tmpfs", mount.MS_NOSUID, "mode=755,size=64k")
        for name in DEVICES:
            if os.path.exists("/dev/" + name):
                os.close(os.open(dev + "/" + name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
                mount.bind("/dev/" + name, dev + "/" + name)
        for name in ("pts", "shm"):
            os.mkdir(dev + "/" + name)
        options = "newinstance,ptmxmode=0666,mode=620" + (",gid=5" if gid5 else "")
        mount.mount("devpts", dev + "/pts", "devpts", mount.MS_NOSUID | mount.MS_NOEXEC, options)
        mount.mount("shm", dev + "/shm", "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=1777")
        for name, target in (
            ("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"),
        ):  # fmt: skip
            os.symlink(target, dev + "/" + name)
        mount.enter(where)
        socket.sethostname(os.fsdecode(spec.hostname))
    except OSError as e:
        raise _no_root(e) from e


def become(spec: JobSpec, plan: Plan) -> None:
    """Take, in the job's first process, the submit user's ids. Raises OSError."""
    if plan.apart:
        if plan.ids == idmap.BOTH:
            os.setgroups(plan.groups(spec))
        if spec.uid == 0:
            tame_root()
    else:
        os.setgroups(spec.groups)
    os.setresgid(spec.gid, spec.gid, spec.gid)
    os.setresuid(spec.uid, spec.uid, spec.uid)
