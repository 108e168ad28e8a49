"""Memory protection keys that a job holds, given to it again where it goes on: pkeys(7). Shipped.

criu keeps each thread's rights of the keys (its register PKRU), but not which of them a process has allocated, nor
which memory has one: a process that frees its key, or gives it to more memory, is told that it has none, and node dies
of that at its end. So the processes of the restored tree, before they go on, allocate the keys that they had.

Which those are is told by the rights: a key that was never allocated can be neither read nor written by (0x55555554,
init_pkru_value in arch/x86/mm/pkeys.c). One of which no thread had a right at the image is not seen; one that had been
freed may be allocated for nothing. Memory loses its key: it is what it was, and not protected by it. x86-64 only.
"""

from __future__ import annotations

import os
import re

from checkpoint.execute import criu_images, injected, preflight, waits
from checkpoint.execute.criu import CriuError
from checkpoint.wire import protobuf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from checkpoint.execute.spool import Spool

_ALLOC, _FREE = 330, 331  # asm/unistd_64.h
KEYS = range(1, 16)  # 0 is that of all other memory
_NONE = 1  # PKEY_DISABLE_ACCESS
_STOPPED = 3  # TASK_STOPPED
# images/core.proto, images/core-x86.proto: the numbers of their fields.
_THREAD, _TASK, _TASK_STATE, _FPREGS, _XSAVE, _PKRU = 2, 3, 1, 3, 13, 8

Held = dict[int, int]  # rights (bits of pkey_alloc(2)), by key


def rights(core: bytes) -> Held:
    """Read from a core_entry which keys its thread has a right of. Raises ProtobufError."""
    fields = protobuf.decode(core)
    for number in (_THREAD, _FPREGS, _XSAVE):
        fields = protobuf.decode(protobuf.content(fields, number))
    register = fields.get(_PKRU, [0])[0]  # its second word is nothing
    if isinstance(register, bytes):
        raise protobuf.ProtobufError("has its rights of keys in an unknown form")
    return {key: right for key in KEYS if register and (right := register >> 2 * key & 3) != _NONE}


class Image:
    """What an image tells.

    held     by the thread's number in its own namespace
    stopped  the processes that had been stopped
    """

    def __init__(self, spool: Spool) -> None:
        """Read criu's images of threads. Raises CriuError, OSError."""
        self.held: dict[int, Held] = {}
        self.stopped: list[int] = []
        for name in spool.names():
            found = re.fullmatch(r"core-(\d+)\.img", name)
            if found is None:
                continue
            entry, _ = criu_images.first(spool.read(name), criu_images.CORE)
            try:
                if held := rights(entry):
                    self.held[int(found[1])] = held
                task = protobuf.decode(protobuf.content(protobuf.decode(entry), _TASK))
                if protobuf.integer(task, _TASK_STATE) == _STOPPED:
                    self.stopped.append(int(found[1]))
            except protobuf.ProtobufError as e:
                raise CriuError("the image's thread %s: an entry %s" % (found[1], e)) from e

    def give(self, init: int) -> list[int]:
        """Have the processes below `init`, which stand still, allocate their keys; returns those that cannot."""
        return [pid for pid in preflight.tree(init)[1:] if not self._given(pid) and os.path.exists("/proc/%d" % pid)]

    def _given(self, pid: int) -> bool:
        try:
            threads = [self.held.get(waits.own_number(at), {}) for at in waits.threads(pid)]
            return not any(threads) or injected.calls(pid, lambda call: _allocated(call, threads)) is True
        except (OSError, ValueError):
            return False


def _allocated(call: injected.Call, threads: list[Held]) -> bool:
    """Allocate the keys that the threads hold, the first one's rights of them as they are; whether all could be."""
    wanted, taken = set[int]().union(*threads), set[int]()
    while not wanted <= taken:
        key = call(_ALLOC, 0, _NONE)  # the lowest that is free; of this thread the rights are set, and of no other
        if key in wanted and call(_FREE, key) == 0:
            key = call(_ALLOC, 0, threads[0].get(key, _NONE))
        if key is None or key < 0:
            break
        taken.add(key)
    for key in taken - wanted:
        call(_FREE, key)
    return wanted <= taken
