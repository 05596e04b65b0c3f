"""The search for the smallest set: what is needed stays, what can be spared goes, within its budget."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlpdeploy.export.precision_search import BudgetSpent, Trials, first_passing, shrink

NAMES = [f"node_{i}" for i in range(32)]


def judge_for(needed):
    return lambda kept: None if needed <= kept else f"{len(needed - kept)} missing"


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 24).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=8))))
def test_exactly_the_needed_nodes_stay_and_each_with_the_reason_why(case):
    count, needed = case
    wanted = frozenset(NAMES[i] for i in needed)
    trials = Trials(judge_for(wanted), 200)
    shrunk = shrink(NAMES[:count], trials)
    assert set(shrunk.names) == wanted
    assert shrunk.minimal
    assert shrunk.without == dict.fromkeys(shrunk.names, "1 missing")


def test_neighbours_are_spared_in_few_evaluations():
    trials = Trials(judge_for(frozenset(NAMES[8:12])), 36)
    assert shrink(NAMES, trials).names == tuple(NAMES[8:12])
    assert trials.spent <= 16


def test_no_set_is_judged_twice():
    asked = []

    def judge(kept):
        asked.append(kept)
        return None if "node_3" in kept else "missing"

    trials = Trials(judge, 100)
    for _ in range(3):
        shrink(NAMES, trials)
    assert len(asked) == len(set(asked)) == trials.spent


def test_where_the_budget_ends_the_set_still_passes_and_is_not_called_minimal():
    wanted = frozenset(NAMES[::3])
    trials = Trials(judge_for(wanted), 10)
    shrunk = shrink(NAMES, trials)
    assert trials.spent == 10
    assert wanted <= set(shrunk.names)
    assert not shrunk.minimal
    with pytest.raises(BudgetSpent):
        trials.ask(["another"])


def test_the_first_stage_that_passes_is_taken_and_none_where_none_does():
    trials = Trials(judge_for(frozenset(NAMES[:4])), 10)
    assert first_passing([NAMES[:2], NAMES[:6], NAMES], trials) == NAMES[:6]
    assert first_passing([NAMES[4:]], trials) is None


def test_what_was_judged_is_forgotten_when_the_judge_has_learned_but_what_is_spent_stays_spent():
    trials = Trials(judge_for(frozenset()), 2)
    assert trials.ask(["a"]) is None
    trials.forget()
    assert trials.ask(["a"]) is None
    with pytest.raises(BudgetSpent):
        trials.ask(["b"])
