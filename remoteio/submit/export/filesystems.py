"""Submit side: which mounted filesystems keep data, and which are the kernel's own tables in the form of files.

The latter are never shown to a job: what is written to ``/proc/PID/mem`` is run by a process of this machine, and the
job's kernel has a /proc, /sys and /dev of its own. They are told by statfs(2)'s f_type, wherever they are mounted.
"""

from __future__ import annotations

import os
import select
import threading

from remoteio import syscalls

# linux/magic.h; rpc_pipefs and nfsd are in net/sunrpc/rpc_pipe.c and fs/nfsd/nfsctl.c
PSEUDO = {
    0x9FA0: "proc", 0x62656572: "sysfs", 0x27E0EB: "cgroup", 0x63677270: "cgroup2", 0x64626720: "debugfs",
    0x74726163: "tracefs", 0x73636673: "securityfs", 0xCAFE4A11: "bpf", 0x62656570: "configfs", 0x65735543: "fusectl",
    0x42494E4D: "binfmt_misc", 0x19800202: "mqueue", 0xDE5E81E4: "efivarfs", 0x6165676C: "pstore", 0x6E736673: "nsfs",
    0xF97CFF8C: "selinuxfs", 0x43415D53: "smackfs", 0x1CD1: "devpts", 0x7655821: "resctrl", 0x6C6F6F70: "binder",
    0x50494446: "pidfs", 0x67596969: "rpc_pipefs", 0x6E667364: "nfsd", 0xABBA1974: "xenfs", 0x5A3C69F0: "aafs",
    0x9FA2: "usbdevice", 0x9FA1: "openprom", 0x23C9B64E: "spufs", 0x50495045: "pipefs", 0x534F434B: "sockfs",
}  # fmt: skip
# those that keep data and may say that they have no room: in memory, over the network, or made of others
DATA = frozenset(
    (
        0x01021994, 0x858458F6, 0x794C7630, 0x65735546, 0x6969, 0xFF534D42, 0xFE534D42, 0x517B, 0x01021997, 0x00C36400,
        0x5346414F, 0x6B414653, 0x73757245, 0xF15F, 0x0187, 0x61756673,
    )
)  # fmt: skip # tmpfs ramfs overlay fuse nfs cifs smb2 smb 9p ceph afs(2) coda ecryptfs autofs aufs


# those whose changes are all made by this kernel, by their names in mountinfo; overlayfs is not changed below
LOCAL = {
    "ext2": 0xEF53, "ext3": 0xEF53, "ext4": 0xEF53, "xfs": 0x58465342, "btrfs": 0x9123683E, "tmpfs": 0x01021994,
    "ramfs": 0x858458F6, "f2fs": 0xF2F52010, "zfs": 0x2FC12FC1, "bcachefs": 0xCA451A4E, "overlay": 0x794C7630,
    "jfs": 0x3153464A,
}  # fmt: skip
_WITHOUT_NUMBER = frozenset((LOCAL["btrfs"], LOCAL["overlay"]))  # which give files other numbers than in mountinfo
# those whose statfs(2) asks somebody who may never answer, while names and attributes are known
_SERVED = frozenset(("fuse", "fuseblk", "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs"))


def keeps_data(kind: int, blocks: int, device: int) -> bool:
    """Say whether a filesystem of that f_type, f_blocks and st_dev keeps data.

    Of one that is not known, that it lies on a block device (its number has a major part) or says how large it is:
    the kernel's tables do neither (simple_statfs in fs/libfs.c).
    """
    if kind in PSEUDO:
        return False
    return kind in DATA or bool(os.major(device)) or blocks > 0


class Filesystems:
    """Remembers, by device number, which filesystems keep data, for as long as nothing is mounted or unmounted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, bool] = {}
        # proc_pid_mountinfo(5): it polls as POLLPRI when a mount has come or gone, and with it perhaps a number
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._mounts, select.POLLPRI)

    def keep_data(self, fd: int, device: int) -> bool:
        """Say whether what `fd` is open on, of that st_dev, is in a filesystem that keeps data. Raises OSError.

        `fd` keeps its filesystem mounted, so that its number stands for no other meanwhile.
        """
        with self._lock:
            if self._changes.poll(0):
                self._known.clear()
            known = self._known.get(device)
        if known is None:
            known = type_of(device) in _SERVED or keeps_data(*syscalls.fstatfs(fd), device)
            with self._lock:
                self._known[device] = known
        return known

    def close(self) -> None:
        os.close(self._mounts)


class ChangedHere:
    """Remembers of which filesystems inotify sees all changes, by device number, until `clear`: something is mounted.

    Threads: any. It may wait for ever, as statfs(2) of a server that is dead.
    """

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def sees(self, device: int, fd: int) -> bool:
        """Say so of a filesystem in which `fd` is open; -1: nothing is, and where its number does not tell, it is not
        known yet."""
        known = self._known.get(device)
        if known is None:
            name = type_of(device)
            if not name and fd < 0:
                return False
            known = name in LOCAL or (not name and syscalls.fstatfs(fd)[0] in _WITHOUT_NUMBER)
            self._known[device] = known
        return known

    def clear(self) -> None:
        """Forget all: numbers may stand for others by now."""
        self._known.clear()


def type_of(device: int) -> str:
    """As proc_pid_mountinfo(5) names it, without its subtype; "" for one whose files have other numbers (btrfs)."""
    number = b"%d:%d" % (os.major(device), os.minor(device))
    with open("/proc/self/mountinfo", "rb") as f:
        fields = next((found for line in f if (found := line.split())[2] == number), [b"-", b""])
    return os.fsdecode(fields[fields.index(b"-") + 1]).partition(".")[0]
