"""Lets a job in, or not, as the owner of this machine says: asked by its agent before anything is made. Shipped.

How many jobs there are is counted by names of abstract sockets (unix(7)), one for each slot: the kernel gives a name to
one process only, whatever user it is of, and takes it back when that ends.
"""

from __future__ import annotations

import os
import socket
import time

from shim.execute.owner import load, word
from shim.execute.owner.places import NotNow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.execute.owner.word import OwnerWord

_SLOT = "\0rexec-slot-%d"


class Admitted:
    """A job that was let in by the owner's word: holds its slot, for as long as this process lives."""

    __slots__ = ("slot", "word")

    def __init__(self, said: OwnerWord, slot: socket.socket | None) -> None:
        self.word, self.slot = said, slot


def admit() -> Admitted | None:
    """Let a job in; None: the owner says nothing. Raises NotNow."""
    try:
        said = word.find()
    except word.WordError as e:
        raise NotNow(str(e)) from e
    if said is None:
        return None
    why = refused(said)
    if why is not None:
        raise NotNow(why)
    return Admitted(said, None if said.slots is None else _slot(said.slots))


def refused(said: OwnerWord) -> str | None:
    """Say why no job of this login may begin here now, or None; what is looked at is looked at once."""
    idle, unknown = None, None
    if said.policy.watched:
        from shim.execute.owner import sources  # and with it D-Bus

        told = sources.owner_facts(time.monotonic())
        idle, unknown = told["idle"], told["unknown"]
    return said.refuses(word.login(), load.surroundings(os.getloadavg()[0]), idle, unknown)


def _slot(count: int) -> socket.socket:
    for number in range(count):
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(_SLOT % number)
        except OSError:
            held.close()  # another has it
        else:
            return held
    raise NotNow("there may be no more than %d jobs at a time, by its owner, and so many there are" % count)
