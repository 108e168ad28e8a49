"""The kernel's FUSE messages, as declared structs, and the one table of operations.

Source: ``include/uapi/linux/fuse.h`` (protocol 7.31 to 7.45). All integers are native-endian; both ends of a link
must therefore have the same byte order, which the handshake of the link checks. Offsets of a request's own arguments
begin at ``IN_HEADER.size``.
"""

from __future__ import annotations

import struct

from remoteio import kernel_structs
from remoteio.errors import ProtocolError

MAJOR, MINOR = 7, 45
ROOT_ID = 1
MAX_WRITE = 1 << 20
MAX_REQUEST = MAX_WRITE + 4096  # what /dev/fuse wants a read buffer to hold
PAGES = MAX_WRITE // 4096

S = struct.Struct
IN_HEADER = S("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
OUT_HEADER = S("=IiQ")  # len -errno unique
ATTR = S(
    "=QQQQQQIIIIIIIIII"
)  # ino size blocks atime mtime ctime (s) atime mtime ctime (ns) mode nlink uid gid rdev blksize flags
ENTRY = S("=QQQQII")  # nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec; then ATTR
ATTR_OUT = S("=QII")  # attr_valid attr_valid_nsec dummy; then ATTR
GETATTR_IN = S("=IIQ")  # getattr_flags dummy fh
SETATTR_IN = S("=IIQQQQQQIIIIIIII")  # valid pad fh size lock_owner a m c (s) a m c (ns) mode unused uid gid unused
MKNOD_IN = S("=IIII")  # mode rdev umask pad
MKDIR_IN = S("=II")  # mode umask
RENAME_IN = S("=Q")  # newdir
RENAME2_IN = S("=QII")  # newdir flags pad
LINK_IN = S("=Q")  # oldnodeid
OPEN_IN = S("=II")  # flags open_flags
OPEN_OUT = S("=QII")  # fh open_flags backing_id
CREATE_IN = S("=IIII")  # flags mode umask open_flags
RELEASE_IN = S("=QIIQ")  # fh flags release_flags lock_owner
FLUSH_IN = S("=QIIQ")  # fh unused pad lock_owner
READ_IN = S("=QQIIQII")  # fh offset size read_flags lock_owner flags pad
WRITE_IN = S("=QQIIQII")  # fh offset size write_flags lock_owner flags pad
WRITE_OUT = S("=II")  # size pad
STATFS_OUT = S("=QQQQQIIII24x")  # blocks bfree bavail files ffree bsize namelen frsize pad
FSYNC_IN = S("=QII")  # fh fsync_flags pad
SETXATTR_IN = S("=II")  # size flags (the short form: SETXATTR_EXT is not negotiated)
GETXATTR_IN = S("=II")  # size pad
GETXATTR_OUT = S("=II")  # size pad
IOCTL_IN = S("=QIIQII")  # fh flags cmd arg in_size out_size
IOCTL_OUT = S("=iIII")  # result flags in_iovs out_iovs; then data
LK_IN = S("=QQQQIIII")  # fh owner start end type pid lk_flags pad
LK_OUT = S("=QQII")  # start end type pid
ACCESS_IN = S("=II")  # mask pad
INIT_IN = S("=IIIII")  # major minor max_readahead flags flags2
INIT_OUT = S(
    "=IIIIHHIIHHI28x"
)  # major minor max_readahead flags background congestion max_write gran pages align flags2
INTERRUPT_IN = S("=Q")  # unique
FORGET_IN = S("=Q")  # nlookup
BATCH_FORGET_IN = S("=II")  # count dummy
FORGET_ONE = S("=QQ")  # nodeid nlookup
FALLOCATE_IN = S("=QQQII")  # fh offset length mode pad
LSEEK_IN = S("=QQII")  # fh offset whence pad
LSEEK_OUT = S("=Q")  # offset
COPY_IN = S("=QQQQQQQ")  # fh_in off_in nodeid_out fh_out off_out len flags
COPY64_OUT = S("=Q")  # bytes copied
DIRENT = S("=QQII")  # ino off namelen type; then name, padded to 8
STATX_IN = S("=IIQII")  # getattr_flags reserved fh sx_flags sx_mask
STATX_OUT = S("=QII16x")  # attr_valid attr_valid_nsec flags; then struct fuse_statx
STATX = kernel_structs.STATX
NOTIFY_INVAL_INODE_OUT = S("=Qqq")  # nodeid off len
NOTIFY_INVAL_ENTRY_OUT = S("=QII")  # parent's nodeid namelen flags; then the name and a zero byte
NOTIFY_PRUNE_OUT = S("=II8x")  # count padding; then nodeids

NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY, NOTIFY_PRUNE = 2, 3, 9
EXPIRE_ONLY = 1  # flag of NOTIFY_INVAL_ENTRY
PRUNES = 45  # the minor version of a kernel that knows the last

# INIT flags we may ask for (the kernel's offer decides); flags2 are bits 32 and up
ASYNC_READ, POSIX_LOCKS, ATOMIC_O_TRUNC, BIG_WRITES, DONT_MASK = 1 << 0, 1 << 1, 1 << 3, 1 << 5, 1 << 6
FLOCK_LOCKS, AUTO_INVAL_DATA, DO_READDIRPLUS = 1 << 10, 1 << 12, 1 << 13
ASYNC_DIO, PARALLEL_DIROPS, POSIX_ACL = 1 << 15, 1 << 18, 1 << 20
INIT_MAX_PAGES, CACHE_SYMLINKS, HANDLE_KILLPRIV_V2, INIT_EXT = 1 << 22, 1 << 23, 1 << 28, 1 << 30
HAS_EXPIRE_ONLY, DIRECT_IO_ALLOW_MMAP = 1 << 35, 1 << 36
WANTED = (
    ASYNC_READ | POSIX_LOCKS | ATOMIC_O_TRUNC | BIG_WRITES | DONT_MASK | FLOCK_LOCKS | AUTO_INVAL_DATA | DO_READDIRPLUS
    | ASYNC_DIO | PARALLEL_DIROPS | INIT_MAX_PAGES | CACHE_SYMLINKS | HANDLE_KILLPRIV_V2 | INIT_EXT
    | DIRECT_IO_ALLOW_MMAP
)  # fmt: skip

FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_CACHE_DIR = 1, 2, 8
GETATTR_FH, LK_FLOCK, FSYNC_DATASYNC, WRITE_CACHE, WRITE_KILL_SUIDGID, OPEN_KILL_SUIDGID = 1, 1, 1, 1, 4, 1
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME, FATTR_FH = 1, 2, 4, 8, 16, 32, 64
FATTR_ATIME_NOW, FATTR_MTIME_NOW, FATTR_KILL_SUIDGID = 128, 256, 2048

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR = 20, 21, 22, 23, 24, 25, 26, 27
READDIR, RELEASEDIR, FSYNCDIR, GETLK, SETLK, SETLKW, ACCESS, CREATE, INTERRUPT = 28, 29, 30, 31, 32, 33, 34, 35, 36
IOCTL = 39  # answered by the relay: a regular file is no terminal
HANDLE = S("=Q")
ASK_HANDLE = 2 << 30 | HANDLE.size << 16 | 0x7278  # an _IOR of our own: a descriptor's handle on the wire
DESTROY, BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE = 38, 42, 43, 44, 45, 46, 47
SYNCFS, TMPFILE, STATX_OP, COPY_FILE_RANGE_64 = 50, 51, 52, 53
REMOVED = 0x7278  # an operation of our own, of the relay's: LOOKUP of a name that what is open had, and has no more

LIST = 0x7279  # another: how directories are listed that nobody has opened, see listed.py
LIST_IN = S("=II")  # how many directories; what for: 1, 2 and 4, as listed.py has it
OWN = 1 << 63  # from here on are the relay's own: handles, of directories that it had listed, and uniques
OWN_FILES = 3 << 62  # from here on are handles of files that the relay has opened, under a lease on their contents

OPENED = 0x727A  # another: which files the relay has opened by itself, of which something more is about to be asked
OPENED_ONE = S("=QQII")  # fh nodeid flags pad, again and again

FETCH = 0x727B  # another: a small file that nobody has opened is opened and read, see fetched.py
LEFT = 0x727C  # another: files that the job has written and closed are leased, see left.py
STATS = 0x727D  # another: attributes of files that the host was told of before, together, see left.py
UNASKED = 0  # none of the kernel's: where operations are counted, what home tells before it is asked

ARGS = 40  # == IN_HEADER.size, where a request's arguments begin

# What an operation changes. The export asks and notes by it (remoteio/submit/export/dispatch.py).
READS = "nothing"
CHANGES_NODE = "changes the node"
CHANGES_OPEN = "changes an open file"
MAY_CHANGE = "changes the node if it is opened so"
MAKES_NAME = "makes a name"
LINKS = "makes a name, and changes what has it"
REMOVES_NAME = "removes a name"
MOVES_NAMES = "moves a name"

# operation -> (name, smallest size of its fixed arguments, names that follow, what it changes). What is not here is
# answered ENOSYS.
OPERATIONS: dict[int, tuple[str, int, int, str]] = {
    LOOKUP: ("lookup", 0, 1, READS),
    FORGET: ("forget", FORGET_IN.size, 0, READS),
    GETATTR: ("getattr", GETATTR_IN.size, 0, READS),
    SETATTR: ("setattr", SETATTR_IN.size, 0, CHANGES_NODE),
    READLINK: ("readlink", 0, 0, READS),
    SYMLINK: ("symlink", 0, 2, MAKES_NAME),
    MKNOD: ("mknod", MKNOD_IN.size, 1, MAKES_NAME),
    MKDIR: ("mkdir", MKDIR_IN.size, 1, MAKES_NAME),
    UNLINK: ("unlink", 0, 1, REMOVES_NAME),
    RMDIR: ("rmdir", 0, 1, REMOVES_NAME),
    RENAME: ("rename", RENAME_IN.size, 2, MOVES_NAMES),
    LINK: ("link", LINK_IN.size, 1, LINKS),
    OPEN: ("open", OPEN_IN.size, 0, MAY_CHANGE),
    READ: ("read", READ_IN.size, 0, READS),
    WRITE: ("write", WRITE_IN.size, 0, CHANGES_OPEN),
    STATFS: ("statfs", 0, 0, READS),
    RELEASE: ("release", RELEASE_IN.size, 0, READS),
    FSYNC: ("fsync", FSYNC_IN.size, 0, READS),
    SETXATTR: ("setxattr", SETXATTR_IN.size, 1, CHANGES_NODE),
    GETXATTR: ("getxattr", GETXATTR_IN.size, 1, READS),
    LISTXATTR: ("listxattr", GETXATTR_IN.size, 0, READS),
    REMOVEXATTR: ("removexattr", 0, 1, CHANGES_NODE),
    FLUSH: ("flush", FLUSH_IN.size, 0, READS),
    INIT: ("init", 16, 0, READS),
    OPENDIR: ("opendir", OPEN_IN.size, 0, READS),
    READDIR: ("readdir", READ_IN.size, 0, READS),
    RELEASEDIR: ("releasedir", RELEASE_IN.size, 0, READS),
    FSYNCDIR: ("fsyncdir", FSYNC_IN.size, 0, READS),
    GETLK: ("getlk", LK_IN.size, 0, READS),
    SETLK: ("setlk", LK_IN.size, 0, READS),
    SETLKW: ("setlkw", LK_IN.size, 0, READS),
    ACCESS: ("access", ACCESS_IN.size, 0, READS),
    CREATE: ("create", CREATE_IN.size, 1, MAKES_NAME),
    INTERRUPT: ("interrupt", INTERRUPT_IN.size, 0, READS),
    DESTROY: ("destroy", 0, 0, READS),
    BATCH_FORGET: ("batch_forget", BATCH_FORGET_IN.size, 0, READS),
    FALLOCATE: ("fallocate", FALLOCATE_IN.size, 0, CHANGES_OPEN),
    READDIRPLUS: ("readdirplus", READ_IN.size, 0, READS),
    RENAME2: ("rename2", RENAME2_IN.size, 2, MOVES_NAMES),
    LSEEK: ("lseek", LSEEK_IN.size, 0, READS),
    COPY_FILE_RANGE: ("copy_file_range", COPY_IN.size, 0, CHANGES_OPEN),
    SYNCFS: ("syncfs", 0, 0, READS),
    TMPFILE: ("tmpfile", CREATE_IN.size, 1, MAKES_NAME),
    STATX_OP: ("statx", STATX_IN.size, 0, READS),
    COPY_FILE_RANGE_64: ("copy_file_range_64", COPY_IN.size, 0, CHANGES_OPEN),
    REMOVED: ("removed", 0, 1, READS),
    LIST: ("list", LIST_IN.size, 0, READS),
    OPENED: ("opened", OPENED_ONE.size, 0, READS),
    FETCH: ("fetch", 0, 0, READS),
    LEFT: ("left", 0, 0, READS),
    STATS: ("stats", 0, 0, READS),
}
NO_REPLY = frozenset((FORGET, BATCH_FORGET, INTERRUPT, DESTROY))
UNANSWERED = NO_REPLY | {RELEASE, RELEASEDIR, OPENED}  # over the link: the relay answers the kernel itself


class FuseError(ProtocolError):
    """A request that no kernel sends: shorter than its operation, wrong length, a name that is not one name."""


class Request:
    """Reads one request: header fields and the whole message (``raw``: bytes-like, header included).

    number    of a change that has been answered before it is done (wire/behind.py); 0: it is none
    """

    __slots__ = ("gid", "nodeid", "number", "op", "pid", "raw", "uid", "unique")

    def __init__(self, raw: bytes | bytearray | memoryview) -> None:
        """Parse the header and check the lengths. Raises FuseError."""
        size = len(raw)
        if size < ARGS:
            raise FuseError("a request of %d bytes is shorter than its header" % size)
        length, self.op, self.unique, self.nodeid, self.uid, self.gid, self.pid, _, _ = IN_HEADER.unpack_from(raw)
        if length != size:
            raise FuseError("a request says %d bytes and has %d" % (length, size))
        shape = OPERATIONS.get(self.op)
        if shape is not None and size < ARGS + shape[1] + 2 * shape[2]:
            raise FuseError("%s with %d bytes is too short" % (shape[0], size))
        self.raw = raw
        self.number = 0

    def name(self, at: int) -> bytes:
        """Read the one NUL-terminated name at offset `at`, to the end of the message."""
        return one_name(bytes(self.raw[at:-1]))

    def names(self, at: int) -> tuple[bytes, bytes]:
        """Read two names, one after the other, at offset `at`."""
        first, nul, second = bytes(self.raw[at:-1]).partition(b"\0")
        if not nul:
            raise FuseError("a request of two names has one")
        return one_name(first), one_name(second)

    def texts(self, at: int) -> tuple[bytes, bytes]:
        """Read a name and a free text (the target of a symlink), in the kernel's order, unchecked."""
        first, nul, second = bytes(self.raw[at:-1]).partition(b"\0")
        if not nul:
            raise FuseError("a request of two names has one")
        return first, second


def one_name(name: bytes) -> bytes:
    """Return `name` if it is a single path component, as all the kernel sends are. Raises FuseError."""
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise FuseError("%r is not the name of a directory entry" % (name[:40],))
    return name


def reply(unique: int, body: bytes = b"") -> bytes:
    """Make a successful reply, header and body."""
    return OUT_HEADER.pack(16 + len(body), 0, unique) + body


def failure(unique: int, errno: int) -> bytes:
    """Make a reply that says `errno` (positive)."""
    return OUT_HEADER.pack(16, -errno, unique)


def inval_inode(nodeid: int, offset: int = 0, length: int = 0) -> bytes:
    """Make a notification: drop attributes, and pages from `offset` on (`length` bytes; 0: all; offset < 0: none)."""
    return OUT_HEADER.pack(40, NOTIFY_INVAL_INODE, 0) + NOTIFY_INVAL_INODE_OUT.pack(nodeid, offset, length)


def inval_entry(parent: int, name: bytes, flags: int = 0) -> bytes:
    """Make a notification: forget what has that name in the directory; what is open stays open.

    `flags`: EXPIRE_ONLY: ask for it again, and leave what is mounted there.
    """
    body = NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), flags) + name + b"\0"
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), NOTIFY_INVAL_ENTRY, 0) + body


def prune(nodeids: list[int]) -> bytes:
    """Make a notification: let go of these nodes, but for what is in use."""
    body = NOTIFY_PRUNE_OUT.pack(len(nodeids), 0) + struct.pack("=%dQ" % len(nodeids), *nodeids)
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), NOTIFY_PRUNE, 0) + body


def request(op: int, nodeid: int, args: bytes, unique: int = 0) -> bytes:
    """Make a request as the kernel would: what the relay sends of its own accord, and what tests send."""
    return IN_HEADER.pack(ARGS + len(args), op, unique, nodeid, 0, 0, 0, 0, 0) + args
