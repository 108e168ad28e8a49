"""Execute side: the kernel's FUSE requests to the link, and the replies back. Shipped.

The relay understands of a message what it must to answer some itself, and passes the rest on as it is. It answers:

* RELEASE and RELEASEDIR, for which nobody waits (the submit side does them, and does not reply);
* FLUSH of a file that has no lock: every write has already been done at home;
* locks that home has left to this host (``locks_here``);
* anything a dying process waits for: the kernel keeps the process until each of its requests has a reply.

Threads. READERS of them read requests (``_read_kernel``); the link's receiver brings replies (``from_link``, ``known``,
``ordered``, ``names``); what must wait for other replies is done in ``_aside``. All write to the kernel, which takes a
message whole.

`_known` and what it has is used under `_order` alone, but for a look whether anything is to be given back. It orders
what the job changes against what is learned, so a stamp is taken, and the request noted in `_asked`, in one piece;
sending comes after, outside it.

The other tables lean on the GIL, and take no lock: one operation of a dict or set whose keys are ints runs no Python
code, and so is one step for all threads (and where there is no GIL, the dict has a lock of its own). That is enough
since each needs no more than one step:

* `_asked`  a request is noted before it is sent, so before its reply can come. ``pop`` takes it out, and of several
  threads one gets it: so of the reply and of an interrupt one alone answers the kernel.
* `_abandoned`  is written before that ``pop``, so that a reply that finds its request gone finds it here.
* `handles.locked`, `handles.coherent`  only grow. The kernel sends nothing that relies on a lock before the lock is
  answered, and the node is in them before that.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable

from remoteio.execute import given_back
from remoteio.execute.at_once import AT_ONCE, REMOVES
from remoteio.execute.behind import TELL
from remoteio.execute.false_deleted import FalseDeleted
from remoteio.execute.held_locks import LOCK_OPS
from remoteio.execute.known import ANSWERED, OPENING, WAITING
from remoteio.execute.known_ahead import anew
from remoteio.execute.locks_here import LOCKING, LocksHere
from remoteio.execute.to_kernel import unmounted
from remoteio.execute.told import cut_short, handle_of
from remoteio.execute.told_lately import NAMES
from remoteio.wire import fuse_abi as abi
from remoteio.wire import names_ahead
from remoteio.wire.coherence import TTL
from remoteio.wire.frames import LARGE
from remoteio.wire.link import Link
from remoteio.wire.makes import OPS, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked

_SIGKILL_PENDING = 1 << 8
READERS = 2  # one may be held up by a full link; the other goes on


class Relay(LocksHere):
    """Relays between the mounted connection `fd` and `link`. `fail` is told what ended it."""

    def __init__(self, fd: int, link: Link, fail: Callable[[BaseException], None]) -> None:
        super().__init__(fd, link, fail)
        self._abandoned: dict[int, Asked] = {}  # unique -> what is answered here, and the true reply is still to come
        self._false_deleted = FalseDeleted()

    def criu(self, works: bool) -> None:
        """Take note that CRIU begins to ask for the job's files, or has asked for the last. Raises LinkClosed.

        Meanwhile home knows all that the job has open.
        """
        opened = self._known.opened
        with self._order:
            opened.by_home = works
        if opened.untold:
            self._tell_of(lambda: list(opened.untold))
        self._false_deleted.criu = works

    def anew(self) -> list[tuple[int, int, int]]:
        """Answer from no lease of a home that is no more; list what another is to be told is open: handle, node, flags.

        Whatever is sent from now on comes to that one.
        """
        with self._order:
            return anew(self._known)

    def under_way(self) -> tuple[list[tuple[int, int, bytes | memoryview]], bool]:
        """List what was asked and not answered: number, operation, message; and whether no answer is on its way."""
        return [(unique, each[0], each[5]) for unique, each in list(self._asked.items())], self._aside.rest(0)

    def start(self) -> None:
        """Begin to serve the kernel."""
        for k in range(READERS):
            threading.Thread(target=self._read_kernel, name="fuse-%d" % k, daemon=True).start()

    def _read_kernel(self) -> None:
        view = memoryview(buffer := bytearray(abi.MAX_REQUEST))
        unpack, send, fd, now, lately = abi.IN_HEADER.unpack_from, self._send, self.fd, self.now, self.lately
        facts, order, deleted, here = self._known, self._order, self._false_deleted, self.counts.here
        try:
            while True:
                try:
                    n = os.readv(fd, [buffer])
                except OSError as e:
                    if unmounted(e):
                        return
                    continue
                _, op, unique, nodeid, _, _, pid, _, _ = unpack(buffer)
                if lately is not None and op in NAMES and op != abi.READDIRPLUS:
                    lately.note(op, nodeid, bytes(view[:n]), now())
                if op in ANSWERED and not (op == abi.LOOKUP and deleted.asked(unique, view[:n])):
                    with order:
                        answer = facts.answer(op, unique, nodeid, view[:n], now())
                        if answer is not None:
                            here[op] += 1
                    if answer is not None:
                        self._answered_here(op, nodeid, view[:n], answer)
                        continue
                elif op in _SPECIAL and self._special(op, unique, nodeid, bytes(view[:n])):
                    continue
                raw = view[:n] if n >= LARGE else bytes(view[:n])
                if n >= LARGE:  # the link may hold the old buffer for a while
                    view = memoryview(buffer := bytearray(abi.MAX_REQUEST))
                if (self.kept_locks or op in AT_ONCE) and self._early(op, unique, nodeid, pid, raw):
                    continue
                if op not in abi.NO_REPLY and self._waits(op, unique, nodeid, pid, raw):
                    continue
                send(op, raw)
                self._sent()
        except BaseException as e:  # whatever ends a thread of ours ends the run, and is raised there
            self._fail(e)

    def _waits(self, op: int, unique: int, nodeid: int, pid: int, raw: bytes | memoryview) -> bool:
        """Note what is asked; say whether it waits for what is under way, and is not sent."""
        facts, now = self._known, self.now()
        with self._order:
            self._asked[unique] = (op, nodeid, pid, facts.asked(op, nodeid, raw), now, raw)
            waits = op in WAITING and facts.waits(op, nodeid, (unique, bytes(raw)), now)
        if waits:
            self._more(op)  # or what it waits for may not be under way at all
        return waits

    def _sent(self) -> None:
        facts = self._known
        if facts.ahead.moved or facts.files.orders.window:
            self._ask_ahead()
        if facts.opened.reads.moved:
            self._read_on()
        if facts.unused():
            self.give_back()

    def _special(self, op: int, unique: int, nodeid: int, raw: bytes) -> bool:
        """What is not simply passed on; True: it is dealt with."""
        if op in (abi.FORGET, abi.BATCH_FORGET):
            self.forget(given_back.lookups(op, nodeid, raw))
            return True
        if op in (abi.RELEASE, abi.RELEASEDIR):
            self._release(op, unique, nodeid, raw)
            return True
        if op == abi.FLUSH:
            fh, _, _, owner = abi.FLUSH_IN.unpack_from(raw, abi.ARGS)
            if self._unlocked(nodeid, owner) or self.behind.at_close(fh, nodeid):
                return False
            error = self.behind.told(op, nodeid)
            self._to_kernel(abi.failure(unique, error) if error else abi.reply(unique))
            return True
        if op == abi.IOCTL:
            fh, _, command, _, _, _ = abi.IOCTL_IN.unpack_from(raw, abi.ARGS)
            told = abi.IOCTL_OUT.pack(0, 0, 0, 0) + abi.HANDLE.pack(fh)
            self._to_kernel(abi.reply(unique, told) if command == abi.ASK_HANDLE else abi.failure(unique, errno.ENOTTY))
            return True
        if op == abi.INIT:
            self._begins_with(raw)
            self._ask_root()  # which is answered before INIT is
            return False
        if op == abi.INTERRUPT:
            return self._interrupt(abi.INTERRUPT_IN.unpack_from(raw, abi.ARGS)[0])
        if op in LOCK_OPS and self._known.leases.seconds > TTL:
            self._keeps(TTL)
        return self._locks(op, unique, nodeid, raw)

    def _release(self, op: int, unique: int, nodeid: int, raw: bytes) -> None:
        fh = abi.RELEASE_IN.unpack_from(raw, abi.ARGS)[0]
        self.handles.closed(fh)
        self.behind.answers.closed(fh)
        with self._order:
            self.kept_locks.closed(fh)
            if op == abi.RELEASEDIR:
                self._known.ahead.closed(nodeid, fh)
            at_home = self._known.opened.closes(fh, raw)
        if at_home:
            self.behind.send(raw, later=True)
        self._to_kernel(abi.reply(unique))

    def _interrupt(self, unique: int) -> bool:
        asked = self._asked.get(unique)
        if asked is None:
            if self._interrupted(unique):
                return True
            if answer := self.behind.interrupted(unique):
                self._to_kernel(answer)
            return bool(answer)  # else its reply has crossed the interrupt, or another thread is about to send it
        op, _, pid, _, _, _ = asked
        if op not in abi.NO_REPLY and _dying(pid):
            self._abandoned[unique] = asked  # first: the reply may come this moment, and is to find one or the other
            if self._asked.pop(unique, None) is None:
                self._abandoned.pop(unique, None)
            else:
                self._to_kernel(abi.failure(unique, errno.EINTR))
        return False

    def from_link(self, payload: bytes | memoryview) -> None:
        """Pass a reply or a notification on to the kernel. Raises ProtocolError."""
        try:
            _, error, unique = abi.OUT_HEADER.unpack_from(payload)
            asked = self._asked.pop(unique, None)
            if asked is None:
                self._unasked(unique, error, payload)
                return
            op, nodeid, _, _, at, raw = asked
            self.behind.sent.answered(unique)
            if unique >= abi.OWN:
                self._came_ahead(asked, error, b"" if error else payload[abi.OUT_HEADER.size :])
                return
            if op == abi.LOOKUP:
                payload, again = self._false_deleted.answered(unique, payload)
                if again:
                    self._asked[unique] = asked
                    self.behind.send(again)
                    return
            with self._order:
                now, counts = self.now(), self.counts
                counts.home[op] += 1
                counts.waited[op] += now - at
                counts.carried[op] += len(raw) + len(payload)
                self._known.replied(asked, error, payload, now, self._is_sole(asked, error, payload, now))
                grant = 0 if op in _TIMELESS else self._known.opened.pushed.answered(now - at, now)
            if grant or self._known.opened.pushed.released:
                self._grant(grant)
            if not error:
                payload = self._noted(asked, unique, payload, now)
            elif error == -errno.EAGAIN and self._refused(asked, unique):
                return
            elif op in _FOLLOWS and (late := self.behind.told(op, nodeid)):  # of which this error comes, as a rule
                payload = abi.failure(unique, late)
            if not self._to_kernel(payload):
                self._undo(op, payload)
            elif self._known.ahead.moved:
                self._ask_ahead()  # what is in the directory that was told of
        except struct.error as e:
            raise cut_short(e) from None

    def _unasked(self, unique: int, error: int, payload: bytes | memoryview) -> None:
        """Take a notification, or the reply to what the kernel has been answered already."""
        if not unique:
            self._to_kernel(payload)
        elif (asked := self._abandoned.pop(unique, None)) is not None:
            op, nodeid, *_, raw = asked
            self.behind.sent.answered(unique)
            if op in _NAMES:  # home does not say by a break what it has done to the name
                with self._order:
                    self._known.broken([(nodeid, name_of(op, raw))])
            self._undo(op, payload)
        else:
            self._done(unique, error, payload)

    def names(self, payload: bytes | memoryview) -> None:
        """Keep what the names are that the job is likely to look up. Raises ProtocolError."""
        told = names_ahead.parse(payload)
        with self._order:
            self.counts.carried[abi.UNASKED] += len(payload)
            now, pushed = self.now(), self._known.opened.pushed
            self._known.learn_names(told, now)
            pushed.pace.wanted = True
            grant = pushed.more(now)
        self._grant(grant)

    def ordered(self, payload: bytes | memoryview) -> None:
        """Write several messages one after the other, aside: a notification among them may wait for other replies."""
        self._beside(lambda: self._in_order(memoryview(payload)))

    def _in_order(self, messages: memoryview) -> None:
        at = 0
        while at + abi.OUT_HEADER.size <= len(messages):
            size, _, unique = abi.OUT_HEADER.unpack_from(messages, at)
            message = messages[at : at + max(size, abi.OUT_HEADER.size)]
            if unique:
                asked = self._asked.get(unique)
                if asked is not None and asked[0] in LOCK_OPS:
                    self.handles.coherent.add(asked[1])
                self.from_link(message)
            else:
                self._to_kernel(message)
            at += len(message)

    def _undo(self, op: int, payload: bytes | memoryview) -> None:
        """The submit side did what nobody waits for any more: give back what it made."""
        if op in OPENING and _own(payload):
            self._close_own(payload)
            return
        self.handles.undone(op, payload)
        nodeid, release = given_back.of_reply(op, payload)
        if nodeid:
            self.forget([(nodeid, 1)])
        if release:
            self.behind.send(release)


def _own(reply: bytes | memoryview) -> bool:
    """Whether the reply to an OPEN or OPENDIR, if it is no error, tells of a handle of the relay's own."""
    return len(reply) > abi.OUT_HEADER.size and handle_of(reply) >= abi.OWN


_NAMES = OPS | REMOVES
_FOLLOWS = TELL | {abi.WRITE, abi.SETATTR}  # these fail where what made the file, or wrote to it, has
_TIMELESS = WAITING | {abi.INIT}  # what waits for something else tells nothing of how far home is
_SPECIAL = frozenset(
    (
        abi.INIT,
        abi.FORGET,
        abi.BATCH_FORGET,
        abi.RELEASE,
        abi.RELEASEDIR,
        abi.FLUSH,
        abi.INTERRUPT,
        abi.IOCTL,
        *LOCKING,
    )
)


def _dying(pid: int) -> bool:
    """Is SIGKILL pending for that thread: will it never look at the reply it waits for?"""
    try:
        with open("/proc/%d/status" % pid, "rb") as f:
            for line in f:
                if line.startswith((b"SigPnd:", b"ShdPnd:")) and int(line.split()[1], 16) & _SIGKILL_PENDING:
                    return True
    except OSError:
        return True  # no such process: it is gone already
    return False
