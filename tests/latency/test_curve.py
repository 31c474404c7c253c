"""T(n)/T(1) from what is known of some n: laws that hold wherever they are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.latency.curve import TRIED, Curve
from edgespec.latency.estimate import Estimate

ROWS, MOST = 16, 40

KNOWN = st.dictionaries(st.integers(2, MOST), st.floats(-0.5, 4.0), max_size=8)
"""Logarithms of ratios by size."""


def _seen(known: Mapping[int, float], recent: int = TRIED) -> dict[int, Estimate]:
    return {n: Estimate(value, recent=recent) for n, value in known.items()}


def _tables(curve: Curve) -> list[float]:
    return [*curve.ratios, *curve.optimistic, *curve.optimistic_unseen]


def test_before_anything_is_known_it_rises_in_a_straight_line_from_1() -> None:
    ratios = Curve(ROWS, MOST, {}).ratios
    assert ratios[0] == 1.0
    steps = [high - low for low, high in pairwise(ratios)]
    assert steps == pytest.approx([steps[0]] * (ROWS - 1))
    assert 0.0 < steps[0] < 1.0


@given(KNOWN)
def test_it_passes_through_all_that_is_known(known: dict[int, float]) -> None:
    curve = Curve(ROWS, MOST, _seen(known))
    assert curve.ratios[0] == pytest.approx(1.0)
    for n, value in known.items():
        if n <= ROWS:
            assert curve.ratios[n - 1] == pytest.approx(math.exp(value))
        if n <= ROWS or n == max(known):
            assert curve.predicted(n) == pytest.approx(value, abs=1e-9)


@given(KNOWN)
def test_between_two_sizes_it_bends_the_prior_no_further_than_at_these(known: dict[int, float]) -> None:
    prior, bent = Curve(ROWS, MOST, {}), Curve(ROWS, MOST, _seen(known))
    corrections = [math.log(new / old) for new, old in zip(bent.ratios, prior.ratios, strict=True)]
    for n in range(2, ROWS + 1):
        left = max(size for size in (1, *known) if size <= n)
        right = min((size for size in known if size >= n), default=left)
        low, high = sorted(known.get(size, 0.0) - prior.predicted(size) for size in (left, right))
        assert low - 1e-9 <= corrections[n - 1] <= high + 1e-9


@given(KNOWN, st.sampled_from([0, 1, TRIED]))
def test_hope_is_never_above_the_estimate_nor_below_one_token(known: dict[int, float], recent: int) -> None:
    curve = Curve(ROWS, MOST, _seen(known, recent))
    for ratio, hope, unseen in zip(curve.ratios, curve.optimistic, curve.optimistic_unseen, strict=True):
        assert 1.0 <= hope <= max(1.0, ratio)
        assert unseen <= max(1.0, ratio)


def test_what_was_tried_lately_is_not_hoped_to_be_cheaper() -> None:
    tried, stale = (Curve(ROWS, MOST, _seen({4: math.log(3.0)}, recent)) for recent in (TRIED, TRIED - 1))
    assert tried.optimistic[3] == pytest.approx(3.0)
    assert 1.0 < stale.optimistic[3] < 3.0
    assert stale.optimistic_unseen[3] == pytest.approx(3.0), "it was seen, if not lately"
    assert tried.optimistic_unseen[4] < tried.ratios[4], "its neighbour was never seen"


@settings(max_examples=60)
@given(KNOWN, st.lists(st.tuples(st.integers(2, MOST), st.floats(-0.5, 4.0)), min_size=1, max_size=6))
def test_refitting_where_one_came_is_refitting_it_all(known: dict[int, float], news: list[tuple[int, float]]) -> None:
    seen = _seen(known)
    curve = Curve(ROWS, MOST, seen)
    for n, value in news:
        if n in seen:
            seen[n].value = value
        else:
            seen[n] = Estimate(value, recent=TRIED)
        curve.refit_at(n)
        assert _tables(curve) == pytest.approx(_tables(Curve(ROWS, MOST, _seen({n: e.value for n, e in seen.items()}))))


def test_who_holds_the_last_tables_keeps_them() -> None:
    seen = _seen({4: 1.0})
    curve = Curve(ROWS, MOST, seen)
    held, before = curve.ratios, list(curve.ratios)
    seen[4].value = 2.0
    curve.refit_at(4)
    assert held == before
    assert curve.ratios[3] == pytest.approx(math.exp(2.0))


def test_a_change_that_nobody_sees_is_not_drawn_until_it_adds_up() -> None:
    seen = _seen({4: 1.0}, recent=TRIED + 1)
    curve = Curve(ROWS, MOST, seen)
    tables = curve.ratios
    for _ in range(2):
        seen[4].value += 0.001
        curve.refit_at(4)
        assert curve.ratios is tables
    seen[4].value += 0.002
    curve.refit_at(4)
    assert curve.ratios[3] == pytest.approx(math.exp(1.004))


def test_the_evaluation_that_makes_a_size_tried_is_drawn_even_if_it_changes_nothing() -> None:
    seen = _seen({4: 1.0}, recent=TRIED - 1)
    curve = Curve(ROWS, MOST, seen)
    hoped = curve.optimistic[3]
    seen[4].recent = TRIED
    curve.refit_at(4)
    assert hoped < curve.optimistic[3] == pytest.approx(curve.ratios[3])


@given(KNOWN)
def test_beyond_the_rows_it_goes_on_from_the_largest_size_that_is_known(known: dict[int, float]) -> None:
    curve, prior = Curve(ROWS, MOST, _seen(known)), Curve(ROWS, MOST, {})
    largest = max((1, *known))
    shift = known.get(largest, 0.0) - prior.predicted(largest)
    for n in range(max(ROWS, largest) + 1, MOST + 1):
        assert curve.predicted(n) == pytest.approx(prior.predicted(n) + (shift if largest > 1 else 0.0), abs=1e-9)


def test_a_curve_of_one_row() -> None:
    curve = Curve(1, MOST, _seen({8: 1.5}))
    assert curve.ratios == pytest.approx([1.0])
    assert curve.optimistic == [1.0]
    assert curve.predicted(8) == pytest.approx(1.5)
