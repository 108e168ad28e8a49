"""The project where the ordinary user can read it: a copy that is this run's own, and that no test takes away.

A checkout below a home is closed to everybody else (useradd makes homes of mode 0700), and one made under `umask 077`
has files that are. So all that SUBMIT_USER runs of ours, and root beside it, comes from the copy: `rexec`, a Python
with what it imports, and the tests' own modules.
"""

from __future__ import annotations

import compileall
import importlib.metadata
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shim.submit.hosts import bootstrap
from tests.desk_boot import libc
from tests.desk_hosts import SUBMIT_USER
from tests.desk_root import DeskError, call
from tests.forked import in_a_fork

ROOT = Path(__file__).resolve().parent.parent
AsUser = Callable[[int, Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Copy:
    """A virtual environment as the one that runs the tests, and the checkout that it imports."""

    top: Path

    @property
    def checkout(self) -> Path:
        return self.top / "checkout"

    @property
    def venv(self) -> Path:
        return self.top / "venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin/python"

    @property
    def rexec(self) -> Path:
        return self.venv / "bin/rexec"

    def of(self, path: str) -> str:
        """Where a file of the checkout or its virtual environment is in the copy; any other is where it was."""
        for here, there in ((Path(sys.prefix), self.venv), (ROOT, self.checkout)):
            if Path(path).is_relative_to(here):
                return str(there / Path(path).relative_to(here))
        return path

    def bring(self, *names: str) -> None:
        """Have these packages there too, and what they need: those that tests need, and not rexec."""
        self._copy(_installed(sysconfig.get_path("purelib"), set(names)))
        call(["chmod", "-R", "a+rX", self.venv])

    def _copy(self, files: Iterable[str]) -> None:
        for file in files:
            at = Path(self.of(file))
            at.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, at)  # with its times, so that what was compiled of it still counts

    def _move_in(self) -> None:
        """Have this process import what it has not yet imported, and read the sources of what it has, from the copy."""
        sys.executable = str(self.python)
        sys.path[:] = map(self.of, sys.path)
        for module in list(sys.modules.values()):
            spec = getattr(module, "__spec__", None)
            if isinstance(spec, ModuleSpec) and spec.has_location and spec.origin:
                spec.origin = module.__file__ = self.of(spec.origin)
                if spec.submodule_search_locations is not None:
                    module.__path__ = spec.submodule_search_locations = [*map(self.of, module.__path__)]
        bootstrap._folder.cache_clear()

    def as_user(self, uid: int, body: Callable[[], None]) -> None:
        """Run body in a fork of the tests as that user (0: root), importing from the copy; its failure is ours."""

        def inside() -> None:
            self._move_in()
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: or /proc/self/uid_map is root's
            os.environ["HOME"] = "/"
            body()

        in_a_fork(inside)


def make(top: Path) -> Copy:
    """Make the copy in a directory that is not there yet. DeskError if the interpreter itself is closed to the user."""
    installed = Path(sysconfig.get_path("scripts")) / "rexec"
    if not installed.exists():
        raise DeskError(f"there is no {installed}; install the project beside this python with `pip install -e .`")
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if not all(path.stat().st_mode & 0o001 for path in (python, *python.parents)):
        raise DeskError(f"{python} cannot be run by {SUBMIT_USER}; make .venv with the system's /usr/bin/python3")
    copy = Copy(top)
    call([python, "-I", "-m", "venv", "--without-pip", copy.venv])
    for name in ("remoteio", "checkpoint", "shim", "tests"):
        shutil.copytree(ROOT / name, copy.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    packages = sysconfig.get_path("purelib")
    copy._copy(_installed(packages, {"rexec"}))
    Path(copy.of(packages), "checkout.pth").write_text(f"{copy.checkout}\n")
    copy.rexec.write_text(f"#!{copy.python} -I\nimport sys\nfrom shim.cli.program import main\nsys.exit(main())\n")
    copy.rexec.chmod(0o755)
    # The user may not write there: every start of rexec would compile it all anew.
    compileall.compile_dir(copy.top, quiet=1)
    call(["chmod", "-R", "a+rX", top])
    return copy


_EXTRA = "match"  # the one that users have, not developers


def _installed(packages: str, wanted: set[str]) -> Iterator[str]:
    """What is in `packages` of those (of rexec: its metadata) and of what they need, as all their metadata says."""
    there = {canonicalize_name(each.name): each for each in importlib.metadata.distributions(path=[packages])}
    seen: set[str] = set()
    while wanted:
        seen |= wanted
        found = [there[name] for name in wanted]
        for each in found:
            files = map(str, each.files or ())
            yield from (
                str(each.locate_file(file))
                for file in files
                if not file.startswith("..") and (each.name != "rexec" or ".dist-info/" in file)
            )
        needs = [Requirement(line) for each in found for line in each.requires or ()]
        wanted = {
            canonicalize_name(need.name)
            for need in needs
            if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in ("", _EXTRA))
        }
        wanted -= seen
