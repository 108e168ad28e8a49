"""A real HTCondor pool, or a real Slurm cluster, on this machine: p1 submits, p2 and p3 execute. For tests, as root.

Each is a Debian root of its own (that of the desk, with the engines' own packages) in namespaces of its own, on a
network that leads nowhere else; they share no files. alice is an ordinary user on all three, and rexec is on p1 alone.
The engines' times are short, as a test waits for them: which, is in CONDOR and SLURM. cgroups are not used.

The layer with an engine is made once and kept, as the desk's root is: 200 MB more, and a minute; and so is one with
what jobs run besides, which is on p1 alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from checkpoint.submit import obtain_criu
from tests import desk_root, netns
from tests.desk_root import CACHE, SUITE, call, digest, locked
from tests.until import until

OURS = ("criu", "python3-click", "python3-jeepney", "python3-zstandard")
PACKAGES = {"condor": ("condor", *OURS), "slurm": ("slurmctld", "slurmd", "slurm-client", "munge", *OURS)}
NUMPY_AND_GCC = ("gcc", "libc6-dev", "libopenblas0-pthread", "python3-numpy")
HOSTS = {"p1": "10.80.1.1", "p2": "10.80.1.2", "p3": "10.80.1.3"}
EXECUTE = ("p2", "p3")
OTHER = {"p4": "10.80.1.4"}
"""A pool of its own, for HTCondor: it is there where a test boots it."""

ROOT = Path(__file__).parents[1]
# A job that says that it has begun, in a file of home's, and ends when another is there.
WAITS = "echo $$ >>{name}.begun; until [ -e {name}.go ]; do sleep 0.1; done; echo end"
DOES = {
    "condor": {"vacate": ["condor_vacate_job"], "hold": ["condor_hold"], "release": ["condor_release"]},
    "slurm": {
        "vacate": ["scontrol", "requeue"],
        "hold": ["scontrol", "requeuehold"],
        "release": ["scontrol", "release"],
    },
}
PLACE = 60.0
"""Seconds for an engine to give a place: its negotiator, its schedd and its startds have their turns."""

CONDOR = """\
CONDOR_HOST = {manager}
NETWORK_INTERFACE = {address}
{security}UID_DOMAIN = pool
FILESYSTEM_DOMAIN = $(FULL_HOSTNAME)
TRUST_UID_DOMAIN = True
SOFT_UID_DOMAIN = True
UPDATE_INTERVAL = 2
CLASSAD_LIFETIME = 60
POLLING_INTERVAL = 2
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_MIN_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 2
SCHEDD_INTERVAL = 5
STARTER_UPDATE_INTERVAL = 2
SHADOW_QUEUE_UPDATE_INTERVAL = 2
STARTER_INITIAL_UPDATE_INTERVAL = 0
DAGMAN_USER_LOG_SCAN_INTERVAL = 1
MachineMaxVacateTime = 20
JOB_DEFAULT_LEASE_DURATION = 40
RUNBENCHMARKS = 0
MAIL = /bin/true
SINGULARITY = /bin/false
DOCKER =
BASE_CGROUP =
"""
_BY_ADDRESS = """\
use SECURITY : HOST_BASED
ALLOW_READ = 10.80.1.*
ALLOW_WRITE = 10.80.1.*
ALLOW_DAEMON = 10.80.1.*
ALLOW_ADMINISTRATOR = 10.80.1.*
"""
# What HTCondor comes with.
_BY_TOKEN = "use SECURITY : recommended_v9_0\n"
SUBMITS = "DAEMON_LIST = MASTER COLLECTOR NEGOTIATOR SCHEDD\n"
EXECUTES = "DAEMON_LIST = MASTER STARTD\nNUM_CPUS = 4\nMEMORY = 4096\n"
_ROLES = {"p1": SUBMITS, "p4": EXECUTES.replace("STARTD", "COLLECTOR NEGOTIATOR STARTD")}
SLURM = """\
ClusterName=pool
SlurmctldHost=p1(10.80.1.1)
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=/var/lib/slurm/ctld
SlurmdSpoolDir=/var/lib/slurm/d
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/ctld.log
SlurmdLogFile=/var/log/slurm/d.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=20
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=p2 NodeAddr=10.80.1.2 CPUs=4 RealMemory=2000
NodeName=p3 NodeAddr=10.80.1.3 CPUs=4 RealMemory=2000
PartitionName=low Nodes=p2,p3 Default=YES PriorityTier=1
PartitionName=high Nodes=p2,p3 PriorityTier=10
"""
_START_CONDOR = """
mkdir -p /run/condor /run/lock/condor && chown condor:condor /run/condor /run/lock/condor && condor_master
"""
_START_SLURM = """
set -e
mkdir -p /run/munge /var/lib/slurm/ctld /var/lib/slurm/d /var/log/slurm
chown munge:munge /run/munge
chown slurm:slurm /var/lib/slurm/ctld /var/log/slurm
setpriv --reuid munge --regid munge --clear-groups munged
if [ $(hostname) = p1 ]; then slurmctld; else slurmd; fi
"""
PROGRAM = """\
#!/usr/bin/python3
import sys
sys.path.append("/opt/rexec")
from shim.cli.program import main
main()
"""


def lower(engine: str, extra: Sequence[str] = ()) -> str:
    """The directories that a host's root lies on: with the engine's packages on the desk's root, and `extra` on both.

    What the packages add is made if it is not there yet.
    """
    layers = str(desk_root.base())
    for packages in (PACKAGES[engine], tuple(extra)):
        if packages:  # not both at once: all hosts are to have the one key that munge made itself when it was installed
            layers = f"{_layer(layers, packages)}:{layers}"
    return layers


def _layer(below: str, packages: Sequence[str]) -> Path:
    kept = CACHE / f"pool-{digest(*(Path(each).name for each in below.split(':')), *packages)}"
    with locked(CACHE / "lock"):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="pool-") as scratch:
                _install(below, Path(scratch), packages)
                (Path(scratch) / "upper").rename(kept)
    return kept


def _install(below: str, scratch: Path, packages: Sequence[str]) -> None:
    # In a private mount namespace, so that no mount outlives it, whatever ends it.
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    root = scratch / "root"
    script = f"""
