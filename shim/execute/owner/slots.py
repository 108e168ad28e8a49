"""The slots that the owner of this machine lends, and who leaves one to whom. Shipped.

A slot is a name of an abstract socket (unix(7)): the kernel gives a name to one process only, whatever user it is of,
and takes it back when that ends. A job that could leave listens at a second name. Who comes, and finds no slot free,
connects there: by that the kernel tells each of the two whose process the other is. Who is only looked at is told
nothing; who is asked to leave (LEAVE), and does, answers LEAVES with the slot itself, as a descriptor: nobody else gets
it when his process ends, which closes the connection. STAYS: he could not leave after all.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from shim.execute.owner import word
from shim.execute.owner.places import NotNow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.execute.owner.word import OwnerWord

LEAVE, LEAVES, STAYS = b"leave", b"leaves", b"stays"
PATIENCE = 60.0  # seconds for which who comes waits for the end of who leaves
_ASKS = 1.0  # seconds in which one who has connected asks
_ANSWERS = 10.0  # seconds in which he is answered: there may be others before him, who ask nothing
_PULSE = 1.0  # seconds after which home is told that one waits still
_QUEUE = 16
_FULL = "there may be no more than %d jobs at a time, by its owner, and so many there are"
_CREDENTIALS = struct.Struct("3i")  # struct ucred, unix(7): pid, uid, gid


class Slot:
    """A slot that this process has, until it ends. Threads: `lend` is one's own, `stays` is for any."""

    __slots__ = ("_comer", "_held", "_number")

    def __init__(self, number: int, held: socket.socket) -> None:
        self._number, self._held = number, held
        self._comer: socket.socket | None = None

    def lend(self, leaves: Callable[[str], bool]) -> None:
        """Listen for who would have this slot, for ever; `leaves` is told whose job it is, and has ours leave, or not.

        Where another has taken the name that one listens at, nobody comes.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            try:
                door.bind(_asked(self._number))
            except OSError:
                return
            door.listen(_QUEUE)
            while True:
                comer, _ = door.accept()
                if not self._leaves_to(comer, leaves):
                    comer.close()

    def _leaves_to(self, comer: socket.socket, leaves: Callable[[str], bool]) -> bool:
        comer.settimeout(_ASKS)
        try:
            if comer.recv(len(LEAVE)) != LEAVE or not leaves(_whose(comer)):
                return False
            self._comer = comer
            socket.send_fds(comer, [LEAVES], [self._held.fileno()])
        except OSError:
            return False  # it has gone
        return True

    def stays(self) -> None:
        """Tell who waits for this slot that its job could not leave."""
        comer, self._comer = self._comer, None
        if comer is not None:
            try:
                comer.send(STAYS)
            except OSError:
                pass  # it waits no more
            comer.close()


def take(said: OwnerWord, own: str, waits: Callable[[], None]) -> Slot:
    """Take a free slot for a job of the login `own`, or that of a job which the owner prefers less, once that has left.

    `waits` is called each second meanwhile. Raises NotNow.
    """
    count = said.slots or 0
    for number in range(count):
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(_name(number))
        except OSError:
            held.close()  # another has it
        else:
            return Slot(number, held)
    for number in _lesser(said, own):
        given = _asked_for(number, waits)
        if given is not None:
            return Slot(number, given)
    raise NotNow(_FULL % count)


def full(said: OwnerWord, own: str) -> str | None:
    """Say that no slot is free for a job of that login, and none that it would be given; None: there is one."""
    for number in range(said.slots or 0):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as looks:
            try:
                looks.connect(_name(number))
            except OSError:
                return None  # nobody has it
    return None if said.slots is None or _lesser(said, own) else _FULL % said.slots


def _lesser(said: OwnerWord, own: str) -> list[int]:
    """List the slots of the jobs that are preferred less and could leave, those that are preferred least first."""
    found = []
    for number in range(said.slots or 0) if said.tier(own) else ():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
            other.settimeout(_ASKS)
            try:
                other.connect(_asked(number))
                tier = said.tier(_whose(other))
            except OSError:
                continue  # nobody listens there: that job cannot leave
        if tier < said.tier(own):
            found.append((tier, number))
    return [number for _, number in sorted(found)]


def _asked_for(number: int, waits: Callable[[], None]) -> socket.socket | None:
    """Ask the job that has that slot for it, and wait until it has left: the slot, or None."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.settimeout(_ANSWERS)
        try:
            other.connect(_asked(number))
            other.send(LEAVE)
            answer, fds, _, _ = socket.recv_fds(other, len(LEAVES), 1)
        except OSError:
            return None  # it has ended, or answers nobody
        held = _received(fds, number)
        if held is not None and not (answer == LEAVES and _has_left(other, waits)):
            held.close()
            return None
        return held


def _received(fds: list[int], number: int) -> socket.socket | None:
    """Return the slot that came, if that is what came."""
    for fd in fds:
        try:
            held = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)  # no socket at all
            continue
        if (held.family, held.type, held.getsockname()) == (socket.AF_UNIX, socket.SOCK_DGRAM, _name(number).encode()):
            return held
        held.close()
    return None


def _has_left(other: socket.socket, waits: Callable[[], None]) -> bool:
    """Wait until the process at the other end has ended. False: it goes on, or is about to leave still."""
    other.settimeout(_PULSE)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        waits()
        try:
            return other.recv(len(STAYS)) != STAYS
        except socket.timeout:
            continue
        except OSError:
            return True  # it has ended
    return False


def _whose(other: socket.socket) -> str:
    credentials = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return word.login(_CREDENTIALS.unpack(credentials)[1])


def _name(number: int) -> str:
    return "\0rexec-slot-%d" % number


def _asked(number: int) -> str:
    return _name(number) + "-asked"
