"""A personal HTCondor of one's own hosts: all of it runs here, as this user, and nothing of it is on the hosts.

For each host there is a startd here that speaks for it: it has that host's slots and memory, and looks once a minute
whether rexec reaches it. A job's pilot is here too, and holds a place; the job itself goes to the host by ssh, as ever.
So HTCondor matches, queues and orders, and is no part of the way to a host (docs/decisions/personal-pool.md).
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from checkpoint.submit import xdg
from remoteio.errors import RexecError
from remoteio.submit import programs
from shim.submit import own_code
from shim.submit.engines import condor

VARIABLE = "CONDOR_CONFIG"
LEASE = "5m"
"""What a run has for --lease: so long does an abandoned job run, and HTCondor sees in less that a host is gone."""

LOOKS = 60  # seconds from one look whether a host can be reached to the next

_SYSTEM = "/etc/condor/condor_config"
_DIRECTORIES = ("log", "spool", "lock", "run", "execute", "tokens")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,60}")
_LEVELS = (
    "READ", "WRITE", "ADMINISTRATOR", "CONFIG", "OWNER", "DAEMON", "NEGOTIATOR", "ADVERTISE_MASTER",
    "ADVERTISE_STARTD", "ADVERTISE_SCHEDD",
)  # fmt: skip
_READY = 120.0  # seconds for all daemons, and a first look at each host
_STOPS = 60.0  # seconds for them to end
_PAUSE = 0.5
# The shell waits for what reads, so that it hears that it is to end at once; what runs behind it has no input but 3.
_KEEPS = """\
leaves={}; trap ': >"$leaves"' TERM
exec 3<&0; cat <&3 >/dev/null & while kill -0 $! 2>/dev/null; do wait $!; done"""
_PILOT = f"/{condor.PILOT}".encode()
_LOOK = """\
#!/bin/sh
# Says for HTCondor whether rexec reaches a host, and what it is.
{exports}
if ad=$(timeout 40 {rexec} hosts --ad "$1" </dev/null 2>/dev/null); then
    echo "$ad" | sed -e '/^\\(Name\\|Machine\\|OpSys\\|Arch\\|Cpus\\|Slots\\|LoadAvg\\|Memory\\|Disk\\) = /d' \\
        -e 's/^KeyboardIdle = /RexecOwnerIdle = /'
    echo 'RexecReached = True'
else
    echo 'RexecReached = False'
fi
echo '- update:true'
"""
# FS shows a server who a client is, and a client nothing: so who listens on that port is not asked for its name.
_SETTINGS = """\
include : {system}
use SECURITY : recommended_v9_0
use POLICY : ALWAYS_RUN_JOBS
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR =
LOCAL_DIR = {directory}
LOG = {directory}/log
SPOOL = {directory}/spool
LOCK = {directory}/lock
RUN = {directory}/run
EXECUTE = {directory}/execute
SEC_PASSWORD_DIRECTORY = {directory}/tokens
SEC_TOKEN_SYSTEM_DIRECTORY = {directory}/tokens
SEC_TOKEN_DIRECTORY = {directory}/tokens
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
ALLOW_CLIENT = *
NETWORK_INTERFACE = 127.0.0.1
CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:{port}
USE_SHARED_PORT = True
SHARED_PORT_PORT = {port}
BASE_CGROUP =
MAIL = /bin/true
SINGULARITY = /bin/false
DOCKER =
RUNBENCHMARKS = 0
UPDATE_INTERVAL = 5
POLLING_INTERVAL = 5
NEGOTIATOR_INTERVAL = 10
NEGOTIATOR_MIN_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 2
SCHEDD_INTERVAL = 10
STARTER_INITIAL_UPDATE_INTERVAL = 0
JOB_DEFAULT_LEASE_DURATION = 120
DAGMAN_USER_LOG_SCAN_INTERVAL = 1
START = RexecReached =?= True
PREEMPT = RexecReached =?= False
WANT_VACATE = False
MAXJOBRETIREMENTTIME = 0
"""
_HOST = """\
{key} = $(STARTD)
{key}_ARGS = -f -local-name {key}
{key}.STARTD_NAME = {name}
{key}.NETWORK_HOSTNAME = {name}
{key}.STARTD_LOG = {directory}/log/{key}
{key}.EXECUTE = {directory}/execute/{name}
{key}.NUM_CPUS = {slots}
{key}.MEMORY = {memory}
{key}.STARTD_CRON_JOBLIST = REXEC
{key}.STARTD_CRON_REXEC_EXECUTABLE = {directory}/look
{key}.STARTD_CRON_REXEC_ARGS = {name}
{key}.STARTD_CRON_REXEC_MODE = Periodic
{key}.STARTD_CRON_REXEC_PERIOD = {looks}s
"""


class Room(NamedTuple):
    """What a host has for jobs: slots, and memory in MiB."""

    slots: int
    memory: int


def directory() -> Path:
    """Name where all of it lies."""
    return xdg.state() / "pool"


def config() -> Path:
    """Name its settings, by which HTCondor's programs find it. They are there while it is up."""
    return directory() / "condor_config"


