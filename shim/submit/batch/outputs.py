"""What the files are called to which the jobs of a batch write, and that they are nobody else's.

A name that nobody chose carries the batch's number: whoever says the same command twice in a directory has the output
of both. One that was chosen says what is to be written where, but not that what is there is of no more use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from remoteio.errors import RexecError
from shim.submit.batch.record import Batch, Directory

_ELSE = "name others by --name, --output or --error"


def templates(stem: str, output: str | None, error: str | None, *, named: bool) -> tuple[str, str]:
    """Return where the output of a job goes, and its standard error: {} is its number, {batch} its batch. Pure."""
    begin = stem if named else f"{stem}.{{batch}}"
    return output or f"{begin}.{{}}.out", error or f"{begin}.{{}}.err"


def check(own: Directory, others: Iterable[Directory]) -> None:
    """See that no job of a batch, which is on record, writes over what another has written, or is to write.

    So whoever of two is first on record is seen by the other, and it may be that neither is begun. Raises RexecError.
    """
    batch = own.batch()
    if not batch.dag:  # its nodes are told apart by DAGMan, and a DAG that is run again begins them anew
        _check_apart(batch)
        _check_free(batch)
    mine = set(_templates(batch))
    for other in others:
        if other.number == own.number:
            continue
        try:
            theirs = other.batch()
            if mine.isdisjoint(_templates(theirs)):
                continue
            over = other.story().over()
        except (RexecError, OSError):
            continue  # `rexec jobs` says what it has
        if batch.dag:
            _check_nodes(batch, theirs, other.name, over)
        elif not over:
            shared = os.path.basename(min(mine.intersection(_templates(theirs))))
            raise RexecError(f"{other.name}, which has not ended, writes to {shared} too: {_ELSE}")


def _check_apart(batch: Batch) -> None:
    """See that each job, and its standard error, has a file of its own."""
    for option, template in (("--output", batch.out), ("--error", batch.err)):
        if batch.count > 1 and "{}" not in template and not _swallows(os.path.join(batch.directory, template)):
            raise RexecError(f"{option} {template}: all jobs would write to one file: have {{}}, their number, in it")
    if batch.out == batch.err and not _swallows(batch.outputs(0)[0]):
        raise RexecError(f"--output and --error are one file, {batch.out}: for that say `sh -c 'CMD 2>&1'`")


def _check_free(batch: Batch) -> None:
    for path in (path for job in range(batch.count) for path in batch.outputs(job)):
        if _holds(path):
            shown = os.path.relpath(path, batch.directory)
            raise RexecError(f"{shown} is there already, and is not written over: remove it, or {_ELSE}")


def _check_nodes(batch: Batch, theirs: Batch, name: str, over: bool) -> None:
    """See that a DAG's nodes are called otherwise than those of another DAG of that directory."""
    if not theirs.dag or theirs.dag == batch.dag:
        return
    for node in sorted(set(batch.names).intersection(theirs.names)):
        if not over or any(map(_holds, batch.outputs(batch.names.index(node)))):
            whose = f"{node}.out is of {name} ({os.path.basename(theirs.command[-1])})"
            raise RexecError(f"{whose}: remove it once that has ended, or call the node otherwise")


def _templates(batch: Batch) -> Iterator[str]:
    """Name the files that are one for all batches that say so: not devices."""
    found = (os.path.join(batch.directory, each) for each in (batch.out, batch.err))
    return (each for each in found if not _swallows(each))


def _swallows(path: str) -> bool:
    """Tell whether it is a device or a pipe: /dev/null takes anything."""
    return os.path.exists(path) and not os.path.isfile(path)


def _holds(path: str) -> bool:
    """Tell whether a file is there that has something in it."""
    return os.path.isfile(path) and os.path.getsize(path) > 0
