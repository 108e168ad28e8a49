"""Which destinations are no host's, but an engine's job."""

from __future__ import annotations

import re

from remoteio.submit.transport.stream import Stream

_JOB = re.compile(r"condor:(?P<condor>\d{1,9}\.\d{1,9})|slurm:(?P<slurm>\d{1,10})")


def is_job(destination: str) -> bool:
    """Tell whether `destination` names a job of an engine, such as "condor:12.0" or "slurm:12"."""
    return _JOB.fullmatch(destination) is not None


def open_job(destination: str, command: str) -> Stream:
    """Run `command` in that job. Raises TransportError."""
    found = _JOB.fullmatch(destination)
    assert found is not None
    if found["condor"] is not None:
        from shim.submit.engines import condor  # few runs are an engine's

        return condor.stream(found["condor"], command)
    from shim.submit.engines import slurm

    return slurm.stream(found["slurm"], command)
