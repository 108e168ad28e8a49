"""What is run, and how its result is checked. Commands are relative to the work directory, which `furnish` fills."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.process import Run, execute

MIB = 1 << 20
READ_BYTES = 1024 * MIB
WRITE_BYTES = 512 * MIB
RATES = ("stat_first", "stat", "open_read_close", "read", "write")
PYTHON = sys.executable
"""The interpreter of the project's environment: it and its numpy exist on the submit machine only."""

_TIMED = ("bash", "-c", 'TIMEFORMAT="inside=%3R"; time "$@"', "timed")


@dataclass(frozen=True, slots=True)
class Plain:
    """How bare ssh moves the same bytes: the remote command, its input and output at home."""

    argv: tuple[str, ...]
    stdin: str | None = None
    stdout: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to run. `fault` looks at the work directory and the run and says what is wrong, or nothing.

    `bulk` cases are not worth a warm-up. `inside` ones also give the command's own time, without the way there.
    """

    name: str
    what: str
    argv: tuple[str, ...]
    fault: Callable[[Path, Run], str | None]
    makes: tuple[str, ...] = ()
    inside: bool = False
    bulk: bool = False
    plain: Plain | None = None

    def command(self) -> tuple[str, ...]:
        """The argument vector to run, under bash's `time` where the command's own time is wanted."""
        return (*_TIMED, *self.argv) if self.inside else self.argv

    def clear(self, work: Path) -> None:
        """Take away what an earlier run made."""
        for name in self.makes:
            made = work / name
            if made.is_dir():
                shutil.rmtree(made)
            else:
                made.unlink(missing_ok=True)

    def inside_seconds(self, run: Run) -> float | None:
        """The command's own seconds, as bash's `time` reported them on stderr."""
        said = [line for line in run.err.decode(errors="replace").split() if line.startswith("inside=")]
        return float(said[-1].removeprefix("inside=")) if said else None


def furnish(work: Path) -> None:
    """Fill the work directory: big (1 GiB, in the page cache), 1,000 small files, their archive, hello.c, probe.py."""
    noise = os.urandom(MIB - 8)
    with (work / "big").open("wb") as big:
        for block in range(READ_BYTES // MIB):
            big.write(block.to_bytes(8, "big") + noise)
    for i in range(1000):
        path = work / "small" / str(i // 100) / f"{i:04d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise[i : i + 2000])
    with tarfile.open(work / "small.tar", "w") as archive:
        archive.add(work / "small", "small")
    (work / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    shutil.copy(Path(__file__).with_name("probe.py"), work / "probe.py")


def _says(expected: str) -> Callable[[Path, Run], str | None]:
    def fault(work: Path, run: Run) -> str | None:
        said = run.out.decode(errors="replace").strip()
        return None if said == expected else f"printed {said[:60]!r}, not {expected!r}"

    return fault


def _numpy(work: Path, run: Run) -> str | None:
    return None if run.out.strip() == b"45" else f"numpy summed 0..9 to {run.out[:60]!r}"


def _copied(count: int, name: str | None) -> Callable[[Path, Run], str | None]:
    def fault(work: Path, run: Run) -> str | None:
        if name and (work / name).stat().st_size != count:
            return f"{name} has {(work / name).stat().st_size} bytes at home, not {count}"
        said = run.out.strip() == b"%d" % count or b"%d bytes" % count in run.err or (run.out == b"" and name)
        return None if said else f"{count} bytes were not copied"

    return fault


def _unpacked(work: Path, run: Run) -> str | None:
    files = [path for path in (work / "untar").rglob("*") if path.is_file()]
    for path in files:
        if path.read_bytes() != (work / path.relative_to(work / "untar")).read_bytes():
            return f"{path.name} was unpacked wrong"
    return None if len(files) == 1000 else f"{len(files)} files unpacked, not 1000"


def _compiled(work: Path, run: Run) -> str | None:
    hello = execute([work / "hello"]) if (work / "hello").exists() else None
    return None if hello and hello.out == b"hello\n" else "no hello that says hello was made"


def _probed(work: Path, run: Run) -> str | None:
    return None if set(json.loads(run.out or b"{}")) == set(RATES) else "the probe did not print its rates"


def _pipeline(command: str) -> tuple[str, ...]:
    return ("bash", "-o", "pipefail", "-c", command)


def all_cases(work: Path) -> list[Case]:
    """The cases, in the order in which they run; expected counts are taken at home, now."""
    tar, find = "tar cf - small | wc -c", "find /usr/include | wc -l"
    expected = {text: execute(_pipeline(text), cwd=work).out.decode().strip() for text in (tar, find)}
    return [
        Case("true", "true", ("true",), _says(""), plain=Plain(("true",))),
        Case("print", "python3 -c 'print(1)'", (PYTHON, "-c", "print(1)"), _says("1"),
             plain=Plain(("python3", "-c", "print(1)"))),
        Case("numpy", "python3 -c 'import numpy'", (PYTHON, "-c", "import numpy; print(numpy.arange(10).sum())"),
             _numpy),
        Case("gcc", "gcc hello.c -o hello", ("gcc", "hello.c", "-o", "hello"), _compiled, makes=("hello",)),
        Case("find", "find /usr/include", _pipeline(find), _says(expected[find]), inside=True),
        Case("tar", "tar of 1,000 small files", _pipeline(tar), _says(expected[tar]), inside=True),
        Case("untar", "untar of 1,000 small files", _pipeline("mkdir untar && tar xf small.tar -C untar"), _unpacked,
             makes=("untar",), inside=True),
        Case("read", "sequential read of 1 GiB", ("dd", "if=big", "of=/dev/null", "bs=1M"), _copied(READ_BYTES, None),
             inside=True, bulk=True, plain=Plain(("wc", "-c"), stdin="big")),
        Case("write", "sequential write of 512 MiB", ("dd", "if=/dev/zero", "of=out", "bs=1M", "count=512"),
             _copied(WRITE_BYTES, "out"), makes=("out",), inside=True, bulk=True,
             plain=Plain(("head", "-c", str(WRITE_BYTES), "/dev/zero"), stdout="out")),
        Case("probe", "rates of the mount", (PYTHON, "probe.py"), _probed, makes=("probe.out",), bulk=True),
    ]  # fmt: skip