set -e
mount -t overlay overlay -o lowerdir={below},upperdir={scratch}/upper,workdir={scratch}/work {root}
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
chroot {root} apt-get -q -y --no-install-recommends install {" ".join(packages)} </dev/null
chroot {root} apt-get clean
cp {scratch}/nsswitch.conf {root}/etc/nsswitch.conf
: >{root}/etc/resolv.conf
rm -rf {root}/etc/condor/config.d/* {root}/var/lib/apt/lists/*
"""
    with netns.outside():
        # HTCondor makes its log's directory by what CONDOR_CONFIG says, if that is set: of some pool here it is not
        clean = ["env", "-u", "CONDOR_CONFIG", "unshare", "--mount", "--propagation", "private", "sh"]
        call(clean, stdin=script, log=CACHE / "pool.log")


class Pool:
    """A pool that is up, of `engine`: condor or slurm; `extra`: Debian packages that are on p1 besides.

    `tokens`: its HTCondor believes who shows an IDTOKEN, and not whoever has an address of the pool's.
    """

    def __init__(self, directory: Path, engine: str, extra: Sequence[str] = (), *, tokens: bool = False) -> None:
        self._directory, self._engine, self._extra = directory, engine, extra
        self._tokens = tokens
        self._booted: dict[str, subprocess.Popen[str]] = {}
        self._init: dict[str, int] = {}

    def boot(self, name: str) -> None:
        """Have a host up, on the pool's network, with the engine's daemons started."""
        state = self._directory / name
        before = os.umask(0o022)  # whatever it is here: no daemon that becomes a user of its own gets by a root's alone
        try:
            for each in ("upper", "work", "root"):
                (state / each).mkdir(parents=True, exist_ok=True)
            self._settings(name, state / "upper")
        finally:
            os.umask(before)
        layers = lower(self._engine, self._extra if name == "p1" else ())
        booted = self._booted[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.pool_boot", name, layers, str(state)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert booted.stdin is not None and booted.stdout is not None
        self._init[name] = int(booted.stdout.readline())
        self._cable(name)
        booted.stdin.write("go on\n")
        booted.stdin.flush()
        assert booted.stdout.readline() == "up\n", f"{name} did not come up"
        try:
            self.on(name, "sh", "-c", _START_CONDOR if self._engine == "condor" else _START_SLURM)
        except desk_root.DeskError as e:
            e.add_note(self.on(name, "sh", "-c", "umask; id; df /; ls -ldn / /run/* /var /var/log /var/log/*"))
            raise

    def _settings(self, name: str, upper: Path) -> None:
        address = (HOSTS | OTHER)[name]
        manager = address if name in OTHER else HOSTS["p1"]
        security = _BY_TOKEN if self._tokens else _BY_ADDRESS
        condor = CONDOR.format(address=address, manager=manager, security=security) + _ROLES.get(name, EXECUTES)
        files = {"condor": {"condor/config.d/50-pool": condor},
                 "slurm": {"slurm/slurm.conf": SLURM, "slurm/cgroup.conf": "CgroupPlugin=disabled\n"}}  # fmt: skip
        for file, text in files[self._engine].items():
            config = upper / "etc" / file
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text(text)
        if self._tokens and name in EXECUTE:
            key = "until [ -e /etc/condor/passwords.d/POOL ]; do sleep 0.1; done"  # the collector makes it
            token = upper / "etc/condor/tokens.d/pool"
            token.parent.mkdir(parents=True, exist_ok=True)
            token.write_text(self.on("p1", "sh", "-c", f"{key}; condor_token_create -identity condor@pool"))
            token.chmod(0o600)
        (upper / "etc/hostname").write_text(f"{name}\n")
        known = "".join(f"{address} {each}\n" for each, address in (HOSTS | OTHER).items())
        (upper / "etc/hosts").write_text(f"127.0.0.1 localhost\n{known}")
        if name == "p1" and not (upper / "opt/rexec").exists():
            for package in ("remoteio", "checkpoint", "shim"):
                without = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / package, upper / "opt/rexec" / package, ignore=without)
            program = upper / "usr/local/bin/rexec"
            program.parent.mkdir(parents=True)
            program.write_text(PROGRAM)
            program.chmod(0o755)
            kept = desk_root.criu()
            (upper / "opt/criu").mkdir()
            for path in (kept.archive, kept.archive.with_name(obtain_criu.PIN)):
                shutil.copy(path, upper / "opt/criu")
                (upper / "opt/criu" / path.name).chmod(0o644)

    def _cable(self, name: str) -> None:
        first = self._net("p1")
        if name == "p1":
            call([*first, "ip", "link", "add", "eth0", "type", "bridge"])
        else:
            peer = ["peer", "name", "eth0", "netns", str(self._init[name])]
            call([*first, "ip", "link", "add", name, "type", "veth", *peer])
            call([*first, "ip", "link", "set", name, "master", "eth0", "up"])
        own = self._net(name)
        call([*own, "ip", "addr", "add", f"{(HOSTS | OTHER)[name]}/24", "dev", "eth0"])
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
        return [*enter, *variables, *become, "sh", "-c", 'umask 022; cd; exec "$@"', "sh", *argv]

    def down(self, name: str) -> None:
        """Have a host gone at once, as when its power fails."""
        booted = self._booted.pop(name, None)
        if booted is not None:
            booted.kill()
            booted.communicate()


class Access:
    """What alice does on p1, whose engine is `engine`, and what befalls her jobs there."""

    def __init__(self, of: Pool, engine: str) -> None:
        self.pool, self.engine = of, engine
        self.sh("mkdir -p .local/share/rexec && cp -r /opt/criu .local/share/rexec/criu")

    def idle(self) -> int:
        """How many execute hosts the engine knows and has nothing to do for; 0 while it has only just begun."""
        if self.engine == "condor":
            said = self.sh("condor_status -af Machine State 2>/dev/null || :").splitlines()
            return sum({f"{host} Unclaimed"} == {line for line in said if line.split()[0] == host} for host in EXECUTE)
        return len(self.sh("sinfo -h -N -p low -t idle -o %N 2>/dev/null || :").split())

    def settled(self) -> None:
        """Wait until both of them are there."""
        until(lambda: self.idle() == len(EXECUTE), "both execute hosts are idle", within=PLACE)

    def __call__(self, *words: str) -> str:
        return self.pool.on("p1", *words, user="alice")

    def sh(self, script: str) -> str:
        return self("sh", "-c", script)

    def submit(self, *words: str) -> str:
        return self("rexec", "submit", "--engine", self.engine, "--memory", "100M", *words).strip()

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self("rexec", "log", "--json", name).splitlines()]

    def has(self, name: str, **row: object) -> Callable[[], list[dict[str, Any]]]:
        """Look for rows of a batch's log with these values."""

        def look() -> list[dict[str, Any]]:
            time.sleep(0.3)  # each look starts a python there: without a pause they take a processor for themselves
            return [each for each in self.rows(name) if row.items() <= each.items()]

        return look

    def task(self, name: str, job: int = 0) -> str:
        """What the engine calls a job of a batch that was given to it once."""
        given = str(self.rows(name)[0]["engine"])
        return f"{given}.{job}" if self.engine == "condor" else f"{given.partition(':')[0]}_{job}"

    def does(self, verb: str, name: str) -> None:
        """Have the engine `vacate`, `hold` or `release` the first job of a batch, by a command of its own."""
        self(*DOES[self.engine][verb], self.task(name))

    @contextmanager
    def without(self, host: str) -> Iterator[None]:
        """Have a host give no places meanwhile."""
        if self.engine == "condor":
            with self.configured(host, "START = False"):
                state = f"condor_status -constraint 'Machine == \"{host}\"' -af Start"
                until(lambda: set(self.sh(state).split()) == {"false"}, f"{host} gives no places", within=PLACE)
                yield
        else:
            self.pool.on("p1", "scontrol", "update", f"NodeName={host}", "State=DRAIN", "Reason=none")
            yield
            self.pool.on("p1", "scontrol", "update", f"NodeName={host}", "State=RESUME")

    @contextmanager
    def configured(self, host: str, lines: str) -> Iterator[None]:
        """Have lines more in HTCondor's configuration on a host."""
        self.pool.on(host, "sh", "-c", f"echo '{lines}' >/etc/condor/config.d/60-more && condor_reconfig")
        try:
            yield
        finally:
            self.pool.on(host, "sh", "-c", "rm /etc/condor/config.d/60-more && condor_reconfig")

    def dies(self, host: str) -> None:
        """Have a host die; `pool.boot` has it up again."""
        self.pool.down(host)
        if self.engine == "slurm":  # as whoever watches over the nodes says; Slurm itself notices in some minutes
            self.pool.on("p1", "scontrol", "update", f"NodeName={host}", "State=DOWN", "Reason=dead")

    def lines(self, file: str) -> list[str]:
        """The lines of a file of home; none where it is not there."""
        return self.sh(f"cat {file} 2>/dev/null || :").splitlines()


@contextmanager
def up(engine: str, extra: Sequence[str] = (), *, tokens: bool = False) -> Iterator[Pool]:
    """Have a pool, whose execute hosts are on their way into it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="pool-hosts-") as directory:
        pool = Pool(Path(directory), engine, extra, tokens=tokens)
        try:
            for name in HOSTS:
                pool.boot(name)
            yield pool
        finally:
            for name in HOSTS | OTHER:
                pool.down(name)


@contextmanager
def submitting(engine: str, extra: Sequence[str] = (), *, tokens: bool = False) -> Iterator[Access]:
    """Have a pool that is ready, and alice on its submit machine."""
    with up(engine, extra, tokens=tokens) as made:
        access = Access(made, engine)
        access.settled()
        yield access
