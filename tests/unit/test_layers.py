"""The imports run one way, and what is shipped to an execute host runs there on any python3 from 3.9 on."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("remoteio", "checkpoint", "shim")
STAGE = "shim.stage"  # what bootstrap.py runs there first, to receive the others
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
    """The modules that run on an execute host: shim/bootstrap.py's SHIPPED (read, not imported), and the stage."""
    for node in ast.parse(MODULES["shim.bootstrap"].read_text()).body:
        if isinstance(node, ast.Assign):
            names, value = [target.id for target in node.targets if isinstance(target, ast.Name)], node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            names, value = [node.target.id], node.value
        else:
            continue
        if "SHIPPED" in names:
            return [STAGE, *ast.literal_eval(value)]
    raise AssertionError("shim/bootstrap.py does not say what it ships: it has no SHIPPED")


def packages(name: str) -> set[str]:
    """The packages that hold a module: of a.b.c, a and a.b."""
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def within(package: str) -> Iterator[tuple[str, set[str]]]:
    """Each module of a package, with the modules of the same package that it imports."""
    for name in MODULES:
        if name.partition(".")[0] == package:
            yield name, {other for other in imports(name) if other.partition(".")[0] == package and other in MODULES}


@pytest.mark.parametrize(
    ("package", "forbidden"), [("remoteio", {"checkpoint", "shim"}), ("checkpoint", {"remoteio", "shim"})]
)
def test_imports_run_one_way(package: str, forbidden: set[str]) -> None:
    wrong = {
        name: upward
        for name in MODULES
        if name.partition(".")[0] == package
        if (upward := {other for other in imports(name) if other.partition(".")[0] in forbidden})
    }
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_in_a_circle(package: str) -> None:
    tuple(graphlib.TopologicalSorter(dict(within(package))).static_order())


def test_tests_are_not_imported() -> None:
    assert not {name for name in MODULES if any(other.partition(".")[0] == "tests" for other in imports(name))}


def test_what_is_shipped_is_what_the_agent_imports() -> None:
    needed, found = {"shim.agent", "shim.probe", STAGE}, set[str]()
    while needed:
        found |= needed
        wanted = {other for name in needed for other in imports(name)}
        # A module's package is imported before it.
        needed = ({above for name in wanted for above in packages(name)} | wanted) & set(MODULES) - found
    assert set(shipped()) == {name for name in found if "." in name}


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
