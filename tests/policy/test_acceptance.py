"""How often draft tokens are right, as learned."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import Draft
from edgespec.policy.acceptance import Acceptance
from edgespec.policy.config import PolicyConfig
from tests.curves import chain


def test_acceptance_moves_from_the_drafters_estimate_to_what_happens() -> None:
    acceptance = Acceptance()
    assert acceptance.estimate("scripted", "kind", 0.8) == 0.8
    for _ in range(100):
        acceptance.observe(chain([1]), [2])
    assert acceptance.estimate("scripted", "kind", 0.8) < 0.15
    for _ in range(100):
        acceptance.observe(chain([1]), [1])
    assert acceptance.estimate("scripted", "kind", 0.8) > 0.85


def test_nothing_is_learned_of_what_was_not_verified() -> None:
    acceptance = Acceptance()
    acceptance.observe(Draft.chain([1, 2, 3], [0.5] * 3, ["a", "b", "c"], "t"), [1, 9, 9])
    assert acceptance.estimate("t", "a", 0.5) > 0.5 > acceptance.estimate("t", "b", 0.5)
    assert acceptance.estimate("t", "c", 0.5) == 0.5


buckets = st.one_of(st.integers(0, 3), st.sampled_from(["x", "y"]), st.tuples(st.integers(0, 3), st.booleans()))


@given(st.lists(st.tuples(buckets, st.booleans()), max_size=200), st.floats(0.0, 1.0))
def test_what_was_learned_is_restored_but_believed_less(observed: list[tuple[Hashable, bool]], prior: float) -> None:
    acceptance = Acceptance()
    for bucket, right in observed:
        acceptance.observe(Draft.chain([1], [prior], [bucket], "t"), [1 if right else 2])
    again = Acceptance()
    again.restore("t", json.loads(json.dumps(acceptance.as_json("t"))))
    for bucket in {bucket for bucket, _ in observed}:
        before, after = acceptance.weight("t", bucket), again.weight("t", bucket)
        assert after == pytest.approx(min(before, PolicyConfig().carried))
        share = (acceptance.estimate("t", bucket, prior) * (before + 6) - 6 * prior) / before
        assert again.estimate("t", bucket, prior) == pytest.approx((share * after + 6 * prior) / (after + 6))
    assert again.weight("other", 1) == 0.0


@pytest.mark.parametrize(
    "stored",
    [
        [], {}, {"kinds": None}, {"kinds": [[1, 2]]}, {"kinds": [[1, 5, 4]]}, {"kinds": [[1, -1, 4]]},
        {"kinds": [[1, math.nan, 4]]}, {"kinds": [[1, 4, math.inf]]}, {"kinds": [[1, "1", "2"]]},
        {"kinds": [[{}, 1, 2]]}, {"kinds": [[[[1]], 1, 2]]},
    ],
    ids=str,
)  # fmt: skip
def test_spoilt_acceptance_is_refused_and_nothing_is_taken_from_it(stored: object) -> None:
    acceptance = Acceptance()
    with pytest.raises((KeyError, TypeError, ValueError)):
        acceptance.restore("t", stored)  # type: ignore[arg-type]
    assert acceptance.estimate("t", 1, 0.5) == 0.5


def test_another_answer_begins_with_little_belief_in_how_long_chains_came_true() -> None:
    acceptance = Acceptance()
    chains = acceptance.begin()
    for _ in range(50):
        chains.observe(chain([1, 1]), [2])
    known = chains.by_depth("scripted", 2, 0.75)
    assert known[0] < 0.1
    for _ in range(9):
        chains = acceptance.begin()  # beginning again forgets no more
        first, second = chains.by_depth("scripted", 2, 0.75)
        assert first == second == pytest.approx(0.75 * 6 / (6 + PolicyConfig().carried))
