"""What a host that sends what it likes gets of a home directory with keys, start-up files and a repository."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from remoteio.submit.export import allowed, between_jobs
from remoteio.submit.export.first_names import FirstNames
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.nodes import path as names_of
from remoteio.submit.export.pushing import Pushing
from remoteio.submit.export.rights import Rule
from remoteio.wire import fuse_abi as abi
from remoteio.wire import names_ahead, pushed
from shim.submit import own_code, protect
from shim.submit.scope import FULL, PROJECT, JobRights, Scope
from tests.hostile import Host, Refused

_FILES = {
    ".aws/credentials": "secret", ".netrc": "secret", ".bashrc": "alias", ".config/gh/hosts.yml": "token",
    ".config/fish/config.fish": "set", ".config/other": "text", "notes": "text", "dot/vimrc": "set", "dot/aws": "text",
    "project/.git/config": "[core]", "project/.git/HEAD": "ref: refs/heads/main", "project/.git/hooks/x.sample": "",
    "project/.git/objects/pack/x": "", "project/.git/modules/lib/config": "[core]", "project/main.c": "int main;",
    "project/site-packages/a.pth": "/", "project/sub/file": "text", "project/.envrc": "export",
}  # fmt: skip


@dataclass
class Person(Host):
    """A host that has the files of one person, whose home is `home`."""

    home: Path = Path()

    def name(self, op: int, path: str, before: bytes = b"", after: bytes = b"") -> bytes:
        """Ask for something about a name, which the request has between `before` and `after`."""
        above, name = os.path.split(self.home / path)
        return self.ask(op, self.walk(above), before + os.fsencode(name) + b"\0" + after)

    def mkdir(self, path: str) -> None:
        self.name(abi.MKDIR, path, abi.MKDIR_IN.pack(0o755, 0))

    def create(self, path: str) -> None:
        opened = self.name(abi.CREATE, path, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0))
        (handle, *_) = abi.OPEN_OUT.unpack_from(opened, abi.ENTRY.size + abi.ATTR.size)
        self.ask(abi.RELEASE, 1, abi.RELEASE_IN.pack(handle, 0, 0, 0))

    def symlink(self, path: str, target: str) -> None:
        self.name(abi.SYMLINK, path, after=os.fsencode(target) + b"\0")

    def move(self, old: str, new: str, flags: int = 0) -> None:
        above, name = os.path.split(self.home / new)
        self.name(abi.RENAME2, old, abi.RENAME2_IN.pack(self.walk(above), flags, 0), os.fsencode(name) + b"\0")

    def link(self, old: str, new: str) -> None:
        self.name(abi.LINK, new, abi.LINK_IN.pack(self.walk(self.home / old)))

    def write(self, path: str) -> None:
        handle = self.open(self.walk(self.home / path), os.O_WRONLY)
        self.ask(abi.RELEASE, 1, abi.RELEASE_IN.pack(handle, 0, 0, 0))

    def remove(self, path: str, op: int = abi.UNLINK) -> None:
        self.name(op, path)


Of = Callable[..., Person]


@pytest.fixture
def of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Of:
    """Make a host for one job, of that scope; `notes`, if given, are what is remembered of its directories."""
    home = tmp_path / "home"
    for name, text in _FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    for name in ("CONFIG", "STATE", "CACHE", "DATA"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(own_code, "program", lambda: ())

    def made(scope: Scope = Scope(), made: dict[tuple[int, int], int] | None = None) -> Person:  # noqa: B008
        rights = JobRights(scope, {} if made is None else made)
        confinement = protect.confinement(rights, os.fsencode(home / "project"))
        return Person(Host.of("/", confinement).export, home)

    return made


def refused(work: Callable[[], object], *numbers: int) -> None:
    with pytest.raises(Refused) as caught:
        work()
    assert caught.value.errno in numbers, caught.value


HIDDEN = (".aws", ".aws/credentials", ".netrc", ".config/gh", ".config/gh/hosts.yml")
READ_ONLY = (
    ".bashrc", ".config/fish", ".config/fish/config.fish", "project/.git/config", "project/.git/hooks",
    "project/.git/hooks/x.sample", "project/.git/modules/lib/config", "project/site-packages/a.pth", "project/.envrc",
)  # fmt: skip


def test_what_is_met_while_guessing_is_not_told_as_refused(of: Of, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a namespace that `ip netns` has mounted on a file, next to which a job walks by."""
    host = of()
    home, rule = host.walk(host.home), Rule((b"file",), 0, "the kernel's own filesystems")
    entry, refusals = host.export.listings._entry, host.export.inodes.allowed.refusals

    def entry_of(parent: Node, name: bytes, st: os.stat_result) -> bytes:
        refusals.note(parent, name, rule, reading=True)
        return entry(parent, name, st)

    monkeypatch.setattr(host.export.listings, "_entry", entry_of)
    host.ahead(home, set())
    assert not refusals.counted()
    host.names(home)
    assert refusals.counted()


