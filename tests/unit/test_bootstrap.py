"""The runtime's start, over a socketpair to real shells and pythons on this machine."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from remoteio.errors import RexecError
from remoteio.submit.transport.ssh import open_local
from remoteio.submit.transport.stream import Stream, TransportError
from shim.submit.hosts import bootstrap
from shim.submit.hosts.bootstrap import (
    BootstrapError,
    Facts,
    collect,
    command,
    local_argv,
    parse_answer,
    stage_source,
)

SHELLS = ("sh", "bash", "dash", "fish", "csh", "tcsh", "zsh", "ksh")
# What an entry point may say at once, and more than fits in any buffer on the way.
SAID = 300_000
ENTRY = f"""
import os
def main(read_fd, write_fd):
    assert os.readlink("/proc/self/fd/0") == os.readlink("/proc/self/fd/1") == "/dev/null"
    assert min(read_fd, write_fd) >= 100
    said = bytes(i % 251 for i in range({SAID}))
    while said:
        said = said[os.write(write_fd, said):]
    while data := os.read(read_fd, 1000):
        os.write(write_fd, data)
    return 3
"""


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/entry_of_the_test.py").write_text(ENTRY)
    monkeypatch.syspath_prepend(tmp_path / "source")
    return ("entry_of_the_test",)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/rexec"


@contextmanager
def opened(argv: list[str]) -> Iterator[Stream]:
    stream = open_local(argv)
    try:
        yield stream
    finally:
        stream.close()


def begin(argv: list[str], shipped: tuple[str, ...], deadline: float = 30) -> Facts:
    """Start the entry and see that not a byte of what it says, or is told, is lost."""
    with opened(argv) as stream:
        facts = bootstrap.start(stream, "entry_of_the_test:main", modules=shipped, deadline=deadline)
        got = b""
        while len(got) < SAID:
            got += os.read(stream.read_fd, SAID)
        assert got == bytes(i % 251 for i in range(SAID))
        os.write(stream.write_fd, b"told")
        assert os.read(stream.read_fd, 100) == b"told"
        stream.close()
        assert stream.wait(60) == 3, stream.stderr_tail()
    return facts


@pytest.mark.parametrize("size", [1, 5000, 400_000])
def test_what_goes_first_is_the_entrys_whether_the_runtime_is_there_or_not(
    size: int, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "takes_first.py").write_text(
        "import os\n"
        "def main(read_fd, write_fd):\n"
        "    while data := os.read(read_fd, 1000):\n"
        "        os.write(write_fd, data)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    first = (bytes(range(256)) * (1 + size // 256))[:size]
    for runtime in ("kept", "have"):
        with opened(local_argv()) as stream:
            facts = bootstrap.start(stream, "takes_first:main", modules=("takes_first",), deadline=30, first=first)
            assert facts.runtime == runtime
            os.write(stream.write_fd, b"next")
            got = b""
            while len(got) < size + 4:
                got += os.read(stream.read_fd, SAID)
            assert got == first + b"next"


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_all_that_is_shipped_imports_where_only_the_standard_library_is(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "importing.py").write_text(
        "import importlib, os\n"
        "def main(read_fd, write_fd):\n"
        f"    files = {{importlib.import_module(name).__spec__.origin for name in {bootstrap.shipped()!r}}}\n"
        "    os.write(write_fd, min(files).encode())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with opened(local_argv()) as stream:
        bootstrap.start(stream, "importing:main", modules=(*bootstrap.shipped(), "importing"), deadline=30)
        assert os.read(stream.read_fd, 100) == f"rexec:{min(bootstrap.shipped())}".encode()
        assert stream.wait(60) == 0, stream.stderr_tail()


@pytest.mark.parametrize("name", SHELLS)
def test_the_remote_command_is_right_in_every_shell(name: str, shipped: tuple[str, ...], cache: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    assert begin([name, "-c", command("/usr/bin/python3")], shipped).runtime == "kept"


def test_the_remote_command_has_nothing_that_a_shell_could_take_wrongly() -> None:
    assert not set(command()) & set("\\!\n`")
    assert shlex.split(command())[:3] == ["exec", "python3", "-ISc"]
    assert shlex.split(command("/a b/python"))[1] == "/a b/python"
    for bad in ("/a'b", "/a\\b", "/a!b", "/a\nb"):
        with pytest.raises(BootstrapError, match="name a python by a plain path"):
            command(bad)


def test_the_second_start_finds_the_runtime_in_the_cache(shipped: tuple[str, ...], cache: Path) -> None:
    assert begin(local_argv(), shipped).runtime == "kept"
    facts = begin(local_argv(), shipped)
    assert facts.runtime == "have"
    assert facts.python >= (3, 9)
    (directory,) = cache.iterdir()
    assert directory.stat().st_mode & 0o777 == cache.stat().st_mode & 0o777 == 0o700


def test_a_runtime_with_one_bit_wrong_is_sent_again(shipped: tuple[str, ...], cache: Path) -> None:
    begin(local_argv(), shipped)
    (file,) = cache.glob("*/*")
    right = file.read_bytes()
    for at in (0, 40, len(right) - 1):
        file.write_bytes(right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :])
        assert begin(local_argv(), shipped).runtime == "kept"
        assert file.read_bytes() == right
    file.write_bytes(b"")
    assert begin(local_argv(), shipped).runtime == "kept"


def test_a_cache_that_cannot_be_written_only_costs_time(
    shipped: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    facts = begin(local_argv(), shipped)
    assert facts.runtime == "memory"
    assert facts.note.endswith(": Not a directory") and "Errno" not in facts.note
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    assert begin(local_argv(), shipped).note == "no home directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
def test_what_others_could_have_written_is_not_used(shipped: tuple[str, ...], cache: Path) -> None:
    begin(local_argv(), shipped)
    (directory,) = cache.iterdir()
    os.chown(directory, 65534, 65534)
    facts = begin(local_argv(), shipped)
    assert facts.runtime == "memory"
    assert "belongs to" in facts.note
    os.chown(directory, 0, 0)
    directory.chmod(0o777)
    assert begin(local_argv(), shipped).runtime == "memory"


def test_a_full_disk_leaves_nothing_half_written(shipped: tuple[str, ...], cache: Path) -> None:
    limited = "ulimit -f 0; trap '' XFSZ; " + command("/usr/bin/python3")
    facts = begin(shell(limited), shipped)
    assert facts.runtime == "memory"
    assert "File too large" in facts.note
    assert list(cache.glob("*/*")) == []


def test_eight_starts_at_once_all_succeed_and_keep_one_runtime(shipped: tuple[str, ...], cache: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(begin(local_argv(), shipped).runtime)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and set(found) <= {"kept", "have"}
    assert len(list(cache.glob("*/*"))) == 1


def test_old_runtimes_go_and_the_three_used_last_stay(shipped: tuple[str, ...], cache: Path) -> None:
    for age in range(1, 6):
        old = cache / f"{age:032x}"
        old.mkdir(parents=True, mode=0o700)
        (old / "cpython-39-00").touch()
        os.utime(old, (1e9 - age, 1e9 - age))
    cache.chmod(0o700)
    (cache / "something else").mkdir()
    begin(local_argv(), shipped)
    mine = collect(shipped).hash
    assert {path.name for path in cache.iterdir()} == {mine, f"{1:032x}", f"{2:032x}", "something else"}


def test_what_login_files_print_is_skipped(shipped: tuple[str, ...], cache: Path) -> None:
    noise = "echo Welcome; echo cake >&2; printf 'no newline'; head -c 100000 /dev/zero; "
    assert begin(shell(noise + command("/usr/bin/python3")), shipped).runtime == "kept"


def failure(argv: list[str], deadline: float = 20) -> str:
    with opened(argv) as stream, pytest.raises(RexecError) as caught:
        bootstrap.start(stream, "shim.execute.probe:main", deadline=deadline)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_endless_noise_is_an_end() -> None:
    assert "1 MiB of something else" in failure(["yes"])


def test_silence_is_an_end_at_the_deadline() -> None:
    assert "did not start python3 in time" in failure(["sleep", "60"], deadline=0.3)


def test_a_login_that_is_none_is_told_in_its_own_words() -> None:
    assert "This account is currently not available" in failure(
        shell("echo This account is currently not available.; exit 1")
    )


def test_an_end_without_a_word_is_a_failure_of_the_transport() -> None:
    with opened(["true"]) as stream, pytest.raises(TransportError, match="status 0"):
        bootstrap.start(stream, "shim.execute.probe:main")


@pytest.mark.parametrize("name", SHELLS)
def test_no_python3_is_said_so_whatever_the_shell_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"no {name} here")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no python3 on local" in failure([program, "-c", command()])


def test_a_python_too_old_is_named_with_its_version(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    loader = "import sys; sys.version_info = (3, 5, 2)\n"
    old.write_text(f"#!/usr/bin/python3 -IS\nimport sys\ncode = sys.argv[2]\n{loader}exec(code)\n")
    old.chmod(0o755)
    text = failure(shell(command(str(old))))
    assert "is 3.5.2, and 3.9 is the oldest" in text


def test_a_python_that_knows_no_dash_i_is_told_in_its_words(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 'Unknown option: -I' >&2\nexit 2\n")
    old.chmod(0o755)
    assert "'Unknown option: -I'" in failure(shell(command(str(old))))


def test_the_stage_parses_on_pythons_that_are_far_too_old() -> None:
    ast.parse(stage_source(), feature_version=(3, 4))
    assert b"from __future__" not in stage_source()
    assert not [
        node for node in ast.walk(ast.parse(stage_source())) if isinstance(node, (ast.JoinedStr, ast.AnnAssign))
    ]


def test_the_runtimes_hash_is_that_of_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert collect(("shim.execute.probe", "remoteio.errors")) == collect(("remoteio.errors", "shim.execute.probe"))
    module = tmp_path / "module_that_changes.py"
    module.write_text("a = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = collect(("module_that_changes",)).hash
    module.write_text("a = 2\n")
    assert collect(("module_that_changes",)).hash == before, "one process sends all its hosts the same"
    collect.cache_clear()
    assert collect(("module_that_changes",)).hash != before
    with pytest.raises(BootstrapError, match="is not here as source"):
        collect(("zlib",))


@pytest.mark.parametrize("line", [b"", b"3.9\thave", b"3.9\tbogus\t", b"\xff" * 50])
def test_garbage_behind_the_marker_is_no_answer(line: bytes) -> None:
    with pytest.raises(BootstrapError, match="no answer of rexec's"):
        parse_answer(line)


def test_the_stage_imports_nothing_that_takes_long() -> None:
    # Whatever a site-less start of python has, and four small modules of C.
    code = (
        "import sys\nbefore = set(sys.modules)\nimport marshal, zlib, fcntl, _blake2\nprint(*set(sys.modules) - before)"
    )
    shown = subprocess.run(["/usr/bin/python3", "-ISc", code], capture_output=True, text=True, check=True).stdout
    allowed = {*shown.split(), "os", "sys", "hashlib", "marshal", "zlib", "importlib.machinery", "types"}
    names = set()
    for node in ast.walk(ast.parse(stage_source())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    assert names <= allowed
