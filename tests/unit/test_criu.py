"""The pure part of checkpoint.execute.criu: messages, log, statistics, versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.execute import criu
from checkpoint.wire.protobuf import decode, encode


def test_requests_say_what_was_asked() -> None:
    request = decode(criu.dump_request(7, unprivileged=True, leave_running=True, ttys=(criu.tty_key(0x8800, 0x4B),)))
    assert request[1] == [criu.DUMP]
    assert isinstance(request[2][0], bytes)
    options = decode(request[2][0])
    assert options[2] == [7]
    assert options[3] == [1]
    assert options[37] == [b"tty[8800:4b]"]
    assert options[52] == [1]
    assert options[67] == [1]
    assert options[1] == [(1 << 64) - 1]


def test_restore_names_inherited_pipes_with_a_colon() -> None:
    request = decode(criu.restore_request(((10, criu.pipe_key(99)),), unprivileged=False))
    assert isinstance(request[2][0], bytes)
    options = decode(request[2][0])
    assert isinstance(options[27][0], bytes)
    assert decode(options[27][0]) == {1: [b"pipe:[99]"], 2: [10]}


@given(st.binary())
def test_garbage_is_an_answer_or_a_criu_error(raw: bytes) -> None:
    try:
        criu.parse_answer(raw)
        criu.parse_stats(raw)
    except criu.CriuError as e:
        assert str(e).startswith("criu")


LOG = """(00.000059) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.016435) Error (criu/net.c:1253): net: Unexpected error: -1(Operation not permitted)
(00.061000) Error (%s)
(00.062000) Error (criu/cr-dump.c:2111): Dumping FAILED.
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "criu/files-reg.c:1): Can't lookup mount=24 for fd=10 path=/dev/null",
            "descriptor 10 (/dev/null) was opened out",
        ),
        ("criu/cr-restore.c:1): Can't fork for 1001: File exists", "process number 1001 is already taken"),
        ("criu/files-reg.c:1): File a/b has bad size 9 (expect 5)", "file a/b has 9 bytes now but had 5"),
        ("criu/pie.c:1): vdso: Unexpected rt vDSO area bounds", "too old for this kernel"),
        ("criu/files.c:1): Can't stat fd 21: Stale file handle", "a path that the job holds was removed"),
        ("criu/files-reg.c:1): Can't fstat exe link: Stale file handle", "the job's working directory was removed"),
        ("criu/x.c:1): something new", "criu: something new"),
    ],
)
def test_the_first_error_that_matters_in_plain_words(line: str, words: str) -> None:
    assert words in criu.explain(LOG.replace("%s)", line))


AT = """(00.010000) Dumping task (pid: 12 comm: python3)
(00.011000) Dumping opened files (pid: 12)
(00.011001) ----------------------------------------
(00.011002) 12 fdinfo 4: pos:                0 flags:                2/0
(00.011003) 12 fdinfo 5: pos:                0 flags:                2/0
"""


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            AT + LOG.replace("%s)", "criu/sk-inet.c:1): inet: Can't dump corked dgram socket 1a"),
            "process 12 (python3), descriptor 5: a UDP socket gathers what it is to send (UDP_CORK), which CRIU cannot "
            "save (criu: inet: Can't dump corked dgram socket 1a)",
        ),
        (
            AT + "(00.012) ----------------------------------------\n(00.013) Error (criu/mem.c:1): something new\n",
            "process 12 (python3): CRIU gave up there (criu: something new)",
        ),
        (
            AT + "(00.2) Dumping file-locks\n(00.3) Error (criu/sk-unix.c:1): unix: External socket is used.\n",
            "a unix socket leads to a process outside the job (criu: unix: External socket is used.)",
        ),
        (
            "(00.2)     12: Error (criu/sk-inet.c:1): inet: Can't bind inet socket (id 12): Address already in use\n",
            "process 12: a port that the job has is taken on this host "
            "(criu: inet: Can't bind inet socket (id 12): Address already in use)",
        ),
    ],
)
def test_the_error_is_laid_to_a_process_and_a_descriptor(log: str, said: str) -> None:
    assert criu.explain(log) == said


def test_no_error_is_said_as_such() -> None:
    assert criu.explain("(00.1) all well\n") == "criu gave no reason"


def test_stats_of_a_real_dump() -> None:
    entry = encode([(1, encode([(1, 432), (2, 119575), (3, 1329), (4, 277), (5, 104), (7, 61)]))])
    raw = bytes.fromhex("0633095 75a4d5466".replace(" ", "")) + len(entry).to_bytes(4, "little") + entry
    assert criu.parse_stats(raw)["frozen_us"] == 119575
    with pytest.raises(criu.CriuError, match="cut short"):
        criu.parse_stats(raw[:-1])


def test_versions() -> None:
    assert criu.parse_version("Version: 4.1.1\n") == (4, 1, 1)
    assert "too old for kernel 6.18" in criu.too_old((3, 17, 1), (6, 18))
    assert criu.too_old((4, 1, 1), (6, 18)) == ""
    assert criu.too_old((4, 0), (6, 1)) == ""
    with pytest.raises(criu.CriuError):
        criu.parse_version("usage")
