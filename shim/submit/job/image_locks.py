"""The file locks of an image: those the export holds, as CRIU is to ask for them again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from checkpoint.wire.manifest import ManifestError
from remoteio.submit.export.carried_locks import Held

Row = list[int]  # pid, descriptor, 1: flock or 0: of the process, F_RDLCK or F_WRLCK, start, length (0: to the end)


def rows(held: Iterable[Held], handles: Iterable[Sequence[int]], numbers: Mapping[str, int]) -> list[Row]:
    """List each lock with a process and a descriptor of the image that it can be asked through.

    `handles`: [pid, descriptor, handle] of the tree's open files; `numbers`: the execute host's number of each process
    (as text) to the tree's own; both as shim/submit/job/image_head.py lets them in. Left out is a flock(2) of a file
    that is only mapped any more: nobody can ask for it again (``Claims.of_mapped``). Raises ManifestError if a record
    lock belongs to no file that is open in the tree.
    """
    places: dict[int, list[tuple[int, int]]] = {}
    for pid, number, handle in handles:
        places.setdefault(handle, []).append((pid, number))
    pids = {int(there): pid for there, pid in numbers.items()}
    out = []
    for lock in held:
        at = places.get(lock.fh, [])
        # A record lock is the process's that asked, whoever shares the file.
        own = [place for place in at if not lock.flock and place[0] == pids.get(lock.pid)]
        if not at and lock.flock:
            continue
        if not at:
            raise ManifestError("the job holds a lock on a file that none of its processes has open any more")
        pid, number = (own or at)[0]
        out.append([pid, number, int(lock.flock), lock.kind, lock.start, lock.length])
    return out
