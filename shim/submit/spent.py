"""Submit side: what a job has cost, as its agent tells it, at the latest with the job's end. Pure.

It is counted by remoteio/execute/counts.py.
"""

from __future__ import annotations

from typing import NamedTuple  # a dataclass takes half a millisecond to make, and each run makes these

from remoteio.wire import frames
from remoteio.wire import fuse_abi as abi
from shim.submit.shapes import ShapeError

_NAMES = frozenset((abi.LOOKUP, abi.OPENDIR, abi.READDIR, abi.READDIRPLUS, abi.READLINK))
_FACTS = frozenset((abi.GETATTR, abi.GETXATTR, abi.LISTXATTR, abi.ACCESS, abi.STATFS, abi.STATX_OP))
_CONTENTS = frozenset((abi.OPEN, abi.READ, abi.LSEEK))
_LOCKS = frozenset((abi.GETLK, abi.SETLK, abi.SETLKW))
_AHEAD = frozenset((abi.UNASKED, abi.LIST, abi.FETCH, abi.LEFT, abi.STATS))  # nobody waits for these
KINDS = ("names", "attributes", "contents", "changes", "locks")
_MOST_BYTES = 1 << 14  # a row has some 20, and linux/fuse.h 53 operations


class Share(NamedTuple):
    """What one kind of question cost: round trips, seconds that were waited for them, and bytes to and fro."""

    trips: int
    seconds: float
    carried: int = 0


class RoundTrips(NamedTuple):
    """What a job's files cost it.

    shares   by what was asked for, one of KINDS
    saved    questions of the job's kernel that the host answered by itself
    ahead    bytes of what was told before the job asked for it
    guessed  listings and files of that
    right    how many of these the job has used
    """

    shares: dict[str, Share]
    saved: int
    ahead: int = 0
    guessed: int = 0
    right: int = 0

    @property
    def trips(self) -> int:
        """How often home was asked."""
        return sum(share.trips for share in self.shares.values())

    @property
    def seconds(self) -> float:
        """How long files were waited for; for a lock as long as another had it."""
        return sum(share.seconds for share in self.shares.values())


class Spent(NamedTuple):
    """What a job cost: its files, and seconds of processor time; and bytes that the link carried in a second, if that
    is known; and whether its host's kernel holds for true nothing that it was told, but for what is leased."""

    files: RoundTrips
    cpu: float
    line: int = 0
    forgot: bool = False


def spent(payload: bytes | memoryview) -> Spent:
    """Read the payload of a SPENT frame. Raises ProtocolError for what no host of ours tells."""
    if len(payload) > _MOST_BYTES:
        raise ShapeError(f"SPENT has {len(payload)} bytes, more than {_MOST_BYTES}")
    fields = frames.unpack_fields(payload)
    line, forgot = fields.pop("line", [b"0"]), fields.pop("forgot", None)
    if fields.keys() != {"asked", "ahead", "cpu"} or not len(fields["cpu"]) == len(fields["ahead"]) == len(line) == 1:
        raise ShapeError("SPENT has other fields than asked, ahead, line, forgot and cpu")
    guessed, right = _numbers(fields["ahead"][0], 2)
    files, cpu = _files(fields["asked"], guessed, right), _numbers(fields["cpu"][0], 1)[0] / 1e6
    return Spent(files, cpu, _numbers(line[0], 1)[0], forgot is not None)


def row(cost: Spent | None) -> dict[str, object]:
    """Return it for programs: seconds, counts; nothing where it is not known."""
    if cost is None:
        return {}
    files = cost.files
    return {
        "cpu": cost.cpu,
        "trips": files.trips,
        "saved": files.saved,
        "waited": files.seconds,
        "waits": {
            kind: {"trips": share.trips, "seconds": share.seconds, "bytes": share.carried}
            for kind, share in files.shares.items()
        },
        "ahead": {"bytes": files.ahead, "guessed": files.guessed, "right": files.right},
    }


def _files(rows: list[bytes], guessed: int, right: int) -> RoundTrips:
    found = dict.fromkeys(KINDS, Share(0, 0.0))
    saved, ahead, before = 0, 0, -1
    for row in rows:
        op, asked, here, waited, carried = _numbers(row, 5)
        if op <= before:
            raise ShapeError(f"SPENT is out of order at operation {op}")
        before = op
        if op in _AHEAD:
            ahead += carried
            continue
        kind = _kind(op)
        share = found[kind]
        found[kind] = Share(share.trips + asked, share.seconds + waited / 1e6, share.carried + carried)
        saved += here
    shares = {kind: share for kind, share in found.items() if share.trips or share.carried}
    return RoundTrips(shares, saved, ahead, guessed, right)


def _kind(op: int) -> str:
    for kind, ops in (("names", _NAMES), ("attributes", _FACTS), ("contents", _CONTENTS), ("locks", _LOCKS)):
        if op in ops:
            return kind
    return "changes"


def _numbers(text: bytes, count: int) -> list[int]:
    words = text.split(b" ")
    if len(words) != count or not all(word.isdigit() and len(word) <= 19 for word in words):
        raise ShapeError(f"SPENT has {text[:40]!r} in the place of {count} numbers")
    return [int(word) for word in words]
