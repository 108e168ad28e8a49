"""The imports run one way, and what is shipped to an execute host runs there on any python3 from 3.9 on."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from shim.submit.hosts import bootstrap

ROOT = Path(__file__).parents[2]
PACKAGES = ("remoteio", "checkpoint", "shim")
SLOW = {
    "asyncio",
    "dataclasses",
    "logging",
    "pathlib",
    "subprocess",
}  # ten milliseconds each and more, at the start of every run
# Shipped though not ours: pure Python, with nothing but the standard library below it, as the tests here see to.
THIRD_PARTY = ("jeepney",)


def root_of(package: str) -> Path:
    """The directory above a package's own."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parents[1]


MODULES = {
    ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
    for root, package in [(ROOT, name) for name in PACKAGES] + [(root_of(name), name) for name in THIRD_PARTY]
    for path in sorted((root / package).rglob("*.py"))
}


def imports(name: str) -> set[str]:
    """All modules that `name` imports, anywhere in it, by their full names; of a `from` import, the most exact."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(), MODULES[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = _source(name, node)
            found |= {
                f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source for alias in node.names
            }
    return found


def _source(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def shipped() -> list[str]:
    """The modules that run on an execute host."""
    return [bootstrap.STAGE, *bootstrap.shipped()]


def packages(name: str) -> set[str]:
    """The packages that hold a module: of a.b.c, a and a.b."""
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def within(package: str) -> Iterator[tuple[str, set[str]]]:
    """Each module of a package, with the modules of the same package that it imports."""
    for name in MODULES:
        if name.partition(".")[0] == package:
            yield name, {other for other in imports(name) if other.partition(".")[0] == package and other in MODULES}


def ours(name: str) -> set[str]:
    return {other for other in imports(name) if other in MODULES and other.partition(".")[0] in PACKAGES}


def inside(folder: str) -> list[str]:
    """The modules anywhere in a folder, and it itself."""
    return [name for name in MODULES if name == folder or name.startswith(folder + ".")]


def side(name: str) -> str:
    """Where of its package a module lies: in a folder, or at the ground of it, for both ends."""
    parts = name.split(".")
    known = len(parts) > 1 and ".".join(parts[:2]) in MODULES and MODULES[".".join(parts[:2])].name == "__init__.py"
    return parts[1] if known else "ground"


def wrong(allowed: dict[str, set[str]], place: Callable[[str], str | None]) -> set[tuple[str, str]]:
    """The imports that go where they may not: `allowed` has for each place where else its modules may import from."""
    found = set()
    for name in (name for name in MODULES if name.partition(".")[0] in PACKAGES):
        for other in ours(name):
            here, there = place(name), place(other)
            if here is not None and there is not None and there not in {here, *allowed[here]}:
                found.add((name, other))
    return found


def test_shim_stands_on_the_two_others_which_know_nothing_of_each_other() -> None:
    allowed: dict[str, set[str]] = {"remoteio": set(), "checkpoint": set(), "shim": {"remoteio", "checkpoint"}}
    assert not wrong(allowed, lambda name: name.partition(".")[0])


def test_the_submit_side_and_the_execute_side_share_only_what_is_for_both() -> None:
    allowed: dict[str, set[str]] = {"ground": set(), "wire": {"ground"}}
    allowed["execute"] = allowed["submit"] = {"ground", "wire"}
    allowed["cli"] = {"ground", "wire", "submit"}
    assert not wrong(allowed, side)


def test_only_the_commands_know_of_a_command_line() -> None:
    found = {name for name in MODULES if any(other.partition(".")[0] == "click" for other in imports(name))}
    assert {name for name in found if not name.startswith("shim.cli.")} == set()


def room(folder: str) -> Callable[[str], str | None]:
    """Names the sub-folder of `folder` that a module lies in ("" right in it; None: elsewhere)."""

    def of(name: str) -> str | None:
        if not name.startswith(folder + "."):
            return None
        first, _, rest = name.removeprefix(folder + ".").partition(".")
        return first if rest or MODULES[name].name == "__init__.py" else ""

    return of


def test_at_home_what_runs_a_job_stands_on_what_finds_a_host() -> None:
    allowed = {
        "engines": {""},
        "guessed": set[str](),
        "hosts": {"", "engines"},
        "": {"guessed", "hosts"},
        "desk": {"", "hosts"},
        "job": {"", "hosts", "desk"},
        "foreground": {"", "hosts", "job"},
    }
    allowed["batch"] = {"", "engines", "job", "desk"}
    allowed["api"] = {"", "hosts", "job", "foreground"}  # which in turn is for programs and commands alone
    assert not wrong(allowed, room("shim.submit"))


def test_on_a_host_the_agent_stands_on_the_job_s_init_and_the_owner_s_watch_which_stand_apart() -> None:
    allowed: dict[str, set[str]] = {"init": set(), "owner": set(), "agent": {"init", "owner"}}
    allowed[""] = {"init", "owner", "agent"}
    assert not wrong(allowed, room("shim.execute"))


def test_a_program_may_supervise_jobs_whatever_else_it_does() -> None:
    """What is the whole process's, and what is said to a person, is left to whoever calls."""
    of_the_process = {"signal", "resource", "termios", "tty", "atexit"}
    calls = {"print", "os.umask", "os.chdir", "os.setsid", "os.fork", "os._exit", "sys.exit"}
    jobs = set(inside("shim.submit.job")) - {"shim.submit.job.detached_main"} | {"shim.submit.host_session"}
    found = {}
    for name in jobs:
        tree = ast.parse(MODULES[name].read_text(), MODULES[name])
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        if wrong := (imports(name) & of_the_process) | (called & calls):
            found[name] = wrong
    assert not found


