"""What a program uses is guessed from its files: which, in which order, and from none that the job may not read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.submit.export.confine import HIDDEN, Confinement, Mark
from remoteio.submit.export.first_names import FirstNames, Ranges, Use, Uses
from remoteio.submit.export.learned_walks import ATTRIBUTES, use_of
from remoteio.submit.export.seen import LISTED, WHOLE, Seen
from remoteio.wire import frames
from remoteio.wire import fuse_abi as abi
from shim.submit import told_ahead
from shim.submit.guessed import compilers, elf, git, libraries, modules, python, words
from shim.submit.guessed.guesses import Guessed
from shim.submit.guessed.modules import imported
from shim.submit.guessed.programs import Programs
from shim.submit.told_ahead import PUSH_DUE, ToldAhead
from tests.hostile import Host, alone_with_its_mounts

GCC = "usr/lib/gcc/x86_64-linux-gnu/12"


def write(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        at = top / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)


def programs(top: Path, *argv: str, cwd: str = "/", hidden: str = "", **env: str) -> Programs:
    marks = [Mark(os.fsencode(hidden), HIDDEN, None)] if hidden else []
    seen = Seen(Host.of(top, Confinement(marks)).export)
    return Programs(
        seen, [*map(os.fsencode, argv)], os.fsencode(cwd), {os.fsencode(k): os.fsencode(v) for k, v in env.items()}
    )


def guessed(found: Programs) -> list[Use]:
    return [*found.start(), *found.used()]


def read(uses: list[Use]) -> list[str]:
    return [os.fsdecode(name) for name, ranges in uses if ranges]


# from real files


@pytest.fixture
def root() -> Iterator[Path]:
    yield Path("/")


def test_what_the_loader_maps_is_guessed(root: Path) -> None:
    shell = Path("/bin/sh").resolve()
    maps = subprocess.run([shell, "-c", "cat /proc/$$/maps"], capture_output=True, text=True, check=True).stdout
    mapped = {line.split()[5] for line in maps.splitlines() if line.count("/")}
    uses = guessed(programs(root, "sh", PATH="/nowhere:/bin"))
    assert {*map(os.path.realpath, mapped)} <= {*read(uses)}
    names = [os.fsdecode(name) for name, _ in uses]
    assert "/nowhere" in names and names.index("/dev") < names.index(str(shell)) < names.index("/etc/ld.so.preload")


def test_what_a_python_reads_is_guessed(root: Path, tmp_path: Path) -> None:
    told = "json.dumps([[m.__spec__.origin, m.__spec__.cached] for m in sys.modules.values() if m.__spec__])"
    write(tmp_path, {"app.py": f"import sys, json\nfrom pack import inner\nprint({told})\n"})
    write(tmp_path, {"pack/__init__.py": "", "pack/inner.py": "from .beside import x\n", "pack/beside.py": "x = 1\n"})
    words = [sys.executable, "-S", "app.py"]
    for _ in range(2):  # the first makes the code of the modules here
        said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, env={}).stdout
    files = [cached or origin for origin, cached in json.loads(said) if origin and os.path.isfile(cached or origin)]
    mine = {each for each in files if each.startswith(str(tmp_path))}
    uses = guessed(programs(root, *words, cwd=str(tmp_path)))
    assert len(mine) == 3 and mine <= {*read(uses)}
    missing = {*map(os.path.realpath, files)} - {*read(uses)}
    assert len(missing) <= len(files) // 10, missing


# what is read, and what is not


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import a, b.c as d\nfrom e import f, g as h", ["a", "b.c", "e", "e.f", "e.g"]),
        ("from . import a\nfrom .b import c\nfrom ..d import e", ["p.q.a", "p.q.b", "p.q.b.c", "p.d", "p.d.e"]),
        ("try:\n    import a\nexcept ImportError:\n    a = None\ndef f():\n    import b\nimport c", ["a", "c"]),
        ("class X:\n    import a\n    def f(self):\n        import b\nif x:\n    import c", ["c"]),
        ("from a import (\n    b,  # so\n    c,\n)\nx = 'import d'\n#import e", ["a", "a.b", "a.c"]),
        ("from .... import a\nimport\nfrom import x", ["a"]),
    ],
)
def test_what_a_module_imports_as_it_is_loaded(text: str, found: list[str]) -> None:
    assert [each for each in imported(text.encode(), b"p.q") if each not in (b"p.q", b"")] == [*map(str.encode, found)]


def test_what_a_program_imports_of_itself_by_name_or_in_a_function_is_guessed(tmp_path: Path) -> None:
    library, tool = "usr/lib/python3.12", "usr/lib/python3/dist-packages/tool"
    write(tmp_path, {"usr/bin/python3.12": "", f"{library}/os.py": "", f"{library}/lib-dynload/x": ""})
    commands = "all = {'put': 'tool.commands.put', 'get': 'tool.commands.get'}\nimportlib.import_module(all[name])"
    write(tmp_path, {f"{tool}/__init__.py": "", f"{tool}/__main__.py": "from . import commands"})
    write(tmp_path, {f"{tool}/commands/__init__.py": commands, f"{tool}/commands/get.py": "", f"{tool}/late.py": ""})
    write(tmp_path, {f"{tool}/commands/put.py": "def put():\n    from tool import late\n    import json"})
    write(tmp_path, {f"{library}/json.py": ""})
    (tmp_path / "usr/bin/python3.12").chmod(0o755)
    found = read(guessed(programs(tmp_path, "/usr/bin/python3.12", "-m", "tool", "-v", "put")))
    assert {f"/{tool}/commands/put.py", f"/{tool}/late.py"} <= {*found}
    assert not {f"/{tool}/commands/get.py", f"/{library}/json.py"} & {*found}, "of others what is loaded at once alone"


def test_a_venv_has_its_modules_beside_the_library_of_its_python(tmp_path: Path) -> None:
    base = "usr/lib/python3.12"
    write(tmp_path, {"usr/bin/python3.12": "", "env/pyvenv.cfg": "home = /usr/bin\nversion = 3.12.1\n"})
    write(
        tmp_path, {f"{base}/os.py": "", f"{base}/json/__init__.py": "", f"{base}/lib-dynload/_x.cpython-312-y.so": ""}
    )
    packages = "env/lib/python3.12/site-packages"
    write(
        tmp_path,
        {f"{packages}/num/__init__.py": "import json", f"{packages}/num/__pycache__/__init__.cpython-312.pyc": ""},
    )
    write(tmp_path, {f"{packages}/x.pth": "import added; added.go()\n/elsewhere\n", f"{packages}/added.py": ""})
    (tmp_path / "usr/bin/python3.12").chmod(0o755)
    (tmp_path / "env/bin").mkdir()
    (tmp_path / "env/bin/python").symlink_to("/usr/bin/python3.12")
    uses = guessed(programs(tmp_path, "/env/bin/python", "-c", "import num"))
    names = [os.fsdecode(name) for name, _ in uses]
    assert (b"/" + packages.encode(), LISTED) in uses
    assert {f"/{packages}/num/__init__.cpython-312-y.so", "/env/pyvenv.cfg", "/usr/lib/python312.zip"} <= {*names}
    wanted = ["added.py", "num/__pycache__/__init__.cpython-312.pyc"]
    wanted = [*(f"/{packages}/{each}" for each in wanted), f"/{base}/json/__init__.py"]
    assert [name for name in read(uses) if name in wanted] == wanted, "in the order in which they are imported"
    assert not {*wanted} & {*read(guessed(programs(tmp_path, "/env/bin/python", "-S", "-c", "1")))}


def test_a_compiler_uses_the_headers_of_its_sources(tmp_path: Path) -> None:
    write(tmp_path, {f"{GCC}/include/std.h": "", f"{GCC}/crtbeginS.o": "", "usr/bin/x86_64-linux-gnu-gcc-12": ""})
    write(tmp_path, {"usr/include/io.h": '#include "bits/x.h"\n# include <std.h>\n', "usr/include/bits/x.h": ""})
    write(tmp_path, {"src/a.c": '#include <io.h>\n#include "own.h"\n', "src/own.h": "#include <none.h>"})
    (tmp_path / "usr/bin/x86_64-linux-gnu-gcc-12").chmod(0o755)
    (tmp_path / "usr/bin/gcc").symlink_to("x86_64-linux-gnu-gcc-12")
    uses = guessed(programs(tmp_path, "gcc", "-c", "a.c", cwd="/src", PATH="/usr/bin"))
    headers = ["/src/a.c", "/usr/include/io.h", "/src/own.h", "/usr/include/bits/x.h", f"/{GCC}/include/std.h"]
    assert [name for name in read(uses) if name.endswith((".c", ".h"))] == headers
    assert (b"/usr/include/none.h", None) in uses and f"/{GCC}/crtbeginS.o" not in read(uses)
    linked = guessed(programs(tmp_path, "gcc", "a.c", cwd="/src", PATH="/usr/bin"))
    assert f"/{GCC}/crtbeginS.o" in read(linked)


def test_a_script_uses_what_its_first_line_says(tmp_path: Path) -> None:
    write(tmp_path, {"run": "#! /bin/one\n", "bin/one": "#!/bin/two x\n", "bin/two": "#!/run\n"})
    assert read([*programs(tmp_path, "x").program(b"/run")]) == ["/run", "/bin/one", "/bin/two"]


@pytest.mark.parametrize("through", ["file", "directory"])
def test_nothing_is_read_that_the_job_may_not_read(tmp_path: Path, through: str) -> None:
    """What a job puts a link in place of, or what is hidden, shows in no guess."""
    write(tmp_path, {"secret/key": "#!/leaked/one\n", "secret/app.py": "import leaked\n", "lib/leaked.py": ""})
    write(tmp_path, {"usr/bin/python3.12": "", "usr/lib/python3.12/leaked.py": ""})
    (tmp_path / "usr/bin/python3.12").chmod(0o755)
    (tmp_path / "src").mkdir()
    if through == "file":
        for name in ("key", "app.py"):
            (tmp_path / "src" / name).symlink_to(f"/secret/{name}")
    else:
        (tmp_path / "src").rmdir()
        (tmp_path / "src").symlink_to("/secret")
    for hidden in ("", "/secret"):
        found = programs(tmp_path, "/usr/bin/python3.12", "-S", "/src/app.py", hidden=hidden)
        names = b" ".join(name for name, _ in [*guessed(found), *found.program(b"/src/key")])
        assert (b"leaked" in names) == (not hidden)
        assert b"leaked/one" not in names, "a path leads through no link, but by its own lookup"
        seen = found._seen
        assert bool(seen.content(b"/secret/key", 100)) == bool(seen.mode(b"/secret/key")) == (not hidden)
        assert (b"secret" in seen.listed(b"")) == bool(seen.listed(b"/secret")) == (not hidden)
        assert not seen.content(b"/src/key", 100)


def test_links_that_lead_to_themselves_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/b")
    (tmp_path / "b").symlink_to("../a/./b")
    assert len([*programs(tmp_path, "x")._seen.walk(b"/a")]) < 50


REPOSITORY = "here/repository"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    at = tmp_path / REPOSITORY
    write(at, {"a/file": "a", "b/c/file": "c", "top": "top"})
    call = ["git", "-C", str(at), "-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "init.defaultBranch=main"]
    for line in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*call, *line], check=True)
    return at


def of_git(top: Path, *words: str, cwd: str = f"/{REPOSITORY}", **env: str) -> Uses:
    found = programs(top, "git", cwd=cwd)
    given = {os.fsencode(k): os.fsencode(v) for k, v in env.items()}
    return dict(git.used(found._seen, [b"git", *map(os.fsencode, words)], os.fsencode(cwd), given))


def test_what_git_looks_at_of_a_repository_is_guessed(tmp_path: Path, repository: Path) -> None:
    def parsed(what: str) -> bytes:
        told = subprocess.run(["git", "-C", repository, "rev-parse", what], capture_output=True, check=True).stdout
        return b"/%s/.git/objects/%s/%s" % (REPOSITORY.encode(), told[:2], told[2:].strip())

    at = os.fsencode(f"/{REPOSITORY}")
    uses = of_git(tmp_path, "status", "-s", HOME="/home")
    assert uses[b"/home"] is None, "of a home that is not there no more is looked up"
    for name in (b"HEAD", b"index", b"config", b"refs/heads/main"):
        assert uses[at + b"/.git/" + name] == WHOLE, name
    assert uses[parsed("HEAD")] == uses[parsed("HEAD^{tree}")] == WHOLE
    assert uses[at + b"/.git"] == uses[at + b"/.git/refs"] == uses[at + b"/.git/objects/pack"] == LISTED
    assert uses[at] == use_of(ATTRIBUTES)
    for line, cwd in ((["-C", REPOSITORY, "status"], "/"), (["-c", "a.b=c", "status"], f"/{REPOSITORY}/b/c")):
        again = of_git(tmp_path, *line, cwd=cwd, HOME="/home")
        assert again.items() >= {name: each for name, each in uses.items() if at in name and each}.items()


@pytest.mark.parametrize("words", [["log"], ["--git-dir=x", "status"], [], ["-C"]])
def test_of_no_tree_that_git_compares_with_nothing_is_guessed(
    tmp_path: Path, repository: Path, words: list[str]
) -> None:
    assert use_of(ATTRIBUTES) not in of_git(tmp_path, *words).values()
    assert not read([*of_git(tmp_path, "status", GIT_DIR="/elsewhere").items()])


def test_of_a_head_by_itself_its_commit_is_guessed_and_of_a_damaged_one_no_tree(
    tmp_path: Path, repository: Path
) -> None:
    own = repository / ".git"
    (commit,) = subprocess.run(
        ["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, check=True, text=True
    ).stdout.split()
    (own / "HEAD").write_text(f"{commit}\n")
    found = [name for name in read([*of_git(tmp_path, "status").items()]) if "/objects/" in name]
    assert len(found) == 2 and found[0].endswith(commit[2:])
    at = own / "objects" / commit[:2] / commit[2:]
    at.chmod(0o644)
    for text in (b"no zlib", zlib.compress(b"commit 5\0tree ../../x\n"), zlib.compress(b"blob 3\0abc"), b""):
        at.write_bytes(text)
        assert [name for name in read([*of_git(tmp_path, "status").items()]) if "/objects/" in name] == found[:1]
    for told in ("ref: ../../x", "ref: \0", "ref: ", "0" * 39, ""):
        (own / "HEAD").write_text(told)
        assert not [name for name in read([*of_git(tmp_path, "status").items()]) if "/objects/" in name]


def test_of_a_repository_that_lies_elsewhere_or_is_hidden_nothing_is_guessed(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.git").write_text(f"gitdir: /{REPOSITORY}/.git\n")
    assert read([*of_git(tmp_path, "status", cwd="/other").items()]) == []
    found = programs(tmp_path, "git", cwd=f"/{REPOSITORY}", hidden=f"/{REPOSITORY}/.git")
    words = [b"git", b"status"]
    assert read([*git.used(found._seen, words, os.fsencode(f"/{REPOSITORY}"), {})]) == []


# limits


def test_no_more_modules_are_followed_than_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"usr/bin/python3.12": "", **{f"usr/lib/python3.12/m{k}.py": f"import m{k + 1}" for k in range(9)}})
    (tmp_path / "usr/bin/python3.12").chmod(0o755)
    argv = ("/usr/bin/python3.12", "-S", "-c", "import m0")

    def found() -> int:
        return sum("/m" in name for name in read(guessed(programs(tmp_path, *argv))))

    assert found() == 9
    monkeypatch.setattr(modules, "MOST_MODULES", 3)
    assert found() == 3
    monkeypatch.undo()
    monkeypatch.setattr(modules, "_MOST_NAMES", 18)
    assert 0 < found() < 9
    monkeypatch.undo()
    monkeypatch.setattr(modules, "MOST_TEXT", 8)
    assert found() == 1, "nothing more is read of it"


def test_no_more_headers_are_followed_than_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {f"{GCC}/include/h{k}.h": f"#include <h{k + 1}.h>" for k in range(9)})
    write(tmp_path, {"usr/bin/x86_64-linux-gnu-gcc-12": "", "a.c": "#include <h0.h>"})
    (tmp_path / "usr/bin/x86_64-linux-gnu-gcc-12").chmod(0o755)
    argv = ("/usr/bin/x86_64-linux-gnu-gcc-12", "-c", "a.c")
    assert sum("/h" in name for name in read(guessed(programs(tmp_path, *argv)))) == 9
    monkeypatch.setattr(compilers, "MOST_HEADERS", 3)
    assert sum("/h" in name for name in read(guessed(programs(tmp_path, *argv)))) == 3


def test_what_the_words_name_is_looked_up(tmp_path: Path) -> None:
    write(tmp_path, {"home/tree/file": "", "home/a.txt": "", "bin/sh": "", "bin/tool": "of its own", "bin/plain": ""})
    for name in ("sh", "tool"):
        (tmp_path / "bin" / name).chmod(0o755)
    line = "cd tree/; X=1 tool -v 'a.txt'|plain --in=missing"
    uses = guessed(programs(tmp_path, "/bin/sh", "-c", line, cwd="/home", PATH="/sbin:/usr/../bin:/bin"))
    found = dict(uses)
    assert found[b"/home/tree"] == LISTED and found[b"/bin/tool"] is None and found[b"/home/a.txt"] is None
    names = [name for name, _ in uses]
    assert names[-1] != b"/home/missing" and b"/home/missing" not in found and b"/home/tool" not in found
    assert b"/bin/plain" not in found, "it may not be executed"
    assert names.index(b"/sbin") < names.index(b"/bin/tool")


def test_no_more_words_are_looked_at_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(words.of([b"a" * 5000])[0]) < 5000
    monkeypatch.setattr(words, "MOST_WORDS", 2)
    assert words.of([b"-x", b"a b a", b"c"]) == [b"a", b"b"]


def test_what_setlocale_opens_is_guessed(tmp_path: Path) -> None:
    places = [f"usr/lib/locale/C.utf8/LC_{each}" for each in ("CTYPE", "TIME", "ADDRESS")]
    write(tmp_path, {**dict.fromkeys(places, "words"), "bin/sh": "", "bin/python3": ""})
    for name, whole in (("sh", True), ("python3", False)):
        (tmp_path / "bin" / name).chmod(0o755)
        found = read(guessed(programs(tmp_path, f"/bin/{name}", LANG="C.UTF-8")))
        assert [f"/{each}" in found for each in places] == [True, whole, whole]


def test_a_program_that_asks_for_accounts_uses_their_files(root: Path) -> None:
    for name, asks in (("tar", True), ("sleep", False)):
        assert ("/etc/passwd" in read(guessed(programs(root, name, PATH="/usr/bin:/bin")))) == asks


def test_no_more_libraries_are_followed_than_so_many(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_MOST", 1)
    shell = os.path.realpath("/bin/sh")
    assert not [name for name in read([*programs(root, "sh").program(os.fsencode(shell))]) if "/libc." in name]


def test_what_is_no_elf_file_leads_nowhere(tmp_path: Path) -> None:
    whole = Path("/bin/sh").read_bytes()
    for text in (b"", b"\x7fELF\x02\x01", whole[:200], whole[:64] + b"\xff" * 4000, b"\x7fELF\x01\x01" + whole[6:]):
        (tmp_path / "x").write_bytes(text)
        uses = [*programs(tmp_path, "x").program(b"/x")]
        assert not [name for name, ranges in uses if ranges and name != b"/x"]
    assert libraries.cached(b"glibc-ld.so.cache1.1" + b"\xff" * 100).keys() <= {b""}


# what is told of it


class Some:
    """Guesses these."""

    def __init__(self, *uses: Use) -> None:
        self.uses = list(uses)

    def start(self, export: object) -> list[Use]:
        return [(b"/start", None)]

    def used(self, export: object) -> Iterator[Use]:
        yield from self.uses

    def program(self, export: object, path: bytes) -> Iterator[Use]:
        yield path + b".so", WHOLE

    def release(self) -> None:
        self.uses.clear()


def executes(host: Host, path: str, flags: int = 0x20) -> abi.Request:
    return abi.Request(abi.request(abi.OPEN, host.walk(path), abi.OPEN_IN.pack(os.O_RDONLY | flags, 0)))


def test_what_is_guessed_is_learned_where_nothing_was_known(tmp_path: Path) -> None:
    kept = list[Uses]()
    names = FirstNames({}, kept.append, Some((b"/a", None), (b"/a", [(0, 5)]), (b"/b", [])))
    export = Host.of(tmp_path).export
    assert [*names.used(export)] == [(b"/a", None), (b"/a", [(0, 5)]), (b"/b", [])]
    assert [*names.executed(export, b"/p")] == [(b"/p.so", WHOLE)]
    names.end()
    wanted: dict[bytes, Ranges | None] = {b"/a": [(0, 5)], b"/b": [], b"/p.so": WHOLE}
    assert kept == [wanted], "of what the host uses of it, home hears nothing"
    known = FirstNames(wanted, kept.append, Some((b"/c", None)))
    assert dict(known.used(export)) == wanted


def test_a_program_that_the_job_executes_is_guessed_once(tmp_path: Path) -> None:
    write(tmp_path, {"one": "", "two": "", "known": ""})
    host = Host.of(tmp_path)
    names = FirstNames({b"/known": [(0, 1)]}, lambda uses: None, Some())
    assert names.saw(host.export, executes(host, "one")) == b"/one"
    assert names.saw(host.export, executes(host, "one", 0)) == names.saw(host.export, executes(host, "known")) == b""


def test_no_more_programs_are_guessed_than_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"one": "", "two": "", "three": "", "one.so": "", "two.so": "", "three.so": ""})
    host = Host.of(tmp_path)
    assert host.export.leases.begin()
    alone_with_its_mounts(host.export)
    monkeypatch.setattr(told_ahead, "MOST_PROGRAMS", 2)
    told = ToldAhead(FirstNames({}, lambda uses: None, Some()), far=True)
    assert not told.saw(host.export, executes(host, "one")), "nobody has asked for it yet"
    over = threading.Event()
    assert told.credited(bytes((frames.PUSHED,)) + (1 << 20).to_bytes(4, "little"), host.export)
    first = b"".join(payload for _, payload in told.made(PUSH_DUE, host.export, over))
    assert b"one.so" in first
    assert told.saw(host.export, executes(host, "two")) and not told.saw(host.export, executes(host, "two"))
    assert not told.saw(host.export, executes(host, "three"))
    then = b"".join(payload for _, payload in told.made(PUSH_DUE, host.export, over))
    assert b"two.so" in then and b"three.so" not in then
    host.export.close()


def test_a_job_is_guessed_by_its_words(tmp_path: Path) -> None:
    write(tmp_path, {"bin/run": "#!/bin/sh\n"})
    (tmp_path / "bin/run").chmod(0o755)
    job = Guessed([b"run"], b"/bin", [b"PATH=/nowhere:/bin", b"nothing"])
    export = Host.of(tmp_path).export
    assert job.start(export)[-1] == (b"/bin/run", None)
    assert [*job.used(export)][len(job.start(export))] == (b"/bin/run", WHOLE)
    assert [*job.program(export, b"/bin/run")] == [], "once"
    assert python.is_python(b"/usr/bin/python3.12") and not python.is_python(b"/usr/bin/pythonic")
    assert elf.HEAD % 4096 == 0
