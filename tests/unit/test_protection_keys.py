"""Which keys an image's threads hold, and how a process comes to have just these."""

from __future__ import annotations

import pytest

from checkpoint.execute import protection_keys
from checkpoint.execute.protection_keys import rights
from checkpoint.wire.protobuf import ProtobufError, encode


def core(*register: int | bytes) -> bytes:
    thread = [(8, word) for word in register]
    return encode([(1, 1), (2, encode([(3, encode([(13, encode([(1, 514), *thread]))]))]))])


def test_what_was_never_allocated_has_no_right() -> None:
    assert rights(core(0x55555554, 0)) == {}
    assert rights(core()) == rights(encode([(1, 1)])) == {}  # a CPU without
    assert rights(core(0x55555558 ^ 1 << 8, 0)) == {1: 2, 4: 0}
    assert rights(core(0)) == {}
    with pytest.raises(ProtobufError, match="rights of keys"):
        rights(core(b"\0\0\0\0"))


class Kernel:
    """A process's keys, as the kernel gives them."""

    def __init__(self, *taken: int) -> None:
        self.rights = dict.fromkeys(taken, 1)
        self.failing = False

    def __call__(self, number: int, first: int, second: int = 0) -> int | None:
        if self.failing:
            return None
        if number == 331:
            return 0 if self.rights.pop(first, None) is not None else -22
        free = [key for key in protection_keys.KEYS if key not in self.rights]
        if not free:
            return -28
        self.rights[free[0]] = second
        return free[0]


def test_just_these_are_allocated() -> None:
    kernel = Kernel(1)  # that of memory which can only be executed
    assert protection_keys._allocated(kernel, [{3: 2}, {5: 0}])
    assert kernel.rights == {1: 1, 3: 2, 5: 1}  # by the first thread, which has no right of 5


def test_that_it_cannot_is_told() -> None:
    assert not protection_keys._allocated(Kernel(*range(1, 16)), [{3: 2}])
    kernel = Kernel()
    kernel.failing = True
    assert not protection_keys._allocated(kernel, [{3: 2}])
