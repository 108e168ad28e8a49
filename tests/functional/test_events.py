"""A job's log: it survives crashes, and HTCondor's own reader reads its rendering."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import htcondor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.submit.job.events import (
    MOST_TOLD,
    Event,
    EventLog,
    EventLogError,
    Kind,
    condor_log,
    parse_event,
    read_events,
)

AT = 1_700_000_000.25
HISTORY = [
    Event(AT, Kind.SUBMIT, host="desk", command="python3 job.py 'a b'"),
    Event(AT + 1, Kind.EXECUTE, host="alpha"),
    Event(AT + 2, Kind.CHECKPOINT, host="alpha", image="1", size=123456),
    Event(AT + 3, Kind.SUSPEND, host="alpha", processes=3, reason="input seen by terminals: /dev/pts/0"),
    Event(AT + 4, Kind.RESUME, host="alpha", reason="no further input for 10 s"),
    Event(AT + 5, Kind.DISCONNECT, host="alpha", reason="the link is down"),
    Event(AT + 7, Kind.NOTE, reason="text\n...\nof several lines"),
    Event(AT + 8, Kind.EVICT, host="alpha", reason="further input", image="2"),
    Event(AT + 9, Kind.HOLD, reason="by the user"),
    Event(AT + 10, Kind.RELEASE, reason="by the user"),
    Event(AT + 11, Kind.EXECUTE, host="beta"),
    Event(AT + 12, Kind.EVICT, host="beta", reason="not saved"),
    Event(AT + 13, Kind.LOST, host="beta", reason="it lost power"),
    Event(AT + 14, Kind.END, status=0),
    Event(AT + 15, Kind.END, status=3),
    Event(AT + 16, Kind.END, signal=9),
    Event(AT + 17, Kind.ABORT, reason="by the user"),
    Event(AT + 18, Kind.RECONNECT, host="alpha"),
]


def test_condors_reader_reads_every_kind(tmp_path: Path) -> None:
    assert {event.kind for event in HISTORY} == set(Kind)
    path = tmp_path / "job.log"
    path.write_text(condor_log(HISTORY, 42))
    read = [
        (event.type, event.cluster, event.proc, dict(event)) for event in htcondor2.JobEventLog(str(path)).events(0)
    ]
    numbers = [0, 1, 3, 10, 11, 22, 8, 4, 12, 13, 1, 4, 24, 5, 5, 5, 9, 23]
    assert [int(kind) for kind, *_ in read] == numbers
    assert {(cluster, proc) for _, cluster, proc, _ in read} == {(42, 0)}
    values = [attributes for *_, attributes in read]
    assert values[0]["LogNotes"] == "python3 job.py 'a b'"
    assert values[0]["EventTime"] == time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(AT))
    assert values[1]["ExecuteHost"] == "<alpha>"
    assert values[2]["SentBytes"] == 123456
    assert values[2]["RunRemoteUsage"] == "Usr 0 00:00:00, Sys 0 00:00:00"
    assert values[3]["NumberOfPIDs"] == 3
    assert values[5]["DisconnectReason"] == "the link is down"
    assert values[6]["Info"] == "text ... of several lines"
    assert (values[7]["Checkpointed"], values[7]["Reason"]) == (True, "further input")
    assert values[8]["HoldReason"] == "by the user"
    assert values[11]["Checkpointed"] is False
    assert values[12]["StartdName"] == "beta"
    assert (values[13]["TerminatedNormally"], values[13]["ReturnValue"]) == (True, 0)
    assert values[14]["ReturnValue"] == 3
    assert (values[15]["TerminatedNormally"], values[15]["TerminatedBySignal"]) == (False, 9)
    assert (values[17]["StartdName"], values[17]["StartdAddr"]) == ("alpha", "<alpha>")


def test_what_is_appended_is_read_back_and_can_be_followed(tmp_path: Path) -> None:
    path = tmp_path / "events"
    log = EventLog(path)
    log.append(HISTORY[0])
    events, offset = read_events(path)
    assert events == HISTORY[:1]
    assert read_events(path, offset) == ([], offset)
    for event in HISTORY[1:]:
        log.append(event)
    log.close()
    assert read_events(path, offset)[0] == HISTORY[1:]
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text().splitlines()[13])["status"] == 0


@pytest.mark.parametrize("torn", [b"{", b'{"at": 1.0, "kind": "execute"' + b" " * 9000])
def test_a_line_torn_by_a_crash_is_not_read_and_not_grown_upon(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events"
    path.write_bytes(HISTORY[0].to_json().encode() + torn)
    assert read_events(path)[0] == HISTORY[:1]
    log = EventLog(path)
    log.append(HISTORY[1])
    log.close()
    assert read_events(path)[0] == HISTORY[:2]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        '{"at": 1}',
        '{"at": "x", "kind": "end"}',
        '{"at": 1, "kind": "nap"}',
        '{"at":1,"kind":"end","x":1}',
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events"
    first = HISTORY[0].to_json()
    path.write_text(first + line + "\n")
    with pytest.raises(EventLogError, match=f"is damaged at byte {len(first)}: "):
        read_events(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], check=True)
    try:
        log = EventLog(disk / "events")
        long = Event(AT, Kind.NOTE, reason="x" * 3000)
        with pytest.raises(EventLogError, match="cannot be written: No space left on device"):
            for _ in range(10):
                log.append(long)
        log.close()
        events, offset = read_events(disk / "events")
        assert set(events) == {long}
        assert offset == (disk / "events").stat().st_size
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(EventLogError, match="cannot be read: No such file or directory"):
        read_events(tmp_path / "none")
    with pytest.raises(EventLogError, match="cannot be written: No such file or directory"):
        EventLog(tmp_path / "none" / "events")


@given(
    st.builds(
        Event,
        at=st.floats(0, 4e9),
        kind=st.sampled_from(Kind),
        host=st.text(max_size=10),
        reason=st.text(st.characters(), max_size=20),
        command=st.text(st.characters(), max_size=20),
        size=st.integers(0, 2**63),
        status=st.one_of(st.none(), st.integers(0, 255)),
        signal=st.one_of(st.none(), st.integers(1, 64)),
    )
)
def test_every_event_survives_its_line(event: Event) -> None:
    line = event.to_json()
    assert line.isascii()
    assert line.count("\n") == 1
    assert parse_event(line) == event
    rendered = condor_log([event], 1)
    rendered.encode()
    assert rendered.endswith("...\n")
    assert rendered.split("\n")[:-1].count("...") == 1


def test_a_host_that_tells_without_end_fills_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "events"
    log = EventLog(path)
    log.append(Event(1.0, Kind.NOTE, reason="before"))
    os.truncate(path, MOST_TOLD)
    for _ in range(3):
        log.append(Event(2.0, Kind.NOTE, reason="again"))
        log.append(Event(2.0, Kind.SUSPEND, host="alpha", reason="again"))
    log.append(Event(3.0, Kind.EVICT, host="alpha"))
    log.close()
    said = path.read_bytes()[MOST_TOLD:].splitlines()
    assert [parse_event(line.decode()).kind for line in said] == [Kind.NOTE, Kind.NOTE, Kind.EVICT]
