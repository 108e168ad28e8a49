"""What a user may get wrong, or a host lack: one clear sentence, or simply right."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.desk_hosts import SUBMIT_USER
from tests.program import Combo, Rexec, as_login

PYTHON = "/usr/bin/python3"


def sentence(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """`done` failed with `code` and said one sentence of ours, with `words` in it."""
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert done.stdout == b""
    assert said.startswith("rexec: ")
    assert said.count("\n") == 1
    for word in words:
        assert word in said


def test_commands_that_cannot_run(combo: Combo) -> None:
    for name, text, mode in (
        ("plain", "echo x", 0o644),
        ("interpreter", "#!/no/such/program\n", 0o755),
        ("bare", "echo bare $1", 0o755),
    ):
        (combo.dir / name).write_text(text)
        (combo.dir / name).chmod(mode)
    sentence(combo.run(["no-such"]), 127, "no-such: command not found")
    sentence(combo.run(["./no-such"]), 127, "./no-such: command not found")
    sentence(combo.run(["./plain"]), 126, "./plain", "Permission denied")
    sentence(combo.run(["/usr"]), 126, "/usr")
    sentence(combo.run([""]), 125, "the command is empty")
    sentence(combo.run(["./interpreter"]), 127, "./interpreter", "interpreter")
    assert combo.run(["./bare", "word"]).stdout == b"bare word\n"


def test_directories_that_cannot_be_entered(combo: Combo) -> None:
    (combo.dir / "closed").mkdir(mode=0o000)
    (combo.dir / "file").touch()
    sentence(combo.run(["true"], options=["--cd", "missing"]), 125, "missing is no directory")
    sentence(combo.run(["true"], options=["--cd", "file"]), 125, "file is no directory")
    sentence(combo.run(["true"], options=["--cd", "deep/" * 1000]), 125, "bytes, and a job can start in one of 4095")
    if combo.as_user != "root":
        sentence(combo.run(["true"], options=["--cd", "closed"]), 125, "may not enter", "closed")
    gone = f"mkdir gone; cd gone; rmdir ../gone; exec {combo.rexec.path} --on {combo.on} true"
    with as_login(combo.as_user, ["sh", "-c", gone], cwd=combo.dir) as process:
        out, err = process.communicate(timeout=60)
    sentence(subprocess.CompletedProcess([], process.returncode, out, err), 125, "has been removed")


def test_arguments_are_bytes(combo: Combo) -> None:
    odd = [b"new\nline", b"\xff\xfe\x80", b"", b" ", b"'\"$`\\", b"--", b"-x", "ü".encode()]
    done = combo.run([PYTHON, "-c", "import os, sys; print([os.fsencode(a) for a in sys.argv[1:]])", *odd])
    assert done.stdout.decode() == f"{odd}\n"
    (combo.dir / os.fsdecode(b"\xff\n")).write_text("odd name\n")
    assert combo.run(["cat", b"\xff\n"]).stdout == b"odd name\n"


def test_too_many_arguments(combo: Combo) -> None:
    done = combo.run(["sh", "-c", "true", "x" * 131_000, *(["y" * 100_000] * 9)])
    assert done.returncode == 0


def test_a_full_disk_reaches_the_job(combo: Combo) -> None:
    small = combo.dir / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", small], check=True)
    try:
        done = combo.run(["dd", "if=/dev/zero", f"of={small}/big", "bs=64k", "count=64"])
        assert done.returncode == 1
        assert b"No space left on device" in done.stderr
        assert (small / "big").stat().st_size <= 1 << 20
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_no_user_namespaces(rexec: Rexec, nothing_left: Callable[[str], object]) -> None:
    done = rexec(["true"], on="alpha-nouserns", as_user=SUBMIT_USER)
    sentence(done, 125, "alpha-nouserns does not let users make namespaces", "sysctl -w user.max_user_namespaces=15000")


@pytest.mark.parametrize("on", ["beta", "beta-alice"])
def test_no_dev_fuse(rexec: Rexec, desk_alone: ModuleType, on: str) -> None:
    desk_alone.dev_fuse("beta", present=False)
    sentence(rexec(["true"], on=on), 125, f"{on} cannot open /dev/fuse", "modprobe fuse")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--env", "=x"], "--env needs NAME"),
        (["--scratch", "/no/such"], "no such directory"),
        (["--tty"], "--tty needs a terminal"),
    ],
)
def test_options_that_make_no_sense(rexec: Rexec, options: list[str], words: str, place: Callable[[str], Path]) -> None:
    sentence(rexec(["true"], on="local", options=options, cwd=place("root")), 125, words)


def test_too_few_files_may_be_open(combo: Combo) -> None:
    few = f"ulimit -n 100; exec {combo.rexec.path} --on {combo.on} true"
    with as_login(combo.as_user, ["sh", "-c", few], cwd=combo.dir) as process:
        out, err = process.communicate(timeout=60)
    sentence(subprocess.CompletedProcess([], process.returncode, out, err), 125, "`ulimit -Hn` is 100 here")
