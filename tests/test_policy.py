"""The cost curve and the decisions made on it."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import NOTHING, ROOT, Draft, DraftCost, Verdict, verified
from edgespec.latency.curve import _VISIBLE
from edgespec.latency.model import LatencyModel
from edgespec.policy.acceptance import Acceptance
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.policy.config import PolicyConfig
from edgespec.testing import ScriptedDrafter
from tests.answering import Answering


def chain(tokens, probability=0.8, drafter="scripted"):
    return Draft.chain(tokens, [probability] * len(tokens), ["kind"] * len(tokens), drafter)


def curve(ratio, sizes=range(2, 33)) -> LatencyModel:
    cost = LatencyModel(64)
    for _ in range(5):
        cost.observe(1, 0.01)
        for n in sizes:
            cost.observe(n, 0.01 * ratio(n))
    return cost


def flat(n):
    return 1.0 + 0.02 * (n - 1)


def steep(n):
    return 1.0 + 0.9 * (n - 1)


def test_verified_walks_the_emitted_path_of_a_tree():
    tree = Draft((1, 5, 7, 8), (ROOT, ROOT, 1, 0), (0.5,) * 4, ("x",) * 4, "t")
    assert list(verified(tree, (5, 7, 9))) == [(0, False), (1, True), (2, True)]
    assert list(verified(tree, (5,))) == [(0, False), (1, True)]
    assert list(verified(tree, (4, 4))) == [(0, False), (1, False)]


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_verified_says_of_a_chain_what_it_says_of_the_same_chain_as_a_tree(tokens, emitted):
    plain = chain(tokens)
    tree = Draft((*tokens, 9), (*plain.parents, ROOT), (0.5,) * len(tokens) + (0.5,), ("x",) * (len(tokens) + 1), "t")
    judged_in_tree = [(node, right) for node, right in verified(tree, emitted) if node < len(tokens)]
    assert plain.is_chain and (not tokens or not tree.is_chain)
    assert list(verified(plain, emitted)) == judged_in_tree


def test_acceptance_moves_from_the_drafters_estimate_to_what_happens():
    acceptance = Acceptance()
    assert acceptance.estimate("scripted", "kind", 0.8) == 0.8
    for _ in range(100):
        acceptance.observe(chain([1]), [2])
    assert acceptance.estimate("scripted", "kind", 0.8) < 0.15
    for _ in range(100):
        acceptance.observe(chain([1]), [1])
    assert acceptance.estimate("scripted", "kind", 0.8) > 0.85


def test_nothing_is_learned_of_what_was_not_verified():
    acceptance = Acceptance()
    acceptance.observe(Draft.chain([1, 2, 3], [0.5] * 3, ["a", "b", "c"], "t"), [1, 9, 9])
    assert acceptance.estimate("t", "a", 0.5) > 0.5 > acceptance.estimate("t", "b", 0.5)
    assert acceptance.estimate("t", "c", 0.5) == 0.5


evidence = st.one_of(st.integers(0, 3), st.sampled_from(["x", "y"]), st.tuples(st.integers(0, 3), st.booleans()))


@given(st.lists(st.tuples(evidence, st.booleans()), max_size=200), st.floats(0.0, 1.0))
def test_what_was_learned_is_restored_but_believed_less(guesses, prior):
    acceptance = Acceptance()
    for kind, right in guesses:
        acceptance.observe(Draft.chain([1], [prior], [kind], "t"), [1 if right else 2])
    again = Acceptance()
    again.restore("t", json.loads(json.dumps(acceptance.as_json("t"))))
    for kind in {kind for kind, _ in guesses}:
        before, after = acceptance.weight("t", kind), again.weight("t", kind)
        assert after == pytest.approx(min(before, PolicyConfig().carried))
        share = (acceptance.estimate("t", kind, prior) * (before + 6) - 6 * prior) / before
        assert again.estimate("t", kind, prior) == pytest.approx((share * after + 6 * prior) / (after + 6))
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
def test_spoilt_acceptance_is_refused_and_nothing_is_taken_from_it(stored):
    acceptance = Acceptance()
    with pytest.raises((KeyError, TypeError, ValueError)):
        acceptance.restore("t", stored)
    assert acceptance.estimate("t", 1, 0.5) == 0.5


def test_another_answer_begins_with_little_belief_in_how_long_chains_came_true():
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


def plan_after(cost: LatencyModel, emit, probability=0.8, blocks=200, size=16) -> list[int]:
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


def test_good_drafts_on_a_flat_curve_are_drafted_long():
    assert min(plan_after(curve(flat), lambda: 16)[5:]) >= 12


def test_bad_drafts_on_a_steep_curve_are_left_alone():
    sizes = plan_after(curve(steep), lambda: 0, probability=0.9)
    assert sum(sizes[20:]) <= 2


def test_good_drafts_on_a_steep_curve_do_not_pay_either():
    assert sum(plan_after(curve(float), lambda: 16)[20:]) <= 2


def test_a_drafter_that_got_better_is_noticed_without_drafting():
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


def test_dips_in_the_curve_are_used():
    cost = curve(lambda n: {5: 4.9, 6: 1.2}.get(n, 1.0 + 0.9 * (n - 1)))
    assert set(plan_after(cost, lambda: 16)[5:]) == {5}, "6 rows are cheaper than 5: the draft has 5 tokens"


def test_a_drafter_may_leave_its_name_out_of_its_drafts():
    class Nameless(ScriptedDrafter):
        def propose(self, tokens, limit):
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


def test_a_plan_gives_its_reasons_where_asked():
    drafter = ScriptedDrafter(lambda tokens, limit: [1] * 4 if len(tokens) > 1 else [])
    policy = Answering(AdaptivePolicy([drafter], LatencyModel(64)), explain=True)
    policy.plan([1], 60)
    assert policy.made.reasons[0] == "scripted: no draft token" and "T(1) is not known" in policy.made.reasons[1]
    policy.settle(NOTHING, Verdict((), (1,)), 0.01)
    assert len(policy.plan([1, 2], 60)) > 0
    assert "tokens promise" in policy.made.reasons[0]
    assert policy.plan([1, 2], 0) == NOTHING and policy.made.reasons == ("there is no room for a draft",)


def test_a_trial_is_weighed_against_the_draft_that_it_replaces():
    """And not against one that a model's time was charged to, when that was asked in vain."""
    now = [0.0]

    class Unsure(ScriptedDrafter):
        def propose(self, tokens, limit):
            return Draft.chain([7] * 5, [1.0] * 4 + [0.05], range(5), self.name)

    class InVain:
        name = "model"
        asked = 0

        def draft_cost(self, tokens, target_seconds):
            return DraftCost(first=0.05, next=0.05)

        def draft(self, tokens, limit, noise, go_on):
            self.asked += 1
            now[0] += 0.05
            return Draft.chain([9], [0.1], ["hardly"], self.name)

        def propose(self, tokens, limit):
            raise AssertionError("a model is asked through draft")

        def observe(self, evaluation, verdict):
            pass

    cost = curve(lambda n: 1.0 + 0.3 * (n - 1), range(2, 6))
    cost.measure({n: 1.0 + 0.3 * (n - 1) for n in range(1, 6)})
    cost.observe(6, 2.5)  # once: it may be cheaper, but not so much that 5 tokens would beat 4
    model = InVain()
    policy = Answering(AdaptivePolicy([Unsure(None), model], cost, clock=lambda: now[0]))
    policy.prefilled(1, 0.0)
    policy.policy.budgets._budgets[model.name] = 3.0
    for _ in range(60):
        policy._answer._chains.observe(chain([1] * 16, drafter="model"), [1] * 16)
    drafts = [len(policy.plan([5] * 40, 60)) for _ in range(2)]
    assert model.asked == 2 and drafts == [4, 4]