def use() -> None:
    """Have HTCondor's programs that this process runs speak to the pool that is up, if the user named no other."""
    if VARIABLE not in os.environ and config().exists():
        os.environ[VARIABLE] = str(config())


def used(environ: Mapping[str, str]) -> bool:
    """Tell whether HTCondor's programs speak to it in that environment."""
    return environ.get(VARIABLE) == str(config())


def runs() -> bool:
    """Tell whether it is up: it is not where its condor_master has died."""
    return _master(directory()) != 0


def check(name: str) -> None:
    """Raise RexecError where a host's name is none that HTCondor can have for a machine."""
    if not _NAME.fullmatch(name):
        raise RexecError(f"{name!r:.80} is no name for a machine of a pool: give it one in hosts.toml")


def settings(place: Path, system: str, port: int, user: str, hosts: Mapping[str, Room]) -> str:
    """Write HTCondor's settings. Nobody but `user` may say anything to it, and nobody listens but on 127.0.0.1."""
    text = _SETTINGS.format(system=system, directory=place, port=port)
    text += "".join(
        f"ALLOW_{level} = {user}@*\nSEC_{level}_AUTHENTICATION = REQUIRED\nSEC_{level}_AUTHENTICATION_METHODS = FS\n"
        for level in _LEVELS
    )
    keys = {f"HOST{number}": name for number, name in enumerate(hosts)}
    for key, name in keys.items():
        room = hosts[name]
        text += _HOST.format(key=key, name=name, directory=place, slots=room.slots, memory=room.memory, looks=LOOKS)
    text += f"DAEMON_LIST = MASTER SHARED_PORT COLLECTOR NEGOTIATOR SCHEDD {' '.join(keys)}\n"
    return text + f"DC_DAEMON_LIST = +{' '.join(keys)}\n"


def up(hosts: Mapping[str, Room]) -> None:
    """Start it, and wait until each host is known to be reached; one that was ended by a power cut has its queue again.

    Raises RexecError; then no more is left than was there.
    """
    place, again = directory(), config().exists()
    if _master(place):
        raise RexecError("a pool is up already: say `rexec pool down` first")
    master = _program("condor_master")
    system = os.environ.get(VARIABLE, _SYSTEM)
    if not os.path.exists(system):
        raise RexecError(f"HTCondor's own settings are not in {system}: set {VARIABLE}")
    try:
        for each in (*_DIRECTORIES, *(f"execute/{name}" for name in hosts)):
            xdg.make(place / each)
        kept = {name: os.environ[name] for name in ("HOME", "PATH", "SSH_AUTH_SOCK") if name in os.environ}
        kept |= {name: value for name, value in os.environ.items() if name.startswith("XDG_")}
        exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in kept.items())
        rexec = shlex.join(own_code.command("shim.cli.program"))
        (place / "look").write_text(_LOOK.format(exports=exports, rexec=rexec))
        (place / "look").chmod(0o700)
        user = pwd.getpwuid(os.geteuid()).pw_name
        config().write_text(settings(place, system, _free_port(), user, hosts))
        os.environ[VARIABLE] = str(config())
        started = subprocess.run(
            [master, "-pidfile", str(place / "pid")], stdin=subprocess.DEVNULL, capture_output=True, cwd=place,
            check=False,
        )  # fmt: skip
        if started.returncode:
            raise RexecError(f"condor_master failed: {started.stderr.decode('utf-8', 'replace').strip()[-300:]}")
        _await_ready(set(hosts))
    except BaseException:
        _stop(place)
        if not again:
            _remove(place)
        raise


