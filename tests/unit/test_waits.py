"""Calls in which threads waited when criu stopped them, begun anew in its image."""

from __future__ import annotations

import struct
import subprocess
import time
from pathlib import Path

import pytest

from checkpoint.execute import criu, waits
from checkpoint.execute.spool import Spool
from checkpoint.execute.waits import AX, DI, DX, IP, ORIG_AX, R8, R9, R10, SI, SP, Wait
from checkpoint.wire.protobuf import encode
from tests.until import until

HEAD = struct.pack("<II", 0x54564319, 0x55053847)  # criu/include/magic.h: IMG_COMMON_MAGIC, CORE_MAGIC
EINTR = (1 << 64) - 4
CODE, STACK, NOW = 0x401002, 0x7FFC0000, 1000.0
PLAIN = {DI: 1, SI: 2, DX: 3, R10: 4, R8: 5, R9: 6}


def core(call: int, registers: dict[int, int], returns: int = EINTR, signal: bytes = b"", blocked: int = 0) -> bytes:
    """A core image of images/core.proto."""
    values = {number: 100 + number for number in range(1, 28)} | {SP: STACK, IP: CODE, ORIG_AX: call, AX: returns}
    values |= registers
    queue = encode([(1, encode([(1, signal)]))] if signal else [])
    own = encode([(1, 0), (2, 0), (6, blocked), (9, queue)])
    entry = encode([(1, 1), (2, encode([(1, 0), (2, encode(sorted(values.items())))])), (5, own)])
    return HEAD + struct.pack("<I", len(entry)) + entry


def seen(call: int, registers: dict[int, int], began: float | None, lasts: float | None) -> Wait:
    arguments = tuple(registers[number] for number in (DI, SI, DX, R10, R8, R9))
    return Wait(call, arguments, STACK, CODE, began, lasts)


@pytest.mark.parametrize(
    "call, registers, lasts, changes",
    [
        (waits.POLL, {DX: 5000}, 5.0, {DX: 2000}),
        (waits.POLL, {DX: 0xFFFFFFFF}, None, {}),  # for ever
        (waits.EPOLL_WAIT, {R10: 5000}, 5.0, {R10: 2000}),
        (waits.EPOLL_PWAIT2, {}, 5.0, {AX: waits.EPOLL_PWAIT, R10: 2000}),
        (waits.NANOSLEEP, {SI: 0x7000}, 5.0, {DI: 0x7000}),  # the kernel has written there what remains
        (waits.NANOSLEEP, {SI: 0}, 5.0, {AX: waits.POLL, DI: 0, SI: 0, DX: 2000}),
        (waits.NANOSLEEP, {SI: 0}, 3.0e6, {}),  # more than poll(2) can wait
        (waits.CLOCK_NANOSLEEP, {DI: 0, SI: 0, R10: 0x7000}, 5.0, {DX: 0x7000}),
        (waits.CLOCK_NANOSLEEP, {DI: 1, SI: 0, R10: 0}, 5.0, {AX: waits.POLL, DI: 0, SI: 0, DX: 2000}),
        (waits.CLOCK_NANOSLEEP, {DI: 2, SI: 0, R10: 0}, 5.0, {}),  # processor time
        (waits.FUTEX, {SI: 9}, None, {}),  # until a moment
    ],
)
def test_a_call_lasts_as_long_as_it_would_have(
    call: int, registers: dict[int, int], lasts: float | None, changes: dict[int, int]
) -> None:
    registers = PLAIN | registers
    anew = {AX: call, IP: CODE - 2} | changes
    image = core(call, registers)
    wait = seen(call, registers, NOW - 3, lasts)
    new = core(call, registers | anew)
    assert waits.thread_anew(image, wait, NOW) == (new, anew)
    # what a stop before this one made of it
    again = waits.thread_anew(core(waits.RESTART, registers), wait, NOW)
    assert again == (core(waits.RESTART, registers | anew), anew)


def test_a_call_that_was_not_seen_to_begin_begins_with_its_whole_time() -> None:
    registers = PLAIN | {DX: 5000}
    anew = {AX: waits.POLL, IP: CODE - 2}
    other = seen(waits.POLL, registers | {DI: 77}, NOW - 3, 5.0)
    for wait in (None, other, seen(waits.POLL, registers, None, 5.0)):
        assert waits.thread_anew(core(waits.POLL, registers), wait, NOW) == (core(waits.POLL, registers | anew), anew)


def test_what_was_not_interrupted_by_the_stop_is_left_alone() -> None:
    usr1 = struct.pack("<i", 10)
    for image in (
        core(waits.POLL, PLAIN, returns=0),
        core(0, PLAIN),  # read(2): a file system's own EINTR
        core(waits.RESTART, PLAIN),  # it is not known of what
        core(waits.POLL, PLAIN, signal=usr1),  # that is what EINTR is for
    ):
        assert waits.thread_anew(image, None, NOW) == (image, {})
    assert waits.thread_anew(core(waits.POLL, PLAIN, signal=usr1, blocked=1 << 9), None, NOW)[1]


def test_all_threads_of_an_image(image: Spool) -> None:
    image.write("core-1001.img", core(waits.POLL, PLAIN))
    image.write("core-1002.img", core(0, PLAIN))
    assert waits.anew(image, {}, NOW) == {1001: {AX: waits.POLL, IP: CODE - 2}}
    assert image.read("core-1001.img") == core(waits.POLL, PLAIN | {AX: waits.POLL, IP: CODE - 2})
    image.write("core-1003.img", b"else")
    with pytest.raises(criu.CriuError):
        waits.anew(image, {}, NOW)


def test_since_when_a_thread_sleeps() -> None:
    before = time.monotonic()
    with subprocess.Popen(["sleep", "30"]) as process:
        until(lambda: process.pid in waits.look(process.pid, {}), "it does not sleep")
        seen = time.monotonic()
        time.sleep(0.3)
        found = until(lambda: _sleeping(process.pid), "since when is not told")
        assert found.call in (waits.NANOSLEEP, waits.CLOCK_NANOSLEEP)
        assert found.lasts == pytest.approx(30)  # newer ones round up
        assert found.began is not None and before - 0.1 < found.began < seen + 0.1
        process.send_signal(19)
        until(lambda: _state(process.pid) == "T", "it does not stop")
        assert waits.look(process.pid, {process.pid: found}) == {process.pid: found}
        process.send_signal(18)
        until(lambda: _state(process.pid) == "S", "it does not go on")
        assert waits.look(process.pid, {process.pid: found}) == {process.pid: found}
        process.kill()


def _sleeping(pid: int) -> waits.Wait | None:
    found = waits.look(pid, {}).get(pid)
    return found if found is not None and found.began is not None else None


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
