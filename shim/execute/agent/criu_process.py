"""What a criu needs from outside the job's namespaces: a spool, a socket, its program, a place for its log. Shipped."""

from __future__ import annotations

import os
import socket

from checkpoint.execute import cipher, criu, dump
from checkpoint.execute.spool import Spool
from shim.execute.agent.diagnostics import aside
from shim.execute.agent.job_tree import JobTree
from shim.execute.agent.spool_server import SpoolServer
from shim.execute.init import messages
from shim.execute.init.sandbox import Sandbox


class Place:
    """Where an image lies on this host while it is made or read, and what criu says meanwhile.

    spool  its files
    work   the directory of criu's log
    """

    __slots__ = ("_server", "spool", "work")

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        """Raises RexecError, OSError: there is no place for an image."""
        self.work = sandbox.make_criu_directory(name)
        library = cipher.available()
        self.spool = Spool(self.work, cipher.Cipher(library) if library is not None else None)

    def start(self, bundle: str, tree: JobTree) -> tuple[socket.socket, tuple[int, ...]]:
        """Make our end of its socket, and what init gives it: descriptors in the order of tree_control.DESCRIPTORS.

        The files are served to init and criu from here on, until both have let go of them. Raises OSError, RexecError.
        """
        self._serve(tree)
        criu.prepare(self.work)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.path.join(self.work, criu.STDERR_NAME)
        said = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        owner = os.stat(self.work)
        for entry in os.scandir(self.work):
            if owner.st_uid != os.geteuid():  # whom criu is on this host, and who is root there, is not root's
                os.chown(entry.path, owner.st_uid, owner.st_gid)
        directory = os.O_DIRECTORY | os.O_CLOEXEC
        return mine, (
            theirs.detach(),
            os.open(bundle, os.O_PATH | directory),
            os.open(self.work, os.O_RDONLY | directory),
            said,
        )

    def _serve(self, tree: JobTree) -> None:
        """Have init mount the files, served by threads that end when nobody has them open any more."""
        mine, inits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with inits:
            self._server = SpoolServer(mine, self.spool)
            tree.ask(messages.SPOOL, fds=(inits.fileno(),))

    def settle(self) -> None:
        """Wait until all that criu and init have written is in the spool. Raises OSError if it could not be."""
        self._server.settle()

    def tidy(self) -> None:
        """Remove all of it. What cannot be removed goes when the job ends; that is told on standard error only."""
        self.spool.close()
        try:
            dump.wipe(self.work)
        except OSError as e:
            aside("criu's log is left in %s: %s" % (self.work, e))
