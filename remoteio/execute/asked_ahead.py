"""Execute side: directories and files that the relay asks for ahead, and opens for the job without asking. Shipped."""

from __future__ import annotations

import errno

from remoteio.execute.invalidating import Invalidating
from remoteio.execute.known import XATTRS
from remoteio.execute.told import handle_of
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases
from remoteio.wire.coherence import TTL
from remoteio.wire.listed import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.counts import Guesses
    from remoteio.execute.known import Asked


class AskedAhead(Invalidating):
    """Asks for what is guessed, with numbers from OWN on. Threads: see ``relay``, of which this is a part."""

    def _undo(self, op: int, payload: bytes | memoryview) -> None:
        raise NotImplementedError

    def _ask_ahead(self) -> None:
        """Ask for the directories and files that are guessed to be opened next."""
        with self._order:
            requests = self._known.ask_ahead(self.now(), self._asked)
        for request in requests:
            self.behind.send(request)

    def broken(self, payload: bytes | memoryview) -> None:
        """Forget what is leased no more; so does the kernel with access lists, which it keeps as long as attributes,
        and for ever where the file is found by another name then. Raises ProtocolError."""
        super().broken(payload)
        with self._order:
            listed = self._known.lacking.listed
            nodes = [nodeid for nodeid, name in leases.broken(payload) if not name and nodeid in listed]
            listed.difference_update(nodes)

        def tell() -> None:
            for nodeid in nodes:
                self._attributes_changed(nodeid)

        if nodes:
            self._beside(tell)

    def _attributes_changed(self, nodeid: int) -> None:
        """Have the kernel ask for the attributes and access lists of a node anew: nothing is waited for."""
        self._to_kernel(abi.inval_inode(nodeid, offset=-1))

    def _came_ahead(self, asked: Asked, error: int, came: bytes | memoryview) -> None:
        """Keep what was asked for ahead, and answer who waits for it. Raises ProtocolError."""
        op, nodeid, _, stamp, at, _ = asked
        body = bytes(came)
        if op == abi.GETATTR:
            self._root_came(stamp, body, at)
            return
        now, known = self.now(), self._known
        if op in (abi.LEFT, abi.STATS) or op in XATTRS:
            with self._order:
                self.counts.carried[op] += len(asked[5]) + len(body)
                known.told_alone(asked, error, body, now)
            return
        names = op == abi.LIST and abi.LIST_IN.unpack_from(asked[5], abi.ARGS)[1] == NAMES
        if not names:
            self.behind.answers.came_ahead(op, nodeid, body)
        with self._order:
            self.counts.carried[op] += len(asked[5]) + len(body)
            if names:
                known.names_listed(nodeid, stamp, body)
                return
            if op == abi.LIST:
                waiting = known.listed_ahead(nodeid, stamp, body, now)
            else:
                waiting = known.fetched(nodeid, stamp, body, at, now)
                if error == -errno.EOPNOTSUPP:
                    known.files.refused()
        for unique, raw in waiting:
            with self._order:
                # a file as of then: who waits for one is given what was asked for before he came
                answer = known.open_waiting(op, unique, nodeid, raw, now if op == abi.LIST else at)
            if answer is None:
                self.behind.send(raw)
            else:
                self.from_link(answer)
        self._ask_ahead()
        if known.files.unused:
            self.give_back()

    def _ask_root(self) -> None:
        with self._order:
            request = self._known.ask_root(self.now(), self._asked)
        self.behind.send(request)

    def _root_came(self, stamp: int, body: bytes, at: float) -> None:
        now = self.now()
        with self._order:
            self._known.root_told(stamp, body, now)
            grant = self._known.opened.pushed.answered(now - at, now)  # the first that tells how far home is
        self._grant(grant)

    def spent(self) -> dict[str, list[bytes]]:
        """Tell what the job's files have cost so far: fields of SPENT."""
        with self._order:
            guesses = self._guesses()
            line = self._known.opened.pushed.pace.line()
            return {
                "asked": self.counts.rows(),
                **({"line": [b"%d" % line]} if line else {}),
                "ahead": [b"%d %d" % (sum(each.came for each in guesses), sum(each.right for each in guesses))],
            }

    def rests(self) -> bool:
        """Have the kernel ask again for what it was told for a job that has ended, but for what is leased. False: it
        does so after the TTL."""
        names = None if self.lately is None else self.lately.names(self.now())
        if names is None:
            return False
        with self._order:
            names = self._known.unleased(names)
        self._to_kernel(abi.inval_inode(abi.ROOT_ID, offset=-1))
        for parent, name in names:
            self._to_kernel(abi.inval_entry(parent, name, abi.EXPIRE_ONLY))
        with self._order:
            self.now.leap(TTL)
            self._known.making.leapt(TTL)
        return True

    def next_job(self) -> None:
        """Count anew: what is asked from now on is another job's."""
        self._rested()
        with self._order:
            self.counts.clear()
            for each in self._guesses():
                each.came = each.right = 0
            self._known.opened.pushed.next_job()

    def _guesses(self) -> list[Guesses]:
        opened = self._known.opened
        return [each.guesses for each in (self._known.ahead, self._known.files, opened.pushed, opened.reads)]

    def _answered_here(self, op: int, nodeid: int, raw: memoryview, answer: bytes) -> None:
        """Pass an answer of the relay's own on to the kernel; after one to who opens something, ask for the next."""
        if op == abi.OPEN:
            self.handles.opened(op, nodeid, raw, answer)  # a file that was fetched is open at home
        if op == abi.READDIRPLUS and self.lately is not None:
            self.lately.answered(op, nodeid, answer, 0.0, self.now())
        if not self._to_kernel(answer):
            self._undo(op, answer)
        self._more(op)
        if self._known.ahead.moved or (op == abi.OPEN and self._known.files.orders.window):
            self._ask_ahead()

    def _more(self, op: int) -> None:
        """Have home send more, now that the job has used some of it, or waits for it."""
        if op in _OF_USE:
            with self._order:
                grant = self._known.opened.pushed.more(self.now())
            self._grant(grant)

    def _come(self, unique: int, answer: bytes) -> None:
        if (asked := self._asked.pop(unique, None)) is None:
            self.from_link(answer)  # who waited has been interrupted
            return
        with self._order:
            self.counts.here[asked[0]] += 1
        self._to_kernel(answer)

    def _close_own(self, answer: bytes | memoryview) -> None:
        """Close what was opened by the relay alone, for who does not wait for it any more."""
        fh = handle_of(answer)
        with self._order:
            if fh < abi.OWN_FILES:
                self._known.listings.closed(fh)
            else:
                self._known.opened.close(fh)


_OF_USE = frozenset((abi.READ, abi.OPENDIR, abi.LOOKUP))  # by which what was pushed is used
