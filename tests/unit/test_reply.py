"""What an operation of the export answers, as a frame: remoteio/submit/export/reply.py."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.reply import Reply
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire.frames import FUSE, LARGE, LEASED, ORDERED
from tests.hostile import Host


@pytest.mark.parametrize("size", [1, LARGE - 1, LARGE, 1 << 20])
def test_what_is_read_is_not_copied_once_more(size: int, tmp_path: Path) -> None:
    contents = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(contents)
    host = Host(Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path)))
    node = host.lookup(1, b"file")
    asked = abi.READ_IN.pack(host.open(node, os.O_RDONLY), 0, 1 << 20, 0, 0, 0, 0)
    request = abi.Request(abi.request(abi.READ, node, asked, 7))
    answer = host.export.answered(request)
    assert answer is not None and len(answer) == (3 if size >= LARGE else 2)
    assert (answer[0], b"".join(answer[1:])) == host.export.answer(request) == (FUSE, abi.reply(7, contents))


def test_what_goes_with_a_reply_is_one_with_it() -> None:
    large = bytes(LARGE)
    assert Reply(large, before=b"first").frame(7) == (ORDERED, b"first" + abi.reply(7, large))
    kind, payload = Reply(large, leased=1).frame(7)[:2]
    assert kind == LEASED and payload.endswith(abi.reply(7, large))
