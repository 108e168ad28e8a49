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

from tests.bench.process import Run, execute, must

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

    `bulk` cases are not worth a warm-up. `inside` ones also give the command's own time, without the way there. `far`
    ones are for --rtt, where they show what a round trip costs, and run elsewhere only where they are named.
    """

    name: str
    what: str
    argv: tuple[str, ...]
    fault: Callable[[Path, Run], str | None]
    makes: tuple[str, ...] = ()
    inside: bool = False
    bulk: bool = False
    far: bool = False
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
    """Fill the work directory: big (1 GiB, in the page cache), 1,000 small files, their archive, and what is built."""
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
    _project(work / "project")
    _repository(work / "repository", noise)
    lines = ["PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t (i INTEGER);"]
    lines += [f"INSERT INTO t VALUES ({i});" for i in range(1000)]
    (work / "rows.sql").write_text("\n".join([*lines, "SELECT count(*) FROM t;\n"]))
    (work / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    shutil.copy(Path(__file__).with_name("probe.py"), work / "probe.py")


def _project(at: Path) -> None:
    """Write a C project of twelve files, a header that all of them include, and a Makefile that builds into build/."""
    at.mkdir()
    numbers = range(12)
    (at / "parts.h").write_text("".join(f"int part{i}(int);\n" for i in numbers))
    head = '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include "parts.h"\n'
    for i in numbers:
        (at / f"part{i}.c").write_text(f"{head}int part{i}(int n) {{ return n + {i}; }}\n")
    calls = " + ".join(f"part{i}(0)" for i in numbers)
    (at / "main.c").write_text(f'{head}int main(void) {{ printf("%d\\n", {calls}); return 0; }}\n')
    objects = " ".join(f"build/{name}.o" for name in ("main", *(f"part{i}" for i in numbers)))
    (at / "Makefile").write_text(
        f"build/sum: {objects}\n\tgcc -o $@ $^\nbuild/%.o: %.c parts.h\n\t@mkdir -p build\n\tgcc -O2 -c -o $@ $<\n"
    )


def _repository(at: Path, noise: bytes) -> None:
    """Make a git repository of 1,000 files, all of them committed."""
    for i in range(1000):
        path = at / str(i // 100) / f"{i:04d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise[i : i + 2000])
    git = ["git", "-C", at, "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        must([*git, *words], f"git {words[0]} failed")


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


def _built(work: Path, run: Run) -> str | None:
    built = work / "project/build/sum"
    said = execute([built]).out if built.exists() else b""
    return None if said == b"66\n" else "no program that says 66 was built"


def _stored(work: Path, run: Run) -> str | None:
    counted = execute(["sqlite3", work / "rows.db", "SELECT count(*) FROM t"]).out.strip()
    return None if run.out.split()[-1:] == [b"1000"] == [counted] else f"{counted!r} rows at home, not 1000"


def _probed(work: Path, run: Run) -> str | None:
    return None if set(json.loads(run.out or b"{}")) == set(RATES) else "the probe did not print its rates"


def _pipeline(command: str) -> tuple[str, ...]:
    return ("bash", "-o", "pipefail", "-c", command)


def all_cases(work: Path) -> list[Case]:
    """The cases, in the order in which they run; expected counts are taken at home, now."""
    tar, find = "tar cf - small | wc -c", "find /usr/include | wc -l"
    expected = {text: execute(_pipeline(text), cwd=work).out.decode().strip() for text in (tar, find)}
    copy = ("dd", "if=/dev/zero", "of=out", "bs=1M", "count=512")
    return [
        Case("true", "true", ("true",), _says(""), plain=Plain(("true",))),
        Case("print", "python3 -c 'print(1)'", (PYTHON, "-c", "print(1)"), _says("1"),
             plain=Plain(("python3", "-c", "print(1)"))),
        Case("numpy", "python3 -c 'import numpy'", (PYTHON, "-c", "import numpy; print(numpy.arange(10).sum())"),
             _numpy),
        Case("gcc", "gcc -O2 hello.c -o hello", ("gcc", "-O2", "hello.c", "-o", "hello"), _compiled, makes=("hello",)),
        Case("find", "find /usr/include", _pipeline(find), _says(expected[find]), inside=True),
        Case("tar", "tar of 1,000 small files", _pipeline(tar), _says(expected[tar]), inside=True),
        Case("untar", "untar of 1,000 small files", _pipeline("mkdir untar && tar xf small.tar -C untar"), _unpacked,
             makes=("untar",), inside=True),
        Case("read", "sequential read of 1 GiB", ("dd", "if=big", "of=/dev/null", "bs=1M"), _copied(READ_BYTES, None),
             inside=True, bulk=True, plain=Plain(("wc", "-c"), stdin="big")),
        Case("write", "sequential write of 512 MiB", copy,
             _copied(WRITE_BYTES, "out"), makes=("out",), inside=True, bulk=True,
             plain=Plain(("head", "-c", str(WRITE_BYTES), "/dev/zero"), stdout="out")),
        Case("fsync", "write of 512 MiB and fsync", (*copy, "conv=fsync"), _copied(WRITE_BYTES, "out"), makes=("out",),
             inside=True, bulk=True, far=True),
        Case("git", "git status, 1,000 files", ("git", "-C", "repository", "status", "-s"), _says(""), far=True),
        Case("make", "make -j2 of 13 C files, after clean", ("make", "-s", "-C", "project", "-j2"), _built,
             makes=("project/build",), far=True),
        Case("sqlite", "sqlite, 1,000 transactions", _pipeline("sqlite3 rows.db <rows.sql"), _stored,
             makes=("rows.db", "rows.db-wal", "rows.db-shm"), far=True),
        Case("probe", "rates of the mount", (PYTHON, "probe.py"), _probed, makes=("probe.out",), bulk=True),
    ]  # fmt: skip
