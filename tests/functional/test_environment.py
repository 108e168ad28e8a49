"""A job finds what it would find here: directory, limits, names, time zone, and of the host only what is the host's."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from remoteio.execute.mount import READ_AHEAD
from tests.desk_boot import mount
from tests.program import TEMPORARY, Combo, as_login
from tests.reachable import Copy

pytestmark = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "user-root", "local-root"))

LOOK = (
    "pwd; echo $PWD; umask; id -u; id -un; id -g; id -gn; hostname; date +%Z%z; locale 2>/dev/null | head -2;"
    " getent passwd 1600 0;"
    " cat /etc/debian_version; ulimit -S -n; ulimit -H -n; ulimit -S -s; ulimit -S -c; ulimit -S -f; ls /;"
    " echo $0 $LANG $HOME $USER"
)


def test_the_same_as_here(combo: Combo) -> None:
    def seen(on: list[str], before: str) -> bytes:
        argv = ["bash", "-c", f'{before}; exec "$@"', "bash", *on, "bash", "-c", LOOK]
        env = {"TZ": "Asia/Kathmandu", "LANG": "C.UTF-8"}
        with as_login(combo.as_user, argv, cwd=combo.dir, env=env) as process:
            out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
        return out

    for before in ("umask 027", "umask 0; ulimit -S -n 100; ulimit -c 0; ulimit -f 1000", "cd /usr/share"):
        there, here = seen([str(combo.rexec.path), "--on", combo.on], before), seen([], before)
        assert there == here


# Without newgidmap(1) and a range of its own, an ordinary login has no right to map other groups.
@pytest.mark.where(lambda combo: combo not in ("user-alice", "local-user"))
def test_supplementary_groups(combo: Combo) -> None:
    assert combo.run(["id", "-G"]).stdout == combo.here(["id", "-G"]).stdout


def test_files_are_made_with_the_job_s_umask(combo: Combo) -> None:
    combo.run(["sh", "-c", "umask 077; touch private; mkdir closed; umask 0; touch open"])
    assert oct((combo.dir / "private").stat().st_mode)[-3:] == "600"
    assert oct((combo.dir / "closed").stat().st_mode)[-3:] == "700"
    assert oct((combo.dir / "open").stat().st_mode)[-3:] == "666"
    assert (combo.dir / "open").stat().st_uid == combo.uid


def test_the_host_s_own(combo: Combo, desk: ModuleType) -> None:
    done = combo.run(["sh", "-c", "echo $REXEC_HOST; uname -n; ls /dev; ls -d /proc/[0-9]* | wc -l; ls /sys/class/net"])
    host, node, *rest = done.stdout.decode().split("\n")
    assert host == combo.on, "what the user calls it: its own name may be another's too"
    assert node == socket.gethostname()
    devices = {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "ptmx",
        "pts",
        "shm",
        "fd",
        "stdin",
        "stdout",
        "stderr",
    }
    assert devices <= set(rest)
    assert not {"vda", "kmsg", "mem"} & set(rest)
    processes = next(int(line) for line in rest if line.isdigit())
    assert processes <= 4  # init, the shell and what it just ran: nothing of the host's
    if combo.on != "local":
        assert "eth0" in rest


IN_ETC = """
import os, socket, sys
with socket.socket() as own:
    own.bind((socket.gethostname(), 0))
print(socket.gethostbyname("printer"), socket.gethostbyname(socket.gethostname()))
print(open("/etc/resolv.conf").read().strip())
for name in ("hosts", "resolv.conf"):
    found = next(entry for entry in os.scandir("/etc") if entry.name == name)
    st = os.stat("/etc/" + name)
    print(st.st_nlink, found.is_file(follow_symlinks=False), found.inode() == st.st_ino, end=" ")
    try:
        open("/etc/" + name, "a").close()
    except OSError as e:
        print(e.strerror)
