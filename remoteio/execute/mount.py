"""/dev/fuse: opened and mounted, as root or in a user namespace. Shipped.

Sources: Documentation/filesystems/fuse.rst, mount(2), pivot_root(2).
"""

from __future__ import annotations

import errno
import os

from remoteio.errors import RexecError
from remoteio.execute import machine
from remoteio.syscalls import check, libc, mount_nowhere
from remoteio.wire.fuse_abi import MAX_WRITE

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_FORCE, MNT_DETACH = 1, 2
READ_AHEAD = MAX_WRITE  # bytes: one whole request under way while another is read


def open_fuse() -> int:
    """Open a new FUSE connection, not yet mounted. Raises RexecError."""
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        mend = {
            errno.ENOENT: "load the module there: modprobe fuse",
            errno.ENODEV: "load the module there: modprobe fuse",
            errno.EACCES: "let users open it there: chmod 666 /dev/fuse",
            errno.EPERM: "the container it runs in must allow the device /dev/fuse",
        }.get(e.errno or 0, "rexec doctor HOST says more")
        raise RexecError("%s cannot open /dev/fuse (%s): %s" % (machine.name(), e.strerror, mend)) from e


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str = "") -> None:
    """Call mount(2). Raises OSError, its text naming the mount."""
    done = libc.mount(os.fsencode(source), os.fsencode(target), kind and kind.encode(), flags, data.encode() or None)
    check(done, "mounting %s" % (kind or source))


def mount_fuse(fd: int, target: str, uid: int, gid: int, flags: int, check: bool) -> None:
    """Mount the connection `fd` on `target` for all users of the namespace; `check`: the kernel checks permissions."""
    options = "fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other,max_read=%d" % (fd, uid, gid, MAX_WRITE)
    mount("rexec", target, "fuse.rexec", flags | MS_NODEV, options + (",default_permissions" if check else ""))


def mount_fuse_nowhere(fd: int) -> int:
    """Mount the connection `fd` for all users of the namespace where nobody else finds it; its root, open as by O_PATH.

    Raises OSError.
    """
    ids = {b"user_id": b"%d" % os.geteuid(), b"group_id": b"%d" % os.getegid()}
    options = {b"fd": b"%d" % fd, b"rootmode": b"40000", **ids, b"allow_other": None, b"max_read": b"%d" % MAX_WRITE}
    return mount_nowhere(b"fuse", options)


def bind(source: str, target: str, flags: int = 0) -> None:
    """Show `source` at `target` too."""
    mount(source, target, None, MS_BIND | flags)


def read_only(where: str) -> None:
    """Have what is mounted at `where` and beneath it, filesystems of the kernel's own, be read-only there."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as f:
        places = [line.split(" ", 5)[4] for line in f]
    for place in places:
        if place == where or place.startswith(where + "/"):
            try:
                mount("none", place, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
            except OSError as e:
                if place == where or e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):
                    raise
                # it lies beneath a place that another was mounted over later: nobody finds it, in the job neither


def unmount(target: str) -> None:
    """Take away what is mounted on `target`, even if it is in use."""
    check(libc.umount2(os.fsencode(target), MNT_DETACH), target)


def abort(target: str) -> None:
    """Fail all that waits for an answer on the FUSE mount at `target`, and take it away. Raises OSError."""
    check(libc.umount2(os.fsencode(target), MNT_FORCE | MNT_DETACH), target)


def make_private() -> None:
    """Keep in this namespace what is mounted from here on."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def read_further_ahead(where: str) -> None:
    """Let the kernel read, as root, READ_AHEAD bytes ahead on the mount at `where`; its own limit is 128 KiB."""
    try:
        os.stat(where)  # waits for the reply to INIT, with which the kernel sets its own limit: fs/fuse/inode.c
    except OSError:
        pass  # and fails then where the mount does not know our ids
    with open("/proc/self/mountinfo", errors="surrogateescape") as f:
        device = [fields[2] for fields in map(str.split, f) if fields[4] == where][-1]
    with open("/sys/class/bdi/%s/read_ahead_kb" % device, "w") as f:
        f.write(str(READ_AHEAD >> 10))


def enter(root: str) -> None:
    """Make the mount point `root` this namespace's root, and let go of the old one."""
    os.chdir(root)
    # with both at "." the old root is stacked on the new one's place, and detached from there: pivot_root(2), NOTES
    check(libc.pivot_root(b".", b"."), "pivot_root")  # in no header, but glibc and musl both have it
    check(libc.umount2(b".", MNT_DETACH), "leaving the old root")
    os.chdir("/")
