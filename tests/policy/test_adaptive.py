"""What is drafted, and when nothing is."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from operator import mul
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.core import NOTHING, Draft, DraftCost, Drafter, Evaluation, SharedNoise, Verdict
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.policy.speedup import Limits, Sizes
from edgespec.testing import ScriptedDrafter, without_rows
from tests.answering import Answering
from tests.curves import chain, curve, flat, steep


def plan_after(
    cost: LatencyModel, emit: Callable[[], int], probability: float = 0.8, blocks: int = 200, size: int = 16
) -> list[int]:
    """The sizes planned, block by block, when a drafter offers `size` tokens and `emit()` tells how many are right."""
    drafter = ScriptedDrafter(lambda tokens, limit: [1] * min(size, limit))
    policy = Answering(AdaptivePolicy([drafter], cost))
    sizes = []
    for _ in range(blocks):
        draft = policy.plan([1], 60)
        sizes.append(len(draft))
        right = min(emit(), len(draft))
        emitted = (1,) * right + (2,)
        policy.settle(draft, Verdict(tuple(range(right)), emitted), cost.t1 * cost.ratio(1 + len(draft)))
    return sizes


def test_good_drafts_on_a_flat_curve_are_drafted_long() -> None:
    assert min(plan_after(curve(flat), lambda: 16)[5:]) >= 12


def test_bad_drafts_on_a_steep_curve_are_left_alone() -> None:
    sizes = plan_after(curve(steep), lambda: 0, probability=0.9)
    assert sum(sizes[20:]) <= 2


def test_good_drafts_on_a_steep_curve_do_not_pay_either() -> None:
    assert sum(plan_after(curve(float), lambda: 16)[20:]) <= 2


def test_a_drafter_that_got_better_is_noticed_without_drafting() -> None:
    drafter = ScriptedDrafter(lambda tokens, limit: [1] * 4)
    policy = Answering(AdaptivePolicy([drafter], curve(lambda n: 1.0 + 0.2 * (n - 1))))
    for _ in range(100):
        policy.plan([1], 60)
        policy.settle(NOTHING, Verdict((), (2,)), 0.01)
    assert policy.plan([1], 60) == NOTHING
    for _ in range(50):
        policy.plan([1], 60)
        policy.settle(NOTHING, Verdict((), (1,)), 0.01)
    assert len(policy.plan([1], 60)) > 0


def test_dips_in_the_curve_are_used() -> None:
    cost = curve(lambda n: {5: 4.9, 6: 1.2}.get(n, 1.0 + 0.9 * (n - 1)))
    assert set(plan_after(cost, lambda: 16)[5:]) == {5}, "6 rows are cheaper than 5: the draft has 5 tokens"


def test_a_drafter_may_leave_its_name_out_of_its_drafts() -> None:
    class Nameless(ScriptedDrafter):
        def propose(self, tokens: Sequence[int], limit: int) -> Draft:
            return dataclasses.replace(super().propose(tokens, limit), drafter="none")

    cost = LatencyModel(64)
    cost.measure(dict.fromkeys(range(1, 65), 1.0))
    drafter = Nameless(lambda tokens, limit: [5] * 4)
    policy = Answering(AdaptivePolicy([drafter], cost))
    policy.prefilled(1, 0.0)
    for _ in range(20):
        draft = policy.plan([5], 60)
        policy.settle(draft, Verdict(tuple(range(len(draft))), (*draft.tokens, 5)), 1.0)
    drafters = [draft.drafter for draft, _ in drafter.verdicts if draft.tokens]
    assert len(drafters) > 10 and set(drafters) == {"scripted"}


def test_a_plan_gives_its_reasons_where_asked() -> None:
    drafter = ScriptedDrafter(lambda tokens, limit: [1] * 4 if len(tokens) > 1 else [])
    policy = Answering(AdaptivePolicy([drafter], LatencyModel(64)), explain=True)
    policy.plan([1], 60)
    assert policy.made.reasons[0] == "scripted: no draft token" and "T(1) is not known" in policy.made.reasons[1]
    policy.settle(NOTHING, Verdict((), (1,)), 0.01)
    assert len(policy.plan([1, 2], 60)) > 0
    assert "tokens promise" in policy.made.reasons[0]
    assert policy.plan([1, 2], 0) == NOTHING and policy.made.reasons == ("there is no room for a draft",)


def test_a_trial_is_weighed_against_the_draft_that_it_replaces() -> None:
    """And not against one that a model's time was charged to, when that was asked in vain."""
    now = [0.0]

    class Unsure(ScriptedDrafter):
        def propose(self, tokens: Sequence[int], limit: int) -> Draft:
            return Draft.chain([7] * 5, [1.0] * 4 + [0.05], range(5), self.name)

    class InVain:
        name = "model"
        asked = 0

        def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
            return DraftCost(first=0.05, next=0.05)

        def draft(
            self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
        ) -> Draft:
            self.asked += 1
            now[0] += 0.05
            return Draft.chain([9], [0.1], ["hardly"], self.name)

        def propose(self, tokens: Sequence[int], limit: int) -> Draft:
            raise AssertionError("a model is asked through draft")

        def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
            pass

    cost = curve(lambda n: 1.0 + 0.3 * (n - 1), range(2, 6))
    cost.measure({n: 1.0 + 0.3 * (n - 1) for n in range(1, 6)})
    cost.observe(6, 2.5)  # once: it may be cheaper, but not so much that 5 tokens would beat 4
    model = InVain()
    policy = Answering(AdaptivePolicy([Unsure(lambda tokens, limit: []), model], cost, clock=lambda: now[0]))
    policy.prefilled(1, 0.0)
    policy.policy.budgets._budgets[model.name] = 3.0
    for _ in range(60):
        cast(Any, policy._answer)._chains.observe(chain([1] * 16, drafter="model"), [1] * 16)
    drafts = [len(policy.plan([5] * 40, 60)) for _ in range(2)]
    assert model.asked == 2 and drafts == [4, 4]


