"""Targets: files of the user's and of rexec's own, which a job may have written to, and what a job's callers ask."""

from __future__ import annotations

import socket
from pathlib import Path

from shim.submit import names
from shim.submit.hosts import config
from shim.submit.job import control_socket, events, record
from tests.fuzz.target import scratch, target


@target(config.HostsError)
def hosts_toml(data: bytes) -> None:
    known = config.parse(data, "hosts.toml")
    for host in known.hosts:
        config.resolve(host.name, known)


@target(record.JobError)
def job_record(data: bytes) -> None:
    """job.json, and the job that is described in it."""
    with scratch() as top:
        Path(top, "job.json").write_bytes(data)
        found = record.Job(Path(top)).read()
        found.without_image()
        found.job_spec()
        found.job_scope()


@target(events.EventLogError)
def event_log(data: bytes) -> None:
    """A job's log, and what is made of it for HTCondor."""
    with scratch() as top:
        path = Path(top, "events.jsonl")
        path.write_bytes(data)
        found, at = events.read_events(path)
        assert at <= len(data)
        events.condor_log(found, 1)
        for event in found:
            assert events.parse_event(event.to_json()) == event


@target()
def control_request(data: bytes) -> None:
    """What a caller asks of a job's supervisor."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(data[:60000] + b"\n")
        ours.shutdown(socket.SHUT_WR)
        control_socket._client(theirs, lambda request, connection: connection.say(done=isinstance(request, dict)))
        assert ours.recv(1 << 16).endswith(b"\n")


@target()
def etc_hosts(data: bytes) -> None:
    """/etc/hosts of this machine, as a job is shown it."""
    assert b"me" in names.hosts(data, b"me").lower()


TARGETS = (hosts_toml, job_record, event_log, control_request, etc_hosts)
