"""Note where the agents of a job are, so that a later supervisor can have them ended.

The file `agent-N` of the job's directory, which only this user may read, is there from before the first request for a
file of generation N is answered until its agent is known to be no more. So what has none acts for no longer than an
agent waits that home has not answered (shim/execute/agent/stay.py).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from checkpoint.durable import sync_directory
from remoteio.errors import ProtocolError, RexecError
from remoteio.submit.export import node_log
from remoteio.submit.export.node_log import NodeLog, Told
from shim.submit.job.output_file import boot_id
from shim.submit.shapes import ShapeError, decoded, listed, string, table, whole
from shim.wire.rendezvous import SECRET, Whereabouts

_NAME = "agent-"
_SHAPE = table({"generation": whole(), "host": string, "secret": string, "door": listed(string, 5)}, {})


@dataclass(frozen=True, slots=True)
class Noted:
    """An agent that may be there: of which generation, on which host, by that host's name here, and how it is asked."""

    generation: int
    host: str
    secret: bytes
    where: Whereabouts


def note(directory: Path, agent: Noted) -> None:
    """Put it down, durably. Raises OSError."""
    door = [os.fsdecode(item) for item in agent.where.pack()]
    row = {"generation": agent.generation, "host": agent.host, "secret": agent.secret.hex(), "door": door}
    new = directory / f"new-{_NAME}{agent.generation}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(fd)
    os.rename(new, directory / f"{_NAME}{agent.generation}")
    sync_directory(directory)


def forget(directory: Path, generation: int) -> None:
    """Remove what is noted of that generation, whose agent is no more. Raises OSError."""
    nodes = _nodes(directory, generation)
    for path in (directory / f"{_NAME}{generation}", nodes, Path(node_log.doings_of(str(nodes)))):
        path.unlink(missing_ok=True)


def log(directory: Path, generation: int, waits: bool) -> NodeLog:
    """Make what notes which files that generation uses, for a supervisor after this one; `waits`: as of NodeLog."""
    return NodeLog(str(_nodes(directory, generation)), boot_id(), waits)


def told(directory: Path, generation: int) -> Told:
    """Read what is noted of that generation's files. Raises Unfit."""
    return node_log.read(str(_nodes(directory, generation)), boot_id())


def _nodes(directory: Path, generation: int) -> Path:
    return directory / f"nodes-{generation}"


def noted(directory: Path) -> list[Noted]:
    """Read what was noted and not forgotten. Raises RexecError where it cannot be read."""
    return [_read(path) for path in sorted(directory.glob(f"{_NAME}*"))]


def _read(path: Path) -> Noted:
    try:
        row = _SHAPE(decoded(path.read_bytes(), "it"), "it")
        where = Whereabouts.unpack([os.fsencode(item) for item in row["door"]])
        secret = bytes.fromhex(row["secret"])
        if len(secret) != SECRET:
            raise ShapeError("its secret is of another length")
        return Noted(row["generation"], row["host"], secret, where)
    except (OSError, ValueError, ProtocolError) as error:
        raise RexecError(
            f"{path}, which says where the job may be running, cannot be read: {error}; remove it once nothing of the "
            "job runs there"
        ) from error
