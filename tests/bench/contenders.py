"""Who is measured: each has a case's command run there, with the files of here, in the way a person would."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from remoteio.wire.coherence import TTL
from tests.bench import peers
from tests.bench.cases import Case
from tests.bench.ground import REMOTE, Ground
from tests.bench.process import BenchError, Run, execute

CHECKOUT = Path(__file__).resolve().parents[2]
AES = "aes128-gcm@openssh.com"


class Contender:
    """One way to run a case. `only`: the cases it is measured in, all when empty.

    peer  what it takes is bounded by --cut
    once  a run is as the first was: over a delay it is measured once
    """

    peer = once = False

    def __init__(self, name: str, what: str, ground: Ground, only: frozenset[str] = frozenset()) -> None:
        self.name, self.what, self.ground, self.only = name, what, ground, only

    def prepare(self) -> str | None:
        """Set up what the runs need; returns why the contender cannot take part, or None."""
        return None

    def takes(self, case: Case) -> bool:
        """Is this case one that the contender is measured in?"""
        return (not self.only or case.name in self.only) and not (case.alone and self.peer)

    def run(self, case: Case, cut: float) -> Run:
        """Run the case's command once in the work directory and wait for its end, `cut` seconds at most."""
        return execute(self.argv(case), env=self.ground.env, cwd=self.ground.work, timeout=cut)

    def clean(self) -> None:
        """End what is left on the host of a run that was cut."""

    def argv(self, case: Case) -> list[str]:
        """What is started on the submit machine; here, the command itself: the run at home."""
        return list(case.command())


class Ssh(Contender):
    """Plain ssh, for cases that need no files there: the floor."""

    def takes(self, case: Case) -> bool:
        return case.plain is not None

    def run(self, case: Case, cut: float) -> Run:
        plain, work = case.plain, self.ground.work
        assert plain
        return execute(
            self.ground.ssh_argv(plain.argv),
            env=self.ground.env,
            stdin=work / plain.stdin if plain.stdin else None,
            stdout=work / plain.stdout if plain.stdout else None,
            timeout=cut,
        )


class Sshfs(Contender):
    """sshfs of the submit machine's / on the host, /dev /proc /sys bound below it, and chroot: one ssh, all undone.

    Without no_contain_symlinks (new with CVE-2026-47187) no absolute symlink can be read, so no program can be started.
    """

    peer = True

    def __init__(self, name: str, what: str, ground: Ground, extra: str, only: frozenset[str] = frozenset()) -> None:
        super().__init__(name, what, ground, only)
        self.once = bool(ground.rtt)
        self.extra, self.options = f",no_contain_symlinks{extra}", ""

    def prepare(self) -> str | None:
        ground = self.ground
        status = ground.must_there("cat /var/lib/dpkg/status", "dpkg's status cannot be read")
        ground.install(peers.debian_packages(ground.cache, ["sshfs", "fuse3"], status, [ground.codename]))
        self.options = ground.way_home + self.extra
        return None

    def argv(self, case: Case) -> list[str]:
        mount, env = f"{REMOTE}/home", self.ground.env
        inside = ["env", "-C", str(self.ground.work), "-i", *(f"{name}={value}" for name, value in env.items())]
        script = (
            f"set -e; mkdir -p {mount}; "
            f"sshfs -o {shlex.quote(self.options)} root@{self.ground.home_address}:/ {mount}; "
            f"for d in dev proc sys; do mount --rbind /$d {mount}/$d; done; code=0; "
            f"chroot {mount} {shlex.join([*inside, *case.command()])} || code=$?; umount -l -R {mount}; exit $code"
        )
        # In a pid namespace, so that all of it ends with ssh's login, sshfs as well.
        return self.ground.ssh_argv(("unshare", "-m", "-p", "-f", "--kill-child", "sh", "-c", script))

    def clean(self) -> None:
        self.ground.there(f"pkill -KILL -f '^unshare -m -p -f --kill-child sh -c .*{REMOTE}/home'")