os.stat("/etc/passwd")
"""


@pytest.mark.where(lambda combo: combo != "local-root")
def test_names_are_found_as_in_the_host_s_network(combo: Combo, desk: ModuleType, tmp_path: Path) -> None:
    """The home's own address, and its 127.0.0.53, are nothing there; what else its hosts file names is as here."""
    texts = {
        "hosts": f"127.0.0.1 localhost\n192.0.2.7 {socket.gethostname()}\n192.0.2.8 printer\n",
        "resolv.conf": "nameserver 127.0.0.53\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o644)
    with shown(tmp_path / "hosts"), shown(tmp_path / "resolv.conf"):
        put = "echo nameserver 198.18.1.53 >/run/names; mount --bind /run/names /etc/resolv.conf"
        desk.run("alpha", ["sh", "-c", put])
        try:
            done = combo.run(["/usr/bin/python3", "-c", IN_ETC])
        finally:
            desk.run("alpha", ["sh", "-c", "umount /etc/resolv.conf; rm /run/names"])
    assert done.stdout.decode().splitlines() == [
        "192.0.2.8 127.0.1.1", "nameserver 198.18.1.53", *["1 True True Read-only file system"] * 2
    ], done.stderr.decode()  # fmt: skip


@contextmanager
def shown(file: Path) -> Iterator[None]:
    """Have the file in place of that of its name in /etc, for this run of the tests."""
    at = os.path.realpath(f"/etc/{file.name}")
    mount("--bind", str(file), at)
    try:
        yield
    finally:
        subprocess.run(["umount", at], check=True)


ASKED = """
import grp, pwd, sys
pwd.getpwuid = lambda uid: pwd.struct_passwd(("zoe", "*", uid, uid + 1, "", "/tmp", "/bin/sh"))
grp.getgrgid = lambda gid: grp.struct_group(("staff%d" % gid, "*", gid, []))
from shim.cli.program import main
sys.argv[0] = "rexec"
main()
"""


@pytest.mark.where(lambda combo: combo == "user-alice")
def test_a_user_that_only_a_server_knows_has_its_name_in_the_job(combo: Combo, reached: Copy) -> None:
    """As with sssd, whose socket leads out of the job to nobody: who it is was asked at home."""
    at = combo.dir / "home"
    at.mkdir()
    os.chown(at, 54321, 54322)
    combo.dir.chmod(0o755)
    argv = [reached.python, "-c", ASKED, "--on", "local", "sh", "-c", "id -un; id -gn"]
    done = subprocess.run(
        argv, user=54321, group=54322, extra_groups=[54322], capture_output=True, text=True, cwd=at,
        env={"HOME": str(at), "PATH": os.environ["PATH"]}, timeout=30, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("zoe\nstaff54322\n", "")


def test_options_set_directory_and_variables(combo: Combo) -> None:
    (combo.dir / "sub").mkdir()
    os.chown(combo.dir / "sub", combo.uid, -1)
    env = {"SSH_AUTH_SOCK": "/x", "DISPLAY": ":9", "XDG_RUNTIME_DIR": "/run/x", "KEPT": "yes"}
    options = ["--cd", "sub", "--env", "A=b=c", "--env", "DISPLAY", "--env", "NOWHERE"]
    done = combo.run(["env"], options=options, env=env)
    found = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
    assert found["PWD"] == str(combo.dir / "sub")
    assert (found["A"], found["DISPLAY"], found["KEPT"]) == ("b=c", ":9", "yes")
    assert not {"SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "NOWHERE"} & set(found)


def test_scratch_is_private_and_fast_and_gone(combo: Combo, desk: ModuleType) -> None:
    place = combo.dir / "private"
    place.mkdir()
    if combo.on != "local":
        desk.run("alpha", ["sh", "-c", "mkdir /var/tmp/x && rmdir /var/tmp/x"])
    job = f"cd {place}; echo hello >file; mkdir d; chmod 0 d; cat file; ls; stat -f -c %T . /"
    done = combo.run(["sh", "-c", job], options=["--scratch", str(place)])
    assert done.stdout.decode().split()[:3] == ["hello", "d", "file"]
    assert done.stderr == b""
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("kib", [64, 1024])
def test_a_large_environment(combo: Combo, kib: int) -> None:
    env = {f"V{n}": "x" * 1000 for n in range(kib)}
    done = combo.run(["sh", "-c", "env | grep -c ^V"], env=env)
    assert (done.returncode, done.stdout.strip()) == (0, str(kib).encode())


def test_a_job_in_a_job(combo: Combo) -> None:
    """It takes nothing away that the agent of the job around it has, which may be in the same directory."""
    look = f"ls {TEMPORARY}/rexec-*"
    within = f"{combo.rexec.path} --on local sh -c 'echo deep; exit 5'"
    private = combo.dir / "private"
    private.mkdir()
    done = combo.run(["sh", "-c", f"{look}; {within}; s=$?; {look}; exit $s"], options=["--scratch", str(private)])
    before, deep, after = done.stdout.partition(b"deep\n")
    if deep:
        assert done.returncode == 5, done
        assert before == after and (before or combo.on != "local"), done
    else:  # an ordinary user's namespaces may not be nested with a mount of their own: it is said, and nothing runs
        assert done.returncode == 125
        assert b"rexec: " in done.stderr


def test_jobs_at_once_have_pids_of_their_own(combo: Combo) -> None:
    """They share /tmp at home, where many a program names its files by its pid."""
    pids = {int(combo.run(["sh", "-c", "echo $$"]).stdout) for _ in range(3)}
    assert len(pids) == 3 and min(pids) > 1000


@pytest.mark.where(lambda combo: combo in ("user-root", "user-alice"))
def test_where_the_login_is_root_the_kernel_reads_a_whole_request_ahead(combo: Combo) -> None:
    """As root alone may ask of it: a large file is then read as fast as two requests under way at a time go."""
    number = "import os; d = os.stat('/').st_dev; n = '%d:%d' % (os.major(d), os.minor(d))"
    done = combo.run(["python3", "-c", f"{number}; print(open('/sys/class/bdi/' + n + '/read_ahead_kb').read())"])
    assert int(done.stdout) == (128 if "alice" in combo.on else READ_AHEAD >> 10), done.stderr
