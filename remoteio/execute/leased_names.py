"""Execute side: what is known of names under leases, and how more is kept of them (``leases``). Pure. Shipped."""

from __future__ import annotations

from itertools import islice

from remoteio.execute.leases import ABSENT, ITSELF, UNKNOWN, Leases
from remoteio.wire import fuse_abi as abi
from remoteio.wire.listed import ENTRY_SIZE, Entries

_NEAR = 16  # directories


def named(leases: Leases, parent: int, name: bytes) -> int:
    """Return the node to which that name is known to lead; 0: none is."""
    directory = leases._directories.get(parent)
    return 0 if directory is None else max(directory.names.get(name, UNKNOWN), 0)


def is_locked(leases: Leases, parent: int) -> bool:
    """Say whether the kernel is to ask for each name in that directory each time."""
    directory = leases._directories.get(parent)
    return directory is not None and not directory.seconds


def given(leases: Leases, nodeid: int) -> None:
    """Take note that the kernel is told of a node by a name that is known to lead there."""
    leases._nodes[nodeid].debt += 1


def is_absent(leases: Leases, parent: int, name: bytes) -> bool:
    """Say whether nothing is known to have that name in the directory."""
    directory = leases._directories.get(parent)
    if directory is None:
        return False
    return directory.names.get(name, ABSENT if directory.complete else UNKNOWN) == ABSENT


def is_whole(leases: Leases, parent: int) -> bool:
    """Say whether all names in the directory are known."""
    directory = leases._directories.get(parent)
    return directory is not None and directory.complete


def is_empty(leases: Leases, nodeid: int) -> bool:
    """Say whether a directory is known to have no names."""
    directory = leases._directories.get(nodeid)
    if directory is None or not directory.complete:
        return False
    return not any(each for name, each in directory.names.items() if name not in ITSELF)


def keep_names(leases: Leases, parent: int, names: list[bytes]) -> None:
    """Keep that these are all the names in a directory, of which some are known."""
    leases.listed(parent, [(0, 0, named(leases, parent, name), name, 0, 0) for name in names])


def keep_listing(leases: Leases, nodeid: int, attr: bytes, found: Entries, entries: bytes) -> None:
    """Keep what home has told of a directory by itself: each entry with a node holds, and home has counted a lookup of
    the kernel's for it."""
    leases.attributes(nodeid, attr)
    leases.listed(nodeid, found, entries)
    for start, _, each, *_ in found:
        node = leases._nodes.get(each) if each else None
        if node is not None:
            node.debt -= 1
            leases.attributes(each, entries[start + abi.ENTRY.size : start + ENTRY_SIZE])
        elif each:
            leases.unused.append((each, 1))  # there were too many names


def beside(leases: Leases, nodeid: int) -> list[int]:
    """List the nodes in the directory in which that one is, if it is one of those that were used last."""
    for parent in islice(reversed(leases._directories), _NEAR):
        found = [each for each in leases._directories[parent].names.values() if each > 0]
        if nodeid in found:
            return found
    return []


def unknown_from(leases: Leases, nodeid: int) -> list[int]:
    """List the nodes that are in a directory with that one, from it on as they were told, of which attributes are not
    known; nothing, unless it is one of those that were used last."""
    found = beside(leases, nodeid)
    at = found.index(nodeid) if found else 0
    return [each for each in found[at:] + found[:at] if each == nodeid or each not in leases._attr]
