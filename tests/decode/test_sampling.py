"""The keyed draw: a pure function, and distributed as it says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.decode.sampling import MAX_NOISE, SamplingParams, draw, draw_any, gumbel, log_probabilities
from edgespec.errors import InvalidRequest


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**20), st.lists(st.integers(0, 2**18), min_size=1, max_size=50))
def test_noise_depends_on_its_key_alone(seed: int, position: int, ids: list[int]) -> None:
    together = gumbel(seed, position, np.array(ids))
    assert all(together[i] == gumbel(seed, position, np.array([token]))[0] for i, token in enumerate(ids))
    assert together.max() <= MAX_NOISE


@given(
    st.integers(0, 2**32), st.integers(0, 1000), st.one_of(st.floats(0.1, 5.0), st.floats(1e-9, 0.1)),
    st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=300),
)  # fmt: skip
def test_a_whole_row_is_drawn_as_if_every_token_had_its_noise(
    seed: int, position: int, temperature: float, logits: list[float]
) -> None:
    row = np.array(logits, np.float32)
    assert draw_any(row, temperature, seed, position) == draw(np.arange(len(row)), row / temperature, seed, position)


def test_a_long_flat_row_needs_the_far_candidates() -> None:
    row = np.zeros(200_000, np.float32)
    row[7] = 11.0  # a third of the mass; the rest is in tokens of which each has next to none
    drawn = [draw_any(row, 1.0, 3, position) for position in range(300)]
    assert drawn == [draw(np.arange(len(row)), row, 3, position) for position in range(300)]
    assert 60 < drawn.count(7) < 130


def test_frequencies_are_the_probabilities() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    ids = np.array([900, 3, 77_000, 12, 151_000])
    count = 40_000
    drawn = [draw(ids, np.log(probabilities), 42, position) for position in range(count)]
    for token, probability in zip(ids, probabilities, strict=True):
        spread = math.sqrt(count * probability * (1 - probability))
        assert abs(drawn.count(token) - count * probability) < 4 * spread


def test_noise_is_gumbel_and_not_correlated_between_neighbours() -> None:
    noise = np.stack([gumbel(1, position, np.arange(2000)) for position in range(100)])
    assert abs(noise.mean() - np.euler_gamma) < 0.01
    assert abs(noise.var() - math.pi**2 / 6) < 0.02
    for left, right in ((noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1]), (noise[:, 64:], noise[:, :-64])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(noise[0], gumbel(2, 0, np.arange(2000)))[0, 1]) < 0.1


def test_log_probabilities_sum_to_one() -> None:
    values = log_probabilities(np.array([3.0, 1.0, -200.0], np.float32))
    assert np.exp(values).sum() == pytest.approx(1.0)
    assert values[0] - values[1] == pytest.approx(2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 1e-12}, {"logit_bias": {1: math.inf}}, {"temperature": -1.0}, {"temperature": math.nan},
        {"top_p": 1.5}, {"min_p": -0.1}, {"top_k": -1},
        {"typical_p": 2.0}, {"repeat_penalty": 0.0}, {"seed": -1}, {"seed": 2**64}, {"logit_bias": {-1: 0.5}},
        {"logit_bias": {1: math.nan}}, {"logprobs": -1}, {"dry_multiplier": math.inf}, {"penalty_last_n": -2},
    ],
    ids=str,
)  # fmt: skip
def test_absurd_parameters_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong)).replace("_", ".")):
        SamplingParams(**wrong)


def test_seeds_are_random_unless_given() -> None:
    assert SamplingParams(seed=5).seed == 5
    assert len({SamplingParams().seed for _ in range(8)}) > 1
