"""Which differences between hosts forbid a move, and which do not."""

from __future__ import annotations

import json

import pytest

from checkpoint.wire import compat

HERE = {
    "machine": "x86_64", "flags": ["avx2", "fpu", "sse2"], "xsave": 2696, "page": 4096, "kernel": [6, 18],
    "criu": [4, 1, 1], "memory": 8 << 30, "namespaces": ["mnt", "pid", "user"], "uid_map": "zero",
}  # fmt: skip


def facts(**changed: object) -> compat.Facts:
    return compat.from_plain({**HERE, **changed})


def test_the_same_host_is_compatible() -> None:
    assert compat.differences(facts(), facts(), 1 << 30) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"machine": "aarch64"}, "of a x86_64 machine"),
        ({"flags": ["fpu", "sse2"]}, "lacks avx2"),
        ({"xsave": 832}, "saves 832 bytes"),
        ({"page": 65536}, "pages have 65536"),
        ({"criu": [3, 19]}, "criu 3.19 is older"),
        ({"namespaces": ["mnt", "pid"]}, "namespaces user"),
        ({"uid_map": "root"}, "this login is root's"),
        ({"memory": 1 << 20}, "1 MiB of memory free, the job needs 1024"),
    ],
)
def test_a_difference_is_named(changed: dict[str, object], said: str) -> None:
    (only,) = compat.differences(facts(), facts(**changed), 1 << 30)
    assert said in only


@pytest.mark.parametrize(
    ("image", "host", "said"),
    [
        ("root", "own", "name a login as root"),
        ("root", "both", "name a login as root"),
        ("zero", "root", "sees itself as uid 0"),
        ("zero", "both", ""),
        ("zero", "own", ""),
        ("both", "root", ""),
        ("both", "own", ""),
        ("own", "root", ""),
        ("own", "both", ""),
    ],
)
def test_a_login_must_be_able_to_give_the_job_the_id_that_it_has(image: str, host: str, said: str) -> None:
    why = compat.ids_differ(image, host)
    assert said in why and bool(said) is bool(why)


def test_more_is_no_obstacle_nor_what_jobs_cannot_use() -> None:
    more = facts(flags=["avx2", "fpu", "sse2", "avx512f"], xsave=11000, memory=1 << 50)
    assert compat.differences(facts(flags=["avx2", "fpu", "sse2", "vmx", "smep"]), more, 1 << 30) == []


def test_this_hosts_facts_survive_json() -> None:
    mine = compat.host_facts((4, 1, 1), "root")
    assert mine.flags
    assert mine.memory > 0
    again = compat.from_plain(json.loads(json.dumps(mine.plain())))
    assert again.plain() == mine.plain()
    assert compat.differences(mine, again, 1) == []


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="lack page"):
        compat.from_plain({k: v for k, v in HERE.items() if k != "page"})
