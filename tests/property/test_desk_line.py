"""Who waits for slots of a desk has a turn: nobody has more than there is, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from shim.submit.desk.line import Member, Room, free, turns, waiting

HAS = {"alpha": Room(4, 60), "beta": Room(2, 100), "gamma": Room(1, 10)}
HOSTS = st.lists(st.sampled_from([*HAS, "gone"]), min_size=1, max_size=4, unique=True).map(tuple)
WANTED = st.builds(
    Member, number=st.just(0), group=st.sampled_from("abc"), priority=st.integers(0, 2), slots=st.integers(1, 5),
    hosts=HOSTS, memory=st.sampled_from([0, 0, 5, 30, 80]), ranks=st.lists(st.integers(0, 2), max_size=4).map(tuple),
)  # fmt: skip


def numbered(wanted: list[Member]) -> list[Member]:
    return [replace(each, number=k) for k, each in enumerate(wanted, 1)]


def can_run(member: Member) -> bool:
    return any(host in HAS and HAS[host].holds(member) for host in member.hosts)


@given(st.lists(WANTED, max_size=30), st.randoms())
def test_all_that_fit_anywhere_run_and_never_more_at_once_than_there_is(wanted: list[Member], random: Random) -> None:
    members, ran = numbered(wanted), Counter[int]()
    while True:
        for number, host in turns(members, HAS, list(HAS)).items():
            (at,) = [k for k, each in enumerate(members) if each.number == number]
            old = members[at]
            assert host in old.hosts and not old.host
            members[at] = replace(old, host=host)
            ran[number] += 1
        assert all(room.slots >= 0 and room.memory >= 0 for room in free(members, HAS).values())
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
    assert turns([*running, wide, narrow], HAS, list(HAS)) == {4: "beta"}
    assert turns([wide, narrow], HAS, list(HAS)) == {3: "alpha", 4: "beta"}


def test_memory_that_is_asked_for_is_counted_though_slots_are_free() -> None:
    there, wants = Member(1, "a", 0, 1, ("alpha",), "alpha", memory=40), Member(2, "a", 0, 1, ("alpha",), memory=30)
    assert turns([there, wants], HAS, list(HAS)) == {}
    assert turns([replace(there, memory=30), wants], HAS, list(HAS)) == {2: "alpha"}


def test_a_run_goes_where_it_wants_to_most_and_else_where_there_is_most_room() -> None:
    hosts = ("alpha", "beta", "gamma")
    wants = Member(1, "a", 0, 1, hosts, ranks=(1.0, 2.5, 2.5))
    taken = Member(2, "a", 0, 1, hosts, "beta")
    assert turns([taken, wants], HAS, list(HAS)) == {1: "gamma"}
    assert turns([taken, replace(wants, ranks=())], HAS, list(HAS)) == {1: "alpha"}
