"""What the kernel asks of an image's files, and is answered, over a socket in place of /dev/fuse."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from checkpoint.execute.spool import Spool
from remoteio.wire import fuse_abi as abi
from shim.execute.agent.spool_server import SpoolServer
from shim.execute.init import messages

MIB = abi.MAX_WRITE


class Kernel:
    """The kernel's end: one request at a time."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def ask(self, op: int, node: int, args: bytes = b"") -> tuple[int, bytes]:
        """The errno of its answer, and what follows."""
        self._end.sendall(abi.request(op, node, args, 7))
        head = self._end.recv(abi.OUT_HEADER.size, socket.MSG_WAITALL)
        size, error, unique = abi.OUT_HEADER.unpack(head)
        assert unique == 7
        return -error, self._end.recv(size - len(head), socket.MSG_WAITALL) if size > len(head) else b""

    def make(self, name: bytes) -> int:
        error, body = self.ask(abi.CREATE, abi.ROOT_ID, abi.CREATE_IN.pack(0, 0o600, 0, 0) + name + b"\0")
        assert not error
        return int(abi.ENTRY.unpack_from(body)[0])

    def write(self, node: int, offset: int, data: bytes) -> int:
        return self.ask(abi.WRITE, node, abi.WRITE_IN.pack(0, offset, len(data), 0, 0, 0, 0) + data)[0]

    def read(self, node: int, offset: int, size: int) -> bytes:
        error, data = self.ask(abi.READ, node, abi.READ_IN.pack(0, offset, size, 0, 0, 0, 0))
        assert not error
        return data


@contextmanager
def served(image: Spool) -> Iterator[tuple[Kernel, SpoolServer]]:
    """A server, and the kernel's end of its connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stream, connection = socket.socketpair()
    server = SpoolServer(ours, image)
    with stream, theirs:
        messages.send(theirs, messages.CONNECTION, fds=[connection.fileno()])
        connection.close()
        yield Kernel(stream), server


def test_what_is_written_is_read_again_here_and_there(image: Spool) -> None:
    with served(image) as (kernel, server):
        node = kernel.make(b"core-1.img")
        assert [kernel.write(node, at, b"%04d" % at) for at in range(0, 400, 4)] == [0] * 100
        server.settle()
        whole = b"".join(b"%04d" % at for at in range(0, 400, 4))
        assert image.read("core-1.img") == whole
        assert kernel.read(node, 0, 4096) == whole
        assert kernel.read(node, 100, 8) == whole[100:108]
        assert kernel.read(node, 400, 8) == b""


def test_a_long_file_is_read_ahead_of_and_stays_right_when_it_is_changed(image: Spool) -> None:
    data = os.urandom(4 * MIB + 12345)
    image.write("pages-1.img", data)
    with served(image) as (kernel, _):
        error, body = kernel.ask(abi.LOOKUP, abi.ROOT_ID, b"pages-1.img\0")
        assert not error
        node = abi.ENTRY.unpack_from(body)[0]
        for _ in range(2):
            assert b"".join(kernel.read(node, at, MIB) for at in range(0, len(data), MIB)) == data
        assert kernel.read(node, 0, MIB) == data[:MIB]
        assert kernel.write(node, MIB, b"new") == 0
        assert kernel.read(node, MIB, MIB)[:6] == b"new" + data[MIB + 3 : MIB + 6]
        assert kernel.read(node, 2 * MIB, 10) == data[2 * MIB : 2 * MIB + 10]
        assert kernel.read(node, 2 * MIB, MIB) == data[2 * MIB : 3 * MIB]


def test_the_kernel_keeps_only_what_is_read_page_by_page(image: Spool) -> None:
    image.write("pages-1.img", b"x")
    with served(image) as (kernel, _):
        node = abi.ENTRY.unpack_from(kernel.ask(abi.LOOKUP, abi.ROOT_ID, b"pages-1.img\0")[1])[0]
        for by_pages in (False, True):
            image.file("pages-1.img").by_pages = by_pages
            error, body = kernel.ask(abi.OPEN, node, bytes(8))
            assert not error and (abi.OPEN_OUT.unpack(body)[1] == 0) == by_pages


def test_a_full_disk_is_told_to_who_writes_on_and_to_who_waits(image: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def full(data: memoryview, place: int) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with served(image) as (kernel, server):
        node = kernel.make(b"pages-1.img")
        monkeypatch.setattr(image, "keep", full)
        assert kernel.write(node, 0, b"x") == 0  # answered before it is written
        assert failed.wait(60)
        with pytest.raises(OSError, match="No space left"):
            server.settle()
        assert kernel.write(node, 1, b"y") == errno.ENOSPC


def test_names_sizes_and_what_there_is_not(image: Spool) -> None:
    with served(image) as (kernel, _):
        assert kernel.ask(abi.LOOKUP, abi.ROOT_ID, b"core-1.img\0")[0] == errno.ENOENT
        node = kernel.make(b"core-1.img")
        kernel.write(node, 0, b"12345678")
        error, _ = kernel.ask(abi.SETATTR, node, abi.SETATTR_IN.pack(abi.FATTR_SIZE, 0, 0, 5, *[0] * 12))
        assert not error
        assert kernel.read(node, 0, 100) == b"12345"
        error, body = kernel.ask(abi.GETATTR, node, abi.GETATTR_IN.pack(0, 0, 0))
        fields = abi.ATTR.unpack_from(body, abi.ATTR_OUT.size)
        assert not error and fields[1] == 5 and fields[9] == stat.S_IFREG | 0o600
        error, body = kernel.ask(abi.READDIR, abi.ROOT_ID, abi.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0))
        assert not error and b"core-1.img" in body
        assert kernel.ask(abi.READDIR, abi.ROOT_ID, abi.READ_IN.pack(0, 1, 4096, 0, 0, 0, 0)) == (0, b"")
        assert kernel.ask(abi.READ, abi.ROOT_ID, abi.READ_IN.pack(0, 0, 1, 0, 0, 0, 0))[0] == errno.EISDIR
        assert kernel.ask(abi.RENAME, abi.ROOT_ID, abi.RENAME_IN.pack(1) + b"a\0b\0")[0] == errno.ENOSYS
