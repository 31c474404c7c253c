"""T(n) from what was seen of it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.latency.curve import _VISIBLE
from edgespec.latency.model import LatencyModel
from tests.curves import curve, flat, steep


@given(st.dictionaries(st.integers(2, 64), st.floats(0.1, 1.59), max_size=12), st.floats(1e-4, 10.0))
def test_a_curve_passes_through_what_was_observed(surprises: dict[int, float], single: float) -> None:
    cost = LatencyModel(64)
    for _ in range(3):
        cost.observe(1, single)
    ratios = {}
    for n, surprise in surprises.items():
        ratios[n] = surprise * cost.ratio(n)
        cost.observe(n, single * ratios[n])
    assert cost.ratio(1) == 1.0
    for n, ratio in ratios.items():
        assert cost.ratio(n) == pytest.approx(ratio)
    again = LatencyModel(64)
    again.restore(cost.as_json())
    assert again.ratios() == pytest.approx(cost.ratios())
    assert again.t1 == pytest.approx(single)


@given(st.lists(st.tuples(st.integers(1, 200), st.floats(1e-3, 1e3)), max_size=40), st.sampled_from([4, 64, 128]))
def test_a_curve_bent_bit_by_bit_is_the_curve_drawn_at_once(evaluations: list[tuple[int, float]], rows: int) -> None:
    cost = LatencyModel(rows)
    for n, seconds in [(1, 1.0), *evaluations]:
        before = cost.ratios()
        kept = before.copy()
        cost.observe(n, seconds)
        assert before == kept, "a curve that was handed out stays as it is"
    again = LatencyModel(rows)
    again.restore(cost.as_json())
    assert cost.ratios() == pytest.approx(again.ratios(), rel=2 * _VISIBLE)
    assert all(1.0 <= hoped <= max(1.0, ratio) for hoped, ratio in zip(cost.optimistic(), cost.ratios(), strict=True))


def test_a_prompt_bends_the_prior_before_the_first_draft() -> None:
    memory_bound, compute_bound = LatencyModel(64), LatencyModel(64)
    memory_bound.observe(100, 1.6)
    compute_bound.observe(100, 5.0)
    for cost in (memory_bound, compute_bound):
        assert not cost.known
        cost.observe(1, 0.1)
    assert memory_bound.ratio(8) < LatencyModel(64).ratio(8) < compute_bound.ratio(8)


def test_a_long_context_has_a_curve_of_its_own_that_begins_as_the_nearest_known() -> None:
    cost = curve(flat)
    deep = cost.for_context(3000)
    assert cost.for_context(1023) is cost and cost.for_context(2048) is deep is not cost.for_context(1500) is not cost
    assert deep.t1 == pytest.approx(cost.t1) and deep.ratios() == pytest.approx(cost.ratios())
    for _ in range(30):
        deep.observe(1, 0.03)
        deep.observe(8, 0.03 * steep(8))
    assert cost.t1 == pytest.approx(0.01) and cost.ratio(8) == pytest.approx(flat(8))
    assert cost.for_context(9000).t1 == pytest.approx(deep.t1), "it begins as the deepest one known, not the first"
    assert cost.for_context(9000).ratio(8) == pytest.approx(deep.ratio(8)) and deep.ratio(8) > 3 * flat(8)
    again = LatencyModel(64)
    again.restore(json.loads(json.dumps(cost.as_json())))
    for depth in (0, 1500, 3000, 9000):
        assert again.for_context(depth).ratios() == pytest.approx(cost.for_context(depth).ratios())
        assert again.for_context(depth).t1 == pytest.approx(cost.for_context(depth).t1)


def test_what_long_contexts_were_thought_to_cost_is_forgotten_when_it_is_measured_on_purpose() -> None:
    cost = curve(flat)
    for n, seconds in ((1, 0.9), (8, 9.0)):
        cost.for_context(3000).observe(n, seconds)
    cost.measure({1: 0.02, 8: 0.03})
    assert cost.for_context(3000).t1 == pytest.approx(0.02) and cost.for_context(3000).ratio(8) == pytest.approx(1.5)


def test_a_curve_of_earlier_versions_is_read() -> None:
    cost = LatencyModel(64)
    cost.restore({"single_seconds": 0.1, "ratios": {"2": [1.5, 3]}})
    assert cost.ratio(2) == cost.for_context(5000).ratio(2) == pytest.approx(1.5)


def test_a_short_context_begins_as_a_long_one_did() -> None:
    cost = LatencyModel(64)
    cost.for_context(3000).observe(1, 0.03)
    assert cost.for_context(10) is cost and cost.t1 == pytest.approx(0.03)


def test_one_slow_evaluation_does_not_turn_the_curve() -> None:
    cost = curve(flat)
    cost.observe(4, 10.0)
    assert cost.ratio(4) < 1.2 * flat(4)


def test_a_slow_first_evaluation_does_not_turn_it_either() -> None:
    cost = LatencyModel(64)
    cost.observe(1, 0.01)
    cost.observe(40, 0.1)
    before = cost.ratios()
    cost.observe(2, 0.1)
    assert all(after <= 1.6001 * once for once, after in zip(before, cost.ratios(), strict=True))
    cost.observe(3, 0.01 * 1.05)  # a fast one is believed at once
    assert cost.ratio(3) == pytest.approx(1.05)


def test_the_curve_follows_a_machine_that_throttles() -> None:
    cost = curve(flat)
    for _ in range(40):
        cost.observe(1, 0.02)
        cost.observe(4, 0.02 * steep(4))
    assert cost.t1 == pytest.approx(0.02, rel=0.1)
    assert cost.ratio(4) == pytest.approx(steep(4), rel=0.15)


@pytest.mark.parametrize(
    "stored",
    [
        {}, [], {"single_seconds": -1, "ratios": {}}, {"single_seconds": 0.1, "ratios": {"x": [1, 1]}},
        {"single_seconds": 0.1, "ratios": {"2": [math.inf, 1]}}, {"single_seconds": 0.1, "ratios": {"2": 5}},
        {"single_seconds": 0.1, "ratios": {"129": [5, 1]}}, {"single_seconds": 0.1, "ratios": {}, "deeper": {"0": {}}},
        {"single_seconds": 0.1, "ratios": {}, "deeper": {"1": {"single_seconds": 0, "ratios": {}}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_spoilt_store_is_refused(stored: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        LatencyModel(64).restore(stored)  # type: ignore[arg-type]


@given(st.dictionaries(st.integers(2, 64), st.floats(1.0, 20.0), min_size=1), st.lists(st.floats(0.5, 30), max_size=20))
def test_what_was_measured_on_purpose_counts_whatever_was_known(ratios: dict[int, float], before: list[float]) -> None:
    cost = LatencyModel(64)
    cost.observe(1, 0.2)
    for n, ratio in enumerate(before, start=2):
        cost.observe(n, 0.2 * ratio)
    cost.measure({1: 0.1, **{n: 0.1 * ratio for n, ratio in ratios.items()}})
    assert cost.t1 == pytest.approx(0.1)
    assert all(cost.ratio(n) == pytest.approx(ratio) for n, ratio in ratios.items())
    assert cost.optimistic()[0] == 1.0 and all(cost.optimistic()[n - 1] == pytest.approx(cost.ratio(n)) for n in ratios)


def test_slow_moments_do_not_make_t1_due() -> None:
    cost = curve(flat)
    for place in range(200):
        cost.observe(8, 0.01 * flat(8) * (3.0 if place % 4 else 1.0))
        assert not cost.needs_remeasure


def test_what_was_seen_while_t1_was_due_is_learned_with_it() -> None:
    cost = curve(flat)
    while not cost.needs_remeasure:
        cost.observe(8, 0.03 * flat(8))
    before = cost.ratio(8)
    cost.observe(8, 0.03 * flat(8))
    assert cost.ratio(8) == before
    cost.observe(1, 0.03)
    assert not cost.needs_remeasure
    assert cost.t1 == pytest.approx(0.03)
    assert cost.ratio(8) < before


@pytest.mark.parametrize("times", [4.0, 10.0])
def test_a_first_t1_of_a_busy_moment_is_not_believed(times: float) -> None:
    """As in a first answer: the prompt is read, then a single token is slow, and drafts seem to cost nothing."""
    cost = LatencyModel(64)
    cost.observe_prompt(128, 0.01 * steep(128))
    cost.observe(1, 0.01 * times)
    for n in (2, 4, 8, 16):
        cost.observe(n, 0.01 * steep(n))
        while cost.needs_remeasure:
            cost.observe(1, 0.01)
    assert cost.t1 == pytest.approx(0.01)
    assert all(cost.ratio(n) == pytest.approx(steep(n)) for n in (2, 4, 8, 16))


def test_several_tokens_that_do_take_less_time_than_one_are_believed_in_the_end() -> None:
    cost = LatencyModel(64)
    cost.observe(1, 0.01)
    for _ in range(6):
        cost.observe(1 if cost.needs_remeasure else 4, 0.01 if cost.needs_remeasure else 0.006)
    assert not cost.needs_remeasure
    assert cost.ratio(4) == pytest.approx(0.6)


def test_an_evaluation_that_takes_another_time_than_thought_is_charged_as_it_was() -> None:
    cost = curve(steep)
    assert cost.charged(4, 0.01 * steep(4) * 1.7) == cost.ratio(4) == cost.charged(4, 0.01 * steep(4) / 1.7)
    assert cost.charged(4, 0.01 * steep(4) * 5) == pytest.approx(2.5 * steep(4))


def test_what_is_measured_on_purpose_replaces_what_was_seen_in_between() -> None:
    cost = curve(steep)
    cost.observe(7, 0.001)
    cost.observe(128, 0.01 * 40)
    cost.measure({n: 0.01 * steep(n) for n in (1, 4, 8, 64)})
    assert steep(4) < cost.ratio(7) < steep(8)
