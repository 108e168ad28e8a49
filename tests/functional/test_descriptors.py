"""What a job has open from descriptor 3 on: what a shell opened for it, and not what lies open by accident."""

from __future__ import annotations

import hashlib
import subprocess
import time

import pytest

from tests.program import Combo, as_login
from tests.screen import Screen

# The ways differ in how ids are mapped, which these do not look at: one over ssh, and root's own.
pytestmark = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "local-root"))
LOCAL = pytest.mark.where(lambda combo, **_: combo == "local-root")
LONG_BY_SSH = pytest.mark.long(lambda combo, **_: combo != "local-root")


def bash(combo: Combo, script: str, timeout: float = 60) -> tuple[int, str, str]:
    """Run a script of bash here, in which `$rexec` begins a job: its status, output and words."""
    env = {f"XDG_{name}_HOME": str(combo.dir / name.lower()) for name in ("STATE", "DATA")}
    env["rexec"] = f"{combo.rexec.path} --on {combo.on}"
    with as_login(combo.as_user, ["bash", "-c", script], env=env, cwd=combo.dir) as process:
        out, err = process.communicate(timeout=timeout)
    return process.returncode, out.decode(), err.decode()


def test_process_substitution_both_ways(combo: Combo) -> None:
    """Three pipes: two that the job reads, by the names that bash gives them, and one that it writes."""
    script = "$rexec sh -c 'diff $1 $2 | tee $3' sh <(echo a; echo b) <(echo a; echo c) >(tr b-c B-C >&2)"
    status, out, err = bash(combo, script)
    assert (status, out) == (0, "2c2\n< b\n---\n> c\n")
    assert err == "2C2\n< B\n---\n> C\n"


@LONG_BY_SSH
def test_what_is_opened_for_it_arrives(combo: Combo) -> None:
    """A file that is written shares its offset with others here, which write before and after; one that is read does
    not; a here-document may be a file without a name, and /dev/null is the host's."""
    (combo.dir / "list").write_text("one\ntwo\nthree\n")
    script = """
    { echo before >&3; $rexec sh -c 'echo job >&3; echo more >&4' 4>>added; echo after >&3; } 3>out
    exec 5<list; read -u 5 first
    $rexec sh -c 'cat <&5; cat <&6; cat <&7; echo $(stat -c %F -L /proc/self/fd/8)' 6<<<here 7</dev/null 8</
    read -u 5 next; echo $next
    """
    (combo.dir / "added").write_text("added\n")
    (combo.dir / "added").chmod(0o666)
    assert bash(combo, script) == (0, "two\nthree\nhere\ndirectory\ntwo\n", "")
    assert (combo.dir / "out").read_text() == "before\njob\nafter\n"
    assert (combo.dir / "added").read_text() == "added\nmore\n"


@LOCAL
def test_a_pipe_that_nobody_reads_any_more_ends_nothing(combo: Combo) -> None:
    """As a shell leaves behind: it is told to the host, which by then knows what it is to run."""
    assert bash(combo, "exec 9> >(:); wait $!; $rexec echo well") == (0, "well\n", "")


@LONG_BY_SSH
def test_a_lock_on_a_descriptor_holds_at_home(combo: Combo) -> None:
    script = """
    exec 9<>lock
    $rexec sh -c 'flock -n 9 && echo taken; cat /dev/fd/8 >/dev/null' 8< <(
        for k in $(seq 400); do ! test -s out || break; sleep .05; done; flock -n lock true; echo $? >seen) >out
    cat out seen
    """
    assert bash(combo, script) == (0, "taken\n1\n", "")


@LONG_BY_SSH
def test_large_streams_with_slow_ends(combo: Combo) -> None:
    """More than a pipe and a window hold, each way: whoever waits makes the other wait, and nothing is lost."""
    every = hashlib.sha256(bytes(3 << 20)).hexdigest()
    script = """
    $rexec sh -c 'sleep .3; sha256sum </dev/fd/3; head -c 3145728 /dev/zero >&4; echo end' \\
        3< <(head -c 3145728 /dev/zero) 4> >(sleep .3; sha256sum >&2)
    """
    status, out, err = bash(combo, script)
    assert (status, out.split(), err.split()) == (0, [every, "-", "end"], [every, "-"])


@LONG_BY_SSH
def test_each_end_hears_that_the_other_has_gone(combo: Combo) -> None:
    script = """
    $rexec sh -c 'head -c 2 <&3; exec 3<&-; sleep 1; echo over' 3< <(yes; echo writer >&2)
    $rexec sh -c 'trap "" PIPE; yes >&4 2>/dev/null; echo reader; seq 3 >&5' 4> >(head -c 2 >/dev/null) 5>&1
    """
    assert bash(combo, script) == (0, "y\nover\nreader\n1\n2\n3\n", "writer\n")


