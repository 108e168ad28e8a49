"""A descriptor that is closed while an operation uses it is no other file's before that is over.

A host may send a WRITE and a RELEASE together: what rexec itself opens then, an image or its own state, would be hit.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remoteio.wire import fuse_abi as abi
from tests.hostile import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "file").write_bytes(b"mine" * 10)
    made = Host.of(tmp_path)
    yield made
    made.export.inodes.close_all()


class Between:
    """Runs `close` before the call that `name` was, and opens a file of rexec's own then."""

    def __init__(
        self, patched: pytest.MonkeyPatch, module: Any, name: str, close: Callable[[], object], own: Path
    ) -> None:
        self._call, self._close, self._own = getattr(module, name), close, own
        self.fds: list[int] = []
        patched.setattr(module, name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not self.fds:
            self.fds.append(-1)
            self._close()
            self.fds.append(os.open(self._own, os.O_RDWR | os.O_CREAT))
        return self._call(*arguments, **named)


@pytest.mark.parametrize("call", ["pwrite", "pread"])
def test_a_file_that_is_released_meanwhile(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    own = tmp_path / "own"
    own.write_bytes(b"rexec's own")
    node = host.lookup(1, b"file")
    handle = host.open(node, os.O_RDWR)
    descriptor = int(host.export.inodes.handle(handle).fd)

    def release() -> None:
        host.ask(abi.RELEASE, node, abi.RELEASE_IN.pack(handle, 0, 0, 0))

    with monkeypatch.context() as patched:
        between = Between(patched, os, call, release, own)
        if call == "pwrite":
            host.ask(abi.WRITE, node, abi.WRITE_IN.pack(handle, 0, 4, 0, 0, 0, 0) + b"EVIL")
        else:
            data = host.ask(abi.READ, node, abi.READ_IN.pack(handle, 0, 4, 0, 0, 0, 0))
            assert data == b"mine"
    assert own.read_bytes() == b"rexec's own"
    os.close(between.fds[1])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)  # it was closed when that was over


def test_a_directory_that_is_closed_to_make_room_while_a_file_is_made_in_it(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dir").mkdir()
    node = host.lookup(1, b"dir")
    descriptors = host.export.inodes.descriptors
    number = int(descriptors.directory(host.export.inodes.get(node)))

    with monkeypatch.context() as patched:
        between = Between(patched, os, "open", lambda: descriptors.drop(host.export.inodes.get(node)), tmp_path / "own")
        host.ask(abi.CREATE, node, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"new\0")
    assert (tmp_path / "dir" / "new").is_file()
    os.close(between.fds[1])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_the_owner_of_a_lock_that_closes_its_file_meanwhile(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = host.lookup(1, b"file")
    handle = host.open(node, os.O_RDWR)

    def flush() -> None:
        host.ask(abi.FLUSH, node, abi.FLUSH_IN.pack(handle, 0, 0, 7))

    with monkeypatch.context() as patched:
        between = Between(patched, fcntl, "fcntl", flush, tmp_path / "own")
        host.ask(abi.SETLK, node, abi.LK_IN.pack(handle, 7, 0, 9, fcntl.F_WRLCK, 1, 0, 0))
    words = Path(f"/proc/self/fdinfo/{between.fds[1]}").read_text()
    os.close(between.fds[1])
    assert "lock:" not in words
    assert not host.export.inodes.descriptors.owners
