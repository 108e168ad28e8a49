"""A real HTCondor pool on this machine: p1 submits, p2 and p3 execute. For tests, as root.

Each is a Debian root of its own (that of the desk, with HTCondor's own packages) in namespaces of its own, on a network
that leads nowhere else; they share no files. alice is an ordinary user on all three, and rexec is on p1 alone. The
pool's times are short, as a test waits for them: which, is in CONFIG. cgroups are not used.

The layer with HTCondor is made once and kept, as the desk's root is: 200 MB more, and a minute.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests import desk_root, netns
from tests.desk_root import CACHE, SUITE, call, digest, locked

PACKAGES = ("condor", "criu", "python3-click", "python3-jeepney", "python3-zstandard")
HOSTS = {"p1": "10.80.1.1", "p2": "10.80.1.2", "p3": "10.80.1.3"}
ROOT = Path(__file__).parents[1]
CONFIG = """\
CONDOR_HOST = 10.80.1.1
NETWORK_INTERFACE = {address}
use SECURITY : HOST_BASED
ALLOW_READ = 10.80.1.*
ALLOW_WRITE = 10.80.1.*
ALLOW_DAEMON = 10.80.1.*
ALLOW_ADMINISTRATOR = 10.80.1.*
UID_DOMAIN = pool
FILESYSTEM_DOMAIN = $(FULL_HOSTNAME)
TRUST_UID_DOMAIN = True
SOFT_UID_DOMAIN = True
UPDATE_INTERVAL = 2
POLLING_INTERVAL = 2
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_MIN_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 2
SCHEDD_INTERVAL = 5
STARTER_UPDATE_INTERVAL = 2
SHADOW_QUEUE_UPDATE_INTERVAL = 2
STARTER_INITIAL_UPDATE_INTERVAL = 0
MachineMaxVacateTime = 20
RUNBENCHMARKS = 0
MAIL = /bin/true
SINGULARITY = /bin/false
DOCKER =
BASE_CGROUP =
"""
SUBMITS = "DAEMON_LIST = MASTER COLLECTOR NEGOTIATOR SCHEDD\n"
EXECUTES = "DAEMON_LIST = MASTER STARTD\nNUM_CPUS = 2\nMEMORY = 4096\n"
PROGRAM = """\
#!/usr/bin/python3
import sys
sys.path.append("/opt/rexec")
from shim.cli.program import main
main()
"""


def layer() -> Path:
    """The directory with what the packages add to the desk's root; made if it is not there yet."""
    lower = desk_root.base()
    kept = CACHE / f"pool-{digest(lower.name, *PACKAGES)}"
    with locked(CACHE / "lock"):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="pool-") as scratch:
                _install(lower, Path(scratch))
                (Path(scratch) / "upper").rename(kept)
    return kept


def _install(lower: Path, scratch: Path) -> None:
    # In a private mount namespace, so that no mount outlives it, whatever ends it.
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    root = scratch / "root"
    script = f"""
set -e
mount -t overlay overlay -o lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work {root}
mount -t proc proc {root}/proc
mount -t tmpfs tmpfs {root}/dev
for each in null urandom; do touch {root}/dev/$each; mount --bind /dev/$each {root}/dev/$each; done
cp {root}/etc/nsswitch.conf {scratch}/nsswitch.conf
cat /etc/resolv.conf >{root}/etc/resolv.conf
cat /etc/hosts >{root}/etc/hosts
echo 'hosts: files dns' >>{root}/etc/nsswitch.conf
echo 'deb {desk_root.archive()} {SUITE} main' >{root}/etc/apt/sources.list
printf '#!/bin/sh\\nexit 101\\n' >{root}/usr/sbin/policy-rc.d
chmod 755 {root}/usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
chroot {root} apt-get -q update </dev/null
chroot {root} apt-get -q -y --no-install-recommends install {" ".join(PACKAGES)} </dev/null
chroot {root} apt-get clean
cp {scratch}/nsswitch.conf {root}/etc/nsswitch.conf
: >{root}/etc/resolv.conf
rm -rf {root}/etc/condor/config.d/* {root}/var/lib/apt/lists/*
"""
    with netns.outside():
        call(["unshare", "--mount", "--propagation", "private", "sh"], stdin=script, log=CACHE / "pool.log")


