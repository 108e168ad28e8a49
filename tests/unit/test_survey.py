"""One host of hosts.toml that answers wildly is shown as such, and passed over; nothing else happens."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from remoteio.submit.transport.stream import Stream
from shim.cli import doctor, hosts
from shim.execute import probe
from shim.submit.api.host_reports import report_of
from shim.submit.hosts import checks, survey
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host, Hosts
from shim.submit.hosts.survey import Report, ask
from shim.submit.job import next_host
from shim.submit.job.next_host import AllowedHosts
from shim.submit.job.placement_actions import Choose
from shim.submit.job.placement_events import Chosen, NoHost
from tests.agents import Wire
from tests.until import until

Answer = Callable[[bytes], bytes]
BAD, GOOD = Host("bad", "bad"), Host("good", "good")
FACTS = json.loads(json.dumps(probe.facts()))


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def facts_of(value: bytes) -> Answer:
    return lambda asked: line(1.0) if asked == b"t" else value


ANSWERS: dict[str, Answer] = {
    "text for the time": lambda asked: line("noon"),
    "a time without end": lambda asked: b"1e999\n",
    "a list for the time": lambda asked: line([1.0]),
    "deep": lambda asked: b"[" * 50_000 + b"\n",
    "no json": lambda asked: b"\xff\n",
    "long": lambda asked: b"1" * 200_000 + b"\n",
    "empty facts": facts_of(line({})),
    "a list of facts": facts_of(line([FACTS])),
    "deep facts": facts_of(b'{"uid": ' + b"[" * 50_000 + b"\n"),
    "text for sizes": facts_of(line({**FACTS, "memory_total": "much"})),
    "no owner": facts_of(line({**FACTS, "owner": None})),
    "a wild owner": facts_of(line({**FACTS, "owner": {**FACTS["owner"], "around": [1, 2, 3]}})),
    "wild compat": facts_of(line({**FACTS, "compat": {"machine": []}})),
}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Answer]:
    """What each host answers, by its name."""
    found: dict[str, Answer] = {"good": facts_of(line(FACTS))}

    def connect(host: Host, entry: str, **_: object) -> tuple[Stream, Facts]:
        assert entry == "shim.execute.probe:main"
        ours, theirs = socket.socketpair()

        def serve() -> None:
            with theirs:
                try:
                    while asked := theirs.recv(1):
                        theirs.sendall(found[host.name](asked))
                except OSError:
                    return  # it has heard enough

        threading.Thread(target=serve, daemon=True).start()
        return Wire(host.name, ours), Facts((3, 11, 2), "have", "")

    monkeypatch.setattr(survey, "connect", connect)
    return found


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_a_wild_answer_leads_to(answers: dict[str, Answer], answer: str) -> None:
    answers["bad"] = ANSWERS[answer]
    bad, good = survey.ask_all([BAD, GOOD], deadline=10)
    assert bad.error.startswith("bad misbehaves: its ")
    assert good.error == ""
    assert "bad misbehaves" in hosts.table([report_of(bad, Hosts()), report_of(good, Hosts())])
    assert "bad misbehaves" in doctor.advice(report_of(bad, Hosts())) and not report_of(bad, Hosts()).usable
    assert "bad misbehaves" in hosts.why(report_of(bad, Hosts()))
    json.dumps(hosts.as_data(report_of(bad, Hosts())))
    choose = Choose(turn=1, image=0, wanted="", avoid=(), driven=frozenset())
    known = Hosts(hosts=(Host("bad", "bad", owner="none"), Host("good", "good", owner="none")))
    assert next_host.choose_host(choose, AllowedHosts(("any",), ""), known, None) == Chosen(1, "good")
    alone = next_host.choose_host(choose, AllowedHosts(("any",), ""), Hosts(hosts=known.hosts[:1]), None)
    assert isinstance(alone, NoHost) and "bad misbehaves" in alone.why


def test_the_doctor_looks_at_several_hosts_and_says_if_one_is_unfit(answers: dict[str, Answer]) -> None:
    answers["bad"] = ANSWERS["no json"]
    done = CliRunner().invoke(doctor.doctor_command, ["good", "bad"])
    assert done.exit_code == 1 and "good\n  ok    reach" in done.output and "bad\n  bad   reach" in done.output
    assert [line for line in done.output.splitlines() if not line.startswith(" ")] == ["good", "bad", "here"]
    done = CliRunner().invoke(doctor.doctor_command, ["--json", "good", "bad"])
    told = json.loads(done.output)
    assert done.exit_code == 1 and [host["usable"] for host in told["hosts"]] == [True, False]
    assert "serving files" in [check["what"] for check in told["here"]]
    assert CliRunner().invoke(doctor.doctor_command, ["--json", "good", "good"]).exit_code == 0


def test_an_error_of_our_own_while_one_host_is_asked(
    answers: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_asked", lambda *_: 1 // 0)
    seen: Report = ask(GOOD, batch=True)
    assert seen.error.startswith("an error of rexec's own while asking good: ZeroDivisionError at test_survey.py:")


def test_a_login_of_a_host_is_quoted_where_it_is_to_be_typed_as_root() -> None:
    facts: dict[str, Any] = {**FACTS, "uid": 1000, "login": "a;reboot", "id_tools": False, "subuid": [], "subgid": []}
    seen = Report(GOOD, "", Facts((3, 11, 2), "have", ""), 0.1, 0.1, 0.0, facts)
    (ids,) = [check for check in checks.checks(seen) if check.what == "ids"]
    assert "'a;reboot'" in ids.mend


def test_no_descriptor_is_left_of_a_host_that_misbehaved(answers: dict[str, Answer]) -> None:
    answers["bad"] = ANSWERS["deep"]
    ask(BAD, batch=True)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        ask(BAD, batch=True)
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, "those who hang up have done so")
