"""Names that the kernel wrongly says are deleted, without a kernel: what home is asked, what the kernel is told."""

from __future__ import annotations

from remoteio.execute.false_deleted import FalseDeleted
from remoteio.wire import fuse_abi as abi

ENDING = b" (deleted)"


def look_up(there: dict[bytes, int], name: bytes, criu: bool = True, had: int = 0) -> tuple[int, int, list[bytes]]:
    """(node id told, seconds it may be kept, names that home was asked); `had`: the node that had the name."""
    deleted = FalseDeleted()
    deleted.criu = criu
    raw, asked, unique = abi.request(abi.LOOKUP, 1, name + b"\0", 8), [], 8
    deleted.asked(unique, memoryview(raw))
    while raw:
        size, op, *rest = abi.IN_HEADER.unpack_from(raw)[:4]
        assert (size, *rest) == (len(raw), unique, 1)
        asked.append(raw[abi.ARGS : -1] if op == abi.LOOKUP else b"who had " + raw[abi.ARGS : -1])
        node = there.get(asked[-1], 0) if op == abi.LOOKUP else had
        reply = abi.reply(unique, abi.ENTRY.pack(node, 0, 1, 1, 0, 0) + bytes(abi.ATTR.size))
        told, raw = deleted.answered(unique, reply)
    nodeid, _, kept, *_ = abi.ENTRY.unpack_from(told, abi.OUT_HEADER.size)
    return nodeid, kept, asked


def test_the_name_without_the_ending_stands_in_and_is_not_kept() -> None:
    assert look_up({b"x": 5}, b"x" + ENDING) == (5, 0, [b"x" + ENDING, b"x"])
    assert look_up({b"x": 5}, b"x" + 2 * ENDING) == (5, 0, [b"x" + 2 * ENDING, b"x" + ENDING, b"x"])


def test_a_file_of_that_very_name_is_itself() -> None:
    assert look_up({b"x": 5, b"x" + ENDING: 6}, b"x" + ENDING) == (6, 1, [b"x" + ENDING])


def test_what_is_not_there_is_not_there() -> None:
    assert look_up({}, b"x" + ENDING) == (0, 1, [b"x" + ENDING, b"x", b"who had x"])
    assert look_up({b"x": 5}, b"y") == (0, 1, [b"y"])


def test_a_removed_name_stands_for_who_had_it_and_is_not_kept() -> None:
    assert look_up({}, b"x" + ENDING, had=7) == (7, 0, [b"x" + ENDING, b"x", b"who had x"])
    asked = [b"x" + 2 * ENDING, b"x" + ENDING, b"x", b"who had x" + ENDING]
    assert look_up({}, b"x" + 2 * ENDING, had=7) == (7, 0, asked)


def test_the_job_is_told_what_is_true() -> None:
    assert look_up({b"x": 5}, b"x" + ENDING, criu=False) == (0, 1, [b"x" + ENDING])


def test_an_error_is_passed_on() -> None:
    deleted = FalseDeleted()
    deleted.criu = True
    raw = abi.request(abi.LOOKUP, 1, b"x" + ENDING + b"\0", 8)
    assert deleted.asked(8, memoryview(raw))
    assert deleted.answered(8, abi.failure(8, 13)) == (abi.failure(8, 13), b"")
