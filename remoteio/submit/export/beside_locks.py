"""Submit side: what lies beside a file that the job has locked: who changes it may tell so by the lock.

The job's kernel is given no time for what it is told of such a directory. Its host is told for coherence.TTL
(``BESIDE``) of the files that have a name there and no other, as the directory's watch tells what is done to them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from remoteio import inotify as ino
from remoteio.submit.export.inodes import Inodes, version
from remoteio.submit.export.leases import Leases
from remoteio.submit.export.nodes import Node

_EVENTS = ino.IN_MODIFY | ino.IN_CLOSE_WRITE | ino.IN_ATTRIB  # of what is in a directory


def break_in(leases: Leases, parent: Node, at: int, nodes: Mapping[int, Node]) -> bool:
    """Take back what is leased of a directory, open as `at`, and of what is in it; `nodes`: all, by number. From now on
    it tells what others do to any file in it. False: it does not."""
    local = leases._is_local(parent, at)
    with leases.lock:
        watch = leases._directory(parent, at) if local else None
        if watch is not None and leases.inotify is not None:
            watch.beside = True
            leases.inotify.add(b"/proc/self/fd/%d" % at, _EVENTS | ino.IN_MASK_ADD)
        for each in leases._nodes.values():
            node = nodes.get(each.nodeid)
            if node is parent or (node is not None and any(at is parent for at, _ in node.names())):
                leases._break(each)
        return watch is not None and watch.beside


def touched(inodes: Inodes, nodeid: int, name: bytes, named: bool) -> list[int]:
    """List the nodes that others have changed by that name in a directory, of which the host was told since.

    `named`: the name leads elsewhere by now, or nowhere.
    """
    parent = inodes.nodes.get(nodeid)
    if parent is None:
        return []
    found: list[Node] = []
    node = None
    try:
        st = os.stat(name, dir_fd=inodes.descriptors.directory(parent), follow_symlinks=False)
        node = inodes.known(st)
        if node is not None and node.told and (node.seen is None or node.seen != version(st)):
            found = [node]
        elif node is not None and not named:
            return []  # it is as the job's last change left it
    except OSError:
        pass  # it has gone: who has it open is told
    replaced = [each for each in inodes.opened_as(parent, name) if each is not node]
    told = {each for each in (*found, *replaced) if each.told}
    for each in told:
        each.told = False
    return [each.id for each in told]
