"""Submit side: what is taken back between two jobs of one session, so that the second has no more than a first.

What a job has made is its own, and is told of to its host as such (``confine``, Confinement.made); once it has ended,
that is a directory like others, with the rights that its names give it. And where a job has locked a file, less is told
of what lies beside it (``beside_locks``): with the job the locks are gone.

The host hears the breaks before it hears of the next job, and rights are looked up anew with each name; until then what
was the job's own has no more than its names give it. What it was told of before, and others have changed since, is sent
again if the next job is likely to use that.
"""

from __future__ import annotations

import stat

from remoteio.submit.export import confine
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.leases import Leases
from remoteio.submit.export.nodes import Node, path


def take_back(inodes: Inodes, leases: Leases) -> None:
    """Take back what the job that has ended had made its own, and what it had locked; nothing of its is under way."""
    confinement = inodes.allowed.confinement
    if not confinement.made and leases.touched is None:
        return
    with inodes.lock:
        confinement.made.clear()
        own = {node.id: node for node in inodes.nodes.values() if node.rights.own}
        for node in own.values():
            _disown(node, confinement)
        for node in inodes.nodes.values():
            node.shared = node.watched = node.told = False
    with leases.lock:
        leases.touched = None
        for watch in tuple(leases._nodes.values()):
            watch.beside = False
            if watch.nodeid in own:
                leases._leave(watch)


def unchanged(told: set[bytes], inodes: Inodes, leases: Leases) -> set[bytes]:
    """Return those of these paths, of which the host was told, of which it has not been told since that they, or what
    they lead through, are others."""
    with leases.lock:
        leases.drain()
        watches = [
            (watch.nodeid, (b"",) if watch.all_broken else tuple(watch.broken or ()))
            for watch in leases._nodes.values()
            if watch.all_broken or watch.broken
        ]
    changed = {path(node, name) for each, names in watches if (node := inodes.nodes.get(each)) for name in names}
    return {each for each in told if not (changed and _is_below(each, changed))}


def _is_below(name: bytes, changed: set[bytes]) -> bool:
    while name:
        if name in changed:
            return True
        name = name.rpartition(b"/")[0]
    return False


def _disown(node: Node, confinement: confine.Confinement) -> None:
    """Give it, and all that it is in, the rights that their names give."""
    way: list[Node] = []
    at: Node | None = node
    while at is not None and at.rights.own and at not in way:
        way.append(at)
        at = at.parent
    for each in reversed(way):
        assert each.parent is not None, "the root is no job's own"
        rights = confine.least(
            each.parent.rights.child(each.name), confinement.known.get((each.dev, each.ino), confine.ALL)
        )
        if each.dev != each.parent.dev:  # what is mounted there is looked at when it is looked up
            rights = confine.least(rights, confine.NOTHING_IN_IT if each.kind == stat.S_IFDIR else confine.NO_FILE)
        each.rights = confine.NOT_THERE if rights.own else rights