class Outrun(Contender):
    """outrun 1.1.0 with its defaults: cache on and, after the warm-up, warm.

    It gets Debian 12's python3.11 on the host: with 3.13 it opens a ZeroMQ socket per call (it keeps one per Thread
    object, and 3.13 makes a new object for every callback from libfuse) and fails at the 1,024th, in `find` or `tar`.
    """

    script = Path(sys.executable).with_name("outrun")
    peer = True

    def prepare(self) -> str | None:
        ground = self.ground
        if not self.script.exists():
            return f"not there: {self.script}; pip install '.[bench]'"
        status = ground.must_there("cat /var/lib/dpkg/status", "dpkg's status cannot be read")
        suites = sorted({ground.codename, "bookworm"})
        ground.install(peers.debian_packages(ground.cache, ["fuse3", "python3.11"], status, suites))
        ground.copy(peers.outrun_for_host(ground.cache, "3.11", ground.machine), f"{REMOTE}/outrun")
        start = f"import sys; sys.path.insert(0, {REMOTE + '/outrun'!r})\nfrom outrun.__main__ import main\nmain()\n"
        ground.script("/usr/local/bin/outrun", f"#!/usr/bin/python3.11\n{start}")
        # outrun asks lsmod whether there is FUSE; a kernel without modules has it and lists nothing.
        ground.script("/usr/local/bin/lsmod", "#!/bin/sh\necho fuse\n")
        return None

    def argv(self, case: Case) -> list[str]:
        return [str(self.script), self.ground.host, *case.command()]

    def clean(self) -> None:
        self.ground.there("pkill -KILL -f '^/usr/bin/python3.11 /usr/local/bin/outrun'; umount -l /tmp/outrun_fs_*")


class Rexec(Contender):
    """rexec itself, by the console script of this checkout."""

    def __init__(self, name: str, what: str, ground: Ground, on: str, only: frozenset[str] = frozenset()) -> None:
        super().__init__(name, what, ground, only)
        self.on, self.script = on, CHECKOUT / ".venv/bin/rexec"

    def prepare(self) -> str | None:
        if not self.script.exists():
            return f"not there: {self.script.relative_to(CHECKOUT)}; make setup"
        self.ground.stack.callback(execute, [self.script, "disconnect"], env=self.ground.env)
        run = execute([self.script, "--on", self.on, "--", "sh", "-c", ":"], env=self.ground.env, cwd=self.ground.work)
        execute([self.script, "disconnect"], env=self.ground.env)  # the first run makes its own connection
        return None if run.code == 0 else f"`rexec --on {self.on} sh -c :`: {run.trouble()}"

    def run(self, case: Case, cut: float) -> Run:
        if self.ground.rtt:
            time.sleep(2 * TTL)  # as a person would: docs/decisions/resident.md says what differs for who does not
        return super().run(case, cut)

    def argv(self, case: Case) -> list[str]:
        return [str(self.script), "--on", self.on, "--", *case.command()]


class Fusepy(Contender):
    """The fusepy passthrough, mounted afresh on this machine for each run, and the probe run inside it."""

    def prepare(self) -> str | None:
        found = execute([sys.executable, "-c", "import fuse"], env=self.ground.env)
        return None if found.code == 0 else f"{found.trouble()}; pip install '.[bench]' and apt-get install libfuse2"

    def run(self, case: Case, cut: float) -> Run:
        mount = self.ground.tools / "fusepy"
        mount.mkdir(exist_ok=True)
        with open("/proc/self/mountinfo") as mounts:
            changed = select.poll()
            changed.register(mounts, select.POLLPRI | select.POLLERR)
            server = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("passthrough.py"), self.ground.work, mount],
                env=self.ground.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                while not os.path.ismount(mount):
                    if server.poll() is not None or not changed.poll(10_000):
                        raise BenchError(f"the fusepy passthrough did not mount (exit {server.poll()})")
                return execute(case.command(), env=self.ground.env, cwd=mount, timeout=cut)
            finally:
                execute(["umount", "-l", mount])
                server.wait()


def all_contenders(ground: Ground) -> list[Contender]:
    """Everyone, in the order of the report."""
    probe, bulk = frozenset({"probe"}), frozenset({"read", "write", "probe"})
    host = ground.host
    return [
        Contender("local", "the run at home", ground),
        Ssh("ssh", "plain ssh, for what needs no files there", ground),
        Sshfs("sshfs", "sshfs with ssh's default cipher + chroot, mounted for each run", ground, ""),
        *([] if ground.rtt else [Sshfs("sshfs-aes", f"the same with Ciphers={AES}", ground, f",Ciphers={AES}", bulk)]),
        Outrun("outrun", "outrun 1.1.0, its cache warm", ground),
        Rexec("rexec", f"rexec --on {host}", ground, host),
        Fusepy("fusepy-local", "fusepy 3.0.1 passthrough on this machine", ground, probe),
        Rexec("rexec-local", "rexec --on local", ground, "local", probe),
    ]


def prepare(contenders: list[Contender], say: Callable[[str], None]) -> dict[str, str]:
    """Set all of them up; returns name → why not, for those that cannot take part."""
    absent = {}
    for contender in contenders:
        say(f"setting up {contender.name}")
        try:
            reason = contender.prepare()
        except BenchError as failed:
            reason = str(failed)
        if reason:
            absent[contender.name] = reason
    return absent
