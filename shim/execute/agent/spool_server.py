"""The files of a spool as criu and init have them: a FUSE filesystem in the job's namespaces, mounted nowhere. Shipped.

Only whoever is handed its root finds it (init, which mounts it, and criu), and when they have closed that the kernel
ends the connection. criu reads and writes by whole requests, past the page cache: nothing of the image is in memory
twice. But what it reads a page at a time the kernel reads ahead of, into its page cache: each request is two changes
from one process to another. Source: linux/fuse.h, by remoteio/wire/fuse_abi.py.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading

from checkpoint.execute.spool import Spool, SpooledFile
from remoteio.wire import fuse_abi as abi
from shim.execute.agent.diagnostics import aside, where
from shim.execute.init import messages

_WANTED = abi.ASYNC_READ | abi.BIG_WRITES | abi.ASYNC_DIO | abi.INIT_MAX_PAGES
_HEAD = abi.ARGS + abi.WRITE_IN.size


class SpoolServer:
    """Serves a spool to whoever has its mount open, until nobody has.

    Threads: two of its own, as the kernel asks for several parts of a long read at once; they see but the spool.
    """

    def __init__(self, giver: socket.socket, spool: Spool) -> None:
        """`giver`: where the mounted connection comes from; nothing is served if that is closed before."""
        self._spool = spool
        spool.hold()
        self._running = 0
        self._names: list[str] = []  # of the nodes from ROOT_ID + 1 on
        self._nodes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._change = threading.Condition()
        self._writing = 0  # requests that were answered, and are not on the disk yet
        self._failed: OSError | None = None  # the first of them that could not be written
        self._ahead = memoryview(b"")  # what is expected to be asked for next
        self._ahead_of: tuple[int, int, int] | None = None  # node, offset and size of it, once it is there
        self._coming: tuple[int, int] | None = None  # node and offset, while it is decrypted
        self._free: list[memoryview] = []  # what such parts were in: new memory costs as much as decrypting
        threading.Thread(target=self._begin, args=(giver,), name="spool", daemon=True).start()

    def _begin(self, giver: socket.socket) -> None:
        with giver:
            said, _, fds = messages.receive(giver, messages.INIT, messages.AGENT)
        if said is None:
            self._spool.close()
            return
        both = (fds[0], os.dup(fds[0]))
        self._running = len(both)
        for fd in both:
            threading.Thread(target=self._run, args=(fd,), name="spool-%d" % fd, daemon=True).start()

    def _run(self, fd: int) -> None:
        buffer = bytearray(abi.MAX_REQUEST)
        try:
            with memoryview(buffer) as view:
                while True:
                    try:
                        size = os.readv(fd, [buffer])
                    except OSError as e:
                        if e.errno == errno.ENODEV:
                            return  # nobody has it open any more
                        if e.errno not in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                            raise
                        continue
                    if not size:
                        return
                    self._serve(fd, view, size)
        finally:
            os.close(fd)
            with self._lock:
                self._running -= 1
                last = not self._running
            if last:
                self._spool.close()

    def _serve(self, fd: int, view: memoryview, size: int) -> None:
        _, op, unique, node, uid, gid, _, _, _ = abi.IN_HEADER.unpack_from(view)
        if op in abi.NO_REPLY:
            return
        if op == abi.WRITE:
            self._write(fd, unique, node, view)
            return
        if op == abi.READ:
            self._read(fd, unique, node, view)
            return
        try:
            answer = abi.reply(unique, self._other(op, node, (uid, gid), bytes(view[abi.ARGS : size])))
        except OSError as e:
            answer = abi.failure(unique, e.errno or errno.EIO)
        except Exception as e:  # criu would wait for ever
            aside("the image's files: %r, at %s" % (e, where(e)))
            answer = abi.failure(unique, errno.EIO)
        _reply(fd, answer)

    def _write(self, fd: int, unique: int, node: int, view: memoryview) -> None:
        """Answer first: criu makes the next pages ready while these are encrypted."""
        _, offset, length, *_ = abi.WRITE_IN.unpack_from(view, abi.ARGS)
        try:
            file = self._spool.file(self._name(node))
            with self._change:
                self._change.wait_for(lambda: self._coming is None)
                if self._failed is not None:
                    raise self._failed
                self._writing += 1
                self._ahead_of = None
        except OSError as e:
            _reply(fd, abi.failure(unique, e.errno or errno.EIO))
            return
        try:
            place = self._spool.reserve(file, offset, length)
            _reply(fd, abi.reply(unique, abi.WRITE_OUT.pack(length, 0)))
            self._spool.keep(view[_HEAD : _HEAD + length], place)
        except OSError as e:
            with self._change:
                self._failed = self._failed or e
        finally:
            with self._change:
                self._writing -= 1
                self._change.notify_all()

    def _read(self, fd: int, unique: int, node: int, view: memoryview) -> None:
        """Answer, and then decrypt what will be asked for next, while criu puts it where it belongs."""
        _, offset, length, *_ = abi.READ_IN.unpack_from(view, abi.ARGS)
        try:
            file = self._spool.file(self._name(node))
            self.settle()
            with self._change:
                self._change.wait_for(lambda: self._coming != (node, offset))
                ahead = self._ahead_of == (node, offset, length)
                ready = self._ahead
                if ahead:
                    self._ahead_of = None
            if not ahead:
                ready = view[: self._spool.fill(file, view[: min(length, abi.MAX_WRITE)], offset)]
        except OSError as e:
            _reply(fd, abi.failure(unique, e.errno or errno.EIO))
            return
        _reply(fd, abi.OUT_HEADER.pack(16 + len(ready), 0, unique), ready)
        if ahead:
            self._free.append(ready)
        if length == abi.MAX_WRITE and offset + 2 * length <= file.size:
            self._read_ahead(file, node, offset + length)

    def _read_ahead(self, file: SpooledFile, node: int, offset: int) -> None:
        with self._change:
            if self._coming is not None:
                return
            if self._ahead_of is None:  # the last is being sent, or was
                self._ahead = self._free.pop() if self._free else memoryview(bytearray(abi.MAX_WRITE))
            self._coming, self._ahead_of = (node, offset), None
        good = False
        try:
            self._spool.fill(file, self._ahead, offset)
            good = True
        except OSError:
            return  # who asks for it reads it again, and hears why
        finally:
            with self._change:
                self._coming = None
                self._ahead_of = (node, offset, abi.MAX_WRITE) if good else None
                self._change.notify_all()

    def settle(self) -> None:
        """Wait until all that was written is in the spool. Raises OSError if it could not be."""
        with self._change:
            self._change.wait_for(lambda: not self._writing)
            if self._failed is not None:
                raise self._failed

    def _other(self, op: int, node: int, who: tuple[int, int], args: bytes) -> bytes:
        if op == abi.LOOKUP:
            return self._entry(args[:-1].decode(), who)
        if op == abi.CREATE:
            name = args[abi.CREATE_IN.size : -1].decode()
            self._spool.make(name)
            return self._entry(name, who) + _opened()
        if op in (abi.GETATTR, abi.SETATTR):
            if op == abi.SETATTR:
                valid, _, _, length, *_ = abi.SETATTR_IN.unpack_from(args)
                if valid & abi.FATTR_SIZE:
                    self._spool.file(self._name(node)).resize(length)
            return abi.ATTR_OUT.pack(0, 0, 0) + self._attributes(node, who)
        if op == abi.OPEN:
            return _opened(abi.FOPEN_DIRECT_IO if not self._spool.file(self._name(node)).by_pages else 0)
        if op == abi.OPENDIR:
            return _opened()
        if op == abi.READDIR:
            _, offset, length, *_ = abi.READ_IN.unpack_from(args)
            return self._listing(offset, length)
        if op in (abi.RELEASE, abi.RELEASEDIR):
            return b""
        if op == abi.INIT:
            _, _, ahead, flags = abi.INIT_IN.unpack_from(args)[:4]
            pages = (flags & _WANTED, 16, 12, abi.MAX_WRITE, 1, abi.PAGES, 0, 0)
            return abi.INIT_OUT.pack(abi.MAJOR, abi.MINOR, ahead, *pages)
        raise OSError(errno.ENOSYS, "not in a spool")

    def _name(self, node: int) -> str:
        if not abi.ROOT_ID < node <= abi.ROOT_ID + len(self._names):
            raise OSError(errno.EISDIR, "no file")
        return self._names[node - abi.ROOT_ID - 1]

    def _node(self, name: str) -> int:
        with self._lock:
            if name not in self._nodes:
                self._names.append(name)
                self._nodes[name] = abi.ROOT_ID + len(self._names)
            return self._nodes[name]

    def _entry(self, name: str, who: tuple[int, int]) -> bytes:
        self._spool.file(name)
        node = self._node(name)
        return abi.ENTRY.pack(node, 0, 0, 0, 0, 0) + self._attributes(node, who)

    def _attributes(self, node: int, who: tuple[int, int]) -> bytes:
        """Those of a file that whoever asks owns."""
        if node == abi.ROOT_ID:
            size, mode, links = 0, stat.S_IFDIR | 0o700, 2
        else:
            size, mode, links = self._spool.file(self._name(node)).size, stat.S_IFREG | 0o600, 1
        return abi.ATTR.pack(node, size, -(-size // 512), 0, 0, 0, 0, 0, 0, mode, links, *who, 0, 4096, 0)

    def _listing(self, offset: int, room: int) -> bytes:
        out = b""
        for at, name in enumerate(self._spool.names()[offset:], offset + 1):
            raw = name.encode()
            entry = abi.DIRENT.pack(self._node(name), at, len(raw), stat.S_IFREG >> 12) + raw
            entry += bytes(-len(entry) % 8)
            if len(out) + len(entry) > room:
                break
            out += entry
        return out


def _reply(fd: int, *parts: bytes | memoryview) -> None:
    try:
        os.writev(fd, parts)
    except FileNotFoundError:
        return  # whoever asked was killed


def _opened(flags: int = abi.FOPEN_DIRECT_IO) -> bytes:
    return abi.OPEN_OUT.pack(0, flags, 0)
