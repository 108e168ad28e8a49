"""Execute side: the kernel's changes that are answered before home has done them (``behind``). Shipped."""

from __future__ import annotations

import errno

from remoteio.execute.access_list import as_mode
from remoteio.execute.answers import is_mapped
from remoteio.execute.asked_ahead import AskedAhead
from remoteio.execute.behind import TELL
from remoteio.execute.handles import NOTED, OPENS
from remoteio.execute.known_own import O_APPEND, O_TRUNC
from remoteio.execute.lacking import CAPABILITY
from remoteio.execute.told import ALWAYS, node_of
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import CHANGES
from remoteio.wire.coherence import TTL
from remoteio.wire.makes import MADE, OPS, name_of, names_of, rename, unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.behind import Change
    from remoteio.execute.known import Asked
    from remoteio.execute.making import Made


_COPIES = frozenset((abi.COPY_FILE_RANGE, abi.COPY_FILE_RANGE_64))

AT_ONCE = (CHANGES | _COPIES | {abi.GETATTR, abi.READ, abi.RENAME, abi.SETXATTR}) - {abi.SETLK}
"""Operations that may be answered while changes are under way."""

COPIED_HERE = 1 << 17  # bytes

REMOVES = frozenset((abi.UNLINK, abi.RMDIR))

RENAMES = frozenset((abi.RENAME, abi.RENAME2))

_SETS_LISTS = frozenset((abi.SETXATTR, abi.REMOVEXATTR))
_TAKES = frozenset((abi.UNLINK, abi.RMDIR, abi.RENAME, abi.RENAME2))
_SET_SIZE = abi.OUT_HEADER.size + abi.ATTR_OUT.size + abi.ATTR.size  # of the reply to a SETATTR
_TELLS_OF_FILES = OPENS - {abi.OPENDIR} | {abi.LOOKUP, abi.GETATTR}


