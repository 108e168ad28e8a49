"""Who waits for slots of a desk has a turn: nobody has more than there is, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from shim.submit.desk.line import Member, free, turns, waiting

SLOTS = {"alpha": 4, "beta": 2, "gamma": 1}
HOSTS = st.lists(st.sampled_from([*SLOTS, "gone"]), min_size=1, max_size=4, unique=True).map(tuple)
WANTED = st.builds(
    Member, number=st.just(0), group=st.sampled_from("abc"), priority=st.integers(0, 2), slots=st.integers(1, 5),
    hosts=HOSTS,
)  # fmt: skip


def numbered(wanted: list[Member]) -> list[Member]:
    return [Member(k, each.group, each.priority, each.slots, each.hosts) for k, each in enumerate(wanted, 1)]


def can_run(member: Member) -> bool:
    return any(SLOTS.get(host, 0) >= member.slots for host in member.hosts)


@given(st.lists(WANTED, max_size=30), st.randoms())
def test_all_that_fit_anywhere_run_and_never_more_at_once_than_there_is(wanted: list[Member], random: Random) -> None:
    members, ran = numbered(wanted), Counter[int]()
    while True:
        for number, host in turns(members, SLOTS, list(SLOTS)).items():
            (at,) = [k for k, each in enumerate(members) if each.number == number]
            old = members[at]
            assert host in old.hosts and not old.host
            members[at] = Member(number, old.group, old.priority, old.slots, old.hosts, host)
            ran[number] += 1
        assert min(free(members, SLOTS).values()) >= 0
        running = [each for each in members if each.host]
        if not running:
            break
        members.remove(random.choice(running))
    assert set(ran) == {each.number for each in numbered(wanted) if can_run(each)}
    assert set(ran.values()) <= {1}
    assert not any(can_run(each) for each in members)


@given(st.lists(WANTED, max_size=30))
def test_priority_comes_first_and_within_a_group_who_came_first(wanted: list[Member]) -> None:
    order = waiting(numbered(wanted))
    assert [each.priority for each in order] == sorted((each.priority for each in order), reverse=True)
    for group in "abc":
        for priority in range(3):
            mine = [each.number for each in order if (each.group, each.priority) == (group, priority)]
            assert mine == sorted(mine)


def test_who_starts_fifty_does_not_keep_out_who_starts_one() -> None:
    members = [Member(k, "many", 0, 1, ("alpha",)) for k in range(1, 51)]
    members[:4] = [Member(k, "many", 0, 1, ("alpha",), "alpha") for k in range(1, 5)]
    members.append(Member(51, "one", 0, 1, ("alpha",)))
    assert waiting(members)[0].number == 51


def test_a_wide_run_is_not_overtaken_by_narrow_ones_for_ever() -> None:
    running = [Member(k, "a", 0, 1, ("alpha",), "alpha") for k in (1, 2)]
    wide, narrow = Member(3, "a", 0, 4, ("alpha",)), Member(4, "a", 0, 1, ("alpha", "beta"))
    assert turns([*running, wide, narrow], SLOTS, list(SLOTS)) == {4: "beta"}
    assert turns([wide, narrow], SLOTS, list(SLOTS)) == {3: "alpha", 4: "beta"}
