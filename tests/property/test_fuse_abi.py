"""Whatever an execute host sends for a request, the export answers it or refuses it with an error of ours."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire.frames import FUSE, KNOWN, ORDERED

OPS = st.one_of(st.sampled_from(sorted(abi.OPERATIONS)), st.integers(0, 2**32 - 1))
NODES = st.one_of(st.integers(1, 6), st.integers(0, 2**64 - 1))
NUMBERS = st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1), st.sampled_from([2**63, 2**63 - 1, 2**32, 2**31]))
# arguments that are near to true ones: numbers, then names
NEAR = st.builds(
    lambda numbers, names: b"".join(n.to_bytes(8, "little") for n in numbers) + b"\0".join(names) + b"\0",
    st.lists(NUMBERS, max_size=8),
    st.lists(
        st.sampled_from([b"file", b"dir", b"link", b"..", b".", b"", b"a/b", b"new", b"user.x", b"\xff" * 300]),
        max_size=3,
    ),
)
ARGS = st.one_of(st.binary(max_size=200), NEAR)


@given(st.binary(max_size=300))
def test_garbage_is_a_request_or_a_fuse_error(data: bytes) -> None:
    try:
        request = abi.Request(data)
    except abi.FuseError:
        return
    assert len(request.raw) == len(data) >= abi.ARGS


@given(OPS, NODES, st.binary(max_size=100), st.integers(-40, 50))
def test_a_wrong_length_is_seen(op: int, node: int, args: bytes, off: int) -> None:
    whole = abi.request(op, node, args, 7)
    wrong = (len(whole) + off).to_bytes(4, "little") + whole[4:]
    if off:
        with pytest.raises(abi.FuseError):
            abi.Request(wrong)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Where garbage may do what it likes: in memory, and with no file over 1 MiB."""
    top = Path(tempfile.mkdtemp(dir="/dev/shm"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield top
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    shutil.rmtree(top)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(OPS, NODES, ARGS), min_size=1, max_size=12))
def test_the_export_answers_or_ignores_and_never_breaks(
    directory: Path, requests: list[tuple[int, int, bytes]]
) -> None:
    outside = Path(tempfile.mkdtemp(dir=directory))
    top = outside / "top"
    top.mkdir()
    (top / "file").write_text("text")
    (top / "dir").mkdir()
    (top / "link").symlink_to("file")
    export = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(top))
    for name in (b"file", b"dir", b"link"):
        export.answer(abi.Request(abi.request(abi.LOOKUP, 1, name + b"\0", 1)))
    opened = export.answer(abi.Request(abi.request(abi.OPEN, 2, abi.OPEN_IN.pack(os.O_RDWR, 0), 2)))
    assert opened is not None
    for op, node, args in requests:
        try:
            request = abi.Request(abi.request(op, node, args, 9))
        except abi.FuseError:
            continue
        answer = export.answer(request)
        if op in abi.UNANSWERED or op == abi.INTERRUPT:
            assert answer is None
            continue
        assert answer is not None
        kind, payload = answer
        size, error, unique = abi.OUT_HEADER.unpack_from(payload)
        if kind == FUSE:
            assert (size, unique) == (len(payload), 9)
        assert kind in (FUSE, KNOWN, ORDERED)
        assert -4096 < error <= 2
    export.inodes._check()
    export.inodes.close_all()
    assert os.listdir(outside) == ["top"]
