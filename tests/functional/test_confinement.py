"""What a host may not see, or change: played by one that sends what it likes, and by jobs that try."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoint.submit import store
from remoteio.execute.mount import MNT_DETACH, bind, mount
from remoteio.submit import programs
from remoteio.submit.export import confine
from remoteio.submit.export.confine import HIDDEN, READ, Confinement, Mark
from remoteio.wire import fuse_abi as abi
from shim.submit import own_code, protect
from tests.hostile import Host, Refused, whatever
from tests.program import Combo

ELSEWHERE = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "root-root", "local-root"))


@contextmanager
def shown_at(at: Path, work: Callable[[], None]) -> Iterator[None]:
    work()
    try:
        yield
    finally:
        ctypes.CDLL(None).umount2(os.fsencode(at), MNT_DETACH)


def refused(work: Callable[[], object], *numbers: int) -> None:
    with pytest.raises(Refused) as caught:
        work()
    assert caught.value.errno in numbers, caught.value


# the kernel's own filesystems


def test_memory_of_this_process_is_out_of_reach() -> None:
    """What a host could write to /proc/PID/mem would be run here."""
    host = Host.of("/")
    proc = host.walk("/proc")
    for name in (b"self", b"%d" % os.getpid(), b"sysrq-trigger", b"sys"):
        refused(lambda name=name: host.lookup(proc, name), errno.ENOENT)  # type: ignore[misc]
    assert host.names(proc) == host.names(host.walk("/sys")) == set()
    refused(lambda: host.ask(abi.MKDIR, proc, abi.MKDIR_IN.pack(0o755, 0) + b"x\0"), errno.EACCES)
    refused(lambda: host.ask(abi.SETATTR, proc, abi.SETATTR_IN.pack(1, *[0] * 10, 0o777, 0, 0, 0, 0)), errno.EROFS)
    refused(lambda: host.ask(abi.TMPFILE, proc, abi.CREATE_IN.pack(2, 0, 0, 0) + b"x\0"), errno.EACCES)


def test_they_are_known_by_type_wherever_they_are(tmp_path: Path) -> None:
    """In a chroot's /proc; as a single file; and where the number of a tmpfs that was seen before has come back."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "file").touch()
    host = Host.of(tmp_path)
    proc = host.lookup(1, b"proc")
    with shown_at(tmp_path / "proc", lambda: mount("x", str(tmp_path / "proc"), "tmpfs")):
        (tmp_path / "proc/data").write_text("kept in memory")
        proc = host.lookup(1, b"proc")
        assert host.read(host.lookup(proc, b"data")) == b"kept in memory"
    with shown_at(tmp_path / "proc", lambda: mount("proc", str(tmp_path / "proc"), "proc")):
        proc = host.lookup(1, b"proc")
        assert host.names(proc) == set()
        refused(lambda: host.lookup(proc, b"self"), errno.ENOENT)
    with shown_at(tmp_path / "proc", lambda: bind("/proc/self", str(tmp_path / "proc"))):
        refused(lambda: host.lookup(host.lookup(1, b"proc"), b"mem"), errno.ENOENT)
    with shown_at(tmp_path / "file", lambda: bind("/proc/self/environ", str(tmp_path / "file"))):
        refused(lambda: host.lookup(1, b"file"), errno.ENOENT)
    assert host.lookup(1, b"file")


def test_a_node_of_a_filesystem_that_is_gone_is_not_the_next_one_s(tmp_path: Path) -> None:
    """Root directories have the same inode number, and device numbers come back."""
    (tmp_path / "at").mkdir()
    host = Host.of(tmp_path)
    with shown_at(tmp_path / "at", lambda: mount("x", str(tmp_path / "at"), "tmpfs")):
        node = host.export.inodes.get(host.lookup(1, b"at"))
        host.export.inodes.descriptors.drop(node)  # as when it has not been used for long
    with shown_at(tmp_path / "at", lambda: mount("proc", str(tmp_path / "at"), "proc")):
        st = (tmp_path / "at").stat()
        node.dev, node.ino = st.st_dev, st.st_ino
        refused(lambda: host.lookup(node.id, b"self"), errno.ESTALE)


def test_dev_is_empty_and_other_filesystems_in_memory_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host.of("/", at_home(tmp_path, monkeypatch))
    assert host.names(host.walk("/dev")) == set()
    refused(lambda: host.walk("/dev/null"), errno.ENOENT)
    refused(lambda: host.walk("/dev/shm"), errno.ENOENT)
    assert host.walk("/run") and host.walk("/tmp")


# ssh's and rexec's own


