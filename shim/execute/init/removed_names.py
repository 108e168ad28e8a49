"""Files of a job's own directories that it uses by a name which was removed, while they have another. Shipped.

Each semaphore that has a name is such a file: sem_open(3) maps a new file, gives it a second name and removes the
first. CRIU looks a file up by the name that it was opened by. So that is given back to it, with the ending that the
kernel shows and without, from just before a dump and a restore until the tree has been saved or built: before it runs
again, for a job that looks is to find no more names than it has made.
"""

from __future__ import annotations

import errno
import os
import stat

from remoteio.errors import RexecError
from shim.execute.init.private_files import Place, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_REMOVED = " (deleted)"


class RemovedNames:
    """Gives files their names back for a time.

    given   (place, path in it) of each name that is there only for criu
    """

    def __init__(self, places: list[Place], proc: int) -> None:
        """`proc`: the /proc of those who use them."""
        self._places, self._proc = places, proc
        self.given: list[tuple[int, str]] = []

    def give_back(self, pids: list[int]) -> None:
        """Give their names back to the files that these processes use. Raises OSError."""
        wanted = {(number, path): inode for _, number, path, inode, _ in self._uses(pids)}
        for (number, path), inode in wanted.items():
            place = self._places[number]
            other = self._names(number, set(wanted.values())).get(inode)
            if other is not None:
                for name in (path, path + _REMOVED):
                    try:
                        os.link(other, name, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=False)
                    except (FileExistsError, FileNotFoundError):
                        continue  # another file has it by now, or its directory is gone: criu says which
                    self.given.append((number, name))

    def lost(self, pids: list[int]) -> list[str]:
        """Say which files are mapped and have no name any more, a sentence each. Raises OSError."""
        uses = [use for use in self._uses(pids) if use[4]]
        said = []
        for pid, number, path, inode, _ in uses:
            if inode not in self._names(number, {inode}):
                said.append(
                    "process %d (%s) has %s mapped, which was removed: CRIU can save that only as root"
                    % (pid, _called(self._proc, pid), os.path.join(self._places[number].path, path))
                )
        return said

    def take_back(self) -> None:
        """Remove the names again. Raises OSError."""
        for number, name in self.given:
            try:
                os.unlink(name, dir_fd=self._places[number].fd)
            except FileNotFoundError:
                continue  # the job was quicker
        self.given = []

    def adopt(self, given: object) -> None:
        """Have ``take_back`` remove those that an image has. Raises RexecError, ValueError."""
        if not isinstance(given, list):
            raise RexecError("the image's list of names is damaged")
        for number, name in given:
            if not 0 <= number < len(self._places) or ".." in name.split("/") or name.startswith("/"):
                raise RexecError("the image's list of names is damaged")
            self.given.append((number, name))

    def _uses(self, pids: list[int]) -> Iterator[tuple[int, int, str, int, bool]]:
        """Yield pid, place, path in it, inode, and whether it is mapped, of each file used by a removed name."""
        for pid in pids:
            for path, inode, mapped in _removed(self._proc, pid):
                for number, place in enumerate(self._places):
                    if number and path.startswith(place.path + "/"):  # none of /dev, of which /dev/shm is the next
                        yield pid, number, path[len(place.path) + 1 :], inode, mapped

    def _names(self, number: int, inodes: set[int]) -> dict[int, str]:
        found = files(self._places[number])
        return {st.st_ino: path for path, _, _, st in found if st.st_ino in inodes and not stat.S_ISDIR(st.st_mode)}


def _called(proc: int, pid: int) -> str:
    """The kernel's name of a process."""
    with open(os.open("%d/comm" % pid, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), errors="replace") as f:
        return f.read().strip()


def _removed(proc: int, pid: int) -> Iterator[tuple[str, int, bool]]:
    """Yield the removed name, inode and whether it is mapped of each file that the process maps or has open so."""
    try:
        with open(os.open("%d/maps" % pid, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), errors="surrogateescape") as f:
            fields = [line.rstrip("\n").split(None, 5) for line in f if line.endswith(_REMOVED + "\n")]
        for line in fields:
            yield line[5][: -len(_REMOVED)], int(line[4]), True
        at = os.open("%d/fd" % pid, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return  # it has ended, or is about to: what has no memory any more is the host's root's
    try:
        for number in os.listdir(at):
            target = os.readlink(number, dir_fd=at)
            if target.endswith(_REMOVED):
                try:
                    st = os.stat(number, dir_fd=at)
                except OSError as e:
                    if e.errno != errno.ESTALE:
                        raise
                    continue  # a fifo, a socket, a path: preflight.py names it
                if st.st_nlink:
                    yield target[: -len(_REMOVED)], st.st_ino, False
    except (FileNotFoundError, ProcessLookupError):
        return  # it has closed it
    finally:
        os.close(at)
