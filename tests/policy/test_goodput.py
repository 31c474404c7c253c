"""Several answers in one forward pass: their draft tokens compete for its rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.core import AnswerPolicy, Plan, PlanRequest, Verdict
from edgespec.errors import InvalidRequest
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.policy.goodput import NO_OFFER, Offer, charged_times, rows_for
from edgespec.testing import FixedPolicy, ScriptedDrafter, without_rows
from tests.curves import chain, curve, flat, steep
from tests.policy.test_trees import Proposing

reaches = st.lists(st.floats(0.01, 1.0), max_size=4).map(lambda chances: sorted(chances, reverse=True))


def ratios_of(steps: list[float]) -> list[float]:
    return list(itertools.accumulate(steps, initial=1.0))


def goodput(offers: Sequence[Sequence[float]], sizes: tuple[int, ...], ratios: list[float]) -> float:
    tokens = sum(1.0 + sum(reach[:size]) for reach, size in zip(offers, sizes, strict=True))
    return tokens / ratios[len(offers) + sum(sizes) - 1]


@given(st.lists(reaches, min_size=1, max_size=4), st.lists(st.floats(-0.2, 0.8), min_size=20, max_size=20))
def test_no_other_sizes_bring_more_tokens_per_time(offers: list[list[float]], steps: list[float]) -> None:
    ratios = [max(ratio, 0.1) for ratio in ratios_of(steps)]  # with teeth
    sizes = tuple(rows_for([Offer(reach, lambda size, time: True) for reach in offers], ratios, 1.0))
    best = max(
        goodput(offers, each, ratios) for each in itertools.product(*(range(len(reach) + 1) for reach in offers))
    )
    assert goodput(offers, sizes, ratios) == pytest.approx(best)


@given(
    st.lists(st.tuples(reaches, st.integers(0, 4), st.floats(1.0, 3.0)), min_size=1, max_size=4),
    st.lists(st.floats(0.0, 0.5), min_size=20, max_size=20),
    st.floats(1.0, 1.5),
)
def test_no_answer_gets_what_its_limits_do_not_allow(
    answers: list[tuple[list[float], int, float]], steps: list[float], minimum: float
) -> None:
    ratios = ratios_of(steps)

    def offer(reach: list[float], most: int, longest: float) -> Offer:
        return Offer(reach, lambda size, time: size <= most and time <= longest)

    offers = [offer(*each) for each in answers]
    sizes = rows_for(offers, ratios, minimum)
    plain = ratios[len(offers) - 1]
    times = charged_times(sizes, ratios[len(offers) + sum(sizes) - 1] / plain - 1.0)
    for size, time, each in zip(sizes, times, offers, strict=True):
        assert size <= len(each.reach) and (not size or each.allows(size, time))
    bare = [each.reach for each in offers]
    assert not sum(sizes) or goodput(bare, tuple(sizes), ratios) >= minimum * len(offers) / plain * (1 - 1e-9)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.floats(0.0, 5.0))
def test_together_the_answers_are_charged_with_the_pass(drafted: list[int], longer: float) -> None:
    times = charged_times(drafted, longer)
    assert sum(times) == pytest.approx(len(drafted) * (1.0 + (longer if any(drafted) else 0.0)))
    assert all(time == 1.0 for time, size in zip(times, drafted, strict=True) if not size)


def group(policy: AdaptivePolicy, count: int) -> list[AnswerPolicy]:
    answers: list[AnswerPolicy] = [policy.begin() for _ in range(count)]
    for answer in answers:
        answer.prefilled(without_rows([1]), Verdict((), (1,)), cached=0, seconds=0.0)
    return answers


def requests(answers: Sequence[AnswerPolicy], room: int = 40) -> list[PlanRequest]:
    return [PlanRequest(answer, [1], room) for answer in answers]


def settle(policy: AdaptivePolicy, answers: list[AnswerPolicy], plans: list[Plan], seconds: float, right: int) -> None:
    policy.passed([1] * len(plans), sum(1 + len(plan.draft) for plan in plans), seconds)
    for answer, plan in zip(answers, plans, strict=True):
        answer.settle(plan, without_rows([1], plan.draft), verdict_of(plan, right), None)


def verdict_of(plan: Plan, right: int) -> Verdict:
    accepted = min(right, len(plan.draft))
    return Verdict(tuple(range(accepted)), (*plan.draft.tokens[:accepted], 1 if right > accepted else 99))


def test_the_surest_tokens_of_all_answers_get_the_rows() -> None:
    cost = LatencyModel(64)
    cost.measure({n: 0.01 * (1.0 + 0.05 * (n - 1) if n <= 8 else 4.0 * n) for n in range(1, 65)})
    policy = AdaptivePolicy([], cost)
    sure, unsure = (
        policy.begin([Proposing(chain([1] * 9, 0.97, "a"))]),
        policy.begin([Proposing(chain([1] * 9, 0.4, "b"))]),
    )
    plans = policy.plan_many(requests([sure, unsure]))
    assert [len(plan.draft) for plan in plans] == [6, 0]
    assert plans[0].reach == pytest.approx([0.97**size for size in range(1, 7)])
    assert len(plans[1].proposals) == 1, "what it proposed is verified all the same"


def test_an_answer_alone_gets_what_it_would_get_anyway() -> None:
    one, other = (AdaptivePolicy([Proposing(chain([1] * 9, 0.9, "a"))], curve(flat)) for _ in range(2))
    (answer,), (same,) = group(one, 1), group(other, 1)
    (plan,), expected = one.plan_many(requests([answer])), same.plan([1], 40)
    assert (plan.draft, plan.reach, plan.risk) == (expected.draft, expected.reach, expected.risk)
    seconds = 0.01 * flat(10)
    settle(one, [answer], [plan], seconds, right=3)
    same.settle(plan, without_rows([1], plan.draft), verdict_of(plan, 3), seconds)
    assert one.budgets["a"] == pytest.approx(other.budgets["a"])


def test_gains_and_losses_of_a_group_add_up() -> None:
    policy = AdaptivePolicy([Proposing(chain([1] * 9, 0.9, "a"))], curve(flat))
    answers = group(policy, 3)
    plans = policy.plan_many(requests(answers))
    rows = 3 + sum(len(plan.draft) for plan in plans)
    assert rows > 10
    before = policy.budgets["a"]
    settle(policy, answers, plans, 0.01 * flat(rows), right=2)
    gained = 3 * 3 - 3 * policy.latency.ratio(rows) / policy.latency.ratio(3)
    assert policy.budgets["a"] - before == pytest.approx(gained)


def test_bad_drafts_of_a_group_are_left_alone() -> None:
    policy = AdaptivePolicy([Proposing(chain([1] * 9, 0.9, "a"))], curve(steep, range(2, 64)))
    answers, drafted = group(policy, 3), 0
    for _ in range(60):
        plans = policy.plan_many(requests(answers))
        rows = 3 + sum(len(plan.draft) for plan in plans)
        drafted += rows - 3
        settle(policy, answers, plans, 0.01 * steep(rows), right=0)
    assert drafted < 20


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 8), st.floats(0.2, 4.0))
def test_a_group_learns_its_times_without_a_pass_of_one_row(count: int, times: float) -> None:
    """The machine becomes faster or slower, too."""
    policy = AdaptivePolicy([Proposing(chain([1] * 4, 0.95, "a"))], LatencyModel(64))
    answers, truth = group(policy, count), 0.01
    drafted = []
    for place in range(60):
        plans = policy.plan_many(requests(answers))
        rows = count + sum(len(plan.draft) for plan in plans)
        drafted.append(rows - count)
        settle(policy, answers, plans, truth * flat(rows) * (times if place > 30 else 1.0), right=4)
    assert any(drafted[:10]) and all(drafted[-8:])


def test_there_is_no_more_room_than_rows() -> None:
    policy = AdaptivePolicy([Proposing(chain([1] * 40, 0.99, "a"))], curve(flat, range(2, 64)))
    plans = policy.plan_many(requests(group(policy, 8)))
    assert 8 + sum(len(plan.draft) for plan in plans) <= 64


def test_an_answer_of_another_policy_is_refused() -> None:
    policy = AdaptivePolicy([], curve(flat))
    other = FixedPolicy(ScriptedDrafter(lambda tokens, limit: []), 1)
    with pytest.raises(InvalidRequest, match="FixedPolicy"):
        policy.plan_many([PlanRequest(policy.begin(), [1], 9), PlanRequest(other.begin(), [1], 9)])


def test_nothing_is_offered_where_nobody_drafts() -> None:
    policy = AdaptivePolicy([], curve(flat))
    assert policy.plan_many(requests(group(policy, 2))) == [Plan(), Plan()]
    assert NO_OFFER.allows(1, math.inf) and rows_for([NO_OFFER, NO_OFFER], [1.0, 1.5], 1.1) == [0, 0]
