"""What a job's files cost is counted on its host, told in a frame, checked, and said in a sentence."""

from __future__ import annotations

import pytest

from remoteio.errors import ProtocolError
from remoteio.execute.counts import Counts
from remoteio.wire import frames, fuse_abi
from shim.submit.foreground import cost
from shim.submit.spent import RoundTrips, Share, Spent, spent


def told(counts: Counts, cpu: bytes = b"1500000") -> Spent:
    return spent(frames.pack_fields({"asked": counts.rows(), "ahead": [b"9 7"], "cpu": [cpu]}))


def test_what_was_counted_arrives() -> None:
    counts = Counts()
    for op, seconds in ((fuse_abi.LOOKUP, 0.25), (fuse_abi.LOOKUP, 0.5), (fuse_abi.READ, 2.0), (4096, 0.125)):
        counts.home[op] += 1  # the last is of a kernel to come
        counts.waited[op] += seconds
    counts.here[fuse_abi.GETATTR] += 1
    for op, size in ((fuse_abi.READ, 100), (fuse_abi.WRITE, 20), (fuse_abi.FETCH, 3), (fuse_abi.UNASKED, 4)):
        counts.carried[op] += size
    shares = {"names": Share(2, 0.75), "contents": Share(1, 2.0, 100), "changes": Share(1, 0.125, 20)}
    assert told(counts) == Spent(RoundTrips(shares, 1, 7, 9, 7), 1.5)
    line = frames.pack_fields({**_WHOLE, "line": [b"1250000"]})
    assert spent(line) == Spent(RoundTrips({}, 0), 1e-6, 1_250_000)
    assert spent(frames.pack_fields({**_WHOLE, "forgot": []})).forgot and not spent(line).forgot
    assert told(Counts(), b"0") == Spent(RoundTrips({}, 0, 0, 9, 7), 0.0)


@pytest.mark.parametrize(
    "rows",
    [
        [b"1 2 3 4"],
        [b"1 2 3 4 -5"],
        [b"1 2 3 4 x"],
        [b"5 1 1 1 1", b"5 1 1 1 1"],
        [b"1 1 1 1 " + b"9" * 20],
        [b"%d 1 1 1 1" % number for number in range(5000)],
    ],
)
def test_a_host_that_counts_nonsense_is_told(rows: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        spent(frames.pack_fields({"asked": rows, "ahead": [b"0 0"], "cpu": [b"1"]}))


_WHOLE: dict[str, list[bytes]] = {"asked": [], "ahead": [b"0 0"], "cpu": [b"1"]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"asked": [], "cpu": [b"1"]},
        {**_WHOLE, "cpu": []},
        {**_WHOLE, "line": []},
        {**_WHOLE, "cpu": [b"x"]},
        {**_WHOLE, "ahead": []},
        {**_WHOLE, "ahead": [b"1"]},
    ],
)
def test_a_host_that_tells_of_something_else_is_told(fields: dict[str, list[bytes]]) -> None:
    with pytest.raises(ProtocolError):
        spent(frames.pack_fields(fields))


SHARES = {"names": Share(90, 9.0, 2048), "contents": Share(10, 2.0, 100), "locks": Share(1, 100.0)}
FILES = RoundTrips(SHARES, 7, 1024, 9, 5)


def test_it_is_said_from_the_longest_wait_down() -> None:
    assert cost.sentence(Spent(FILES, 0.5), 12.0) == (
        "the job took 12.0 s, 0.5 s of processor time; for files it waited 111.0 s in 101 round trips: "
        "1 for locks (100.0 s, 0 bytes), 90 for names (9.0 s, 2.0 KiB), 10 for contents (2.0 s, 100 bytes); "
        "7 were saved; 1.0 KiB came ahead of it, and 5 of the 9 files and listings among it were used"
    )
    assert cost.sentence(Spent(FILES._replace(guessed=0), 0.5), 12.0).endswith("; 1.0 KiB came ahead of it")
    assert cost.sentence(Spent(FILES._replace(ahead=0), 0.5), 12.0).endswith("; 7 were saved")
    assert cost.sentence(Spent(RoundTrips({}, 0), 0.5), 1.0).endswith("; it asked for no files")


def test_who_mostly_waited_is_told_so_and_nobody_else() -> None:
    said = "the job took 12 s, and waited 11 s for files of this machine, most of it for names (9 s)"
    assert cost.mostly_waited(Spent(FILES, 0.5), 12.0) == said
    for other, seconds in ((Spent(FILES, 0.5), 9.0), (Spent(FILES, 0.5), 23.0), (Spent(FILES, 11.5), 12.0)):
        assert cost.mostly_waited(other, seconds) == ""
    assert cost.mostly_waited(Spent(RoundTrips({"locks": Share(1, 50.0)}, 0), 0.0), 50.0) == ""
