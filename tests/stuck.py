"""A filesystem of the submit machine that has died, as a dead NFS server's: a file opens, and reads never end."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

from remoteio.execute.mount import MNT_DETACH, mount_fuse, open_fuse
from remoteio.wire import fuse_abi as abi


def _attr(node: int) -> bytes:
    mode, size = (0o40755, 0) if node == abi.ROOT_ID else (0o100644, 4096)
    return abi.ATTR.pack(node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _reply(op: int, node: int, args: bytes, silent: bool) -> bytes | None:
    if op == abi.LOOKUP:
        found = 1 + int(args.rstrip(b"\0"))
        return abi.ENTRY.pack(found, 0, 60, 0 if silent else 60, 0, 0) + _attr(found)
    if op == abi.GETATTR:
        return abi.ATTR_OUT.pack(60, 0, 0) + _attr(node)
    if op in (abi.OPEN, abi.OPENDIR):
        return abi.OPEN_OUT.pack(1, 0, 0)
    return b"" if op in (abi.RELEASE, abi.RELEASEDIR, abi.FLUSH, abi.ACCESS) else None


def _serve(fd: int, stop: int, asked: threading.Event, silent: bool) -> None:
    while True:
        ready, _, _ = select.select([fd, stop], [], [])
        if stop in ready:
            os.close(fd)  # the last descriptor: with it every read that waits fails
            return
        try:
            raw = os.read(fd, abi.MAX_REQUEST)
        except OSError as e:
            assert e.errno == errno.ENODEV, e  # unmounted, and nobody had a file of it open
            continue  # until it is told to stop
        _, op, unique, node, *_ = abi.IN_HEADER.unpack_from(raw)
        if op == abi.INIT:
            body: bytes | None = abi.INIT_OUT.pack(7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0)
        else:
            body = _reply(op, node, raw[abi.ARGS :], silent)
        if op in (abi.READ, abi.STATFS) or (silent and op == abi.GETATTR):
            if op == abi.READ:
                asked.set()  # and that is all
        elif body is not None or op not in abi.NO_REPLY:
            with contextlib.suppress(FileNotFoundError):  # who asked was killed meanwhile
                os.write(fd, abi.failure(unique, 38) if body is None else abi.reply(unique, body))


@contextlib.contextmanager
def stuck(at: Path, silent: bool = False) -> Iterator[threading.Event]:
    """In `at` any number from 1 on is a file that is never read to the end; the event: a read has begun. Needs root.

    `silent`: nor does who asks for a file's attributes get an answer.
    """
    fd = open_fuse()
    mount_fuse(fd, str(at), 0, 0, 0, False)
    asked = threading.Event()
    stop, tell = os.pipe()
    server = threading.Thread(target=_serve, args=(fd, stop, asked, silent))
    server.start()
    try:
        yield asked
    finally:
        ctypes.CDLL(None).umount2(os.fsencode(at), MNT_DETACH)
        os.close(tell)
        server.join()
        os.close(stop)
