"""A job's streams over many generations: whatever is said or asked for again, each byte goes where it belongs once."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remoteio.wire import frames
from remoteio.wire.link import Link
from shim.submit.job.output_file import OutputFile
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from tests.until import until

WORDS = bytes(range(256)) * 4

said = st.integers(0, 60)
# A generation: how much it says after its beginning, and where of that its image is; then it is lost.
generations = st.lists(st.tuples(said, st.floats(0, 1)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(generations)
def test_each_byte_of_output_is_written_once(lives: list[tuple[int, float]]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as file:
        link = Link(ours.fileno(), ours.fileno())
        output = OutputOnce(frames.STDOUT, OutputFile(os.dup(file.fileno())))
        output.start(pytest.fail)
        image = most = 0
        for length, part in lives:
            output.begin(link, image)
            for at in range(image, image + length, 7):
                output.put(link, WORDS[at : min(at + 7, image + length)])
            most = max(most, image + length)
            image += int(length * part)
        assert output.drain(60)
        assert os.pread(file.fileno(), 1 << 20, 0) == WORDS[:most]
        output.close()
        link.close()


@settings(max_examples=60, deadline=None)
@given(generations)
def test_each_generation_is_given_the_input_from_where_its_image_had_it(lives: list[tuple[int, float]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stream = ReplayedInput(Path(directory), -1)
        stream.start(pytest.fail)
        image = 0
        for length, part in lives:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                link, host = Link(ours.fileno(), ours.fileno()), Link(theirs.fileno(), theirs.fileno())
                window = stream.begin(link, image)
                missing = image + length - stream.size
                if missing > 0:
                    stream.feed(WORDS[stream.size : stream.size + missing])
                until(lambda: stream.given == stream.size, "it is given all there is")
                got = b""
                while len(got) < stream.size - image:
                    got += b"".join(bytes(payload) for _, payload in host.receive())
                assert got == WORDS[image : stream.size]
                stream.keep()
                image += int((stream.given - image) * part)
                stream.saved(image)
                assert stream.kept == image
                window.close()
        stream.close()


def test_a_job_that_has_said_more_than_is_left_of_its_output_goes_on_where_it_is() -> None:
    """Somebody has cut the file; what the job says again after its next loss is dropped all the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as file:
        link = Link(ours.fileno(), ours.fileno())
        output = OutputOnce(frames.STDOUT, OutputFile(os.dup(file.fileno())))
        output.start(pytest.fail)
        output.begin(link, 100)
        output.put(link, WORDS[100:150])
        output.begin(link, 120)
        output.put(link, WORDS[120:160])
        assert output.drain(60)
        assert os.pread(file.fileno(), 1 << 20, 0) == WORDS[100:160]
        output.close()
        link.close()