@pytest.mark.parametrize("path", HIDDEN)
def test_what_is_hidden(of: Of, path: str) -> None:
    host = of()
    refused(lambda: host.walk(host.home / path), errno.ENOENT)
    above = (host.home / path).parent
    if str(above.relative_to(host.home)) not in HIDDEN:
        assert os.fsencode(os.path.basename(path)) not in host.names(host.walk(above))
        for work in (host.mkdir, host.create, lambda path: host.symlink(path, "/"), host.remove):
            refused(lambda work=work: work(path), errno.EACCES)  # type: ignore[misc]
        refused(lambda: host.move(path, "notes2"), errno.EACCES)
        refused(lambda: host.move("notes", path), errno.EACCES)
    assert (host.home / path).exists()


@pytest.mark.parametrize("path", HIDDEN)
def test_what_is_hidden_is_not_told_ahead_either(of: Of, path: str) -> None:
    host = of()
    payloads = FirstNames({os.fsencode(host.home / path): None}, lambda uses: None).begin(host.export)
    told = [part for payload in payloads for part in names_ahead.parse(payload) if part[0] == names_ahead.NAME]
    nodes = [abi.ENTRY.unpack_from(rest)[0] for _, _, _, rest in told]
    assert nodes[-1] == 0 and all(nodes[:-1]), "it is told that there is nothing"
    assert len(nodes) <= len((host.home / path).parts) - 1


@pytest.mark.parametrize("path", HIDDEN)
def test_what_is_hidden_is_not_sent_before_it_is_asked_for(of: Of, path: str) -> None:
    host = of()
    sending = Pushing({os.fsencode(host.home / path): [(0, 1 << 20)]}.items())
    assert host.export.leases.begin() and sending.credited(1 << 20)
    parts = [part for payload in sending.due(host.export) for part in pushed.parse(payload)]
    assert {part[0] for part in parts} == {pushed.NAME}
    assert abi.ENTRY.unpack_from(parts[-1][4])[0] == 0, "it is told that there is nothing"
    host.export.close()


@pytest.mark.parametrize("path", READ_ONLY)
def test_what_may_only_be_read(of: Of, path: str) -> None:
    host = of()
    node = host.walk(host.home / path)
    if (host.home / path).is_file():
        assert host.read(node) == (host.home / path).read_bytes()
        refused(lambda: host.write(path), errno.EROFS)
        refused(lambda: host.link(path, "notes2"), errno.EROFS)
    refused(lambda: host.ask(abi.SETATTR, node, abi.SETATTR_IN.pack(1, *[0] * 10, 0o777, 0, 0, 0, 0)), errno.EROFS)
    for work in (host.remove, lambda path: host.move(path, "notes2"), lambda path: host.move("notes", path)):
        refused(lambda work=work: work(path), errno.EROFS)  # type: ignore[misc]
    refused(lambda: host.move("notes", path, 2), errno.EROFS)  # exchange


