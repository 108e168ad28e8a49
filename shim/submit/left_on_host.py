"""What a run that was killed may have left on its host: noted while it runs, and ended by who finds the note.

A file that only this user may read says how the run's agent is asked. It is there from before the first request of the
run is answered until the run is over. Where it still is once nothing here serves the run, the host may run the job for
its lease: who finds it starts `main`, which dials the host as for an rexec that was killed (hosts/orphaned.py), and
removes the file once that agent is known to be no more. So a job that has such a file need not run twice.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoint.durable import sync_directory
from shim.submit import own_code
from shim.submit.hosts import orphaned
from shim.wire.lease import LOST

if TYPE_CHECKING:
    from shim.submit.hosts.dialler import Dialler

_MORE = 60.0  # seconds beyond a lease, for a process that dials to begin


def note(where: Path, dialler: Dialler) -> bytes:
    """Put down at `where` how that agent is asked, durably; empty: none has to be. Raises OSError."""
    if orphaned.ends_by_itself(dialler.host) or dialler.agent.where is None:
        return b""
    said = orphaned.words(dialler.host, dialler.agent)
    new = where.with_name(f"new-{where.name}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(said)
        file.flush()
        os.fsync(fd)
    os.rename(new, where)
    sync_directory(where.parent)
    return said


def forget(where: Path, said: bytes) -> None:
    """Remove what `note` has put down: not what the job's next run has, where this one's supervisor was killed."""
    with suppress(OSError):
        if said and where.read_bytes() == said:
            where.unlink()


def over(where: Path) -> float:
    """Return when nothing runs any more of what is noted there; 0: nothing is."""
    try:
        lease = float(json.loads(where.read_bytes())["lease"])
    except FileNotFoundError:
        return 0.0
    except (ValueError, LookupError, TypeError):  # not a version's that is known here: it could not be asked
        where.unlink(missing_ok=True)
        return 0.0
    return time.monotonic() + lease + LOST + _MORE


def main() -> None:
    """Be what ends those that are noted in the files it is given: all at a time, for one may have to wait."""
    own_code.import_only_ours()
    threads = [threading.Thread(target=_end, args=(Path(name),), name=f"end {name}") for name in sys.argv[1:]]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def _end(where: Path) -> None:
    with suppress(FileNotFoundError):  # its run has ended it meanwhile, or the batch has gone
        said = where.read_bytes()
        orphaned.end(said)
        forget(where, said)