class Pool:
    """A pool that is up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._booted: dict[str, subprocess.Popen[str]] = {}
        self._init: dict[str, int] = {}

    def boot(self, name: str) -> None:
        """Have a host up, on the pool's network, with HTCondor's daemons started."""
        state = self._directory / name
        for each in ("upper", "work", "root"):
            (state / each).mkdir(parents=True, exist_ok=True)
        (state / "upper").chmod(0o755)  # its root directory, whatever the umask is
        self._settings(name, state / "upper")
        lower = f"{layer()}:{desk_root.base()}"
        booted = self._booted[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.pool_boot", name, lower, str(state)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert booted.stdin is not None and booted.stdout is not None
        self._init[name] = int(booted.stdout.readline())
        self._cable(name)
        booted.stdin.write("go on\n")
        booted.stdin.flush()
        assert booted.stdout.readline() == "up\n", f"{name} did not come up"
        made = "mkdir -p /run/condor /run/lock/condor && chown condor:condor /run/condor /run/lock/condor"
        self.on(name, "sh", "-c", f"{made} && condor_master")

    def _settings(self, name: str, upper: Path) -> None:
        config = upper / "etc/condor/config.d/50-pool"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(CONFIG.format(address=HOSTS[name]) + (SUBMITS if name == "p1" else EXECUTES))
        (upper / "etc/hostname").write_text(f"{name}\n")
        known = "".join(f"{address} {each}\n" for each, address in HOSTS.items())
        (upper / "etc/hosts").write_text(f"127.0.0.1 localhost\n{known}")
        if name == "p1" and not (upper / "opt/rexec").exists():
            for package in ("remoteio", "checkpoint", "shim"):
                without = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / package, upper / "opt/rexec" / package, ignore=without)
            program = upper / "usr/local/bin/rexec"
            program.parent.mkdir(parents=True)
            program.write_text(PROGRAM)
            program.chmod(0o755)

    def _cable(self, name: str) -> None:
        first = self._net("p1")
        if name == "p1":
            call([*first, "ip", "link", "add", "eth0", "type", "bridge"])
        else:
            peer = ["peer", "name", "eth0", "netns", str(self._init[name])]
            call([*first, "ip", "link", "add", name, "type", "veth", *peer])
            call([*first, "ip", "link", "set", name, "master", "eth0", "up"])
        own = self._net(name)
        call([*own, "ip", "addr", "add", f"{HOSTS[name]}/24", "dev", "eth0"])
        for each in ("lo", "eth0"):
            call([*own, "ip", "link", "set", each, "up"])

    def _net(self, name: str) -> list[str]:
        return ["nsenter", "-t", str(self._init[name]), "-n"]

    def on(self, name: str, *argv: str, user: str = "root") -> str:
        """Run a command on a host; what it prints. DeskError where it fails."""
        return call(self.argv(name, argv, user))

    def argv(self, name: str, argv: Sequence[str], user: str = "root") -> list[str]:
        """The command line that runs a command on a host, from here."""
        home = "/root" if user == "root" else f"/home/{user}"
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = [f"PATH={path}", f"HOME={home}", f"USER={user}", f"LOGNAME={user}", "LANG=C.UTF-8", "SHELL=/bin/sh"]
        enter = ["nsenter", "-t", str(self._init[name]), "-m", "-n", "-u", "-i", "-p", "-r", "-w", "env", "-i"]
        become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
        return [*enter, *variables, *become, "sh", "-c", 'cd; exec "$@"', "sh", *argv]

    def down(self, name: str) -> None:
        """Have a host gone at once, as when its power fails."""
        booted = self._booted.pop(name, None)
        if booted is not None:
            booted.kill()
            booted.communicate()


@contextmanager
def up() -> Iterator[Pool]:
    """Have a pool, in which both execute hosts are known."""
    layer()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="pool-hosts-") as directory:
        pool = Pool(Path(directory))
        try:
            for name in HOSTS:
                pool.boot(name)
            yield pool
        finally:
            for name in HOSTS:
                pool.down(name)