def test_without_t1_nothing_is_drafted():
    policy = Answering(AdaptivePolicy([ScriptedDrafter(lambda tokens, limit: [1] * limit)], LatencyModel(64)))
    policy.prefilled(64, 0.02)
    assert policy.plan([1], 60) == NOTHING
    policy.settle(NOTHING, Verdict((), (1,)), 0.01)
    assert len(policy.plan([1], 60)) > 8, "the prompt told that 64 tokens cost but twice T(1)"


def test_a_dip_of_the_curve_is_found():
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


def test_probing_costs_at_most_its_share():
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


@given(st.dictionaries(st.integers(2, 64), st.floats(0.1, 1.59), max_size=12), st.floats(1e-4, 10.0))
def test_a_curve_passes_through_what_was_observed(surprises, single):
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
def test_a_curve_bent_bit_by_bit_is_the_curve_drawn_at_once(evaluations, rows):
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


def test_a_prompt_bends_the_prior_before_the_first_draft():
    memory_bound, compute_bound = LatencyModel(64), LatencyModel(64)
    memory_bound.observe(100, 1.6)
    compute_bound.observe(100, 5.0)
    for cost in (memory_bound, compute_bound):
        assert not cost.known
        cost.observe(1, 0.1)
    assert memory_bound.ratio(8) < LatencyModel(64).ratio(8) < compute_bound.ratio(8)