def test_what_is_not_there_yet(of: Of) -> None:
    """By pattern, in directories that were there before: made, moved, linked into place, in any spelling."""
    host = of()
    for path in ("project/sub/.envrc", "project/.vscode", ".zshrc", ".local", "project/sitecustomize.py", ".profile"):
        if path != ".local":
            refused(lambda path=path: host.create(path), errno.EROFS)  # type: ignore[misc]
            refused(lambda path=path: host.mkdir(path), errno.EROFS)  # type: ignore[misc]
    host.mkdir(".local")
    refused(lambda: host.mkdir(".local/bin"), errno.EROFS)
    host.mkdir("project/sub/.git")
    for name in ("hooks", "HOOKS", "hooks.", "hooks "):
        refused(lambda name=name: host.mkdir(f"project/sub/.git/{name}"), errno.EROFS)  # type: ignore[misc]
    refused(lambda: host.create("project/sub/.git/config"), errno.EROFS)
    host.create("project/sub/.git/config.lock")
    refused(lambda: host.move("project/sub/.git/config.lock", "project/sub/.git/config"), errno.EROFS)
    refused(lambda: host.create("project/sub/HEAD"), errno.EACCES)
    host.create("project/sub/.git/HEAD")


def test_what_is_put_into_place(of: Of) -> None:
    """A directory that the job has filled, a file of a repository that leads elsewhere, a link."""
    host = of()
    host.mkdir("evil")
    host.mkdir("evil/hooks")
    host.create("evil/hooks/pre-commit")
    for path in ("project/sub/.git", "project/sub/.GIT"):
        refused(lambda path=path: host.move("evil", path), errno.EACCES)  # type: ignore[misc]
        refused(lambda path=path: host.symlink(path, "/tmp"), errno.EACCES)  # type: ignore[misc]
        refused(lambda path=path: host.create(path), errno.EACCES)  # type: ignore[misc]
    refused(lambda: host.move("evil", "project/.git", 2), errno.EBUSY)
    refused(lambda: host.move("evil/hooks", "project/.git/hooks", 2), errno.EROFS)
    refused(lambda: host.move("evil", "project/.git/modules/other"), errno.EACCES)
    refused(lambda: host.symlink("project/.git/modules/other", "/tmp"), errno.EACCES)
    refused(lambda: host.link("notes", "project/.git/config.worktree"), errno.EROFS)
    for path in ("project/.git", "project/.git/modules/lib", "project/.git/info", "project/site-packages"):
        if (host.home / path).exists():
            refused(lambda path=path: host.move(path, "notes2"), errno.EBUSY)  # type: ignore[misc]


def test_what_the_job_makes_is_its_own(of: Of) -> None:
    host = of()
    for path in ("new", "new/.git", "new/.git/hooks", "new/.vscode", "new/sub", "new/sub/.git"):
        host.mkdir(path)
    for path in ("new/.git/hooks/pre-commit", "new/.git/config", "new/.envrc", "new/HEAD", "new/sub/.git/config"):
        host.create(path)
        host.write(path)
    host.move("new/.git/config", "new/.git/config2")
    host.move("new", "project/newer")
    host.create("project/newer/.git/config")
    host.move("project/newer/sub", "project/alone")
    host.write("project/alone/.git/config")
    host.remove("project/newer/.git/hooks/pre-commit")
    host.remove("project/newer/.git/hooks", abi.RMDIR)


