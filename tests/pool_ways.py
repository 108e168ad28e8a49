"""In which ways jobs lose their places on an engine, and go on in others: for test_pool_moves.py.

Each is told of jobs on one host that have images, and returns when all of them run on elsewhere, or in a new place.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.pool import DOES, Access
from tests.pool_kinds import Kinds

# Types at a terminal of its own, as somebody does who is back, to a program that reads it.
_TYPES = """
import os, time
keys, terminal = os.openpty()
while True:
    os.write(keys, b"key\\n")
    os.read(terminal, 100)
    time.sleep(0.7)
"""
# HTCondor's own policy for desktops, with times that a test waits for. That the machine is kept busy is no reason here:
# it is, by other tests. Debian 13 keeps no utmp, by which HTCondor would look for terminals.
_DESKTOP = """
use POLICY : DESKTOP
STARTD_HAS_BAD_UTMP = True
StartIdleTime = 30
ContinueIdleTime = 30
MaxSuspendTime = 5
HighLoad = 1000
BackgroundLoad = 1000
"""
_PREFERS = 'RANK = TARGET.Owner == "fishy"\n'
_PREFERRED = """
executable = /bin/sleep
transfer_executable = False
arguments = 1000
request_cpus = 1
request_memory = 64M
request_disk = 16M
requirements = Machine == "{host}"
queue 4
"""
_OWNER = 'start_idle = "30s"\n'


@contextmanager
def _typing(alice: Access, host: str) -> Iterator[None]:
    with subprocess.Popen(alice.pool.argv(host, ["python3", "-c", _TYPES], "alice")) as typing:
        try:
            yield
        finally:
            typing.kill()
            alice.pool.on(host, "pkill", "-f", "openpty")


def vacated(alice: Access, jobs: Kinds) -> None:
    """The engine takes their places: condor_vacate_job, scontrol requeue."""
    with jobs.moved():
        alice(*DOES[alice.engine]["vacate"], jobs.engines())


def told(alice: Access, jobs: Kinds) -> None:
    """Their user has them leave."""
    with jobs.moved():
        alice("rexec", "vacate", jobs.name)


def vacated_at_once(alice: Access, jobs: Kinds) -> None:
    """HTCondor takes their places, and gives no time to save them."""
    with jobs.moved():
        alice("condor_vacate_job", "-fast", jobs.engines())


def preferred(alice: Access, jobs: Kinds) -> None:
    """HTCondor gives their places to jobs that the machine's RANK prefers."""
    wanted = _PREFERRED.format(host=jobs.host)
    with alice.configured(jobs.host, _PREFERS):
        with jobs.moved(elsewhere=True):
            alice.pool.on("p1", "sh", "-c", f"echo '{wanted}' | condor_submit -terse", user="fishy")
        alice.pool.on("p1", "condor_rm", "fishy", user="fishy")


def preempted(alice: Access, jobs: Kinds) -> None:
    """Slurm gives all nodes to a partition of a higher tier."""
    with jobs.moved():
        whole = ("-p", "high", "-N2", "--exclusive", "-o/dev/null", "--wrap=sleep 1000")
        others = alice("sbatch", "--parsable", *whole).strip()
        jobs.are("waiting")
        alice("scancel", others)


def at_the_keyboard(alice: Access, jobs: Kinds) -> None:
    """Somebody types on their host, of which HTCondor's policy is that of a desktop."""
    with alice.configured(jobs.host, _DESKTOP), jobs.moved(elsewhere=True), _typing(alice, jobs.host):
        jobs.are("waiting")


def owned(alice: Access, jobs: Kinds) -> None:
    """Somebody types on their host, whose owner has a word of rexec's."""
    alice.pool.on(jobs.host, "sh", "-c", f"mkdir -p /etc/rexec && echo '{_OWNER}' >/etc/rexec/owner.toml")
    try:
        with jobs.moved(elsewhere=True), _typing(alice, jobs.host):
            jobs.are("waiting")
    finally:
        alice.pool.on(jobs.host, "rm", "-r", "/etc/rexec")


def held(alice: Access, jobs: Kinds) -> None:
    """Their user holds them, and releases them."""
    with jobs.moved():
        alice("rexec", "hold", jobs.name)
        jobs.are("held")
        alice("rexec", "release", jobs.name)


def held_there(alice: Access, jobs: Kinds) -> None:
    """Somebody else holds them, and releases them: condor_hold, scontrol requeuehold."""
    with jobs.moved():
        alice(*DOES[alice.engine]["hold"], jobs.engines())
        jobs.are("held")
        alice(*DOES[alice.engine]["release"], jobs.engines())


def died(alice: Access, jobs: Kinds) -> None:
    """Their host dies, and is up again only when they have gone on elsewhere."""
    with jobs.moved(elsewhere=True):
        alice.dies(jobs.host)
    alice.pool.boot(jobs.host)


Way = Callable[[Access, Kinds], None]
WAYS: dict[str, tuple[Way, ...]] = {
    "condor": (vacated, vacated_at_once, told, preferred, at_the_keyboard, owned, held, held_there, died),
    "slurm": (vacated, told, preempted, owned, held, held_there, died),
}
