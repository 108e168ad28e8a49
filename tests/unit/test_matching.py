"""Which hosts a ClassAd expression holds for: read as HTCondor's library reads it, and told clause by clause."""

from __future__ import annotations

import builtins
import json
from typing import Any

import classad2
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from remoteio.errors import RexecError
from shim.cli import hosts as hosts_of
from shim.execute import probe
from shim.submit.api.host_reports import HostReport, report_of
from shim.submit.hosts import ad
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host, Hosts, HostsError, parse
from shim.submit.hosts.matching import Clause, Matching, clauses
from shim.submit.hosts.survey import Report

FACTS: dict[str, Any] = json.loads(json.dumps(probe.facts()))
AD: ad.Ad = {"Memory": 4096, "Arch": "X86_64", "LoadAvg": 0.25, "HasGPU": False, "site": 'a "&&" b'}
ATOMS = (
    "Memory > 100", "memory < 100", "HasGPU", "!HasGPU", "LoadAvg <= 0.25", 'Arch == "x86_64"',
    'site == "a \\"&&\\" b"',
    "Missing > 3", "Missing =?= undefined", "Memory", "Arch", "1/0", 'regexp("^X86", Arch)', "isUndefined('Missing')",
    "TARGET.Memory > 1", "MY.Memory > 1", "{1, 2}[0] == 1", "(HasGPU || Memory > 1 && true)",
)  # fmt: skip
EXPRESSIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(" && ".join),
        st.lists(inner, min_size=2, max_size=3).map(" || ".join),
        inner.map("({})".format),
        inner.map("!({})".format),
        st.tuples(inner, inner, inner).map(lambda three: "({}) ? ({}) : ({})".format(*three)),
    ),
    max_leaves=8,
)


def report(**changed: Any) -> Report:
    host = Host("far", "far", slots=3, tags=(("site", "home"), ("fast", True)))
    return Report(host, "", Facts((3, 11, 2), "have", ""), 0.1, 0.01, 0.0, {**FACTS, **changed})


@given(EXPRESSIONS)
def test_a_requirement_holds_where_all_its_clauses_do(expression: str) -> None:
    there = classad2.ClassAd(dict(AD))
    value = classad2.ExprTree(expression).eval(there, classad2.ClassAd(dict(AD)))
    holds = type(value) in (bool, int, float) and bool(value)
    assert (Matching(expression).unmet(AD) == "") == holds


def test_clauses_are_what_stands_between_the_outermost_ands() -> None:
    assert clauses("a > 1 && (b && c) && f(d && e) && x == 'y&&z'") == ["a > 1", "(b && c)", "f(d && e)", "x == 'y&&z'"]
    assert clauses("a && b || c") == ["a && b || c"]
    assert clauses("a && b ? c : d") == ["a && b ? c : d"]
    assert clauses("a =?= 1 && b") == ["a =?= 1", "b"]
    assert Matching("Memory > 1 /* x && y */").unmet(AD) == ""


def test_what_is_wrong_is_told_with_what_there_is() -> None:
    assert Matching('Memory > 5000 && target.LOADAVG < 1 && Missing > 1 && Arch && Arch == "ppc"').look(AD) == [
        Clause("Memory > 5000", "does not hold (Memory = 4096)"),
        Clause("target.LOADAVG < 1", ""),
        Clause("Missing > 1", "is undefined"),
        Clause("Arch", 'is neither true nor false (Arch = "X86_64")'),
        Clause('Arch == "ppc"', 'does not hold (Arch = "X86_64")'),
    ]


def test_a_rank_that_is_no_number_is_nought() -> None:
    found = [Matching("", rank).rank(AD) for rank in ("Memory", "-LoadAvg", "Memory > 5", "Missing", "Arch", "1/0")]
    assert found == [4096, -0.25, 1, 0, 0, 0]
    assert Matching().rank(AD) == 0 and Matching().unmet({}) == ""


@pytest.mark.parametrize("wrong", ["Memory >", "a b", "(", " "])
def test_what_is_no_expression_is_refused(wrong: str) -> None:
    with pytest.raises(RexecError, match=r"--require .* is no ClassAd expression; write for example Memory"):
        Matching(wrong)
    with pytest.raises(RexecError, match=r"--rank .* is no ClassAd expression"):
        Matching("", wrong)


