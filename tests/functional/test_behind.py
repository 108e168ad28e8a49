"""What a job says comes after what it did, as this machine sees it, though it waits for no change."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
from pathlib import Path

import pytest

from tests.program import Combo
from tests.talk import PYTHON, Talk
from tests.until import HANG

FILES = 60
NO_SYNC = ("--no-sync",)
_MAKES = f"""
import os, sys
for k in range({FILES}):
    with open(f"f{{k}}", "wb", buffering=0) as f:
        f.write(b"a" * k)
        f.write(b"b" * 100)
        os.utime(f.fileno(), (k, k))
        os.fchmod(f.fileno(), 0o600)
    sys.stdout.write(f"{{k}}\\n")
    sys.stdout.flush()
"""
_WRITES = """
import os, sys
with open("f", "wb", buffering=0) as f:
    print(flush=True)
    sys.stdin.readline()
    os.pwrite(f.fileno(), b"a", 5000)
"""

_MAKES_MORE = """
import os, sys
os.mkdir("top")
open("top/first", "x").close()
print(flush=True)
sys.stdin.readline()
os.open("top/taken", os.O_CREAT | os.O_EXCL)
"""


def look(path: Path) -> tuple[bytes, int, int]:
    st = path.stat()
    return path.read_bytes(), st.st_mode & 0o7777, int(st.st_mtime)


@pytest.mark.parametrize("combo", ["local-root", "user-alice"], indirect=True)
def test_what_a_line_tells_of_is_here_when_the_line_is(combo: Combo) -> None:
    with combo.popen([PYTHON, "-c", _MAKES], options=NO_SYNC) as job:
        assert job.stdout is not None
        for k in range(FILES):
            assert job.stdout.readline() == b"%d\n" % k
            assert look(combo.dir / f"f{k}") == (b"a" * k + b"b" * 100, 0o600, k)
        job.communicate(timeout=HANG)
    assert job.returncode == 0


@pytest.mark.parametrize("combo", ["local-root", "user-alice"], indirect=True)
def test_what_was_done_is_here_when_the_job_has_ended(combo: Combo) -> None:
    words = f"for k in range({FILES}): open(f'f{{k}}', 'w').write('x' * 3000); os.chmod(f'f{{k}}', 0o640)"
    done = combo.run([PYTHON, "-c", f"import os\n{words}"], options=NO_SYNC)
    assert done.returncode == 0, done.stderr
    found = [(combo.dir / f"f{k}") for k in range(FILES)]
    assert {(path.stat().st_size, path.stat().st_mode & 0o777) for path in found} == {(3000, 0o640)}


@pytest.mark.parametrize("combo", ["local-root"], indirect=True)
@pytest.mark.parametrize("options", [(), ("--sync",), NO_SYNC], ids=["default", "--sync", "--no-sync"])
def test_changes_are_waited_for_where_each_is_to_be(combo: Combo, tmp_path: Path, options: tuple[str, ...]) -> None:
    done = combo.run([PYTHON, "-c", _MAKES], options=[*options, "--json-log", str(tmp_path / "log")])
    assert done.returncode == 0, done.stderr
    (ended,) = [e for e in map(json.loads, (tmp_path / "log").read_text().splitlines()) if e["event"] == "ended"]
    waited = ended["waits"]["changes"]["trips"]
    if options != ("--sync",):  # but mode and times, where home's word on a write comes between two
        assert waited < 4 * FILES
    else:
        assert waited >= 5 * FILES - 1, "the first write is of no byte, and is none"


@pytest.mark.parametrize("combo", ["local-root"], indirect=True)
def test_what_could_not_be_done_after_all_is_told_by_fsync(combo: Combo) -> None:
    with Talk(combo, NO_SYNC) as job:
        job("f = open('f', 'wb', buffering=0)")
        limit(job.process, 1000)
        assert job("os.pwrite(f.fileno(), b'a', 5000)") == 1
        assert job("says(os.fsync, f)") == errno.errorcode[errno.EFBIG]
        assert job("says(os.fsync, f)") == "fine"


@pytest.mark.parametrize("combo", ["local-root"], indirect=True)
def test_what_could_not_be_done_after_all_is_told_at_the_latest_with_the_end(combo: Combo) -> None:
    with combo.popen([PYTHON, "-c", _WRITES], stdin=subprocess.PIPE, options=NO_SYNC) as job:
        assert job.stdout is not None
        job.stdout.readline()
        limit(job, 1000)
        _, said = job.communicate(b"\n", timeout=HANG)
    assert (job.returncode, b"could not be kept (File too large)" in said) == (125, True), said


@pytest.mark.parametrize("combo", ["local-root", "user-alice"], indirect=True)
def test_what_could_not_be_made_after_all_is_told_with_the_end(combo: Combo) -> None:
    with combo.popen([PYTHON, "-c", _MAKES_MORE], stdin=subprocess.PIPE, options=NO_SYNC) as job:
        assert job.stdout is not None and job.stdin is not None
        job.stdout.readline()
        (combo.dir / "top/taken").write_bytes(b"theirs")
        _, said = job.communicate(b"\n", timeout=HANG)
    if job.returncode == 1:  # others' name was seen before the job made its own
        assert b"FileExistsError" in said
    else:
        assert (job.returncode, b"that the job made could not be kept (File exists)" in said) == (125, True), said
    assert (combo.dir / "top/taken").read_bytes() == b"theirs"


@pytest.mark.parametrize("combo", ["local-root", "user-alice"], indirect=True)
def test_a_disk_that_fills_up_meanwhile_is_told_of_by_the_next_call_on_each_file(combo: Combo) -> None:
    small = combo.dir / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=3g,uid={combo.uid},mode=755", "small", small], check=True)
    try:
        with Talk(combo) as job:
            job("f, g, h = (open(f'small/{name}', 'wb', buffering=0) for name in 'fgh')")
            subprocess.run(["mount", "-o", "remount,size=4k", small], check=True)
            for name in "fgh":
                assert job(f"says(os.pwrite, {name}.fileno(), b'a' * 9000, 0)") == "fine"
            assert sum((small / name).stat().st_size for name in "fgh") <= 4096
            assert job("says(os.pwrite, f.fileno(), b'b', 0), says(os.fsync, f.fileno())") == ["ENOSPC", "fine"]
            assert job("says(os.fsync, g.fileno()), says(os.fsync, g.fileno())") == ["ENOSPC", "fine"]
            assert job("says(h.close)") == "ENOSPC"
            _, said = job.process.communicate(timeout=HANG)
            assert (job.process.returncode, b"could not be kept (No space left on device)" in said) == (125, True), said
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def limit(rexec: subprocess.Popen[bytes], size: int) -> None:
    """Let no file here grow beyond `size`: what comes of a full disk, at the moment that a test chooses."""
    resource.prlimit(rexec.pid, resource.RLIMIT_FSIZE, (size, size))
