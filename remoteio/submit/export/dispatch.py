"""Submit side: does each operation of the job on this machine's disk.

One method an operation, named as in ``fuse_abi.OPERATIONS``: it takes a Request and returns a Reply, or raises
OSError, whose errno travels unchanged. No method keeps state of its own between calls: nodes and handles are in
``inodes``, locks in ``locks``. Names are resolved one component at a time beneath directory descriptors; symbolic
links are followed by the job's kernel, never here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from remoteio.submit.export.attributes import Attributes
from remoteio.submit.export.confine import Confinement
from remoteio.submit.export.files import OpenFiles
from remoteio.submit.export.names import Names
from remoteio.submit.export.reply import DONE, Reply
from remoteio.submit.export.shown_ids import Ids
from remoteio.submit.export.written_files import Written
from remoteio.wire import fuse_abi as abi
from remoteio.wire.frames import FUSE


class Export(Names, Attributes, OpenFiles):
    """Serves the tree at `root` with the rights of this process."""

    def __init__(
        self, ids: Ids, root: str = "/", record: Written | None = None, confinement: Confinement | None = None
    ) -> None:
        """`record`, if given, is told of every file that is opened for writing, or truncated.

        `confinement`: what is not shown, or not to be changed; default: the kernel's own filesystems alone.
        """
        super().__init__(ids, root, record, confinement)
        self.methods: dict[int, Callable[[abi.Request], Reply]] = {
            op: getattr(self, "do_" + shape[0]) for op, shape in abi.OPERATIONS.items() if op != abi.INTERRUPT
        }

    def answer(self, request: abi.Request) -> tuple[int, bytes] | None:
        """The frame (kind, payload) that answers `request`, or None where the ABI has no reply."""
        op = request.op
        if op == abi.INTERRUPT:
            self.locks.interrupt(abi.INTERRUPT_IN.unpack_from(request.raw, abi.ARGS)[0])
            return None
        method = self.methods.get(op)
        if method is None:
            return FUSE, abi.failure(request.unique, errno.ENOSYS)
        try:
            reply = method(request)
        except OSError as e:
            return None if op in abi.UNANSWERED else (FUSE, abi.failure(request.unique, e.errno or errno.EIO))
        except (abi.FuseError, ValueError, OverflowError):  # a name or number that no kernel sends
            return None if op in abi.UNANSWERED else (FUSE, abi.failure(request.unique, errno.EINVAL))
        return None if op in abi.UNANSWERED else reply.frame(request.unique)

    def do_init(self, r: abi.Request) -> Reply:
        major, minor, readahead, flags, *_ = abi.INIT_IN.unpack_from(
            bytes(r.raw[abi.ARGS :]).ljust(abi.INIT_IN.size, b"\0")
        )
        if major != abi.MAJOR or minor < 31:
            raise OSError(errno.EPROTO, "FUSE %d.%d is too old: Linux 5.4 or newer is needed" % (major, minor))
        offered = flags
        if flags & abi.INIT_EXT and len(r.raw) >= abi.ARGS + abi.INIT_IN.size:
            offered |= abi.INIT_IN.unpack_from(r.raw, abi.ARGS)[4] << 32
        want = offered & (abi.WANTED | (abi.POSIX_ACL if self.ids.true and self._root_user else 0))
        return Reply(abi.INIT_OUT.pack(
            abi.MAJOR, min(minor, abi.MINOR), readahead, want & 0xFFFFFFFF, 64, 48, abi.MAX_WRITE, 1,
            abi.PAGES, 0, want >> 32,
        ))  # fmt: skip

    def do_destroy(self, r: abi.Request) -> Reply:
        return DONE
