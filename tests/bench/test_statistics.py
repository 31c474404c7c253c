"""Medians and their intervals: laws of a bootstrap."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.bench.statistics import summary, surely_below

_PROMPTS = st.lists(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(max_examples=25)
@given(_PROMPTS, st.floats(0.1, 10.0))
def test_other_units_give_the_same_in_other_units(prompts: list[list[float]], factor: float) -> None:
    before = summary(prompts)
    after = summary([[factor * ratio for ratio in ratios] for ratios in prompts])
    assert after["median"] == pytest.approx(factor * before["median"])
    assert after["interval"] == pytest.approx([factor * end for end in before["interval"]])


@settings(max_examples=25)
@given(_PROMPTS)
def test_the_same_figures_give_the_same_interval(prompts: list[list[float]]) -> None:
    assert summary(prompts) == summary(prompts)


def test_one_figure_is_its_own_interval() -> None:
    assert summary([[1.25]]) == {"median": 1.25, "interval": [1.25, 1.25]}


def test_more_prompts_tell_more() -> None:
    few, many = ([[0.8], [1.0], [1.2]] * times for times in (1, 30))
    low, high = summary(few)["interval"]
    near, far = summary(many)["interval"]
    assert (low, high) == (0.8, 1.2)
    assert low < near <= 1.0 <= far < high


def test_rounds_that_differ_widen_the_interval_of_few_prompts() -> None:
    steady, shaky = summary([[1.0] * 5] * 4), summary([[0.5, 0.9, 1.0, 1.1, 2.0]] * 4)
    assert steady["interval"] == [1.0, 1.0]
    low, high = shaky["interval"]
    assert low < 1.0 < high


def test_nothing_has_no_median() -> None:
    with pytest.raises((ValueError, IndexError)):
        summary([])


@pytest.mark.parametrize(
    ("ratios", "below"),
    [([0.97], True), ([0.98], False), ([0.99], False), ([0.97] * 5, True), ([0.5, 0.5, 1.5], False)],
)
def test_surely_below_is_all_of_the_interval(ratios: list[float], below: bool) -> None:
    assert surely_below(ratios, 0.98) is below
    assert isinstance(surely_below(ratios, 0.98), bool), "it goes into a sum"
