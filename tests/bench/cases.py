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

from tests import netns
from tests.bench.process import Run, execute, must

MIB = 1 << 20
READ_BYTES = 1024 * MIB
WRITE_BYTES = 512 * MIB
RATES = ("stat_first", "stat", "open_read_close", "read", "write")
ASKED = ("alone", "beside_reads", "beside_guesses")
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
class Bound:
    """The most seconds that a run should take: `times` as long as `of` takes, and `plus`."""

    plus: float
    of: str = ""
    times: float = 1.0


@dataclass(frozen=True, slots=True)
class Goal:
    """What rexec is to reach 20 ms away, in the first run and in the next."""

    first: Bound | None
    again: Bound | None


def _both(bound: Bound) -> Goal:
    return Goal(bound, bound)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to run. `fault` looks at the work directory and the run and says what is wrong, or nothing.

    `bulk` cases are not worth a warm-up. `inside` ones also give the command's own time, without the way there; `own`
    ones say it themselves. `where`: "far": for --rtt, where a round trip costs something; "near": not there;
    "narrow": for --rate. What is named is run anywhere. `rates`: what it prints itself, as JSON. `wants` gets what is
    needed into the work directory, once, and `begin` prepares that for each run. `alone`: of peers no figure is wanted.
    """

    name: str
    what: str
    argv: tuple[str, ...]
    fault: Callable[[Path, Run], str | None]
    makes: tuple[str, ...] = ()
    inside: bool = False
    own: bool = False
    bulk: bool = False
    alone: bool = False
    where: str = ""
    rates: tuple[str, ...] = ()
    plain: Plain | None = None
    goal: Goal | None = None
    wants: Callable[[Path, Path], None] | None = None
    begin: Callable[[Path], None] | None = None

    def command(self) -> tuple[str, ...]:
        """The argument vector to run, under bash's `time` where the command's own time is wanted."""
        return (*_TIMED, *self.argv) if self.inside and not self.own else self.argv

    def clear(self, work: Path) -> None:
        """Take away what an earlier run made, and prepare for one."""
        for name in self.makes:
            made = work / name
            if made.is_dir():
                shutil.rmtree(made)
            else:
                made.unlink(missing_ok=True)
        if self.begin is not None:
            self.begin(work)

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
    for place, count, size in (("lone", 150, 2000), ("ordered", 300, 30_000), ("shuffled", 300, 30_000)):
        for i in range(count):
            path = work / place / (f"{i:03d}/file" if place == "lone" else f"{i:03d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(noise[i : i + size])
    with tarfile.open(work / "small.tar", "w") as archive:
        archive.add(work / "small", "small")
    _project(work / "project")
    for name, count in (("repository", 1000), ("repository5", 5000)):
        _repository(work / name, noise, count)
    lines = ["PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t (i INTEGER);"]
    lines += [f"INSERT INTO t VALUES ({i});" for i in range(1000)]
    (work / "rows.sql").write_text("\n".join([*lines, "SELECT count(*) FROM t;\n"]))
    (work / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    for name in ("probe.py", "busy.py", "asked.py"):
        shutil.copy(Path(__file__).with_name(name), work / name)


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


def _repository(at: Path, noise: bytes, count: int) -> None:
    """Make a git repository of so many files, all of them committed."""
    for i in range(count):
        path = at / str(i // 100) / f"{i:04d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise[i : i + 2000])
    git = ["git", "-C", at, "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        must([*git, *words], f"git {words[0]} failed")


def _wheels(work: Path, cache: Path) -> None:
    """Have the wheel of the numpy that is installed here in `wheels`, fetched by pip once."""
    version = must([PYTHON, "-c", "import numpy; print(numpy.__version__)"], "numpy is not there").out.decode().strip()
    kept = cache / f"numpy-{version}-{sys.version_info.major}.{sys.version_info.minor}"
    fresh = kept.with_name(f"{kept.name}-{os.getpid()}")
    if not kept.exists():
        with netns.outside():
            get = [PYTHON, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", f"numpy=={version}"]
            must([*get, "-d", fresh], f"the wheel of numpy {version} cannot be had with pip")
        fresh.rename(kept)
    shutil.copytree(kept, work / "wheels")


def _environment(work: Path) -> None:
    must([PYTHON, "-m", "venv", "--without-pip", work / "venv"], "a virtual environment cannot be made")


def _installed(work: Path, run: Run) -> str | None:
    said = execute([work / "venv/bin/python", "-c", "import numpy; print(numpy.arange(10).sum())"])
    return None if said.out.strip() == b"45" else "the numpy that was installed does not add up"


def _computed(work: Path, run: Run) -> str | None:
    return None if run.out.split() == [b"done"] * 4 else "not all four have computed"


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


def _rates(names: tuple[str, ...]) -> Callable[[Path, Run], str | None]:
    def fault(work: Path, run: Run) -> str | None:
        return None if set(json.loads(run.out or b"{}")) == set(names) else f"it did not print {', '.join(names)}"

    return fault


def _pipeline(command: str) -> tuple[str, ...]:
    return ("bash", "-o", "pipefail", "-c", command)


def all_cases(work: Path) -> list[Case]:
    """The cases, in the order in which they run; expected counts are taken at home, now."""
    tar, find = "tar cf - small | wc -c", "find /usr/include | wc -l"
    expected = {text: execute(_pipeline(text), cwd=work).out.decode().strip() for text in (tar, find)}
    copy = ("dd", "if=/dev/zero", "of=out", "bs=1M", "count=512")
    pip = (PYTHON, "-m", "pip", "--python", "venv/bin/python", "install", "-q", "--no-index", "--no-deps",
           "--disable-pip-version-check", "--find-links", "wheels", "numpy")  # fmt: skip
    again, first = Bound(0.2, "local"), Bound(3.0)
    return [
        Case("true", "`true`", ("true",), _says(""), plain=Plain(("true",)),
             goal=Goal(Bound(0.25, "ssh"), Bound(0.15))),
        Case("print", "`python3 -c 'print(1)'`", (PYTHON, "-c", "print(1)"), _says("1"),
             plain=Plain(("python3", "-c", "print(1)")), goal=Goal(Bound(1.0), again)),
        Case("numpy", "`import numpy`", (PYTHON, "-c", "import numpy; print(numpy.arange(10).sum())"), _numpy,
             goal=Goal(first, Bound(0.4, "local"))),
        Case("gcc", "`gcc -O2 hello.c`", ("gcc", "-O2", "hello.c", "-o", "hello"), _compiled, makes=("hello",),
             goal=Goal(first, Bound(0.5, "local"))),
        Case("find", "`find /usr/include`", _pipeline(find), _says(expected[find]), inside=True,
             goal=Goal(Bound(1.5), Bound(0.3))),
        Case("tar", "`tar c` of 1,000 of 2 KB", _pipeline(tar), _says(expected[tar]), inside=True,
             goal=Goal(Bound(0.6), None)),
        Case("untar", "`tar x` of the same", _pipeline("mkdir untar && tar xf small.tar -C untar"), _unpacked,
             makes=("untar",), inside=True, goal=_both(Bound(1.0))),
        Case("git", "`git status`, 1,000 files", ("git", "-C", "repository", "status", "-s"), _says(""), where="far",
             goal=Goal(None, Bound(0.3))),
        Case("git5", "`git status`, 5,000 files", ("git", "-C", "repository5", "status", "-s"), _says(""), where="far",
             goal=Goal(None, Bound(0.6))),
        Case("make", "`make -j2` of 13 C files, after clean", ("make", "-s", "-C", "project", "-j2"), _built,
             makes=("project/build",), where="far", goal=Goal(None, Bound(0.0, "local", 1.5))),
        Case("pip", "`pip install` of numpy's wheel into a venv", pip, _installed, makes=("venv",), where="far",
             wants=_wheels, begin=_environment, goal=_both(Bound(3.0, "local"))),
        Case("read", "read 1 GiB", ("dd", "if=big", "of=/dev/null", "bs=1M"), _copied(READ_BYTES, None),
             inside=True, bulk=True, plain=Plain(("wc", "-c"), stdin="big"),
             goal=Goal(None, Bound(0.0, "ssh", 1 / 0.9))),
        Case("write", "write 512 MiB", copy, _copied(WRITE_BYTES, "out"), makes=("out",), inside=True, bulk=True,
             where="near", plain=Plain(("head", "-c", str(WRITE_BYTES), "/dev/zero"), stdout="out")),
        Case("fsync", "write 512 MiB through fsync", (*copy, "conv=fsync"), _copied(WRITE_BYTES, "out"),
             makes=("out",), inside=True, bulk=True, where="far",
             plain=Plain(("head", "-c", str(WRITE_BYTES), "/dev/zero"), stdout="out"),
             goal=Goal(None, Bound(0.0, "ssh", 1 / 0.85))),
        Case("sqlite", "sqlite, 1,000 transactions (WAL, NORMAL)", _pipeline("sqlite3 rows.db <rows.sql"), _stored,
             makes=("rows.db", "rows.db-wal", "rows.db-shm"), where="far", goal=_both(Bound(2.0))),
        Case("cpu", "4 jobs that compute, at once", (PYTHON, "busy.py"), _computed, inside=True, own=True, bulk=True,
             alone=True, where="near"),
        Case("probe", "rates of the mount", (PYTHON, "probe.py"), _rates(RATES), makes=("probe.out",), bulk=True,
             where="near", rates=RATES),
        Case("asked", "what is asked for beside guesses", (PYTHON, "asked.py"), _rates(ASKED), bulk=True,
             where="narrow", rates=ASKED),
    ]  # fmt: skip