def test_without_t1_nothing_is_drafted() -> None:
    policy = Answering(AdaptivePolicy([ScriptedDrafter(lambda tokens, limit: [1] * limit)], LatencyModel(64)))
    policy.prefilled(64, 0.02)
    assert policy.plan([1], 60) == NOTHING
    policy.settle(NOTHING, Verdict((), (1,)), 0.01)
    assert len(policy.plan([1], 60)) > 8, "the prompt told that 64 tokens cost but twice T(1)"


def test_a_dip_of_the_curve_is_found() -> None:
    truth = {1: 1.0, 2: 1.73, 3: 1.9, 4: 1.85}
    drafter = ScriptedDrafter(lambda tokens, limit: [1] * 8)
    cost = LatencyModel(64)
    cost.observe(1, 0.01)
    cost.observe(2, 0.0173)
    policy = Answering(AdaptivePolicy([drafter], cost))
    rng = random.Random(3)
    sizes = []
    for _ in range(400):
        draft = policy.plan([1], 60)
        right = next((i for i in range(len(draft)) if rng.random() > 0.8), len(draft))
        emitted = (1,) * right + ((2,) if right < len(draft) or rng.random() > 0.8 else (1,))
        seconds = 0.01 * truth.get(1 + len(draft), 1.85 + 0.9 * (len(draft) - 3))
        policy.settle(draft, Verdict(tuple(range(right)), emitted), seconds)
        sizes.append(len(draft))
    assert sizes[200:].count(3) > 150


