import math

import pytest

from larq_seresnet.training.study.estimates import NOT_RUN, Estimate, estimate
from larq_seresnet.training.study.verdicts import FAILS, HOLDS, OPEN, Range, all_of, of_goal

NARROW = (0.4, 0.4)  # a bootstrap decides nothing


def _found(low, high, seeds=3):
    return Estimate((low + high) / 2, NARROW, (low, high), seeds)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.6, HOLDS),
        (0.45 - 1e-12, 0.6, HOLDS),
        (0.3, 0.6, OPEN),
        (0.1, 0.3, FAILS),
        (math.nan, math.nan, OPEN),
    ],
)
def test_a_claim_holds_or_not_where_the_whole_interval_says_so(low, high, verdict):
    assert Range(low=0.45).judge(_found(low, high)) == verdict
    assert Range(high=-0.45).judge(_found(-high, -low)) == verdict
    assert Range(low=0.45, seeds=4).judge(_found(low, high)) == OPEN
    assert Range(low=0.45).judge(NOT_RUN) == OPEN


def test_a_figure_alone_decides_where_it_should():
    by_value = Range(high=0.01, by_interval=False)
    assert by_value.judge(_found(-0.5, 0.52)) == HOLDS  # 0.010000000000000009
    assert by_value.judge(Estimate(0.011, NARROW, (math.nan, math.nan), 1)) == FAILS


def test_within_a_margin_both_ends_count():
    within = Range(0.11, 0.13)
    assert within.judge(_found(0.115, 0.125)) == HOLDS
    assert within.judge(_found(0.115, 0.14)) == OPEN
    assert within.judge(_found(0.14, 0.15)) == FAILS
    assert within.judge(_found(0.09, 0.1)) == FAILS


def test_all_parts_must_hold_and_one_that_does_not_is_enough():
    assert all_of([HOLDS, HOLDS]) == HOLDS
    assert all_of([HOLDS, OPEN]) == OPEN
    assert all_of([OPEN, FAILS, HOLDS]) == FAILS


def test_a_goal_that_was_not_run_says_so():
    assert of_goal(OPEN, NOT_RUN) == "not run"
    assert of_goal(HOLDS, _found(0, 1)) == "**reached**"
    assert of_goal(FAILS, _found(0, 1)) == "**missed**"
    assert of_goal(OPEN, _found(0, 1)) == OPEN


@pytest.mark.parametrize("epochs", [(9, 9), (9, 9, 9)])
def test_whole_numbers_that_agree_give_no_interval(epochs):
    """Three seeds that took nine epochs each are no proof that all would."""
    samples = epochs, (8,) * len(epochs)
    found = estimate(lambda first, other, axis=-1: (first - other).mean(axis), samples)
    assert found.value == 1
    assert math.isnan(found.student[0])
    assert Range(low=0.0).judge(found) == OPEN
