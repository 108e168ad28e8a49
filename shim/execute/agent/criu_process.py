"""What a criu needs from outside the job's namespaces: a spool, a socket, its program. Shipped."""

from __future__ import annotations

import os
import socket

from checkpoint.execute import criu, dump
from shim.execute.agent.diagnostics import aside


def start(bundle: str, spool: str) -> tuple[socket.socket, tuple[int, ...]]:
    """Make our end of its socket, and what init gives it: descriptors in the order of tree_control.DESCRIPTORS.

    Raises OSError.
    """
    criu.prepare(spool)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    said = os.open(os.path.join(spool, criu.STDERR_NAME), os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    owner = os.stat(spool)
    for entry in os.scandir(spool):
        if owner.st_uid != os.geteuid():  # whom criu is on this host, and who is root there, is not root's
            os.chown(entry.path, owner.st_uid, owner.st_gid)
    directory = os.O_DIRECTORY | os.O_CLOEXEC
    return mine, (
        theirs.detach(),
        os.open(bundle, os.O_PATH | directory),
        os.open(spool, os.O_RDONLY | directory),
        said,
    )


def tidy(spool: str) -> None:
    """Remove a spool. What cannot be removed goes when the job ends; that is told on standard error only."""
    try:
        dump.wipe(spool)
    except OSError as e:
        aside("the files of an image are left in %s: %s" % (spool, e))
