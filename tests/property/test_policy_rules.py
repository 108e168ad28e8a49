"""Owner policy: whatever comes, late, twice, in any order and with a clock that jumps, it stays within the rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shim.execute.owner import step as policy
from shim.execute.owner.step import FREEZE, THAW, VACATE, Conditions, Input, Tick
from shim.wire import owner_policy

POLICY = owner_policy.OwnerPolicy(linger=10.0)

times = st.floats(min_value=0.0, max_value=100.0)
events = st.one_of(
    st.builds(Input, times, st.just("pts")),
    st.builds(Conditions, st.sampled_from([None, "it runs on battery"])),
    st.just(Tick()),
)
histories = st.lists(st.tuples(events, times), max_size=40)


def kinds(history: list[tuple[Input | Conditions | Tick, float]]) -> list[str]:
    state = policy.start(0.0)
    taken = []
    for event, now in history:
        state, actions = policy.step(POLICY, state, event, now)
        taken += [action.kind for action in actions]
    return taken


@given(histories)
def test_actions_come_in_legal_order(history: list[tuple[Input | Conditions | Tick, float]]) -> None:
    taken = kinds(history)
    assert taken.count(VACATE) <= 1
    assert VACATE not in taken[:-1]
    moves = [kind for kind in taken if kind != VACATE]
    assert moves == [FREEZE, THAW] * (len(moves) // 2) + [FREEZE] * (len(moves) % 2)


@given(histories, times)
def test_input_after_everything_known_is_never_ignored(
    history: list[tuple[Input | Conditions | Tick, float]], lag: float
) -> None:
    state = policy.start(0.0)
    for event, now in history:
        state, _ = policy.step(POLICY, state, event, now)
    before, at = state.phase, state.clock + 1.0
    state, actions = policy.step(POLICY, state, Input(at, "pts"), at + lag)
    assert state.phase in (policy.FROZEN, policy.LEAVING)
    assert before != policy.RUNNING or actions[0].kind == FREEZE


@given(histories)
def test_duplicates_and_stale_events_change_nothing(
    history: list[tuple[Input | Conditions | Tick, float]],
) -> None:
    doubled = [pair for pair in history for _ in range(2)]
    assert kinds(doubled) == kinds(history)


@given(st.lists(times, min_size=1, max_size=10), times)
def test_a_clock_that_jumps_back_thaws_nothing(jumps: list[float], at: float) -> None:
    state = policy.start(100.0)
    state, actions = policy.step(POLICY, state, Input(100.0 + at, "evdev"), 200.0)
    for now in jumps:
        state, actions = policy.step(POLICY, state, Tick(), now)
        assert state.clock >= 200.0
        assert [action.kind for action in actions] in ([], [THAW])
    assert policy.start(100.0).seen == 100.0


@given(st.floats(min_value=0, max_value=1e7, allow_nan=False), st.floats(min_value=0, max_value=1e5))
def test_a_policy_survives_its_own_table(start_idle: float, linger: float) -> None:
    def night(idle: float) -> owner_policy.OwnerPolicy:
        return owner_policy.OwnerPolicy(
            "night",
            start_idle=idle,
            linger=round(linger, 9),
            max_load=0.3,
            hours=((1320, 420), (720, 780)),
            battery=True,
            min_free_memory=123,
        )

    again = owner_policy.parse_owner_policy("night", night(start_idle).table())
    assert abs(again.start_idle - start_idle) < 1e-9
    assert again == night(again.start_idle)


@given(st.one_of(st.text(max_size=12), st.integers(), st.none(), st.booleans(), st.lists(st.text(max_size=4))))
def test_garbage_values_raise_policy_error_only(value: object) -> None:
    for key in ("start_idle", "linger", "max_load", "hours", "battery", "min_free_memory"):
        try:
            owner_policy.parse_owner_policy("x", {key: value})
        except owner_policy.PolicyError as error:
            assert key in str(error)


@given(histories)
def test_a_tick_at_the_deadline_acts_and_not_before(
    history: list[tuple[Input | Conditions | Tick, float]],
) -> None:
    state = policy.start(0.0)
    for event, now in history:
        state, _ = policy.step(POLICY, state, event, now)
    due = policy.deadline(POLICY, state)
    assert (due is not None) >= (state.phase == policy.FROZEN)
    if due is not None:
        _, early = policy.step(POLICY, state, Tick(), due - 0.001)
        _, actions = policy.step(POLICY, state, Tick(), due + 0.001)
        assert len(actions) == 1
        assert early == () or due <= state.clock + 0.001