def test_where_the_library_is_missing_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "classad2":
            raise ModuleNotFoundError("No module named 'classad2'", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RexecError, match=r"^--require needs HTCondor's ClassAd .*: .*/bin/pip install htcondor$"):
        Matching("Memory > 1")
    Matching()


def test_an_ad_is_made_of_what_a_host_says_and_its_tags() -> None:
    changed = {
        "arch": "x86_64", "cpu_flags": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx", "memory_total": 5 << 30,
        "scratch_free": 3 << 20, "gpu": True, "criu": False, "load": 1, "cores": 8, "hostname": "box",
        "kernel": "6.1.0",
    }  # fmt: skip
    owner = {**FACTS["owner"], "idle": 12.7}
    made = ad.of(report(**changed, owner=owner))
    assert made == {
        "Name": "far", "Machine": "box", "OpSys": "LINUX", "Arch": "X86_64", "Microarch": "x86_64-v2",
        "Kernel": "6.1.0", "Cpus": 8, "Slots": 3, "LoadAvg": 1.0, "Memory": 5120, "Disk": 3072, "KeyboardIdle": 12,
        "HasGPU": True, "Criu": False, "site": "home", "fast": True,
    }  # fmt: skip
    assert tuple(made)[: len(ad.ATTRIBUTES)] == ad.ATTRIBUTES
    assert not Matching("KeyboardIdle > 600").unmet(ad.of(report(owner={**owner, "idle": 900.0})))
    unknown = ad.of(report(owner={**owner, "idle": None}, memory_total=None, arch="aarch64"))
    assert not {"KeyboardIdle", "Memory", "Microarch"} & set(unknown)
    assert ad.of(Report(Host("gone", "gone"), error="no route")) == {}


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("", 1),
        ("cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx2", 2),
        ("abm avx avx2 bmi1 bmi2 f16c fma movbe xsave", 1),
        ("cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 abm avx avx2 bmi1 bmi2 f16c fma movbe xsave avx512f", 3),
    ],
)
def test_levels_of_x86_64(flags: str, level: int) -> None:
    assert ad.microarchitecture("x86_64", flags.split()) == f"x86_64-v{level}"


def test_tags_are_names_and_plain_values() -> None:
    (host,) = parse(b'[host.a]\ntags = {site = "home", speed = 2.5, fast = true, n = 3}\n', "f").hosts
    assert dict(host.tags) == {"site": "home", "speed": 2.5, "fast": True, "n": 3}
    for wrong in ('{"a b" = 1}', "{a = [1]}", "{a = nan}", "3", "{a = 2020-01-01}"):
        with pytest.raises(HostsError, match=r"f: host.a.tags = .* is wrong; write names and what they are"):
            parse(f"[host.a]\ntags = {wrong}\n".encode(), "f")


def test_the_command_says_of_each_host_what_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Hosts((report().host,))
    far = report_of(report(memory_total=5 << 30), known)
    gone = report_of(Report(Host("gone", "gone"), error="no route to it"), known)

    def reports(*_: str) -> list[HostReport]:
        return [far, gone]

    monkeypatch.setattr(hosts_of, "hosts", reports)
    monkeypatch.setattr(hosts_of, "ask_in_person", lambda name: {"far": far, "gone": gone}[name])
    monkeypatch.setattr(hosts_of.config, "load", lambda: known)

    def said(*words: str) -> str:
        done = CliRunner().invoke(hosts_of.hosts_command, list(words))
        return done.output or str(done.exception)

    assert said("--require", 'Memory > 6000 && Slots > 5 && site == "home"') == (
        "far   Memory > 6000 does not hold (Memory = 5120)\n"
        "      Slots > 5 does not hold (Slots = 3)\n"
        "gone  no route to it\n"
    )
    assert said("--require", "Memory > 5000").splitlines()[0] == "far   all holds"
    assert said("--require", "Memroy > 5000").startswith("Memroy: an attribute of no host")
    assert "Memory = 5120\n" in said("--ad", "far") and 'site = "home"\nfast = true\n' in said("--ad", "far")
    assert said("--ad", "gone") == "gone: no route to it"
