"""An image's files as they lie in a spool: what was written comes back, and nothing of it can be read there."""

from __future__ import annotations

import os
import tempfile
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.execute import cipher
from checkpoint.execute.spool import Spool
from tests.spools import spool

write = st.tuples(st.just("write"), st.integers(0, 200), st.binary(min_size=1, max_size=60))
resize = st.tuples(st.just("resize"), st.integers(0, 250), st.just(b""))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), write | resize), max_size=30), st.integers(0, 260), st.integers(1, 80))
def test_two_files_written_in_turns_are_what_was_written(
    steps: list[tuple[int, tuple[str, int, bytes]]], offset: int, length: int
) -> None:
    """Over each other, with holes, cut off and made longer again."""
    with spool({"0": b"", "1": b""}) as at:
        model = [bytearray(), bytearray()]
        for number, (what, where, data) in steps:
            file, expected = at.file(str(number)), model[number]
            if what == "resize":
                file.resize(where)
                del expected[where:]
            else:
                at.put(file, memoryview(bytearray(data)), where)
            expected.extend(bytes(max(0, where + len(data) - len(expected))))
            if data:
                expected[where : where + len(data)] = data
        for number, expected in enumerate(model):
            assert at.read(str(number)) == expected
            room = bytearray(b"?" * length)
            count = at.fill(at.file(str(number)), memoryview(room), offset)
            assert room[:count] == expected[offset : offset + length]
        assert at.size() == sum(map(len, model))


@given(st.integers(0, 1 << 40), st.binary(min_size=1, max_size=300), st.integers(0, 300))
def test_any_part_is_decrypted_by_its_place_alone(place: int, data: bytes, cut: int) -> None:
    library = cipher.available()
    assert library is not None
    key = cipher.Cipher(library)
    text = bytearray(data)
    with memoryview(text) as view:
        key.apply(view, place)
        key.apply(view[:cut], place)
        key.apply(view[cut:], place + cut)
    assert text == data


def test_nothing_is_written_in_one_place_twice_nor_readable_nor_named() -> None:
    with tempfile.TemporaryDirectory() as beneath:
        library = cipher.available()
        assert library is not None
        at = Spool(beneath, cipher.Cipher(library))
        secret = b"what the job remembers" * 100
        for _ in range(3):
            at.write("core-1.img", secret)
        (raw,) = [path for path in map(_file, os.listdir("/proc/self/fd")) if path.startswith(beneath)]
        assert raw.endswith(" (deleted)")
        assert not os.listdir(beneath)
        with open(f"/proc/self/fd/{at.fileno()}", "rb") as file:
            lies = file.read()
        third = len(secret)
        assert len({lies[:third], lies[third : 2 * third], lies[2 * third :]}) == 3
        assert secret[:8] not in lies
        assert at.read("core-1.img") == secret
        at.close()


def _file(number: str) -> str:
    try:
        return os.readlink("/proc/self/fd/" + number)
    except FileNotFoundError:
        return ""  # of the listing itself


def test_another_spool_has_another_key() -> None:
    with spool({"a": bytes(64)}) as one, spool({"a": bytes(64)}) as other:
        assert os.pread(one.fileno(), 64, 0) != os.pread(other.fileno(), 64, 0)


def test_several_threads_write_and_read_at_once() -> None:
    with spool() as at:
        wrong: list[int] = []

        def work(number: int) -> None:
            data = bytes([number]) * 5000
            file = at.make(str(number))
            for count in range(50):
                at.put(file, memoryview(bytearray(data)), count * 5000)
            if at.read(str(number)) != data * 50:
                wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
