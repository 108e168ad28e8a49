"""What a host may say, and what it may not: each message is checked as it enters."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.wire import compat
from remoteio.errors import ProtocolError
from remoteio.printable import printable
from remoteio.wire import frames
from shim.execute import probe
from shim.submit import host_frames
from shim.submit.hosts import facts as host_facts
from shim.submit.job import image_head
from shim.submit.shapes import ShapeError, decoded
from shim.wire import job_messages

HELLO: dict[str, list[bytes]] = {
    "host": [b"alpha"], "time": [b"1700000000000000000"], "uids": [b"0 1", b"1 65535"], "gids": [],
    "shown": [b"0", b"0"],
}  # fmt: skip
HEAD: dict[str, Any] = {
    "streams": {"stdout": 1, "stderr": 2, "stdin": 3, "stdin_unread": "00ff"},
    "facts": compat.host_facts((4, 1), "root").plain(),
    "stdin_ended": False, "pipes": {"1": 4711}, "terminal": [34816, 30], "frozen": True, "stopped": [101],
    "handles": [[1, 3, 7]], "numbers": {"4711": 101}, "last_pid": 102, "frozen_us": 10, "keep_tcp": False, "root": 2,
    "criu": {"frozen_us": 9},
}  # fmt: skip


def test_text_of_others_moves_no_cursor_and_forges_no_line() -> None:
    assert printable("\x1b[2J\rgone\n\x9b1m\ud800\u202e") == "\\x1b[2J\\x0dgone\\x0a\\x9b1m\\ud800\\u202e"
    assert printable("naïve 日本") == "naïve 日本"
    assert printable("x" * 2000) == "x" * 999 + "…"
    printable("\ud800").encode()


@given(st.text(st.characters()))
def test_printable_text_can_always_be_printed(text: str) -> None:
    shown = printable(text, None)
    assert shown.isprintable() or not shown
    shown.encode()


def test_a_hello_as_it_is() -> None:
    said = host_frames.hello(frames.pack_fields(HELLO))
    assert said == host_frames.Hello("alpha", 1700000000000000000, [(0, 1), (1, 65535)], [], (0, 0))


@pytest.mark.parametrize(
    "changed",
    [
        {"time": [b"1" + b"0" * 400]}, {"time": [b"now"]}, {"time": []}, {"host": []}, {"host": [b"a", b"b"]},
        {"uids": [b"0"]}, {"uids": [b"0 1 2"]}, {"uids": [b"-1 1"]}, {"uids": [b"0 4294967296"]},
        {"gids": [b"0 1"] * 341}, {"shown": [b"0"]}, {"shown": ["²".encode(), b"0"]},
    ],
)  # fmt: skip
def test_a_hello_that_no_host_says(changed: dict[str, list[bytes]]) -> None:
    with pytest.raises(ProtocolError):
        host_frames.hello(frames.pack_fields({**HELLO, **changed}))


def test_a_hello_that_lacks_something() -> None:
    for name in ("host", "time", "uids", "gids"):
        with pytest.raises(ProtocolError, match=name):
            host_frames.hello(frames.pack_fields({key: value for key, value in HELLO.items() if key != name}))


def test_a_hosts_name_is_made_printable() -> None:
    assert host_frames.hello(frames.pack_fields({**HELLO, "host": [b"a\x1b[1m\xff"]})).host == "a\\x1b[1m\\udcff"


@pytest.mark.parametrize("status", [0, 3 << 8, 255 << 8, 9, 11 | 0x80, 64, 34])
def test_wait_statuses_of_processes_that_ended(status: int) -> None:
    assert host_frames.exit_status(status.to_bytes(4, "little")) == status


@pytest.mark.parametrize("status", [0x137F, (1 << 32) - 1, 126, 19, 127, 0x80, 1 << 16, 65, 17, signal.SIGCONT, 0x109])
def test_what_is_no_wait_status_of_a_process_that_ended(status: int) -> None:
    with pytest.raises(ShapeError, match="no wait status"):
        host_frames.exit_status(status.to_bytes(4, "little"))


def test_a_failure_has_one_of_our_codes_and_printable_text() -> None:
    assert host_frames.failure(b"\x7f\0\0\0no\x1b]0;x\x07 \xff") == (127, "no\\x1b]0;x\\x07 \N{REPLACEMENT CHARACTER}")
    for payload in (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7d", b"\x01\0\0\0text"):
        with pytest.raises(ShapeError, match="exit status"):
            host_frames.failure(payload)


def test_a_credit_is_for_what_was_under_way() -> None:
    assert host_frames.credit(bytes((frames.STDIN,)) + (1 << 20).to_bytes(4, "little")) == (frames.STDIN, 1 << 20)
    assert host_frames.credit(bytes((frames.PUSHED,)) + (4 << 20).to_bytes(4, "little")) == (frames.PUSHED, 4 << 20)
    for kind, count in (
        (frames.STDOUT, 1),
        (frames.PUSHED, (4 << 20) + 1),
        (frames.IMAGE, (4 << 20) + 1),
        (frames.STDIN, (1 << 32) - 1),
    ):
        with pytest.raises(ShapeError, match="never under way"):
            host_frames.credit(bytes((kind,)) + count.to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("kind", "size", "greeted"),
    [
        (frames.START, 0, True), (frames.ORDERED, 16, True), (frames.HELLO, 9, True), (frames.STARTED, 0, False),
        (frames.FUSE, 40, False), (frames.IMAGE, 1, False), (frames.EXIT, 4, False), (frames.EXIT, 3, True),
        (frames.CREDIT, 4, True), (frames.CREDIT, 6, True), (frames.CLOSED, 0, True), (frames.PING, 1, True),
        (frames.AFTER, 80, True), (frames.AFTER, 80, False),
    ],
)  # fmt: skip
def test_a_frame_that_is_not_due(kind: int, size: int, greeted: bool) -> None:
    with pytest.raises(ShapeError):
        host_frames.due(kind, size, greeted)


def test_frames_that_are_due() -> None:
    for kind, size, greeted in (
        (frames.PING, 0, False), (frames.NEWS, 9, False), (frames.FAIL, 40, False), (frames.HELLO, 9, False),
        (frames.FUSE, 40, True), (frames.STARTED, 0, True), (frames.CREDIT, 5, True), (frames.STDOUT, 0, True),
    ):  # fmt: skip
        host_frames.due(kind, size, greeted)
    host_frames.due(frames.AFTER, 80, True, behind=True)


def test_news_as_they_are() -> None:
    said = job_messages.news(job_messages.FROZEN, why="input seen by\x1b[0m\ud800", source="terminals", at=1.0)
    assert host_frames.news(said, True) == host_frames.News(job_messages.FROZEN, 0, "input seen by\\x1b[0m\\ud800")
    said = job_messages.news(job_messages.DUMPED, serial=1 << 20, frozen_us=1000, bytes=1 << 33)
    assert host_frames.news(said, True).serial == 1 << 20
    assert host_frames.news(job_messages.news(job_messages.CRIU, need="ab" * 32), False).what == job_messages.CRIU


@pytest.mark.parametrize(
    "said",
    [
        b"[" * 60_000, b"{" * 10, b"\xff", b"[]", b"{}", b'{"news": "party"}', b'{"news": ["moved"]}', b" " * 70_000,
        b'{"news": "moved", "serial": "1"}', b'{"news": "moved", "serial": -1}', b'{"news": "moved", "serial": true}',
        b'{"news": "moved", "serial": 1' + b"0" * 400 + b"}", b'{"news": "moved", "serial": 1' + b"0" * 5000 + b"}",
        b'{"news": "frozen", "why": {"a": 1}}', b'{"news": "moved", "more": 1}',
        b'{"news": "restored", "seconds": NaN}', b'{"news": "restored", "seconds": 1e999}',
    ],
)  # fmt: skip
def test_news_that_no_host_tells(said: bytes) -> None:
    with pytest.raises(ShapeError):
        host_frames.news(said, True)


def test_before_hello_only_criu_is_asked_for() -> None:
    for what in (job_messages.DUMPED, job_messages.RESTORED, job_messages.LEAVING):
        with pytest.raises(ShapeError, match="before HELLO"):
            host_frames.news(job_messages.news(what), False)


def test_a_head_as_it_is() -> None:
    said = image_head.parsed(json.dumps(HEAD).encode())
    assert said["streams"]["stdin_unread"] == b"\0\xff"
    assert {**said, "streams": HEAD["streams"]} == HEAD


@pytest.mark.parametrize(
    "changed",
    [
        {"streams": {**HEAD["streams"], "stdout": float("inf")}}, {"streams": {**HEAD["streams"], "stdin": -1}},
        {"streams": {**HEAD["streams"], "stdin_unread": "zz"}}, {"streams": []}, {"streams": None},
        {"facts": {}}, {"facts": {**HEAD["facts"], "flags": 7}}, {"facts": {**HEAD["facts"], "kernel": ["6"]}},
        {"handles": None}, {"handles": [[1]]}, {"handles": [["x", 1, 2]]}, {"handles": [[1, 2, float("nan")]]},
        {"numbers": []}, {"numbers": {"a": 1}}, {"numbers": {"9" * 30: 1}}, {"pipes": {"x": 1}}, {"terminal": [1]},
        {"stopped": [-1]}, {"last_pid": "1"}, {"keep_tcp": 1}, {"more": 1}, {"criu": {"x": 10**30}},
    ],
)  # fmt: skip
def test_a_head_that_no_host_sends(changed: dict[str, Any]) -> None:
    with pytest.raises(ShapeError):
        image_head.parsed(json.dumps({**HEAD, **changed}).encode())


@pytest.mark.parametrize("head", [b"", b"[" * 500_000, b"{}", b"null", b'{"streams": Infinity}'])
def test_a_head_that_is_none(head: bytes) -> None:
    with pytest.raises(ShapeError):
        image_head.parsed(head)


def test_this_machines_facts_have_the_shape_declared() -> None:
    told = json.loads(json.dumps(probe.facts()))
    assert host_facts.facts(told) == told


@pytest.mark.parametrize(
    "changed",
    [
        {"cores": 0}, {"uid": "0"}, {"login": None}, {"kernel": 6}, {"fuse": {}}, {"fuse": "yes"}, {"namespaces": []},
        {"settings": {"x": 1}}, {"subuid": [[1]]}, {"subuid": [[1, "x"]]}, {"owner": {}}, {"compat": {}}, {"load": "1"},
        {"load": float("inf")}, {"memory_total": -1}, {"more": 1},
    ],
)  # fmt: skip
def test_facts_that_no_host_tells(changed: dict[str, Any]) -> None:
    with pytest.raises(ShapeError):
        host_facts.facts({**json.loads(json.dumps(probe.facts())), **changed})


def test_a_name_of_the_host_cannot_move_the_doctors_cursor() -> None:
    told = {**json.loads(json.dumps(probe.facts())), "login": "alice\x1b[2K; rm -r ~", "kernel": "6.1\n6.2"}
    said = host_facts.facts(told)
    assert (said["login"], said["kernel"]) == ("alice\\x1b[2K; rm -r ~", "6.1\\x0a6.2")


def test_json_however_deep_or_long_is_read_or_refused() -> None:
    assert decoded(b'{"a": [1]}', "it") == {"a": [1]}
    for text in (b"[" * 1_000_000, b"1" * 10_000, b"\x80", b""):
        with pytest.raises(ShapeError, match="it is no JSON"):
            decoded(text, "it")


def test_a_reason_of_any_length_is_no_end_of_the_link() -> None:
    said = host_frames.news(job_messages.news(job_messages.REFUSED, serial=1, why="é" * 1_000_000), True)
    assert said.why.startswith("ééé")