class AtOnce(AskedAhead):
    """Answers of CHANGES what may be. Threads: see ``relay``, of which this is a part."""

    def _at_once(self, op: int, unique: int, nodeid: int, raw: bytes | memoryview) -> bool:
        """Answer a change that home has not done yet, if the answer is known. False: it is asked for as others are."""
        behind, now = self.behind, self.now()
        behind.sent.await_room(len(raw))
        if op in _COPIES:
            return self._copied_here(unique, nodeid, now)
        if op in _TAKES:
            return self._take(op, unique, nodeid, raw, now)
        if sets_list := op == abi.SETXATTR:
            op, raw = abi.SETATTR, as_mode(raw) if nodeid >= MADE else b""  # no default ACL gave what is made here one
            if not raw:
                return False
        if op == abi.OPEN and self._write_own(unique, nodeid, raw, now):
            return True
        if op == abi.OPEN or op not in CHANGES:
            return self._look(op, unique, nodeid, raw, now)
        unseen = op in OPS or (op == abi.WRITE and is_mapped(raw))  # who makes something has not failed at it
        error = 0 if unseen else behind.told(op, nodeid, behind.answers.goes_on(op, raw))
        if error:
            self._to_kernel(abi.failure(unique, error))
            return True
        with self._order:
            made = self._make(op, unique, raw, now) if op in OPS else None
            answer = made.answer if made else None if op in OPS else self._set(op, unique, nodeid, raw, now)
            if answer is None:
                return False
            answer = abi.reply(unique) if sets_list else answer  # the kernel does not know that it sets the mode
            self.counts.here[op] += 1
            self.counts.carried[op] += len(raw)
            asked = op, nodeid, 0, self._known.written.stamp(op, nodeid, raw, made, now), now, raw
            joins = op == abi.SETATTR and self._known.making.is_own(nodeid) and behind.joins(asked)
            if not joins:
                number, answer = behind.entered(unique, asked, answer, made.nodeid if made else 0)
        if not joins:
            behind.send_change(number, raw)
        if sets_list:
            self._attributes_changed(nodeid)
        if answer:
            self._answer(op, answer)
        return True

    def _is_far(self) -> bool:
        raise NotImplementedError

    def _copied_here(self, unique: int, nodeid: int, now: float) -> bool:
        """Have the kernel copy a small file by reading and writing it, where home is far.

        That is answered here as a rule; home's own copy is a round trip, and after it nothing is known of any file.
        """
        with self._order:
            size = self._known.size(nodeid, now)
        if not 0 <= size <= COPIED_HERE or not self._is_far():
            return False
        self._to_kernel(abi.failure(unique, errno.EOPNOTSUPP))
        return True

    def _take(self, op: int, unique: int, nodeid: int, raw: bytes | memoryview, now: float) -> bool:
        """Answer an UNLINK or RMDIR, or a RENAME of a file within its directory that the job has made."""
        known, behind = self._known, self.behind
        with self._order:
            if not known.making.takes(op, raw, now):
                return False
        self._tell_of(lambda: list(known.opened.untold))  # what is open is found by its name at home
        with self._order:
            nodes = known.making.takes(op, raw, now)
            if not nodes or any(known.opened.is_untold(each) for each in nodes):
                return False
            known.making.took(op, raw, behind.next(), now)
            self.counts.here[op] += 1
            self.counts.carried[op] += len(raw)
            if op in REMOVES:
                stamp = known.removes(nodeid, *nodes, names=(name_of(op, raw),))
                asked = op, nodeid, 0, stamp, now, unlink(raw, *nodes)
            else:
                names, those = names_of(raw), filter(None, nodes)
                stamp = known.written.renamed(nodes[0], lambda: known.removes(nodeid, *those, names=names))
                asked = abi.RENAME2, nodeid, 0, stamp, now, rename(raw, *nodes)
            number, answer = behind.entered(unique, asked, abi.reply(unique), nodes[0])
        behind.send_change(number, asked[5])
        if answer:
            self._to_kernel(answer)
        if op in RENAMES:
            self._renamed(nodeid, raw)
        if known.unused():
            self.give_back()
        return True

    def _is_shared(self, nodeid: int) -> bool:
        """Say whether others may have locked that file since the job has: home is to know what is read of it."""
        return nodeid in self.handles.locked

    def _look(self, op: int, unique: int, nodeid: int, raw: bytes | memoryview, now: float) -> bool:
        """Answer an OPEN, READ or GETATTR of what was made or written here."""
        known = self._known
        with self._order:
            if self._is_shared(nodeid):
                return False
            if op == abi.READ:
                answer = known.written.read(unique, nodeid, raw, now)
            elif op == abi.OPEN:
                answer = known.open_own(unique, nodeid, raw, now)
            else:
                answer = known.written.getattr(unique, nodeid, raw, now, known.making.time(now))
                answer = answer or known.making.getattr(unique, nodeid, self.behind.done())
            if answer is None:
                return False
            self.counts.here[op] += 1
        self._answer(op, answer)
        return True

    def _write_own(self, unique: int, nodeid: int, raw: bytes | memoryview, now: float) -> bool:
        """Answer an OPEN to write to a file that the job has made."""
        known, behind = self._known, self.behind
        flags = abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0]
        with self._order:
            made = None if self._is_shared(nodeid) else known.write_own(unique, nodeid, raw, behind.next(), now)
            if made is None:
                return False
            behind.answers.opened_own(made, bool(flags & O_TRUNC), bool(flags & O_APPEND))
            self.counts.here[abi.OPEN] += 1
            self.counts.carried[abi.OPEN] += len(raw)
            asked = abi.OPEN, nodeid, 0, known.wrote_own(made, flags, now), now, raw
            number, answer = behind.entered(unique, asked, made.answer)
        behind.send_change(number, raw)
        if answer:
            self._answer(abi.OPEN, answer)
        if known.unused():
            self.give_back()
        return True

    def _set(self, op: int, unique: int, nodeid: int, raw: bytes | memoryview, now: float) -> bytes | None:
        making, answers = self._known.making, self.behind.answers
        if op != abi.SETATTR:
            return answers.answer(op, unique, nodeid, raw, now)
        if attr := making.attributes(nodeid):
            answers.known(nodeid, attr)  # of a directory: as what was made there has left it
        answer = answers.answer(op, unique, nodeid, raw, now, making.time(now))
        making.sets(nodeid, answer[-abi.ATTR.size :] if answer else b"", self.behind.next(), now)
        return answer

    def _make(self, op: int, unique: int, raw: bytes | memoryview, now: float) -> Made | None:
        """What is made; None: home is to be asked. Under `_order`."""
        made = self._known.making.answer(op, unique, raw, self.behind.next(), now)
        if made is not None:
            self.behind.answers.made(made, ALWAYS if op == abi.MKDIR else now + TTL)
            self._known.lacking.learn(made.nodeid, CAPABILITY, now)
        return made

    def _answer(self, op: int, answer: bytes) -> None:
        if not self._to_kernel(answer) and (op in OPS or op == abi.OPEN):
            self._undo(op, answer)

    def _still_holds(self, nodeid: int, stamp: int) -> bool:
        with self._order:
            return self._known.holds(nodeid, stamp)

    def _done(self, unique: int, error: int, payload: bytes | memoryview) -> None:
        """Take note that home has done a change that was answered, or could not."""
        change = self.behind.change(unique)
        if change is not None and change.asked[0] == abi.SETATTR and len(payload) == _SET_SIZE:
            with self._order:
                self._known.written.made(change.node, bytes(payload[-abi.ATTR.size :]), change.asked[3])
        if change is not None:
            nodeid = change.asked[1]
            if not error and _finds_others(change.asked, payload):
                with self._order:
                    self._known.written.lose(nodeid)
                self._tell_aside(abi.inval_inode(nodeid))  # it may have been read meanwhile
            with self._order:
                settled = self._known.making.settles(nodeid, change.number)
            if settled:
                self._attributes_changed(nodeid)  # before anybody can know that it is done
        failed, told = self.behind.replied(unique, error, payload)
        for op, answer in told:
            self._answer(op, answer)
        if failed is not None:
            self._forget(failed)

    def _forget(self, failed: Change) -> None:
        """Forget what is known here and is not so at home: pages, or a name."""
        op, nodeid, *_, raw = failed.asked
        if op in OPS or op in _TAKES:
            for name in names_of(raw) if op == abi.RENAME2 else (name_of(op, raw),):
                with self._order:
                    self._known.making.failed(nodeid, name, failed.node)
                    self._known.written.lose(failed.node)
                self._tell_aside(abi.inval_entry(nodeid, name))
        else:
            with self._order:
                self._known.written.lose(nodeid)
            self._tell_aside(abi.inval_inode(nodeid))

    def _tell_aside(self, message: bytes) -> None:
        def tell() -> None:
            self._to_kernel(message)

        self._beside(tell)

    def _noted(self, asked: Asked, unique: int, payload: bytes | memoryview, now: float) -> bytes | memoryview:
        """Take note of the reply to what home has done; return it as the kernel is to have it.

        It is an error if a change before it has failed that was answered.
        """
        op, nodeid, _, stamp, at, raw = asked
        if self.lately is not None:
            self.lately.answered(op, nodeid, payload, now - at, now)
        if self.behind.answers.granted:
            holds = self._still_holds(nodeid if op != abi.LOOKUP else node_of(payload), stamp)
            self.behind.answers.learned(op, nodeid, payload, holds)
        if op in _TELLS_OF_FILES:
            with self._order:
                self._known.told_of_file(asked, payload, now)
        if op in REMOVES:
            with self._order:
                self._known.removed(nodeid, name_of(op, raw))
        if op in _SETS_LISTS or (op == abi.GETXATTR and not self._still_holds(nodeid, stamp)):
            # an access list has the mode with it; and one that others have changed meanwhile the kernel is not to keep
            self._attributes_changed(nodeid)
        if op in RENAMES:
            self._renamed(nodeid, raw)
        if op in OPENS:
            payload = self.behind.answers.opened(op, payload, now)
        if op in NOTED:
            self.handles.answered(op, nodeid, raw, payload, at, now)
        if not self.behind.answers.granted:
            return payload
        error = self.behind.told(op, nodeid) if op in TELL else 0
        return abi.failure(unique, error) if error else payload


def _finds_others(asked: Asked, reply: bytes | memoryview) -> bool:
    """Say whether home, as it opened what the job had opened to write to, found that others have changed it."""
    if asked[0] != abi.OPEN or abi.OPEN_IN.unpack_from(asked[5], abi.ARGS)[0] & O_TRUNC:
        return False
    return not abi.OPEN_OUT.unpack_from(reply, abi.OUT_HEADER.size)[1] & abi.FOPEN_KEEP_CACHE
