"""Lets a job in, or not, as the owner of this machine says: asked by its agent before anything is made. Shipped."""

from __future__ import annotations

import os
import time

from shim.execute.owner import load, slots, word
from shim.execute.owner.places import NotNow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.execute.owner.slots import Slot
    from shim.execute.owner.word import OwnerWord


class Admitted:
    """A job that was let in by the owner's word: holds its slot, for as long as this process lives."""

    __slots__ = ("slot", "word")

    def __init__(self, said: OwnerWord, slot: Slot | None) -> None:
        self.word, self.slot = said, slot


def admit(waits: Callable[[], None] = lambda: None) -> Admitted | None:
    """Let a job in; None: the owner says nothing. `waits` is called each second, if it waits for one that leaves.

    Raises NotNow.
    """
    try:
        said = word.find()
    except word.WordError as e:
        raise NotNow(str(e)) from e
    if said is None:
        return None
    why = refused(said)
    if why is not None:
        raise NotNow(why)
    return Admitted(said, None if said.slots is None else slots.take(said, word.login(), waits))


def refused(said: OwnerWord) -> str | None:
    """Say why no job of this login may begin here now, or None; what is looked at is looked at once."""
    idle, unknown = None, None
    if said.policy.watched:
        from shim.execute.owner import sources  # and with it D-Bus

        told = sources.owner_facts(time.monotonic())
        idle, unknown = told["idle"], told["unknown"]
    return said.refuses(word.login(), load.surroundings(os.getloadavg()[0]), idle, unknown)