IMPURE = {"os", "select", "socket", "subprocess", "threading", "time"}


def test_what_calls_itself_pure_has_no_sockets_and_no_clocks() -> None:
    pure = {
        name
        for name in (name for name in MODULES if name.partition(".")[0] in PACKAGES)
        if re.search(r"\bPure[.:]", ast.get_docstring(ast.parse(MODULES[name].read_text())) or "")
    }
    assert {name: found for name in pure if (found := imports(name) & IMPURE)} == {}
    assert len(pure) > 10


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_in_a_circle(package: str) -> None:
    tuple(graphlib.TopologicalSorter(dict(within(package))).static_order())


def test_each_folder_says_what_it_is_for_who_imports_it_and_whom_it_trusts() -> None:
    ours = (path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))
    said = {str(path.relative_to(ROOT)): ast.get_docstring(ast.parse(path.read_text())) or "" for path in ours}
    wanted = (r"\btrust", r"\b[Ii]mport")
    assert not {name for name, text in said.items() if not all(re.search(word, text) for word in wanted)}


def test_tests_are_not_imported() -> None:
    assert not {name for name in MODULES if any(other.partition(".")[0] == "tests" for other in imports(name))}


def test_what_is_shipped_is_used_there() -> None:
    entries = {f"shim.execute.{name}" for name in ("main", "probe", "rejoin", "spare")}
    needed, found = {*entries, bootstrap.STAGE}, set[str]()
    while needed:
        found |= needed
        wanted = {other for name in needed for other in imports(name)}
        # A module's package is imported before it.
        needed = ({above for name in wanted for above in packages(name)} | wanted) & set(MODULES) - found
    assert set(shipped()) == {name for name in found if MODULES[name].name != "__init__.py"}


@pytest.mark.parametrize("how", ["outside the standard library", "not shipped with it"])
def test_shipped_modules_import_what_is_there(how: str) -> None:
    there = set(shipped()).union(*map(packages, shipped()))
    missing: dict[str, set[str]] = {}
    for name in shipped():
        for other in imports(name):
            ours = other.partition(".")[0] in (*PACKAGES, *THIRD_PARTY)
            wrong = other not in there if ours else other.partition(".")[0] not in sys.stdlib_module_names
            if wrong and ours == (how == "not shipped with it"):
                missing.setdefault(name, set()).add(other)
    assert not missing


def test_shipped_modules_are_python_3_9() -> None:
    for name in shipped():
        ast.parse(MODULES[name].read_text(), MODULES[name], feature_version=(3, 9))


def test_shipped_modules_import_fast() -> None:
    assert not {name: slow for name in shipped() if (slow := imports(name) & SLOW)}


# What is longer than a reader holds in mind. The list only shrinks: who makes one of these shorter takes its name off.
MOST = {"file": 400, "class": 250, "attributes": 12, "function": 40}
LARGE = {
    "checkpoint.wire.manifest.__init__", "remoteio.submit.export.nodes.Node",
    "remoteio.submit.leader_followers.LeaderFollowers", "shim.cli.main.run_command",
    "shim.execute.agent.dumping._criu", "shim.execute.agent.restoring._restore",
    "shim.execute.init.init._serve", "shim.execute.init.init.run", "shim.submit.api.remote_run.run",
    "shim.submit.job.generation.Generation", "shim.submit.job.generation.take", "shim.submit.job.home.JobHome",
    "shim.submit.job.image_intake.Intake", "shim.submit.job.replayed_streams.ReplayedInput",
    "shim.submit.job.supervisor.JobSupervisor",
    "shim.wire.job_spec.JobSpec",
}  # fmt: skip


def attributes(node: ast.ClassDef) -> set[str]:
    """The names that are assigned to as attributes of `self`."""
    return {
        at.attr
        for at in ast.walk(node)
        if isinstance(at, ast.Attribute) and isinstance(at.ctx, ast.Store)
        if isinstance(at.value, ast.Name) and at.value.id == "self"
    }


def large(name: str) -> Iterator[str]:
    """The file itself, its classes and its functions, as far as each is larger than MOST."""
    text = MODULES[name].read_text()
    if text.count("\n") > MOST["file"]:
        yield name
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            many = isinstance(node, ast.ClassDef) and len(attributes(node)) > MOST["attributes"]
            if lines > MOST[kind] or many:
                yield f"{name}.{node.name}"


def test_nothing_more_outgrows_its_reader() -> None:
    ours = (name for name in MODULES if name.partition(".")[0] in PACKAGES)
    assert {found for name in ours for found in large(name)} == LARGE
