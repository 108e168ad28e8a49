"""The files of the host that are a job's own, /dev, /dev/shm and --scratch, through its dumps and restores. Shipped."""

from __future__ import annotations

from shim.execute.init import private_files
from shim.execute.init.removed_names import RemovedNames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMED = 5  # of the files that stand in the way of a dump


class OwnFiles:
    """What init does for them: see private_files.py, and removed_names.py."""

    def __init__(self, scratch: Sequence[str], proc: int) -> None:
        """Before the job is there. `scratch`: its directories; `proc`: a descriptor of its /proc. Raises OSError."""
        self._places = [private_files.Place(path) for path in ("/dev", "/dev/shm", *scratch)]
        self._names = RemovedNames(self._places, proc)

    def obstacle(self, pids: list[int], rootless: bool) -> str:
        """Say why they cannot be saved as these processes use them; "": they can. Raises OSError."""
        said = private_files.obstacle(self._places)
        if rootless and not said:
            said = "; ".join(self._names.lost(pids)[:_NAMED])
        return said

    def criu_begins(self, pids: list[int]) -> None:
        """Have it find the files that these processes use. Raises OSError."""
        self._names.give_back(pids)

    def criu_has_them(self) -> None:
        """Leave no more names than the job has made. Raises OSError."""
        self._names.take_back()

    def save(self, images: int) -> None:
        """Write them among the image's files, the tree standing still. Raises OSError, RexecError."""
        private_files.save(self._places, images, self._names.given)

    def restore(self, images: int) -> None:
        """Make them anew, for criu to find. Raises OSError, RexecError, ValueError, TypeError."""
        self._names.adopt(private_files.restore(self._places, images))