def test_what_a_job_has_made_is_not_the_next_one_s_own(of: Of) -> None:
    """Though its kernel knows all of it still, by the same nodes."""
    host = of()
    for path in ("new", "new/.git", "new/.git/hooks", "new/sub", "new/sub/.git", "new/.vscode"):
        host.mkdir(path)
    for path in ("new/.git/hooks/pre-commit", "new/.git/config", "new/.envrc", "new/main.c", "new/sub/.git/config"):
        host.create(path)
    host.move("new/sub", "project/alone")
    known = {name: host.walk(host.home / name) for name in ("new/.git/hooks", "project/alone/.git", "new/main.c")}
    made = set(host.export.inodes.nodes)
    between_jobs.take_back(host.export.inodes, host.export.leases)
    hook = abi.MKNOD_IN.pack(0o100644, 0, 0, 0) + b"post-commit\0"
    refused(lambda: host.ask(abi.MKNOD, known["new/.git/hooks"], hook), errno.EROFS)
    config = abi.RENAME2_IN.pack(known["new/.git/hooks"], 0, 0) + b"config\0x\0"
    refused(lambda: host.ask(abi.RENAME2, known["project/alone/.git"], config), errno.EROFS)
    fresh = of()
    for path in ("new/.git/hooks/x", "new/.git/config.worktree", "project/alone/.git/hooks", "new/.vscode/tasks.json"):
        for each in (host, fresh):
            refused(lambda path=path, each=each: each.create(path), errno.EROFS)  # type: ignore[misc]
    for each in (host, fresh):
        refused(lambda each=each: each.write("new/.git/config"), errno.EROFS)  # type: ignore[misc]
        each.write("new/main.c")
        each.mkdir(f"new/{id(each)}")
    nodes = host.export.inodes.nodes
    paths = {names_of(nodes[node].parent, nodes[node].name): nodes[node].rights for node in made}
    above = os.fsencode(host.home) + b"/"  # what is beside it comes and goes
    compared = {path: rights for path, rights in paths.items() if path.startswith(above)}
    assert len(compared) > 10
    for path, rights in compared.items():
        there = fresh.export.inodes.get(fresh.walk(os.fsdecode(path))).rights
        assert (rights.level, rights.file) == (there.level, there.file), path


def test_what_was_there_is_not_made_the_job_s_own(of: Of) -> None:
    """By way of a directory of its own, in which nothing is kept; with its name; or with its number."""
    host = of()
    host.mkdir("own")
    refused(lambda: host.move("project", "own/project"), errno.EXDEV)
    host.mkdir("own/sub")
    refused(lambda: host.move("own/sub", "project", 2), errno.EXDEV)
    host.move("own", "elsewhere")
    host.move("project", "own")
    refused(lambda: host.create("own/.git/hooks/pre-commit"), errno.EROFS)
    host.move("elsewhere", "project")
    host.create("project/.envrc")


