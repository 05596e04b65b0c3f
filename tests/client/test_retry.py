"""What is tried again, how often and after how long; pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlpdeploy.bundle.errors import InvalidInput, Overloaded, Unavailable
from nlpdeploy.client.retry import PROBE, Failed, Fate, Retry, Tries


def failed(fate, hint=0.0):
    return Failed(Unavailable("x"), fate, hint)


def pauses(retry, *fates, chance=1.0, left=60.0):
    tries = Tries(retry)
    return [tries.pause(failed(fate), left, chance) for fate in fates]


def test_what_never_began_is_tried_again_after_growing_pauses_until_the_tries_are_used_up():
    retry = Retry(tries=5, first=0.1, longest=0.3)
    assert pauses(retry, *[Fate.NOT_BEGUN] * 5) == [0.1, 0.2, 0.3, 0.3, None]


def test_what_was_answered_or_came_in_part_is_never_tried_again():
    assert pauses(Retry(tries=9), Fate.FINAL) == [None]


@pytest.mark.parametrize("second", [Fate.STALE, Fate.LOST])
def test_a_lost_connection_is_tried_again_once_a_call_at_once_if_it_was_an_old_one(second):
    retry = Retry(tries=9, first=0.1, longest=0.1)
    assert pauses(retry, Fate.STALE, second) == [0.0, None]
    assert pauses(retry, Fate.LOST, second) == [0.1, None]
    assert pauses(retry, Fate.STALE, Fate.NOT_BEGUN) == [0.0, 0.1]


def test_the_server_s_hint_is_kept_and_jitter_comes_on_top():
    tries = Tries(Retry(first=0.2, longest=0.2))
    error = Overloaded("queue", retry_after=0.5)
    assert tries.pause(Failed(error, Fate.NOT_BEGUN, hint=0.5), 9.0, 0.5) == pytest.approx(0.6)


def test_a_try_that_could_only_begin_after_the_deadline_is_not_waited_for():
    assert Tries(Retry()).pause(failed(Fate.NOT_BEGUN, hint=0.5), 0.5, 0.0) is None
    assert Tries(Retry()).pause(failed(Fate.STALE), 0.0, 0.0) is None


def test_one_try_means_one():
    assert pauses(Retry(tries=1), Fate.STALE) == [None]


def test_a_probe_is_repeated_once_and_at_once():
    assert pauses(PROBE, Fate.NOT_BEGUN, Fate.NOT_BEGUN) == [0.0, None]


@given(
    st.integers(1, 6),
    st.floats(0, 1),
    st.lists(st.tuples(st.sampled_from(Fate), st.floats(0, 2), st.floats(0, 1)), min_size=6, max_size=6),
    st.floats(0.001, 5),
)
def test_no_call_is_sent_more_often_than_allowed_nor_waits_past_its_deadline(tries, first, outcomes, budget):
    left, sent, lost = budget, 1, 0
    call = Tries(Retry(tries=tries, first=first, longest=1.0))
    for fate, hint, chance in outcomes:
        lost += fate in (Fate.STALE, Fate.LOST)
        pause = call.pause(failed(fate, hint), left, chance)
        if pause is None:
            break
        assert fate is not Fate.FINAL
        assert 0 <= pause < left
        left, sent = left - pause, sent + 1
        assert lost <= 1
    assert sent <= tries


@pytest.mark.parametrize(
    "options", [{"tries": 0}, {"first": -0.1}, {"first": 2.0, "longest": 1.0}, {"longest": float("inf")}]
)
def test_a_policy_checks_itself(options):
    with pytest.raises(InvalidInput):
        Retry(**options)
