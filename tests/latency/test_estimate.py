"""One number that is measured again and again: laws of its forgetting and of its doubts."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.latency.estimate import CLIP, TRUSTED_AFTER, Estimate

LOGS = st.floats(-8.0, 8.0)


@given(LOGS, st.lists(st.floats(-CLIP, CLIP), max_size=9))
def test_begins_as_the_mean_of_what_it_saw(first: float, offsets: list[float]) -> None:
    estimate, seen = Estimate(first), [first]
    for offset in offsets:
        observed = estimate.value + offset  # near enough to be believed
        estimate.update(observed)
        seen.append(observed)
    assert estimate.value == pytest.approx(statistics.fmean(seen), abs=1e-9)


@given(LOGS, st.lists(st.floats(-50.0, 50.0), min_size=1, max_size=40))
def test_moves_towards_what_it_sees_and_never_past_it(first: float, observations: list[float]) -> None:
    estimate = Estimate(first)
    for observed in observations:
        before = estimate.value
        estimate.update(observed)
        low, high = sorted((before, observed))
        assert low - 1e-9 <= estimate.value <= high + 1e-9


@given(LOGS, st.integers(1, 40), st.floats(CLIP, 50.0))
def test_a_slow_moment_counts_by_the_clip_from_the_first_on(value: float, count: int, excess: float) -> None:
    outlier, clipped = Estimate(value, count), Estimate(value, count)
    outlier.update(value + excess)
    clipped.update(value + CLIP)
    assert outlier.value == pytest.approx(clipped.value)


@given(LOGS, st.integers(TRUSTED_AFTER, 40), st.floats(CLIP, 50.0))
def test_a_fast_moment_is_doubted_once_the_estimate_is_trusted(value: float, count: int, excess: float) -> None:
    outlier, clipped = Estimate(value, count), Estimate(value, count)
    outlier.update(value - excess)
    clipped.update(value - CLIP)
    assert outlier.value == pytest.approx(clipped.value)


@pytest.mark.parametrize("count", range(1, TRUSTED_AFTER))
def test_a_fast_moment_is_believed_before_that(count: int) -> None:
    estimate = Estimate(0.0, count)
    estimate.update(-6.0)
    assert estimate.value == pytest.approx(-6.0 / (count + 1))


def test_an_old_estimate_still_follows_within_tens() -> None:
    estimate = Estimate(0.0, count=100_000)
    for _ in range(50):
        estimate.update(math.log(1.5))
    assert estimate.value > 0.99 * math.log(1.5)


def test_counts_what_it_saw_in_this_run_apart() -> None:
    estimate = Estimate(0.0, count=6, recent=0)
    for _ in range(4):
        estimate.update(0.1)
    assert (estimate.count, estimate.recent) == (10, 4)


def test_nothing_is_shown_before_the_curve_shows_it() -> None:
    assert Estimate(0.5).shown == math.inf