def test_probing_costs_at_most_its_share() -> None:
    cost = curve(steep)
    spent = plain = 0.0
    drafter = ScriptedDrafter(lambda tokens, limit: [1] * 8)
    policy = Answering(AdaptivePolicy([drafter], cost))
    rng = random.Random(1)
    for _ in range(3000):
        draft = policy.plan([1], 60)
        right = next((i for i in range(len(draft)) if rng.random() > 0.6), len(draft))
        seconds = 0.01 * steep(1 + len(draft)) if draft.tokens else 0.01
        policy.settle(draft, Verdict(tuple(range(right)), (1,) * right + (2,)), seconds)
        spent += seconds
        plain += 0.01 * (right + 1)
    assert spent <= plain * 1.015


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 1.0), st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_a_trial_keeps_the_promise_and_is_charged_for_itself(slope: float, right: list[int]) -> None:
    """Its risk and its expected loss are those of the size that is sent, not of the one that it replaces."""
    cost = LatencyModel(64)
    cost.observe(1, 1.0)
    drafter = ScriptedDrafter(lambda tokens, limit: [1] * min(limit, 12))
    shared = AdaptivePolicy([drafter], cost, clock=lambda: 0.0)
    policy = Answering(shared, explain=True)
    policy.prefilled(1, 0.0)
    budget = cast(Any, policy._answer)._budget
    for place in range(60):
        exploration = shared.exploration
        noticed = budget.noticed(shared.lengths.mean)
        limits = Limits({}, budget.worst, max(noticed, 0.5) if noticed > 0.0 else math.inf, budget.risk)
        chances = shared.acceptance.estimates(drafter.propose([1], 12))
        sizes = Sizes(list(accumulate(chances, mul)), cost.ratios())
        draft = policy.plan([1] * (place + 1), 60)
        assert policy.made.risk == pytest.approx(sizes.risk(len(draft), limits.noticed) if draft.tokens else 0.0)
        assert sizes.keeps_promise(len(draft), limits) or not draft.tokens
        tried = any("are tried" in reason for reason in policy.made.reasons)
        assert exploration - shared.exploration == pytest.approx(sizes.shortfall(len(draft)) if tried else 0.0)
        assert shared.exploration >= 0.0
        accepted = min(right[place % len(right)], len(draft))
        policy.settle(draft, Verdict(tuple(range(accepted)), (1,) * accepted + (2,)), 1.0 + slope * len(draft))


@pytest.mark.parametrize(("gained", "drafts"), [(0.0, False), (-3.0, True)])
def test_an_answer_that_is_slower_already_may_become_faster(gained: float, drafts: bool) -> None:
    """The allowance of risk protects answers that do not count as slower yet."""

    class Unsure(ScriptedDrafter):
        def propose(self, tokens: Sequence[int], limit: int) -> Draft:
            return chain([1] * min(limit, 8), 0.97)

    cost = curve(lambda n: 2.6 + 0.1 * n)
    policy = Answering(AdaptivePolicy([Unsure(lambda tokens, limit: [])], cost))
    policy.prefilled(1, 0.0)
    budget = cast(Any, policy._answer)._budget
    budget.risk, budget.gained = 0.0, gained
    assert bool(policy.plan([1], 60).tokens) == drafts


def test_an_answer_that_can_afford_no_draft_says_so() -> None:
    policy = Answering(AdaptivePolicy([ScriptedDrafter(lambda tokens, limit: [1] * limit)], curve(flat)), explain=True)
    policy.prefilled(1, 0.0)
    cast(Any, policy._answer)._budget.gained = -20.0
    assert policy.plan([1], 60) == NOTHING
    assert policy.made.reasons == ("this answer is so late that no draft keeps its promise",)


def test_a_costed_drafter_does_not_prefill_only_to_see_how_good_it_is() -> None:
    class Weak(ScriptedDrafter):
        name, asked = "model", 0
        first = 2.0

        def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
            return DraftCost(first=self.first * target_seconds, next=0.2 * target_seconds)

        def draft(
            self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
        ) -> Draft:
            self.asked += 1
            return NOTHING

    weak = Weak(lambda tokens, limit: [])
    policy = Answering(AdaptivePolicy([weak], curve(lambda n: 1.0 + 0.4 * (n - 1))))
    policy.prefilled(1, 0.0)
    policy.policy.budgets._budgets["model"] = 15.0
    for _ in range(60):  # it was wrong so far
        cast(Any, policy._answer)._chains.observe(chain([1], drafter="model"), [2])
    policy.plan([1], 60)
    assert weak.asked == 0
    weak.first = 0.2  # it has read the text
    policy.plan([1], 60)
    assert weak.asked == 1