def _await_ready(hosts: set[str]) -> None:
    until = time.monotonic() + _READY
    known: set[str] = set()
    while known != hosts:
        if time.monotonic() > until:
            raise RexecError(
                f"the pool has not come up within {_READY:.0f} s: it does not reach {', '.join(sorted(hosts - known))}"
            )
        time.sleep(_PAUSE)
        try:
            said = condor.ask(["condor_status", "-constraint", "RexecReached =?= True", "-af", "Machine"])
        except RexecError:
            continue  # its collector has only just begun
        known = set(said.split()) & hosts


def down() -> None:
    """End all of it, and remove what it had. Raises RexecError."""
    _stop(directory())
    _end_orphans(directory() / "execute")
    _remove(directory())


def _end_orphans(execute: Path) -> None:
    """End the pilots that run on since what had started them was killed."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if any(word.startswith(os.fsencode(execute) + b"/") and word.endswith(_PILOT) for word in words):
            with suppress(OSError):  # it has ended; or it is another user's, and none of the pool's
                os.kill(int(process.name), signal.SIGKILL)


def _stop(place: Path) -> None:
    pid = _master(place)
    if pid:
        os.kill(pid, signal.SIGQUIT)  # at once: SIGTERM waits for jobs
        until = time.monotonic() + _STOPS
        while _master(place):
            if time.monotonic() > until:
                raise RexecError(f"condor_master, process {pid}, has not ended within {_STOPS:.0f} s: see {place}/log")
            time.sleep(_PAUSE)


def _master(place: Path) -> int:
    """Return the process that is condor_master; 0: it is gone."""
    try:
        pid = int((place / "pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if os.fsencode(place / "pid") in words else 0


def _remove(place: Path) -> None:
    import shutil  # seldom

    if place.exists():
        shutil.rmtree(place)


def _program(name: str) -> str:
    found = programs.find(name) or next((path for path in (f"/usr/sbin/{name}",) if os.access(path, os.X_OK)), None)
    if found is None:
        raise RexecError(f"there is no {name} here: as root, apt-get install condor (on this machine alone)")
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def hold(job: str, leaves: Path | None = None) -> tuple[str, subprocess.Popen[bytes]]:
    """Have the pilot of a running job ("CLUSTER.PROC") keep its place, until the process that is returned has its input
    closed. Also returns the host of that place. Raises RexecError.

    `leaves`: a file that is made where HTCondor wants the place back, which is kept until then all the same.
    """
    command = "exec cat >/dev/null" if leaves is None else _KEEPS.format(shlex.quote(str(leaves)))
    place, words = _scratch(job), ["run", command.encode("utf-8", "surrogateescape").hex()]
    host = place.relative_to(directory() / "execute").parts[0]
    return host, subprocess.Popen(
        ["python3", condor.PILOT, *words], cwd=place, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def end(job: str, status: int) -> subprocess.Popen[bytes]:
    """Have the pilot of a running job end with `status`; not waited for: that it has, the log tells."""
    try:
        place, argv = _scratch(job), ["python3", condor.PILOT, "end", str(status)]
    except RexecError:
        place, argv = Path("/"), ["false"]  # it is told again, if it runs all the same
    return subprocess.Popen(
        argv, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def _scratch(job: str) -> Path:
    """Find the directory that HTCondor has made for a job."""
    cluster, _, number = job.partition(".")
    wanted = {f"ClusterId = {cluster}", f"ProcId = {number}"}
    for ad in (directory() / "execute").glob("*/dir_*/**/.job.ad"):
        try:
            if wanted <= set(ad.read_text("utf-8", "replace").splitlines()):
                return ad.parent
        except FileNotFoundError:
            continue  # that job has just ended
    raise RexecError(f"HTCondor's job {job} has no directory here: it has just lost its place")
