"""What the job's kernel is told to let go of: remoteio/submit/export/pruning.py."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from remoteio.submit.export import pruning
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from tests.hostile import Host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(pruning, "MOST_KEPT", 10)
    for k in range(30):
        (tmp_path / f"{k:02d}").write_text(str(k))
    os.mkfifo(tmp_path / "fifo")
    return Host(Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path)))


def init(minor: int) -> bytes:
    return abi.INIT_IN.pack(abi.MAJOR, minor, 0, 0, 0)


def told(host: Host) -> list[int]:
    message = host.export.pruning.due()
    if not message:
        return []
    size, kind, unique = abi.OUT_HEADER.unpack_from(message)
    count, _ = struct.unpack_from("=II", message, abi.OUT_HEADER.size)
    found = list(struct.unpack_from("=%dQ" % count, message, abi.OUT_HEADER.size + 16))
    assert (size, kind, unique) == (len(message), 9, 0) and size == abi.OUT_HEADER.size + 16 + 8 * count
    return found


def test_the_oldest_go(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.ask(abi.INIT, 0, init(45))
    known = host.export.inodes.nodes
    fifo, *files = [host.lookup(1, name) for name in (b"fifo", *(b"%02d" % k for k in range(30)))]
    host.open(files[1], os.O_RDONLY)
    monkeypatch.setattr(pruning, "MOST_KEPT", len(known))
    monkeypatch.setattr(pruning, "AT_ONCE", 20)
    assert told(host) == []
    may_go = [node for node in known if node not in (1, fifo, files[1])]
    monkeypatch.setattr(pruning, "MOST_KEPT", len(known) - 1)
    first = told(host)
    assert first == may_go[:20], "but for what is open, and what has its other end in that kernel"
    for node in first:
        host.ask(abi.FORGET, node, abi.FORGET_IN.pack(known[node].lookups))
    assert told(host) == []
    monkeypatch.setattr(pruning, "MOST_KEPT", 3)
    monkeypatch.setattr(pruning, "AT_ONCE", 5)
    assert told(host) == may_go[20:25], "it goes on from there"
    assert told(host) == may_go[25:] + may_go[20 : 50 - len(may_go)], "and begins anew with what has not gone"


def test_an_older_kernel_is_told_nothing(host: Host) -> None:
    host.ask(abi.INIT, 0, init(44))
    assert all(host.lookup(1, b"%02d" % k) for k in range(30)) and not told(host)