@pytest.mark.parametrize(("probability", "least", "most"), [(0.97, 100, 100), (0.3, 20, 60)])
def test_a_draft_that_cannot_be_afforded_was_not_looked_for_in_vain(probability: float, least: int, most: int) -> None:
    """One that promises nothing was."""
    now, passes = [0.0], [0]

    class Slow(ScriptedDrafter):
        def propose(self, tokens: Sequence[int], limit: int) -> Draft:
            now[0] += 0.001
            passes[0] += 1
            return chain([1] * min(limit, 8), probability)

    cost = curve(lambda n: 2.6 + 0.1 * n)
    policy = Answering(AdaptivePolicy([Slow(lambda tokens, limit: [])], cost, clock=lambda: now[0]))
    policy.prefilled(1, 0.0)
    cast(Any, policy._answer)._budget.risk = 0.0
    for _ in range(100):
        assert policy.plan([1], 60) == NOTHING
        policy.settle(NOTHING, Verdict((), (1 if probability > 0.9 else 2,)), cost.t1)
    assert least <= passes[0] <= most


def test_what_a_plan_takes_is_learned_at_its_depth() -> None:
    policy = Answering(AdaptivePolicy([ScriptedDrafter(lambda tokens, limit: [])], LatencyModel(64)))
    for depth, seconds in [(10, 0.01)] + 9 * [(3000, 0.02)] + [(10, 0.01)]:
        policy.prefilled(64, 10 * seconds)
        policy.plan([1] * depth, 60)
        policy.settle(NOTHING, Verdict((), (1,)), seconds)
    assert policy.latency.t1 == pytest.approx(0.01, rel=0.01)
    assert policy.latency.for_context(3000).t1 == pytest.approx(0.02, rel=0.1)
    assert policy.latency.ratio(64) == pytest.approx(10.0, rel=0.2)


@pytest.mark.parametrize("times", [2.0, 4.0, 0.5])
def test_a_policy_that_drafts_in_every_block_measures_t1_again_when_all_times_change(times: float) -> None:
    cost = curve(flat)
    policy = Answering(AdaptivePolicy([ScriptedDrafter(lambda tokens, limit: [1] * min(limit, 12))], cost))
    tokens, sizes = [1], []
    for block in range(100):
        draft = policy.plan(tokens, 1000)
        verdict = Verdict(tuple(range(len(draft))), (1,) * (len(draft) + 1))
        seconds = 0.01 * flat(1 + len(draft)) * (times if block >= 50 else 1.0)
        policy.settle(draft, verdict, seconds)
        tokens += verdict.emitted
        sizes.append(len(draft))
    assert sizes[30:50] == [12] * 20
    assert 1 <= sizes[50:].count(0) <= 2  # T(1), measured again; all other blocks go on drafting
    assert min(sizes[60:]) >= 10
    assert cost.t1 == pytest.approx(0.01 * times, rel=0.05)
    assert cost.ratio(13) == pytest.approx(flat(13), rel=0.1)


@pytest.mark.parametrize(("share", "least", "most"), [(0.02, 41, 80), (0.001, 400, 400)])
def test_where_looking_in_vain_takes_a_part_of_t1_it_is_done_seldom(share: float, least: int, most: int) -> None:
    now, looked = [0.0], [0]

    def nothing(tokens: Sequence[int], limit: int) -> list[int]:
        now[0] += share
        looked[0] += 1
        return []

    cost = LatencyModel(64)
    cost.observe(1, 1.0)
    policy = Answering(AdaptivePolicy([ScriptedDrafter(nothing)], cost, clock=lambda: now[0]))
    policy.prefilled(1, 0.0)
    for _ in range(400):
        policy.settle(policy.plan([1], 60), Verdict((), (1,)), 1.0)
    assert least <= looked[0] <= most
    policy.prefilled(1, 0.0)
    before = looked[0]
    policy.plan([1], 60)
    assert looked[0] == before + 1, "another answer is another text"


