"""What drafts promise, against sums over all their lengths."""

from __future__ import annotations

import itertools
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import Draft
from edgespec.latency.model import LatencyModel
from edgespec.policy.acceptance import Acceptance, ChainAcceptance
from edgespec.policy.speedup import Prospects, promise
from tests.curves import curve, flat


@given(st.lists(st.floats(0.3, 2.0), min_size=2, max_size=40), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=39))
def test_what_pays_best_is_never_better_evaluated_in_two_parts(factors, chances):
    """Why, says docs/architecture.md: with T(a) + T(b) < T(a + b), a draft for one of the parts promises more."""
    cost = LatencyModel(64)
    ratios = {n: [factor * n, 1] for n, factor in enumerate(factors, 2)}
    cost.restore({"single_seconds": 0.01, "ratios": ratios})
    draft = Draft.chain([1] * len(chances), chances, range(len(chances)), "t")
    gains = Prospects(draft, Acceptance(), cost).gains
    size = max(range(len(gains)), key=gains.__getitem__)
    whole = cost.ratio(size + 1)
    assert all(cost.ratio(a) + cost.ratio(size + 1 - a) > whole * (1 - 1e-9) for a in range(1, size + 1))


def test_a_model_is_weighed_where_few_rows_fit():
    chains, cost = ChainAcceptance(), LatencyModel(4)
    gain, loss = promise("small", chains, cost, 0.1, 0.1, 48, unknown=1.0)
    assert gain == pytest.approx(max((1 + k) / (max(1.0, 0.75 * cost.ratio(k + 1)) + 0.1 * k) for k in (1, 2, 3)))
    assert loss == 0.0


def expected_loss(chances, size, time):
    """E[max(0, time - length)], length by length."""
    reach = [1.0, *itertools.accumulate(chances[:size], operator.mul), 0.0]
    return sum((reach[k - 1] - reach[k]) * max(0.0, time - k) for k in range(1, size + 2))


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30), st.floats(0.0, 3.0), st.data())
def test_what_a_draft_promises_is_what_its_lengths_come_to(chances, spent, data):
    cost = curve(flat, range(2, 60))
    weighed = Prospects(Draft.chain([1] * len(chances), chances, range(len(chances)), "t"), Acceptance(), cost, spent)
    size = data.draw(st.sampled_from(list(weighed.best_first())))
    reach = list(itertools.accumulate(chances[:size], operator.mul))
    assert weighed.gains[size] == pytest.approx((1 + sum(reach)) / (cost.ratio(size + 1) + spent))
    assert weighed.loss(size) == pytest.approx(expected_loss(chances, size, cost.ratio(size + 1) + spent), abs=1e-9)
    assert weighed.gains[weighed.best()] == max(weighed.gains[1:])
