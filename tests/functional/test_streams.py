"""Standard input, output and error of a job: apart, byte for byte, with back-pressure and both ends' ends."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import time

import psutil
import pytest

from tests.program import Combo, as_login
from tests.until import HANG

# The other ways to run differ in nothing that these tests look at; test_filesystem.py takes them all.
pytestmark = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "local-root"))

PYTHON = "/usr/bin/python3"


def test_the_three_stay_apart_byte_for_byte(combo: Combo) -> None:
    every = bytes(range(256)) * 5000
    program = (
        "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d[::-1]); sys.stderr.buffer.write(d[1::2])"
    )
    done = combo.run([PYTHON, "-c", program], stdin=every)
    assert (done.returncode, done.stdout, done.stderr) == (0, every[::-1], every[1::2])


def test_no_terminal_where_there_is_none_here(combo: Combo) -> None:
    done = combo.run(["sh", "-c", "test -t 0 || test -t 1 || test -t 2 || echo none; cat </dev/tty"])
    assert done.stdout == b"none\n"
    assert done.returncode != 0


def test_an_endless_writer_ends_with_its_reader(combo: Combo) -> None:
    with combo.popen(["yes"], stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(60) == -signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_quiet_job_sees_at_once_that_its_reader_has_gone(combo: Combo) -> None:
    # As `tail -f` does: it waits for its pipe's error, not for a write that fails.
    waits = "import select; p = select.poll(); p.register(1, 0); print(flush=True); p.poll(); open('seen', 'w')"
    with combo.popen([PYTHON, "-c", waits]) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\n"
        process.stdout.close()
        assert process.wait(60) == 0
    assert (combo.dir / "seen").exists()


def test_an_endless_feeder_ends_with_the_job_s_interest(combo: Combo) -> None:
    read, write = os.pipe()
    job = "head -c 3; exec <&-; echo; until [ -e end ]; do sleep .05; done"
    with combo.popen(["sh", "-c", job], stdin=read) as process:
        os.close(read)
        assert process.stdout is not None
        os.write(write, b"abc")
        assert process.stdout.readline() == b"abc\n"
        poll = select.poll()
        poll.register(write, 0)
        assert poll.poll(HANG * 1000)[0][1] & select.POLLERR  # while the job still runs
        (combo.dir / "end").touch()
        os.close(write)
        assert process.wait(60) == 0


def test_end_of_input_reaches_the_job_and_end_of_output_comes_back(combo: Combo) -> None:
    with combo.popen(["sh", "-c", "cat; exec >&-; sleep 1000"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"to the end")
        process.stdin.close()
        assert process.stdout.read() == b"to the end"  # and its end, though the job runs on
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM


def test_what_the_job_wrote_last_is_not_lost(combo: Combo) -> None:
    size = 3 << 20
    with combo.popen(["head", "-c", str(size), "/dev/zero"]) as process:
        assert process.stdout is not None
        time.sleep(1.5)  # a reader that begins late, when the job may have ended as far as it can
        assert len(process.stdout.read()) == size
        assert process.wait(60) == 0


def test_a_slow_reader_costs_no_memory_at_either_end(combo: Combo) -> None:
    with combo.popen(["cat", "/dev/zero"], options=["--lease", "1s"]) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(1 << 20)) == 1 << 20
        here = psutil.Process(process.pid)
        held = memory(here)
        time.sleep(3)  # nothing is read for so long that a reader ahead would have gigabytes
        assert memory(here) < held + (64 << 20)
        process.kill()


def memory(process: psutil.Process) -> int:
    """Bytes that rexec and what it started here hold."""
    return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))


@pytest.mark.where(lambda combo: combo == "user-alice")
def test_a_gigabyte_out(combo: Combo) -> None:
    size = 1 << 30
    with combo.popen(["cat", "/dev/zero"]) as process:
        assert process.stdout is not None
        left, most = size, 0
        here = psutil.Process(process.pid)
        while left:
            left -= len(process.stdout.read(min(left, 1 << 24)))
            most = max(most, here.memory_info().rss)
        process.stdout.close()
        assert process.wait(60) == -signal.SIGPIPE
    assert most < 200 << 20


def test_a_big_file_through_a_pipe(combo: Combo) -> None:
    data = os.urandom(1 << 20) * 24
    done = combo.run(["sha256sum"], stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


@pytest.mark.where(lambda combo, closed: combo.startswith("local") or closed == (0, 1, 2))
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_closed_streams_are_closed_there_too(combo: Combo, closed: tuple[int, ...]) -> None:
    shell = 'exec "$0" "$@" ' + " ".join(f"{fd}>&-" for fd in closed)
    look = "for f in 0 1 2; do test -e /proc/$$/fd/$f && printf $f; done >seen; true"
    argv = ["sh", "-c", shell, str(combo.rexec.path), "--on", combo.on, "--", "sh", "-c", look]
    with as_login(combo.as_user, argv, cwd=combo.dir) as process:
        assert process.wait(60) == 0
    expected = "".join(str(fd) for fd in range(3) if fd not in closed or fd == 1)  # 1 is `seen` meanwhile
    assert (combo.dir / "seen").read_text() == expected


def test_our_own_words_are_not_lost_in_the_job_s_output(combo: Combo) -> None:
    done = combo.run(["no-such-command"])
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr == b"rexec: no-such-command: command not found\n"


def test_a_full_disk_behind_standard_output_is_said(combo: Combo) -> None:
    with open("/dev/full", "wb") as full, combo.popen(["sh", "-c", "echo x; sleep 1000"], stdout=full.fileno()) as job:
        assert job.stderr is not None
        assert job.wait(60) == 125
        assert job.stderr.read() == b"rexec: the job's output cannot be written: No space left on device\n"


def test_streams_can_be_opened_again_by_name(combo: Combo) -> None:
    done = combo.run(["sh", "-c", "cat /dev/stdin >/dev/stdout; echo e >/dev/stderr"], stdin=b"again")
    assert (done.stdout, done.stderr) == (b"again", b"e\n")


def test_many_small_writes_keep_their_order(combo: Combo) -> None:
    program = "import os\nfor n in range(3000): os.write(1, b'%d\\n' % n)"
    done = combo.run([PYTHON, "-c", program])
    assert done.stdout == b"".join(b"%d\n" % n for n in range(3000))


def test_a_job_reads_while_it_writes(combo: Combo) -> None:
    with combo.popen(["cat"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for n in range(20):
            process.stdin.write(b"%d\n" % n)
            process.stdin.flush()
            assert process.stdout.readline() == b"%d\n" % n
        process.stdin.close()
        assert process.wait(60) == 0