def test_a_text_that_begins_to_repeat_itself_is_noticed_soon() -> None:
    now, repeats = [0.0], [False]

    def draft_tokens(tokens: Sequence[int], limit: int) -> list[int]:
        now[0] += 0.0002
        return [1] * limit if repeats[0] else []

    cost = curve(flat)
    policy = Answering(AdaptivePolicy([ScriptedDrafter(draft_tokens)], cost, clock=lambda: now[0]))
    policy.prefilled(1, 0.0)
    for _ in range(300):
        assert policy.plan([1], 60) == NOTHING
        policy.settle(NOTHING, Verdict((), (1,)), cost.t1)
    repeats[0] = True
    drafted = []
    for _ in range(60):
        draft = policy.plan([1], 60)
        drafted.append(len(draft))
        seconds = cost.t1 * cost.ratio(1 + len(draft))
        policy.settle(draft, Verdict(tuple(range(len(draft))), (1,) * (len(draft) + 1)), seconds)
    assert any(drafted[:10]) and all(drafted[30:])


def test_what_is_known_badly_of_t_of_n_cannot_lose_much() -> None:
    """A stored T(7) says that six more tokens halve the time. It is wrong, and the account has to notice."""
    cost = curve(steep)
    cost.restore({**cost.as_json(), "ratios": {"7": [0.5, 6]}})
    policy = Answering(AdaptivePolicy([ScriptedDrafter(lambda tokens, limit: [1] * min(limit, 6))], cost))
    tokens, lost = [1], 0.0
    for _ in range(60):
        draft = policy.plan(tokens, 1000)
        policy.settle(draft, Verdict((), (2,)), 0.01 * steep(1 + len(draft)))
        lost += steep(1 + len(draft)) - 1.0
        tokens.append(2)
    assert lost < 15.0


@pytest.mark.parametrize(
    ("drafters", "room", "reason"),
    [((), 9, "nobody drafts"), ((ScriptedDrafter(lambda tokens, limit: [1]),), 0, "there is no room for a draft")],
)
def test_where_nothing_can_be_drafted_it_is_said_why(drafters: tuple[Drafter, ...], room: int, reason: str) -> None:
    policy = Answering(AdaptivePolicy(drafters, curve(flat)), explain=True)
    assert not policy.plan([1], room).tokens and policy.made.reasons == (reason,)


def test_a_drafter_of_one_answer_drafts_in_that_one_and_is_remembered_by_name() -> None:
    cost = curve(flat)
    policy = AdaptivePolicy((), cost)
    for steps in (20, 1):  # another answer's drafter of that name begins with what is known of the first one's
        own = ScriptedDrafter(lambda tokens, limit: [1] * min(8, limit), name="own")
        answer = policy.begin([own])
        for _ in range(steps):
            plan = answer.plan([1], 60)
            right = len(plan.draft)
            evaluation = without_rows([1], plan.draft)
            answer.settle(plan, evaluation, Verdict(tuple(range(right)), (1,) * right + (2,)), cost.t1)
        assert plan.draft.drafter == "own"
        assert len(own.verdicts) == steps
    assert policy.budgets["own"] > policy.config.initial_budget
    assert policy.begin().plan([1], 60).draft == NOTHING


def test_what_is_learned_from_each_row_is_part_of_what_a_row_takes() -> None:
    now = 0.0

    class Reading(ScriptedDrafter):
        def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
            nonlocal now
            now += 0.001 * (1 + len(evaluation.draft))

    latency = LatencyModel(64)
    drafter = Reading(lambda tokens, limit: [1] * min(4, limit))
    policy = Answering(AdaptivePolicy([drafter], latency, clock=lambda: now))
    policy.settle(NOTHING, Verdict((), (2,)), 0.01)
    assert latency.t1 == pytest.approx(0.011)
    for _ in range(9):
        policy.settle(chain([1] * 4, 0.9, "scripted"), Verdict((0,), (1, 2)), 0.02)
    assert latency.ratio(5) == pytest.approx(0.025 / 0.011, rel=0.1)