def test_a_long_context_has_a_curve_of_its_own_that_begins_as_the_nearest_known():
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


def test_what_long_contexts_were_thought_to_cost_is_forgotten_when_it_is_measured_on_purpose():
    cost = curve(flat)
    for n, seconds in ((1, 0.9), (8, 9.0)):
        cost.for_context(3000).observe(n, seconds)
    cost.measure({1: 0.02, 8: 0.03})
    assert cost.for_context(3000).t1 == pytest.approx(0.02) and cost.for_context(3000).ratio(8) == pytest.approx(1.5)


def test_a_curve_of_earlier_versions_is_read():
    cost = LatencyModel(64)
    cost.restore({"single_seconds": 0.1, "ratios": {"2": [1.5, 3]}})
    assert cost.ratio(2) == cost.for_context(5000).ratio(2) == pytest.approx(1.5)


def test_a_short_context_begins_as_a_long_one_did():
    cost = LatencyModel(64)
    cost.for_context(3000).observe(1, 0.03)
    assert cost.for_context(10) is cost and cost.t1 == pytest.approx(0.03)


def test_what_a_plan_takes_is_learned_at_its_depth():
    policy = Answering(AdaptivePolicy([ScriptedDrafter(lambda tokens, limit: [])], LatencyModel(64)))
    for depth, seconds in [(10, 0.01)] + 9 * [(3000, 0.02)] + [(10, 0.01)]:
        policy.prefilled(64, 10 * seconds)
        policy.plan([1] * depth, 60)
        policy.settle(NOTHING, Verdict((), (1,)), seconds)
    assert policy.latency.t1 == pytest.approx(0.01)
    assert policy.latency.for_context(3000).t1 == pytest.approx(0.02, rel=0.1)
    assert policy.latency.ratio(64) == pytest.approx(10.0, rel=0.2)


def test_one_slow_evaluation_does_not_turn_the_curve():
    cost = curve(flat)
    cost.observe(4, 10.0)
    assert cost.ratio(4) < 1.2 * flat(4)


def test_a_slow_first_evaluation_does_not_turn_it_either():
    cost = LatencyModel(64)
    cost.observe(1, 0.01)
    cost.observe(40, 0.1)
    before = cost.ratios()
    cost.observe(2, 0.1)
    assert all(after <= 1.6001 * once for once, after in zip(before, cost.ratios(), strict=True))
    cost.observe(3, 0.01 * 1.05)  # a fast one is believed at once
    assert cost.ratio(3) == pytest.approx(1.05)


def test_the_curve_follows_a_machine_that_throttles():
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
def test_a_spoilt_store_is_refused(stored):
    with pytest.raises((KeyError, TypeError, ValueError)):
        LatencyModel(64).restore(stored)


@given(st.dictionaries(st.integers(2, 64), st.floats(1.0, 20.0), min_size=1), st.lists(st.floats(0.5, 30), max_size=20))
def test_what_was_measured_on_purpose_counts_whatever_was_known(ratios, before):
    cost = LatencyModel(64)
    cost.observe(1, 0.2)
    for n, ratio in enumerate(before, start=2):
        cost.observe(n, 0.2 * ratio)
    cost.measure({1: 0.1, **{n: 0.1 * ratio for n, ratio in ratios.items()}})
    assert cost.t1 == pytest.approx(0.1)
    assert all(cost.ratio(n) == pytest.approx(ratio) for n, ratio in ratios.items())
    assert cost.optimistic()[0] == 1.0 and all(cost.optimistic()[n - 1] == pytest.approx(cost.ratio(n)) for n in ratios)