# Starts rexec with what surroundings leave open: sockets, an eventfd, a pipe that others read, a device, a file
# without a name, and a good many of each; then sees that nothing was taken out of the pipe.
LEAKS = """
import os, socket, subprocess, sys, tempfile
kept = [socket.socketpair() for _ in range(40)]
pipe = os.pipe()
os.write(pipe[1], b"for others")
leaks = [end.fileno() for pair in kept for end in pair] + [os.eventfd(1), *pipe, os.open("/dev/fuse", os.O_RDWR)]
leaks += [os.open("/", os.O_PATH), os.open("/proc/self/status", os.O_RDONLY), tempfile.TemporaryFile().fileno()]
nameless = tempfile.TemporaryFile()
leaks = [os.dup(fd) for fd in leaks if fd != nameless.fileno()] + [nameless.fileno()]
leaks += [os.dup(pipe[1]) for _ in range(60)]
done = subprocess.run(sys.argv[1:], pass_fds=leaks, stdin=subprocess.DEVNULL)
print(done.returncode, os.read(pipe[0], 100))
"""


def test_what_lies_open_by_accident_does_no_harm(combo: Combo) -> None:
    argv = ["/usr/bin/python3", "-c", LEAKS, str(combo.rexec.path), "--on", combo.on, "sh", "-c", "echo here"]
    began = time.monotonic()
    with as_login(combo.as_user, argv, cwd=combo.dir, stderr=subprocess.STDOUT) as process:
        out, _ = process.communicate(timeout=60)
    assert out == b"here\n0 b'for others'\n"
    assert time.monotonic() - began < 20


@LOCAL
def test_what_a_loop_reads_is_left_to_it(combo: Combo) -> None:
    script = "while read -u 3 line; do $rexec echo job $line; done 3< <(seq 2)"
    assert bash(combo, script) == (0, "job 1\njob 2\n", "")


@LOCAL
def test_what_cannot_be_had_is_refused_before_it_starts(combo: Combo) -> None:
    """Only if the job names it, or somebody asks for it."""
    script = """
    $rexec cat /dev/fd/9 9<>/dev/fuse; echo $?
    $rexec --fds 3,4 true 3</dev/null; echo $?
    $rexec --fds three true; echo $?
    $rexec --fds none cat /dev/fd/3 3<list; echo $?
    $rexec --fds 4 sh -c 'cat <&4; cat <&3' 3<list 4<list; echo $?
    $rexec --checkpoint cat <(echo a); echo $?
    """
    (combo.dir / "list").write_text("listed\n")
    status, out, err = bash(combo, script)
    assert (status, out.split()) == (0, ["125", "125", "125", "1", "listed", "2", "125"]), err
    said = [line.removeprefix("rexec: ") for line in err.splitlines()]
    assert said[0] == "the command cannot have descriptor 9: it is a device of this machine; give it a pipe or a file"
    assert said[1] == "--fds 3,4: descriptor 4 is not open here; open it, as in 4<file"
    assert said[2] == "--fds three: name descriptors as in 3,4, or say none"
    assert said[-1].endswith(
        "a job that moves keeps no pipe beside its three streams; give it a file, or leave --checkpoint out"
    )


@LOCAL
def test_a_job_that_moves_has_its_files(combo: Combo) -> None:
    """Those that its words name: what others write to as well would keep it from going back to an image."""
    (combo.dir / "list").write_text("listed\n")
    script = """
    $rexec --checkpoint --owner none --every never sh -c 'cat <&3; echo job >&4; test -e /proc/$$/fd/5 || echo none' \
        3<list 4>out 5>leaked
    cat out
    """
    assert bash(combo, script)[:2] == (0, "listed\nnone\njob\n")


@LOCAL
def test_the_terminal_by_another_number(combo: Combo) -> None:
    """As `exec 3>&1` at the head of a script leaves it."""
    screen = Screen(combo.as_user, combo.dir)
    try:
        shown = screen.run(f"{combo.rexec.path} --on {combo.on} sh -c 'tty <&3; echo said >&4' 3>&1 4>&2")
        assert "/dev/pts/0\nsaid\n" in shown
        shown = screen.run(f"{combo.rexec.path} --on {combo.on} sh -c 'echo beside >&3' 3>&1 | cat")
        assert "\nbeside\n" in shown
    finally:
        screen.close()