def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Confinement:
    """Of a user whose home that is, and whose rexec is installed in its directory `venv`."""
    for name in ("CONFIG", "STATE", "CACHE", "DATA"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(own_code, "program", lambda: (home / "venv",))
    return protect.confinement()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    top = tmp_path / "home"
    kept = {
        ".ssh/id_ed25519": "key", ".ssh/config": "Host *", ".config/rexec/hosts.toml": "toml",
        ".local/state/rexec/jobs/1/job.json": "{}", ".cache/rexec/runtime/code": "code",
        ".local/share/rexec/criu/criu-1.tar": "tar", "venv/lib/shim/run.py": "print()", "project/file": "text",
        ".config/other/file": "text", "venv/lib/shim/data": "x" * 5000,
    }  # fmt: skip
    for name, text in kept.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


SECRET = (".ssh", ".config/rexec", ".local/state/rexec", ".cache/rexec", ".local/share/rexec/criu")


@pytest.mark.parametrize("name", SECRET)
def test_what_is_not_shown(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    host = Host.of("/", at_home(home, monkeypatch))
    above, last = host.walk((home / name).parent), os.path.basename(name).encode()
    refused(lambda: host.lookup(above, last), errno.ENOENT)
    assert last not in host.names(above)
    for request in (
        (abi.MKDIR, abi.MKDIR_IN.pack(0o755, 0) + last + b"\0"),
        (abi.SYMLINK, last + b"\0/tmp\0"),
        (abi.RENAME, abi.RENAME_IN.pack(above) + last + b"\0new\0"),
        (abi.RENAME2, abi.RENAME2_IN.pack(above, 2, 0) + last + b"\0file\0"),
    ):
        refused(lambda request=request: host.ask(request[0], above, request[1]), errno.EACCES)  # type: ignore[misc]
    # nor is what it is in moved away, or replaced
    way = (home / name).parent
    while way != home.parent:
        node = host.walk(way.parent)
        move = abi.RENAME_IN.pack(host.walk("/tmp")) + os.fsencode(way.name) + b"\0moved\0"
        refused(lambda node=node, move=move: host.ask(abi.RENAME, node, move), errno.EBUSY)  # type: ignore[misc]
        way = way.parent
    assert (home / name).exists()


def test_what_is_not_there_yet_is_not_made_by_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in place of the directory, nor of one above it; and what is made later at home is not shown."""
    host = Host.of("/", at_home(tmp_path, monkeypatch))
    at = host.walk(tmp_path)
    refused(lambda: host.ask(abi.SYMLINK, at, b".config\0/tmp\0"), errno.EACCES)
    host.ask(abi.MKDIR, at, abi.MKDIR_IN.pack(0o755, 0) + b"mine\0")
    refused(lambda: host.ask(abi.RENAME, at, abi.RENAME_IN.pack(at) + b"mine\0.config\0"), errno.EACCES)
    host.ask(abi.MKDIR, at, abi.MKDIR_IN.pack(0o755, 0) + b".config\0")
    config = host.lookup(at, b".config")
    host.ask(abi.MKDIR, config, abi.MKDIR_IN.pack(0o755, 0) + b"other\0")
    refused(lambda: host.ask(abi.MKDIR, config, abi.MKDIR_IN.pack(0o755, 0) + b"rexec\0"), errno.EACCES)
    refused(lambda: host.ask(abi.RENAME, config, abi.RENAME_IN.pack(config) + b"other\0rexec\0"), errno.EACCES)
    (tmp_path / ".config/rexec").mkdir()
    refused(lambda: host.lookup(config, b"rexec"), errno.ENOENT)
    assert host.names(config) == {b"other"}


def test_other_ways_to_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links that lead to it, files with a second name, a bind mount, and a directory that was moved at home."""
    (home / "dotfiles").mkdir()
    os.rename(home / ".ssh", home / "dotfiles/ssh")
    (home / ".ssh").symlink_to("dotfiles/ssh")
    os.rename(home / ".config/rexec/hosts.toml", home / "dotfiles/hosts.toml")
    (home / ".config/rexec/hosts.toml").symlink_to("../../dotfiles/hosts.toml")
    os.link(home / "dotfiles/ssh/config", home / "project/config")
    os.link(home / "venv/lib/shim/run.py", home / "project/run.py")
    (home / "bound").mkdir()
    with shown_at(home / "bound", lambda: bind(str(home / ".local"), str(home / "bound"))):
        host = Host.of("/", at_home(home, monkeypatch))
        at = host.walk(home)
        refused(lambda: host.lookup(at, b".ssh"), errno.ENOENT)
        dotfiles = host.lookup(at, b"dotfiles")
        assert host.names(dotfiles) == set()
        refused(lambda: host.lookup(dotfiles, b"ssh"), errno.ENOENT)
        refused(lambda: host.lookup(dotfiles, b"hosts.toml"), errno.ENOENT)
        project = host.lookup(at, b"project")
        refused(lambda: host.lookup(project, b"config"), errno.ENOENT)
        linked = host.lookup(project, b"run.py")
        assert host.read(linked) == b"print()"
        refused(lambda: host.open(linked, os.O_WRONLY), errno.EROFS)
        refused(lambda: host.walk(home / "bound/state/rexec"), errno.ENOENT)
        os.rename(home / ".local/state", home / "project/state")
        assert host.names(host.lookup(project, b"state")) == set()
        refused(lambda: host.lookup(host.lookup(project, b"state"), b"rexec"), errno.ENOENT)


def test_a_file_that_gets_the_number_of_a_protected_one_is_the_job_s(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confinement = at_home(home, monkeypatch)
    st = (home / "project/file").stat()
    confinement.known[st.st_dev, st.st_ino] = confine.NOT_THERE  # a key of ~/.ssh had it
    host = Host.of("/", confinement)
    assert host.read(host.walk(home / "project/file")) == b"text"


def picture(top: Path) -> dict[str, tuple[object, ...]]:
    seen: dict[str, tuple[object, ...]] = {}
    for above, names, files in os.walk(top):
        for name in (".", *names, *files):
            path = Path(above, name)
            st = path.lstat()
            data = path.read_bytes() if stat.S_ISREG(st.st_mode) else b""
            seen[str(path)] = (
                st.st_ino, st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, st.st_ctime_ns, data,
                os.listxattr(path),
            )  # fmt: skip
    return seen


UNCHANGING = {
    abi.FORGET, abi.GETATTR, abi.READLINK, abi.READ, abi.STATFS, abi.RELEASE, abi.FSYNC, abi.GETXATTR, abi.LISTXATTR,
    abi.FLUSH, abi.INIT, abi.OPENDIR, abi.READDIR, abi.RELEASEDIR, abi.FSYNCDIR, abi.GETLK, abi.SETLK, abi.SETLKW,
    abi.ACCESS, abi.INTERRUPT, abi.DESTROY, abi.BATCH_FORGET, abi.READDIRPLUS, abi.LSEEK, abi.SYNCFS, abi.STATX_OP,
}  # fmt: skip


@pytest.mark.parametrize("op", sorted(abi.OPERATIONS), ids=lambda op: abi.OPERATIONS[op][0])
def test_no_operation_changes_it(home: Path, op: int) -> None:
    """Every request that a few nodes, handles and names give, sent to a small tree."""
    marks = [Mark(os.fsencode(f"/{name}"), HIDDEN, None) for name in SECRET] + [Mark(b"/venv", READ, None)]
    os.setxattr(home / "venv/lib/shim/run.py", "user.kept", b"1")
    os.chmod(home / "venv/lib/shim/run.py", 0o4755)
    os.setxattr(home / "project", "user.kept", b"1")
    (home / "project/empty").mkdir()
    protected = [home / name for name in (*SECRET, "venv")]
    before = {path: picture(path) for path in protected}
    host = Host.of(home, Confinement(marks))
    leasing = contextlib.closing(host.export.leases)
    shown = ("venv", "venv/lib/shim", "venv/lib/shim/run.py", ".config", "project", "project/file")
    nodes = [1] + [host.walk(name) for name in shown]
    handles = [
        host.open(host.walk("venv/lib/shim/run.py"), os.O_RDONLY),
        host.open(host.walk("project/file"), os.O_RDWR),
    ]
    names = [b".ssh", b".config", b"rexec", b"venv", b"lib", b"run.py", b"file", b"project", b"empty", b"new"]
    requests = whatever(op, nodes, handles, names)
    assert bool(requests) == (op not in UNCHANGING)
    done = 0
    with leasing as leases:
        assert leases.begin()
        for name in shown:
            host.walk(name)  # under leases from now on
        for node, arguments in requests:
            try:
                host.ask(op, node, arguments)
                done += 1
            except Refused:
                continue
            finally:
                assert {path: picture(path) for path in protected} == before
    assert done or op in UNCHANGING, "not one of them was one that the export does"
    secret = {seen[0] for name in SECRET for seen in before[home / name].values()}
    assert not secret & {node.ino for node in host.export.inodes.nodes.values()}


def test_the_program_is_read_and_not_changed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host.of("/", at_home(home, monkeypatch))
    file = host.walk(home / "venv/lib/shim/run.py")
    assert host.read(file) == b"print()"
    assert host.names(host.walk(home / "venv/lib/shim")) == {b"run.py", b"data"}
    refused(lambda: host.ask(abi.ACCESS, file, abi.ACCESS_IN.pack(os.W_OK, 0)), errno.EROFS)
    host.ask(abi.ACCESS, file, abi.ACCESS_IN.pack(os.R_OK, 0))


def test_a_fifo_in_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    """A host may put one there between two of its own requests: to open it would wake, or wait for, its other end."""
    (tmp_path / "file").write_text("text")
    host = Host.of(tmp_path)
    node = host.lookup(1, b"file")
    os.unlink(tmp_path / "file")
    os.mkfifo(tmp_path / "file")
    st = (tmp_path / "file").stat()
    host.export.inodes.get(node).ino = st.st_ino
    refused(lambda: host.open(node, os.O_RDWR), errno.ESTALE)


def test_what_is_protected_of_this_program() -> None:
    code = own_code.program()
    for module in (own_code, confine, store):
        assert any(Path(module.__file__ or "").is_relative_to(path) for path in code), module
    import click

    assert any(Path(click.__file__).is_relative_to(path) for path in code)


def test_modules_do_not_come_from_where_a_job_may_write(tmp_path: Path) -> None:
    """By PYTHONPATH; rexec's own are found all the same, those of it too that are imported later."""
    (tmp_path / "zstandard.py").write_text("raise SystemExit('the host was here')")
    (tmp_path / "psutil.py").write_text("raise SystemExit('the host was here')")
    see = "from shim.submit import own_code; own_code.import_only_ours()"
    see += "; import zstandard, psutil, checkpoint.submit.store, json.tool"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:"}
    subprocess.run([sys.executable, "-c", see], env=env, check=True, cwd=tmp_path)


def test_a_program_that_appears_earlier_in_the_path_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    assert (found := programs.find("ssh")) is not None
    (tmp_path / "bin/ssh").symlink_to("/bin/true")
    assert programs.find("ssh") == found


# jobs


@ELSEWHERE
def test_a_job_sees_no_keys_and_cannot_leave_any(combo: Combo) -> None:
    (combo.dir / ".ssh").mkdir()
    (combo.dir / ".ssh/config").write_text("Host *")
    own = Path(pwd.getpwnam(combo.as_user).pw_dir)
    job = (
        f"ls -A; ls .ssh {own}/.ssh && echo seen; mkdir .ssh && echo made; mkdir -p .config/rexec && echo made;"
        " cat /proc/self/comm; ls -d /sys/kernel; echo x >/dev/null; echo y >/dev/shm/x; ls /dev/shm"
    )
    done = combo.run(["sh", "-c", job], env={"HOME": str(combo.dir)})
    kept = ".cache"  # rexec's own: its turns at a host, and of `local` the runtime
    assert done.stdout.decode().split() == [kept, "cat", "/sys/kernel", "x"]
    assert {path.name for path in combo.dir.iterdir()} == {".ssh", ".config", kept}
    assert list((combo.dir / ".config").iterdir()) == []
    assert done.returncode == 0


@ELSEWHERE
def test_a_job_runs_the_python_that_rexec_runs_in(combo: Combo) -> None:
    first = combo.rexec.path.read_text().splitlines()[0]
    python = first.removeprefix("#!").split()[0]
    done = combo.run([python, "-c", "import shim.cli.run; open(shim.cli.run.__file__, 'a')"])
    assert done.returncode == 1 and b"Read-only file system" in done.stderr.splitlines()[-1], done.stderr


@pytest.mark.where(lambda combo: combo in ("user-alice", "root-root"))
def test_others_may_not_write_where_rexec_does(combo: Combo) -> None:
    """Neither into the directories that it makes, nor into its log; and the job's own modes are the job's."""
    home = combo.dir / "home"
    home.mkdir()
    os.chown(home, combo.uid, -1)
    subprocess.run(["cp", "-r", Path(pwd.getpwnam(combo.as_user).pw_dir, ".ssh"), home], check=False)
    env = {"HOME": str(home)}
    job = "umask 0; mkdir open; touch open/file; mkfifo open/fifo; umask 027; mkdir half"
    done = combo.run(["sh", "-c", job], options=["--json-log", str(home / "log")], env=env)
    assert done.returncode == 0, done.stderr
    done = combo.run(["true"], options=["--checkpoint", "--every", "never", "--owner", "none"], env=env)
    assert b"no criu" in done.stderr, "where there is none its record has been made all the same"
    modes = {path.relative_to(home): stat.S_IMODE(path.lstat().st_mode) for path in home.rglob("*")}
    own = {str(path): oct(mode) for path, mode in modes.items() if ".ssh" not in path.parts and mode & 0o022}
    assert not own
    assert modes[Path(".local/state/rexec")] == modes[Path(".local/state/rexec/jobs")] == 0o700
    made = (combo.dir / "open", combo.dir / "open/file", combo.dir / "open/fifo")
    assert [oct(path.stat().st_mode)[-3:] for path in made] == ["777", "666", "666"]
    assert oct((combo.dir / "half").stat().st_mode)[-3:] == "750"