@pytest.mark.parametrize("times", [2.0, 4.0, 0.5])
def test_a_policy_that_drafts_in_every_block_measures_t1_again_when_all_times_change(times):
    cost = curve(flat)
    policy = Answering(AdaptivePolicy([ScriptedDrafter(lambda tokens, limit: [1] * min(limit, 12))], cost))
    tokens, sizes = [1], []
    for block in range(100):
        draft = policy.plan(tokens, 1000)
        verdict = Verdict(range(len(draft)), (1,) * (len(draft) + 1))
        seconds = 0.01 * flat(1 + len(draft)) * (times if block >= 50 else 1.0)
        policy.settle(draft, verdict, seconds)
        tokens += verdict.emitted
        sizes.append(len(draft))
    assert sizes[30:50] == [12] * 20
    assert 1 <= sizes[50:].count(0) <= 2  # T(1), measured again; all other blocks go on drafting
    assert min(sizes[60:]) >= 10
    assert cost.t1 == pytest.approx(0.01 * times, rel=0.05)
    assert cost.ratio(13) == pytest.approx(flat(13), rel=0.1)


def test_slow_moments_do_not_make_t1_due():
    cost = curve(flat)
    for place in range(200):
        cost.observe(8, 0.01 * flat(8) * (3.0 if place % 4 else 1.0))
        assert not cost.needs_remeasure


def test_what_was_seen_while_t1_was_due_is_learned_with_it():
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


@pytest.mark.parametrize(("share", "least", "most"), [(0.02, 41, 80), (0.001, 400, 400)])
def test_where_looking_in_vain_takes_a_part_of_t1_it_is_done_seldom(share, least, most):
    now, looked = [0.0], [0]

    def nothing(tokens, limit):
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


def test_a_text_that_begins_to_repeat_itself_is_noticed_soon():
    now, repeats = [0.0], [False]

    def guesses(tokens, limit):
        now[0] += 0.0002
        return [1] * limit if repeats[0] else []

    cost = curve(flat)
    policy = Answering(AdaptivePolicy([ScriptedDrafter(guesses)], cost, clock=lambda: now[0]))
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


@pytest.mark.parametrize("times", [4.0, 10.0])
def test_a_first_t1_of_a_busy_moment_is_not_believed(times):
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


def test_several_tokens_that_do_take_less_time_than_one_are_believed_in_the_end():
    cost = LatencyModel(64)
    cost.observe(1, 0.01)
    for _ in range(6):
        cost.observe(1 if cost.needs_remeasure else 4, 0.01 if cost.needs_remeasure else 0.006)
    assert not cost.needs_remeasure
    assert cost.ratio(4) == pytest.approx(0.6)


def test_what_is_known_badly_of_t_of_n_cannot_lose_much():
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


def test_an_evaluation_that_takes_another_time_than_thought_is_charged_as_it_was():
    cost = curve(steep)
    assert cost.charged(4, 0.01 * steep(4) * 1.7) == cost.ratio(4) == cost.charged(4, 0.01 * steep(4) / 1.7)
    assert cost.charged(4, 0.01 * steep(4) * 5) == pytest.approx(2.5 * steep(4))


@pytest.mark.parametrize(
    ("drafters", "room", "reason"),
    [((), 9, "nobody drafts"), ((ScriptedDrafter(lambda tokens, limit: [1]),), 0, "there is no room for a draft")],
)
def test_where_nothing_can_be_drafted_it_is_said_why(drafters, room, reason):
    policy = Answering(AdaptivePolicy(drafters, curve(flat)), explain=True)
    assert not policy.plan([1], room).tokens and policy.made.reasons == (reason,)


def test_what_is_measured_on_purpose_replaces_what_was_seen_in_between():
    cost = curve(steep)
    cost.observe(7, 0.001)
    cost.observe(128, 0.01 * 40)
    cost.measure({n: 0.01 * steep(n) for n in (1, 4, 8, 64)})
    assert steep(4) < cost.ratio(7) < steep(8)
