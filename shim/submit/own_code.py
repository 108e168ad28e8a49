"""The code that runs as rexec on this machine: where it lies, and that no other is imported in its place."""

from __future__ import annotations

import os
import sys
from functools import cache
from glob import glob
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from remoteio.submit import programs

_PACKAGES = ("remoteio", "checkpoint", "shim")
# The packages come from where they are here, and nothing else does: the directory around them may be anybody's.
# argv[0] stays what it is here, for it is part of the program that no job may change (shim/submit/protect.py).
_PROGRAM = """
import sys
del sys.argv[0]
sys.path.append(sys.argv.pop(0))
import checkpoint, remoteio, shim
sys.path.pop()
from %s import main
main()
"""


@cache
def program() -> tuple[Path, ...]:
    """List the files and directories whose code runs here, or is sent to hosts, as they were when this process started.

    The packages, and where they are installed: a virtual environment's programs and libraries, or the directory of
    libraries; the Python beneath, and ssh, where they are the user's own.
    """
    found = [Path(directory) for name in _PACKAGES for directory in import_module(name).__path__]
    found += [path for path in map(Path, _libraries()) if path.is_dir()]
    script = Path(sys.argv[0])
    if script.is_file():
        found.append(script.absolute())
    if sys.prefix != sys.base_prefix:
        found += [Path(sys.prefix, "bin"), Path(sys.prefix, "pyvenv.cfg")]
    standard = _standard()
    tools = [programs.find("ssh") or "", programs.find("setpriv") or ""]
    base = [sys.executable, *standard, *glob(sys.base_prefix + "/lib/libpython*"), *tools]
    found += [path for path in map(Path, filter(None, base)) if _users_own(path)]
    if _users_own(Path(standard[0])):  # Python looks there first, and it need not be there
        found += [Path(path) for path in sys.path if path.endswith(".zip")]
    return tuple(dict.fromkeys(found))


def command(module: str) -> list[str]:
    """Make the start of a command line: a fresh interpreter that calls `main` of our `module` with what follows."""
    packages = str(Path(__file__).absolute().parents[2])
    isolated = "-I" if sys.flags.isolated else "-P"
    return [sys.executable, isolated, "-c", _PROGRAM % module, packages, os.path.abspath(sys.argv[0])]


def _libraries() -> list[str]:
    """The directories that hold what rexec imports beside the standard library."""
    click = find_spec("click")
    assert click is not None and click.origin is not None, "every command but a plain run imports it"
    ours = {os.path.dirname(os.path.dirname(os.path.abspath(click.origin)))}
    named = (path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages"))
    ours |= {path for path in named if _users_own(Path(path))}
    return sorted(ours)


def _standard() -> list[str]:
    """The directories of the standard library: what is not to be had from `os` and `sys` takes 10 ms."""
    base = os.path.dirname(os.path.abspath(os.__file__))
    return [base, *(path for path in sys.path if os.path.basename(path) == "lib-dynload")]


def _users_own(path: Path) -> bool:
    """Is it an ordinary user's own? What is root's, no job of such a user changes; and root's jobs may change all."""
    try:
        return path.stat().st_uid == os.geteuid() != 0
    except OSError:
        return False  # it is not there


def import_only_ours() -> None:
    """Import nothing any more from a directory of PYTHONPATH that this user, and so a job, may write to.

    One that is first imported later would be the host's.
    """
    for name in _PACKAGES:
        import_module(name)
    given = os.environ.get("PYTHONPATH")
    if not given:
        return
    named = {os.path.abspath(path) for path in given.split(":")}
    named = {path for path in named if os.access(path, os.W_OK)} - {*_libraries(), *_standard()}
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) not in named]
