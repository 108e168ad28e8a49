"""The supervisor of a batch as a process of its own, in the background: started by ``start``, and ended with the batch.

As that of a job with --checkpoint it is a fresh interpreter and no fork (shim/submit/job/detached.py). It is given the
descriptor that holds the batch's lock; so at no time could there be two.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from remoteio.errors import RexecError
from shim.submit import faults, own_code
from shim.submit.batch import record
from shim.submit.batch.cluster import Cluster
from shim.submit.batch.dag import Dag
from shim.submit.batch.personal_places import OwnDag, OwnPool
from shim.submit.batch.places import Desk, Places, Pool
from shim.submit.batch.record import CONDOR, LOCAL, Directory
from shim.submit.batch.supervisor import Supervisor
from shim.submit.engines import personal

_TERMINALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


def start(directory: Directory) -> bool:
    """Start a supervisor of a batch. False: it has one. Raises RexecError."""
    lock = directory.lock()
    if lock < 0:
        return False
    try:
        with open(directory.path / "errors", "ab", opener=_private) as errors:
            subprocess.run(
                [*own_code.command(__name__), directory.name, str(lock)],
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=(lock,), start_new_session=True,
                check=True,
            )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as e:
        raise RexecError(f"the supervisor of batch {directory.name} could not start: {e}") from e
    finally:
        os.close(lock)
    return True


def main() -> None:
    """Be what `start` starts, until all jobs of the batch have ended."""
    own_code.import_only_ours()
    name, lock = sys.argv[1:]
    os.set_inheritable(int(lock), False)
    if os.fork():
        os._exit(0)
    os.setsid()  # those who wait in the desk's line are told apart by it
    for number in _TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    directory, _ = record.find(name)
    status = 1
    try:
        Supervisor(directory, _places(directory)).run()
        status = 0
    except faults.SAID as error:
        print("rexec:", error, file=sys.stderr, flush=True)
    except BaseException as error:  # else nobody would ever hear of it
        faults.record(directory.path / "errors", f"supervising batch {name}", error)
    os._exit(status)


def _places(directory: Directory) -> Places:
    batch, given = directory.batch(), directory.story().engine
    if batch.engine == LOCAL:
        return Desk(batch.on, batch.words)
    if not given:
        raise RexecError("the batch was never given to its engine: submit it again")
    environ = dict(item.split("=", 1) for item in batch.environ)
    own = personal.used(environ)
    if personal.VARIABLE in environ:  # whoever starts its supervisor may have set another
        os.environ[personal.VARIABLE] = environ[personal.VARIABLE]
    if batch.dag:
        return (OwnDag if own else Dag)(directory.path, given, batch)
    if batch.engine == CONDOR and own:
        return OwnPool(directory.path, given, saves=batch.moves)
    if batch.engine == CONDOR:
        return Pool(directory.path, given)
    return Cluster(directory.path, given, environ)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
