"""Owner policy and host choice, by example."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from shim.execute.owner import step as policy
from shim.execute.owner.step import Conditions, Input, Tick, Wanted
from shim.submit.hosts.ranking import Candidate, choose
from shim.wire.conditions import Surroundings, broken_condition
from shim.wire.owner_policy import (
    KEYBOARD,
    NOBODY,
    OwnerPolicy,
    PolicyError,
    named_policy,
    parse_duration,
    parse_hours,
    parse_owner_policy,
    parse_size,
    within_hours,
)

QUIET = Surroundings(load=0.0, minute=12 * 60, on_battery=False, free_memory=8 << 30)


def run(
    *steps: tuple[float, Input | Conditions | Wanted | Tick], rules: OwnerPolicy = KEYBOARD, named: bool = False
) -> list[str]:
    state = policy.start(0.0, named)
    log = []
    for now, event in steps:
        state, actions = policy.step(rules, state, event, now)
        log += [f"{now:g} {action.kind}" for action in actions]
    return log


def key(at: float) -> tuple[float, Input]:
    return at, Input(at, "pts")


def test_a_bumped_mouse_freezes_and_thaws_in_place() -> None:
    bump = [key(5.0 + part / 10) for part in range(5)]
    assert run(*bump, (15.3, Tick()), (15.4, Tick())) == ["5 freeze", "15.4 thaw"]


def test_further_input_vacates_once() -> None:
    assert run(key(5), key(7), key(8), (60, Tick())) == ["5 freeze", "7 vacate"]


def test_input_after_a_thaw_freezes_again() -> None:
    assert run(key(5), (15, Tick()), key(16), (26, Tick())) == ["5 freeze", "15 thaw", "16 freeze", "26 thaw"]


def test_no_linger_leaves_at_the_first_input() -> None:
    assert run(key(5), rules=OwnerPolicy(linger=0.0)) == ["5 freeze", "5 vacate"]


def test_without_an_owner_input_is_nothing_but_conditions_count() -> None:
    broken = Conditions("it is 08:00 there")
    assert run(key(5), (6, broken), (16, broken), rules=NOBODY) == ["16 vacate"]


def test_a_broken_condition_must_last() -> None:
    broken = Conditions("it runs on battery")
    assert run((1, broken), (8, Conditions(None)), (9, broken), (18, Tick()), (19, Tick())) == ["19 vacate"]


def test_for_one_that_is_preferred_a_job_leaves_at_once_but_not_soon_again() -> None:
    wanted = Wanted("a job of ann has come")
    assert run((1, wanted), (2, wanted), named=True) == run(key(1), (1, wanted), rules=NOBODY) == ["1 vacate"]
    back = policy.nowhere(10.0, False)
    assert policy.step(KEYBOARD, back, wanted, 10.0 + policy.AGAIN - 1)[1] == ()
    (action,) = policy.step(KEYBOARD, back, wanted, 10.0 + policy.AGAIN)[1]
    assert (action.kind, action.why) == ("vacate", "a job of ann has come")


def test_a_named_host_is_taken_as_it_is() -> None:
    broken = Conditions("it runs on battery")
    assert run((1, broken), (50, broken), named=True) == []
    assert run((1, broken), (2, Conditions(None)), (3, broken), (13, Tick()), named=True) == ["13 vacate"]


def test_deadline_is_when_a_tick_acts() -> None:
    state, _ = policy.step(KEYBOARD, policy.start(0.0), Input(5.0, "pts"), 5.0)
    due = policy.deadline(KEYBOARD, state)
    assert due == 15.0
    _, early = policy.step(KEYBOARD, state, Tick(), due - 0.001)
    _, actions = policy.step(KEYBOARD, state, Tick(), due)
    assert (early, [action.kind for action in actions]) == ((), ["thaw"])
    assert policy.deadline(KEYBOARD, policy.start(0.0)) is None


def test_choice_names_a_reason_for_every_host_refused() -> None:
    night = OwnerPolicy("night", start_idle=60.0, hours=((1320, 420),), max_load=0.3)
    choice = choose(
        [
            Candidate("down", KEYBOARD, unusable="it cannot be reached"),
            Candidate("old", KEYBOARD, incompatible=("its CPU lacks avx2", "its kernel is 5.4"), around=QUIET),
            Candidate("busy", KEYBOARD, idle=12.0, around=QUIET),
            Candidate("blind", KEYBOARD, around=QUIET),
            Candidate("day", night, idle=1e6, around=QUIET),
            Candidate("small", KEYBOARD, idle=1e6, around=Surroundings(0.0, 0, False, 1 << 20)),
            Candidate("laptop", KEYBOARD, idle=1e6, around=Surroundings(0.0, 0, True, 8 << 30)),
            Candidate("loaded", KEYBOARD, idle=1e6, around=Surroundings(3.0, 0, False, 8 << 30), cores=4),
            Candidate("good", KEYBOARD, idle=1e6, around=QUIET, cores=4),
            Candidate("server", NOBODY, around=QUIET),
        ],
        memory=1 << 30,
    )
    assert choice.order == ("good", "server", "loaded")
    assert choice.refused == {
        "down": "it cannot be reached",
        "old": "its CPU lacks avx2; its kernel is 5.4",
        "busy": "its owner was there 12 s ago, and keyboard waits 900 s",
        "blind": 'no source tells whether its owner is there: set owner = "none" for it if it has no owner',
        "day": "it is 12:00 there, and night allows 22:00-07:00",
        "small": "1 MiB of memory are free there, and the job needs 1024 MiB",
        "laptop": "it runs on battery",
    }


def test_named_hosts_are_used_whatever_their_owner_does_and_in_the_users_order() -> None:
    choice = choose(
        [
            Candidate("second", KEYBOARD, idle=1e6, around=QUIET),
            Candidate("b", KEYBOARD, named=True, idle=0.0, around=QUIET),
            Candidate("a", KEYBOARD, named=True, around=QUIET),
        ]
    )
    assert choice.order == ("b", "a", "second")


def test_max_load_refuses_what_it_does_not_know() -> None:
    rules = OwnerPolicy("calm", max_load=0.3)
    assert broken_condition(rules, Surroundings(0.3, 0, False, 0)) is None
    assert "not known" in str(broken_condition(rules, Surroundings(None, 0, False, 0)))
    assert broken_condition(rules, Surroundings(0.9, 0, False, 0)) == (
        "others keep 0.9 cores busy there, and calm allows 0.3"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15m", 900.0), ("10s", 10.0), ("1h30m", 5400.0), ("250ms", 0.25), ("0", 0.0), ("1d", 86400.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "15", "m", "-5s", "5 parsecs", "1m1", 15, 1.5, True, None])
def test_bad_durations(text: object) -> None:
    with pytest.raises(PolicyError, match="is not a duration; write for example"):
        parse_duration(text, "linger")


def test_hours_run_over_midnight() -> None:
    night = parse_hours("22:00-07:00")
    assert [within_hours(night, minute) for minute in (1319, 1320, 0, 419, 420)] == [False, True, True, True, False]
    both = parse_hours(["00:00-06:30", "12:00-13:00"])
    assert [within_hours(both, minute) for minute in (0, 389, 390, 720, 780)] == [True, True, False, True, False]
    assert within_hours(parse_hours("18:00-24:00"), 1439)


@pytest.mark.parametrize("value", ["7-9", "25:00-26:00", "22:60-07:00", "08:00-08:00", "", [], 7, ["22:00-07:00", 3]])
def test_bad_hours(value: object) -> None:
    with pytest.raises(PolicyError, match=r"hours = .*write for example"):
        parse_hours(value)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("512M", "2G", "1.5GiB", "7", 7)] == [512 << 20, 2 << 30, 3 << 29, 7, 7]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"start_idel": "15m"}, "has an unknown key start_idel"),
        ({"linger": 10}, "linger = 10 is not a duration"),
        ({"max_load": "0.3"}, 'max_load = "0.3" is not a number'),
        ({"max_load": True}, "max_load = True is not a number"),
        ({"battery": "yes"}, 'battery = "yes" is neither true nor false'),
        ({"min_free_memory": "-1G"}, "is not a size"),
        ("15m", "is not a table"),
    ],
)
def test_a_bad_table_is_named(table: object, says: str) -> None:
    with pytest.raises(PolicyError, match=says) as caught:
        parse_owner_policy("desk", table)
    assert str(caught.value).startswith("[owner.desk]")


def test_names_of_policies() -> None:
    tables: dict[str, object] = {"desk": {"start_idle": "1m"}, "keyboard": {"linger": "20s"}}
    assert named_policy("desk", tables).start_idle == 60.0
    assert named_policy("keyboard", tables).linger == 20.0
    assert named_policy("keyboard", {}) is KEYBOARD
    assert named_policy("none", tables) is NOBODY
    with pytest.raises(PolicyError, match="There is no owner policy sofa; known are desk, keyboard, none"):
        named_policy("sofa", tables)
    with pytest.raises(PolicyError, match="cannot be redefined"):
        parse_owner_policy("none", {})


def test_the_documented_tables_are_read() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/owner.md").read_text()
    tables = tomllib.loads(text.split("```toml\n")[1].split("```")[0])
    night = named_policy(tables["host"]["alpha"]["owner"], tables["owner"])
    assert night == OwnerPolicy("night", max_load=0.3, hours=((1320, 420),), min_free_memory=2 << 30)
    for field in OwnerPolicy().table().keys() | {"hours", "max_load"}:
        assert f"| `{field}` |" in text
