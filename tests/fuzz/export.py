"""Target: requests for files, as a hostile host makes them, on a small tree that has something to keep."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

from remoteio.errors import ProtocolError
from remoteio.submit.export.confine import HIDDEN, READ, Confinement, Mark
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from tests.fuzz.target import pieces, scratch, target

SECRET, KEPT = b"what no host is to read", b"what no host is to change"
_LARGEST_FILE = 1 << 20
_OPENS = {abi.OPEN: 0, abi.OPENDIR: 0, abi.CREATE: abi.ENTRY.size + abi.ATTR.size}
_OPENS[abi.TMPFILE] = _OPENS[abi.CREATE]


@target(ProtocolError)
def requests(data: bytes) -> None:
    """Messages: operation, node, arguments; 255 for the operation: the whole request as it is.

    The first arguments below 8 stand for the handles that were given out, since nobody can foresee those.
    """
    with _tree() as top:
        root = top / "root"
        marks = [Mark(os.fsencode(root / name), level, _key(root / name)) for name, level in _LEVELS.items()]
        export = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(root), confinement=Confinement(marks))
        export._fifos._until = inf  # looking for who has a fifo open takes longer than all else
        try:
            with _no_large_files():
                _ask_all(export, pieces(data))
        finally:
            export.inodes.close_all()
            export.instead.close()
        for name in ("root/kept/file", "outside"):
            assert (top / name).read_bytes() == KEPT, f"{name} was changed"
        assert (top / "root/hidden/file").read_bytes() == SECRET


_LEVELS = {"hidden": HIDDEN, "kept": READ}


def _key(path: Path) -> tuple[int, int]:
    st = path.lstat()
    return st.st_dev, st.st_ino


@contextmanager
def _tree() -> Iterator[Path]:
    with scratch() as name:
        top = Path(name)
        (top / "outside").write_bytes(KEPT)
        root = top / "root"
        for name, text in (("hidden", SECRET), ("kept", KEPT), ("dir", b"more")):
            (root / name).mkdir(parents=True)
            (root / name / "file").write_bytes(text)
        (root / "file").write_bytes(b"contents")
        (root / "link").symlink_to(top / "outside")
        (root / "up").symlink_to("..")
        yield top


@contextmanager
def _no_large_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _ask_all(export: Export, messages: list[bytes]) -> None:
    handles: list[bytes] = []
    for unique, message in enumerate(messages, 1):
        if len(message) < 2:
            continue
        op, node, arguments = message[0], message[1], message[2:]
        if op == 255:
            request = abi.Request(message[1:])
        else:
            if len(arguments) >= 8 and arguments[0] < len(handles) and not any(arguments[1:8]):
                arguments = handles[arguments[0]] + arguments[8:]
            request = abi.Request(abi.request(op, node, arguments, unique))
        answer = export.answer(request)
        if answer is None:
            continue
        payload = answer[1]
        assert SECRET not in payload
        _, error, _ = abi.OUT_HEADER.unpack_from(payload)
        if not error and op in _OPENS:
            at = abi.OUT_HEADER.size + _OPENS[op]
            handles.append(bytes(payload[at : at + 8]))


TARGETS = (requests,)
