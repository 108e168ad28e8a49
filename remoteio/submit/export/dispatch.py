"""Submit side: does each operation of the job on this machine's disk. All of them pass ``Export.answer``.

One method an operation, ``do_`` and its name in ``fuse_abi.OPERATIONS``: it takes a Request, and what the operation
changes where the table says that it changes something; it returns a Reply, or raises OSError, whose errno travels
unchanged. No method keeps state of its own between calls: nodes and handles are in ``inodes``, locks in ``locks``.
Names are resolved one component at a time beneath directory descriptors; symbolic links are followed by the job's
kernel, never here.

What may be changed is asked, and what was changed is noted, here and once for each kind of change in that table: a
``do_`` method cannot forget to. Two things are left to the methods, since only they know: how much of a write was done
(``files``), and that the file to be created is there already, so that it is opened (``OpenFiles.do_create``). An
operation that changes nothing goes straight to its method.

Threads: any number, each with a request of its own; two may be of the same node. What they share is guarded in
``inodes``, ``locks`` and ``changes``; the order between two changes of one file is the kernel's here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

from remoteio.submit.export.allowed import is_leading
from remoteio.submit.export.attributes import Attributes
from remoteio.submit.export.base import lstat
from remoteio.submit.export.confine import Confinement
from remoteio.submit.export.doings import FAILED
from remoteio.submit.export.fence import KEPT, Fence
from remoteio.submit.export.fetched import Fetched
from remoteio.submit.export.files import OpenFiles
from remoteio.submit.export.locking import Locking
from remoteio.submit.export.more_made import MoreMade
from remoteio.submit.export.names import Names
from remoteio.submit.export.nodes import Node, Place
from remoteio.submit.export.note_changes import UNLOCKED
from remoteio.submit.export.once import how_done, noted
from remoteio.submit.export.opened_on_host import OpenedOnHost
from remoteio.submit.export.ordered import Ordered
from remoteio.submit.export.pruning import Pruning
from remoteio.submit.export.reply import DONE, Frame, Reply
from remoteio.submit.export.room import Room
from remoteio.submit.export.room_asked import adding
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.space import Space
from remoteio.submit.export.written_files import WrittenFiles
from remoteio.submit.sandbox.threads import Call, here
from remoteio.wire import fuse_abi as abi
from remoteio.wire.frames import FUSE
from remoteio.wire.makes import OPS

Do = Callable[..., Reply]
_RENAME_EXCHANGE = 2
# Where the handle of what changes stands among the arguments, if it is not the first.
_TARGET = {abi.COPY_FILE_RANGE: 24, abi.COPY_FILE_RANGE_64: 24}


class Export(Names, Attributes, OpenFiles, Fetched, Locking, Space):
    """Serves the tree at `root` with the rights of this process."""

    def __init__(
        self,
        ids: ShownIds,
        root: str = "/",
        record: WrittenFiles | None = None,
        confinement: Confinement | None = None,
        instead: Mapping[bytes, bytes] | None = None,
        directory: bytes = b"",
        outside: Call = here,
        room: Room | None = None,
    ) -> None:
        """`record`, if given, is told of every file that is opened for writing, or truncated.

        `confinement`: what is not shown, or not to be changed; default: the kernel's own filesystems alone.
        `instead`: by name, the contents that files of /etc are shown with.
        `directory`: where the job works: inode numbers of that filesystem are shown as they are; default: of `root`'s.
        `outside`: calls what the threads that serve may not do themselves.
        `room`: how much may be added to the files; default: all that the disk has.
        """
        super().__init__(ids, root, record, confinement, instead or {}, _device(directory), outside, room)
        self.fence, self.ordered = Fence(), Ordered()
        self.late = OpenedOnHost(self.inodes, outside)
        self.pruning = Pruning(self.inodes)
        self.more = MoreMade(self.inodes, self.leases, self.room, ids.plain, self.instead)
        self.methods = self._methods(room)

    def _methods(self, room: Room | None) -> dict[int, Callable[[abi.Request], Reply]]:
        """Make what does each operation."""
        around: dict[str, Callable[[Do, abi.Request], Reply]] = {
            abi.CHANGES_NODE: self._change_node,
            abi.MAY_CHANGE: self._open,
            abi.MAKES_NAME: self._make,
            abi.LINKS: self._link,
            abi.REMOVES_NAME: self._remove,
            abi.MOVES_NAMES: self._move,
        }
        methods: dict[int, Callable[[abi.Request], Reply]] = {}
        for op, (name, _, _, changes) in abi.OPERATIONS.items():
            if op != abi.INTERRUPT:
                do: Do = getattr(self, "do_" + name)
                if changes == abi.READS:
                    methods[op] = do
                elif changes == abi.CHANGES_OPEN:
                    change = do if room is None else adding(room, op, do, self.inodes)
                    methods[op] = self._change_open(change, abi.ARGS + _TARGET.get(op, 0))
                else:
                    methods[op] = partial(around[changes], do)
        return methods

    def answer(self, request: abi.Request) -> tuple[int, bytes] | None:
        """Do what `request` asks, and return the frame (kind, payload) that answers it: see `answered`."""
        found = self.answered(request)
        return None if found is None else (found[0], b"".join(found[1:]))

    def answered(self, request: abi.Request) -> Frame | None:
        """Do what `request` asks, and return the frame that answers it. None: the ABI has no reply, or the job stands
        still and the request waits (Fence). Raises FuseError."""
        op = request.op
        if op == abi.INTERRUPT:
            self.locks.interrupt(abi.INTERRUPT_IN.unpack_from(request.raw, abi.ARGS)[0])
            return None
        if self.fence.up and (refused := self.fence.passes(request)):
            self.locks.over(request.unique)
            return None if refused == KEPT else (FUSE, abi.failure(request.unique, max(refused, 0)))
        method = self.methods.get(op)
        if method is None:
            return FUSE, abi.failure(request.unique, errno.ENOSYS)
        log = self.inodes.log
        if log is None or not noted(request):
            return self._do(method, request)
        doings = log.doings
        if request.unique in doings.before:
            return self._done_before(request, doings.before.pop(request.unique))
        at = doings.begin(request.unique)
        answer = self._do(method, request)
        doings.done(at, how_done(op, answer))
        return answer

    def _do(self, method: Callable[[abi.Request], Reply], request: abi.Request) -> Frame | None:
        op = request.op
        try:
            reply = method(request)
        except OSError as e:
            return None if op in abi.UNANSWERED else (FUSE, abi.failure(request.unique, e.errno or errno.EIO))
        except (abi.FuseError, ValueError, OverflowError):  # a name or number that no kernel sends
            return None if op in abi.UNANSWERED else (FUSE, abi.failure(request.unique, errno.EINVAL))
        log = self.inodes.log
        if log is not None and log.behind:
            log.flush()  # before the kernel hears of a node
        return None if op in abi.UNANSWERED else reply.frame(request.unique)

    def _done_before(self, request: abi.Request, how: int) -> Frame | None:
        """Answer what the process before this one has done (once.check_asked): nobody has heard so."""
        unique = request.unique
        if how & FAILED:
            return FUSE, abi.failure(unique, how & ~FAILED)
        if request.op == abi.SETATTR:
            asked = abi.request(abi.GETATTR, request.nodeid, abi.GETATTR_IN.pack(0, 0, 0), unique)
            return self._do(self.methods[abi.GETATTR], abi.Request(asked))
        return FUSE, abi.reply(unique, abi.WRITE_OUT.pack(how, 0) if request.op == abi.WRITE else b"")

    def close(self) -> None:
        """Close everything: nobody asks for anything any more."""
        self.leases.close()
        self.inodes.close_all()
        self.instead.close()
        self.room.end()

    # around what changes something: may it, and what has been changed

    def _change_node(self, do: Do, r: abi.Request) -> Reply:
        node = self.inodes.get(r.nodeid)
        self.inodes.allowed.may_change(node)
        size = self.size_to_set(r) if r.op == abi.SETATTR else None
        with self._beside(r, node), self._notes.changing(node, size):
            return do(r, node)

    def _beside(self, r: abi.Request, node: Node) -> AbstractContextManager[None]:
        """Around what changes what is known of a file beside its contents."""
        if self._notes.watch is None:
            return UNLOCKED
        return self._notes.attributes(node, self.attribute_to_set(r) if r.op != abi.SETATTR else None)

    def _change_open(self, do: Do, at: int) -> Callable[[abi.Request], Reply]:
        """Around what changes an open file, whose handle stands at `at`: made once, since each write passes it."""
        handles, read = self.inodes.handles, abi.HANDLE.unpack_from

        def change(r: abi.Request) -> Reply:
            # Whether the file may be changed was asked when it was opened for it.
            handle = handles.get(read(r.raw, at)[0])
            if handle is None or not handle.writable:
                raise OSError(errno.EBADF, "not open for writing")
            return do(r, handle)

        return change

    def _open(self, do: Do, r: abi.Request) -> Reply:
        flags = abi.OPEN_IN.unpack_from(r.raw, abi.ARGS)[0]
        node = self.inodes.get(r.nodeid)
        with self._opening(node, flags):
            return do(r, node)

    def _make(self, do: Do, r: abi.Request) -> Reply:
        parent, name = self.inodes.get(r.nodeid), _new_name(r)
        directory = r.op == abi.MKDIR
        self.inodes.allowed.may_name(parent, name, None, directory, leads=directory or r.op == abi.SYMLINK)
        place = Place(parent, name, self.inodes.descriptors.directory(parent))
        ahead = self.room.enter_name(parent, name, place.at)
        try:
            if self.behind and r.op in OPS:
                return self.more.make(do, r, place)
            if self._notes.watch is None:
                return do(r, place)
            with self._notes.making(place, r.op != abi.LINK):
                return do(r, place)
        finally:
            self.room.leave(ahead)

    def _link(self, do: Do, r: abi.Request) -> Reply:
        node = self.inodes.get(abi.LINK_IN.unpack_from(r.raw, abi.ARGS)[0])
        self.inodes.allowed.may_link(node)
        with self._notes.changing(node):
            return self._make(partial(do, node=node), r)

    def _remove(self, do: Do, r: abi.Request) -> Reply:
        name, parent = r.name(abi.ARGS), self.inodes.get(r.nodeid)
        self.late.open_all()
        place = Place(parent, name, at := self.inodes.descriptors.directory(parent))
        st = os.stat(name, dir_fd=at, follow_symlinks=False)
        self.inodes.allowed.may_name(parent, name, st)
        self._leave_bound(at, name, st)
        own = self.inodes.allowed.own(st)
        with self._notes.removing(at, name, st), self._notes.losing(at, name, st):
            reply = self.more.remove(do, r, place) if self.behind else do(r, place)
        self._removed(st)
        if r.op == abi.RMDIR:
            self.inodes.allowed.removed(st, own)
        return reply

    def _move(self, do: Do, r: abi.Request) -> Reply:
        args = abi.RENAME_IN if r.op == abi.RENAME else abi.RENAME2_IN
        newdir, flags, *_ = *args.unpack_from(r.raw, abi.ARGS), 0
        old, new = r.names(abi.ARGS + args.size)
        self.late.open_all()
        parent, target = self.inodes.get(r.nodeid), self.inodes.get(newdir)
        a, b = self.inodes.descriptors.directory(parent), self.inodes.descriptors.directory(target)
        with self.inodes.allowed.moving(lstat(old, a), target):
            return self._move_alone(do, r, Place(parent, old, a), Place(target, new, b), flags)

    def _move_alone(self, do: Do, r: abi.Request, source: Place, to: Place, flags: int) -> Reply:
        parent, old, a = source.parent, source.name, source.at
        target, new, b = to.parent, to.name, to.at
        moved, replaced = lstat(old, a), lstat(new, b)
        allowed = self.inodes.allowed
        exchange = replaced if flags & _RENAME_EXCHANGE else None
        allowed.may_name(parent, old, moved, leads=is_leading(exchange))
        allowed.may_name(target, new, replaced, leads=is_leading(moved))
        allowed.may_move(parent, old, moved, target)
        allowed.may_move(target, new, exchange, parent)
        self._leave_bound(a, old, moved)
        self._leave_bound(b, new, replaced)
        renaming = self._notes.renaming(source, to, moved, replaced, exchange is not None)
        with renaming, self._notes.losing(a, old, moved), self._notes.losing(b, new, replaced):
            reply = self.more.move(do, r, source, to, flags) if self.behind else do(r, source, to, flags)
        self.inodes.moved(target, new, moved)
        allowed.moved(parent, target, new, moved)
        allowed.moved(target, parent, old, exchange)
        self._notes.unnamed(moved)
        self._notes.moved((parent, old), (target, new), moved)
        if flags & _RENAME_EXCHANGE:
            self._notes.moved((target, new), (parent, old), replaced)
            self.inodes.moved(parent, old, replaced)
            self._notes.unnamed(replaced)
        elif moved is None or replaced is None or moved.st_ino != replaced.st_ino:
            self._removed(replaced)
        return reply

    def _removed(self, st: os.stat_result | None) -> None:
        """Note that a name of what `st` describes is gone; None: nothing had it."""
        if self.room.counts and st is not None:
            node = self.inodes.known(st)
            last = st.st_nlink == 1 or stat.S_ISDIR(st.st_mode)
            self.room.unnamed(st, last, is_open=node is not None and bool(node.handles))
        self._notes.removed(st)

    # of the connection itself

    def do_init(self, r: abi.Request) -> Reply:
        major, minor, readahead, flags, *_ = abi.INIT_IN.unpack_from(
            bytes(r.raw[abi.ARGS :]).ljust(abi.INIT_IN.size, b"\0")
        )
        if major != abi.MAJOR or minor < 31:
            raise OSError(errno.EPROTO, "FUSE %d.%d is too old: Linux 5.4 or newer is needed" % (major, minor))
        self.pruning.able = minor >= abi.PRUNES
        offered = flags
        if flags & abi.INIT_EXT and len(r.raw) >= abi.ARGS + abi.INIT_IN.size:
            offered |= abi.INIT_IN.unpack_from(r.raw, abi.ARGS)[4] << 32
        want = offered & (abi.WANTED | (abi.POSIX_ACL if self.ids.true and self._root_user else 0))
        return Reply(
            abi.INIT_OUT.pack(
                abi.MAJOR, min(minor, abi.MINOR), readahead, want & 0xFFFFFFFF, 64, 48, abi.MAX_WRITE, 1,
                abi.PAGES, 0, want >> 32,
            )
        )  # fmt: skip

    def do_destroy(self, r: abi.Request) -> Reply:
        return DONE


def _device(directory: bytes) -> int:
    """The st_dev of that directory; 0: none, or one that is gone."""
    try:
        return os.stat(directory).st_dev if directory else 0
    except OSError:
        return 0


def _new_name(r: abi.Request) -> bytes:
    """The name that a request makes. Raises FuseError."""
    at = abi.ARGS + abi.OPERATIONS[r.op][1]
    if r.op == abi.TMPFILE:
        return b""  # the kernel sends "/", a dentry's name that has none
    return abi.one_name(r.texts(at)[0]) if r.op == abi.SYMLINK else r.name(at)
