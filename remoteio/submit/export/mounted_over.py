"""Submit side: over which names something was mounted or unmounted, of which inotify(7) says nothing.

The kernel tells that the mounts of this process have changed, and not how: so they are compared with what they were.
Where that does not say it all, nobody knows what a name leads to: one may have come and gone meanwhile, be hidden below
another, or lie in a filesystem of a server that may not answer.
"""

from __future__ import annotations

import os
import re
import select

from remoteio.submit.export.descriptors import Descriptor
from remoteio.submit.export.filesystems import LOCAL

Over = list[tuple[int, int, bytes]]
"""st_dev and st_ino of directories, and names in them."""

_QUICK = frozenset((*LOCAL, "rootfs", "sysfs", "proc", "devtmpfs", "cgroup2"))  # where a path is walked at once
_ESCAPED = re.compile(rb"\\([0-7]{3})")

# its id, that of the one it is mounted on, its device, its root, where it is, its type: proc_pid_mountinfo(5)
_Mount = tuple[bytes, bytes, bytes, bytes, bytes, str]


class Mounts:
    """Tells by `poll`, in which what is `watched` is as well, when something is mounted or unmounted."""

    __slots__ = ("_known", "fd", "poll")

    def __init__(self, watched: int) -> None:
        self.fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self.poll = select.poll()
        self.poll.register(watched, select.POLLIN)
        self.poll.register(self.fd, select.POLLPRI)
        self._known = _mounts()

    def over(self) -> Over | None:
        """List the names that lead elsewhere since this was last asked; None: any may."""
        before, self._known = self._known, _mounts()
        found: Over = []
        for old, new in ((before, self._known), (self._known, before)):
            for mount in old - new:
                place = _place(mount, old, before | new)
                if place is None:
                    return None
                found.append(place)
        return found or None

    def close(self) -> None:
        os.close(self.fd)


def _mounts() -> set[_Mount]:
    with open("/proc/self/mountinfo", "rb") as f:
        return {_read(line.split()) for line in f}


def _read(fields: list[bytes]) -> _Mount:
    number, above, device, root, at, *rest = fields
    kind = os.fsdecode(rest[rest.index(b"-") + 1]).partition(".")[0]
    return number, above, device, root, _ESCAPED.sub(lambda found: bytes((int(found[1], 8),)), at), kind


def _place(mount: _Mount, beside: set[_Mount], all_of_them: set[_Mount]) -> tuple[int, int, bytes] | None:
    """The name over which that one is, or was, mounted, as the one of `beside` is that it is mounted on."""
    by_number = {each[0]: each for each in beside}
    _, on, _, _, at, _ = mount
    while (lower := by_number.get(on)) is not None and lower[4] == at and lower[0] != lower[1]:
        on = lower[1]  # it is mounted over another, by the same name
    above, _, name = at.rpartition(b"/")
    if not name or any(kind not in _QUICK and _is_in(above, top) for *_, top, kind in all_of_them):
        return None
    try:
        fd = Descriptor(os.open(above or b"/", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        with open("/proc/self/fdinfo/%d" % fd, "rb") as f:
            if (b"mnt_id:", on) not in (tuple(line.split()) for line in f):
                return None  # another is mounted over it, or over one above
        st = os.fstat(fd)
    except OSError:
        return None  # it may not be looked at
    return st.st_dev, st.st_ino, name


def _is_in(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top.rstrip(b"/") + b"/")