def test_a_directory_that_is_not_new_is_not_taken_for_one(of: Of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests at once: between mkdir(2) and the look at what it made, another moves a repository there."""
    host = of()
    before = allowed.Allowed.made

    def late(self: allowed.Allowed, parent: object, name: bytes, at: int) -> None:
        os.rename(host.home / "new", host.home / "aside")
        os.rename(host.home / "project", host.home / "new")
        before(self, parent, name, at)  # type: ignore[arg-type]

    monkeypatch.setattr(allowed.Allowed, "made", late)
    host.mkdir("new")
    refused(lambda: host.create("new/.git/hooks/pre-commit"), errno.EROFS)


def test_the_number_of_a_directory_that_is_gone_is_no_longer_the_job_s(of: Of) -> None:
    host = of()
    host.mkdir("new")
    host.create("new/.envrc")
    made = host.export.inodes.allowed.confinement.made
    st = (host.home / "new").stat()
    made[st.st_dev, st.st_ino] -= 1  # as if it was another's, which was made before
    refused(lambda: host.write("new/.envrc"), errno.EROFS)
    host.mkdir("newer")
    assert len(made) == 2
    host.remove("newer", abi.RMDIR)
    assert len(made) == 1


def test_a_directory_that_has_the_number_of_one_just_removed_stays_the_job_s(
    of: Of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two requests at once: a filesystem gives the number to the next at once."""
    host = of()
    host.mkdir("new")
    made = host.export.inodes.allowed.confinement.made
    ((key, born),) = made.items()
    before = os.rmdir

    def late(path: bytes, dir_fd: int) -> None:
        before(path, dir_fd=dir_fd)
        made[key] = born + 1

    monkeypatch.setattr(os, "rmdir", late)
    host.remove("new", abi.RMDIR)
    assert made == {key: born + 1}


def test_the_job_s_own_is_remembered_with_the_job(of: Of) -> None:
    """Over its hosts: each generation has an export of its own."""
    made: dict[tuple[int, int], int] = {}
    of(made=made).mkdir("new")
    of(made=made).create("new/.envrc")
    refused(lambda: of().write("new/.envrc"), errno.EROFS)


def test_other_ways_to_it(of: Of) -> None:
    """A link to it from its place, a further name, a move at home while a job runs."""
    host = of()
    os.link(host.home / ".aws/credentials", host.home / "project/linked")
    os.link(host.home / ".bashrc", host.home / "project/rc")
    (host.home / ".vimrc").symlink_to("dot/vimrc")
    (host.home / ".azure").symlink_to("dot/azure")
    (host.home / "dot/azure").mkdir()
    (host.home / ".aws/more").symlink_to("../dot/aws")
    host = of()
    refused(lambda: host.walk(host.home / "project/linked"), errno.ENOENT)
    refused(lambda: host.write("project/rc"), errno.EROFS)
    refused(lambda: host.write("dot/vimrc"), errno.EROFS)
    refused(lambda: host.move("dot", "dots"), errno.EBUSY)
    refused(lambda: host.walk(host.home / "dot/azure"), errno.ENOENT)
    refused(lambda: host.walk(host.home / "dot/aws"), errno.ENOENT)
    os.unlink(host.home / "project/linked")
    os.rename(host.home / ".aws", host.home / "project/aws")
    refused(lambda: host.walk(host.home / "project/aws"), errno.ENOENT)
    assert b"aws" not in host.names(host.walk(host.home / "project"))


def test_scopes(of: Of) -> None:
    host = of(Scope(FULL))
    assert host.read(host.walk(host.home / ".aws/credentials")) == b"secret"
    host.write(".bashrc")
    host = of(Scope(PROJECT))
    assert host.names(host.walk(host.home)) == {b"project"}
    refused(lambda: host.walk(host.home / "notes"), errno.ENOENT)
    refused(lambda: host.create("notes2"), errno.EACCES)
    refused(lambda: host.walk("/root"), errno.ENOENT)
    host.create("project/file")
    refused(lambda: host.write("project/.git/config"), errno.EROFS)
    assert host.walk("/usr/bin")
    refused(lambda: host.ask(abi.MKDIR, host.walk("/usr"), abi.MKDIR_IN.pack(0o755, 0) + b"x\0"), errno.EROFS)


def test_options(of: Of) -> None:
    home = of().home
    read = tuple(str(home / name) for name in (".aws", "notes"))
    write = tuple(str(home / name) for name in (".bashrc", "project/.git", ".ssh"))
    host = of(Scope(read=read, write=write, hide=(str(home / "dot"),)))
    assert host.read(host.walk(home / ".aws/credentials")) == b"secret"
    for path in (".aws/credentials", "notes"):
        refused(lambda path=path: host.write(path), errno.EROFS)  # type: ignore[misc]
    for path in (".bashrc", "project/.git/config"):
        host.write(path)
    host.create("project/.git/hooks/pre-commit")
    refused(lambda: host.mkdir(".ssh"), errno.EACCES)
    refused(lambda: host.walk(home / "dot"), errno.ENOENT)
    refused(lambda: host.walk(home / ".netrc"), errno.ENOENT)
    host = of(Scope(PROJECT, read=(str(home / ".config/gh"),)))
    assert host.names(host.walk(home)) == {b"project", b".config"}
    assert host.names(host.walk(home / ".config")) == {b"gh"}
    assert host.read(host.walk(home / ".config/gh/hosts.yml")) == b"token"


def test_what_was_refused_is_counted_by_path_and_rule(of: Of) -> None:
    host = of()
    for _ in range(3):
        refused(lambda: host.walk(host.home / ".netrc"), errno.ENOENT)
    refused(lambda: host.walk(host.home / ".nothing"), errno.ENOENT)
    refused(lambda: host.write("project/.git/config"), errno.EROFS)
    refused(lambda: host.mkdir("project/.git/hooks/x"), errno.EROFS)
    counted = host.export.inodes.allowed.refusals.counted()
    told = {(os.path.relpath(os.fsdecode(each.path), host.home), each.rule.name): n for each, n in counted.items()}
    assert told == {
        (".netrc", "credentials"): 3, ("project/.git/config", "git"): 1, ("project/.git/hooks/x", "git"): 1,
    }  # fmt: skip
