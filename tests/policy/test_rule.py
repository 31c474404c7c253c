"""Laws of the decision rule: the best subtree of every size, merging, what a draft may lose, the promise."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.core import MAX_ROWS, ROOT, Draft, Evaluation, TokenSequence, Verdict
from edgespec.latency.model import LatencyModel
from edgespec.policy.acceptance import Acceptance
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.policy.backoff import Backoff
from edgespec.policy.config import PolicyConfig
from edgespec.policy.costed import StoppingRule, expected_speed_up, may_exceed
from edgespec.policy.drafter_prefill import AnswerLengths, DrafterPrefill, PrefillBudgets
from edgespec.policy.loss_budget import AnswerBudget, LossBudgets
from edgespec.policy.speedup import Limits, Sizes, shares
from edgespec.policy.tree import (
    HOPELESS,
    best_path,
    by_reach,
    depths,
    merged,
    normalized,
    reaches,
    subtree,
    trunk,
    trunk_first,
)
from edgespec.testing import without_rows

ANYTHING = Limits({"": math.inf}, math.inf, 0.0, 1.0)


@st.composite
def trees(draw: st.DrawFn, most: int = 8, drafter: str = "one") -> Draft:
    """A tree in which siblings differ, with probabilities that add up to 1 at most below every node."""
    size = draw(st.integers(1, most))
    parents = [draw(st.integers(ROOT, node - 1)) for node in range(size)]
    tokens = [parents[:node].count(parent) for node, parent in enumerate(parents)]
    shares = [draw(st.floats(0.01, 1.0)) for _ in range(size)]
    totals = {parent: sum(s for s, p in zip(shares, parents, strict=True) if p == parent) for parent in parents}
    probabilities = tuple(s / max(1.0, totals[p]) for s, p in zip(shares, parents, strict=True))
    return Draft(tuple(tokens), tuple(parents), probabilities, tuple(range(size)), drafter)


def both(*proposals: Draft) -> Draft:
    """Merged by the drafters' own estimates."""
    return merged(proposals, [proposal.probabilities for proposal in proposals])


def weighed(tree: Draft) -> Draft:
    """Its nodes that are not reached too seldom."""
    reach = reaches(tree.parents, tree.probabilities)
    return subtree(tree, [node for node, chance in enumerate(reach) if chance >= HOPELESS])


def subtrees(tree: Draft, size: int) -> list[tuple[int, ...]]:
    """All sets of so many nodes that hold the parent of each."""
    return [
        nodes
        for nodes in itertools.combinations(range(len(tree.parents)), size)
        if all(tree.parents[node] in (ROOT, *nodes) for node in nodes)
    ]


def paths(tree: Draft) -> list[tuple[int, ...]]:
    """The tokens on the way to every node."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        found.append((*(found[parent] if parent != ROOT else ()), token))
    return found


@given(trees())
def test_the_nodes_of_largest_reach_are_the_best_subtree_of_every_size(tree: Draft) -> None:
    reach = reaches(tree.parents, tree.probabilities)
    order = by_reach(reach)
    expected = Sizes([reach[node] for node in order], [1.0] * (len(order) + 1)).expected
    for size in range(len(order) + 1):
        chosen = order[:size]
        assert all(tree.parents[node] in (ROOT, *chosen) for node in chosen)
        best = max(1.0 + sum(reach[node] for node in nodes) for nodes in subtrees(tree, size))
        assert expected[size] == pytest.approx(best)


@given(trees())
def test_a_tree_in_the_order_of_reach_is_the_same_tree(tree: Draft) -> None:
    order = by_reach(reaches(tree.parents, tree.probabilities))
    ordered = subtree(tree, order)
    assert all(parent < node for node, parent in enumerate(ordered.parents))
    assert paths(ordered) == [paths(tree)[node] for node in order]
    for size in range(len(tree) + 1):
        assert set(paths(subtree(tree, order[:size]))) == set(paths(ordered.first(size)))


@given(trees(), trees(drafter="two"), trees(drafter="three"))
def test_merging_keeps_every_path_once_and_knows_who_proposed_it(one: Draft, two: Draft, three: Draft) -> None:
    tree, proposals = both(one, two, three), {each.drafter: weighed(each) for each in (one, two, three)}
    assert set(paths(tree)) == {path for each in proposals.values() for path in paths(each)}
    assert len(tree) == len(set(paths(tree)))
    assert all(parent < node for node, parent in enumerate(tree.parents))
    for node, (path, names, bucket) in enumerate(zip(paths(tree), tree.authors, tree.buckets, strict=True)):
        own = {name: each.probabilities[paths(each).index(path)] for name, each in proposals.items()
               if path in paths(each)}  # fmt: skip
        assert set(names) == set(own) and len(names) == len(own)
        assert own[tree.author(node)] == max(own.values()) >= tree.probabilities[node]
        going_on = {name for name, each in proposals.items() for other in paths(each) if other[:-1] == path[:-1]}
        others = going_on - set(names)
        if len(going_on) == 1:
            assert bucket is None
        else:
            assert isinstance(bucket, tuple) and bucket[0] == names and set(bucket[1]) == others


@given(trees(), trees(drafter="two"))
def test_siblings_share_what_is_certain(one: Draft, two: Draft) -> None:
    tree = both(one, two)
    best: dict[tuple[int, ...], float] = {}
    for each in (weighed(one), weighed(two)):
        for path, probability in zip(paths(each), each.probabilities, strict=True):
            best[path] = max(best.get(path, 0.0), probability)
    for parent in set(tree.parents):
        children = [node for node, above in enumerate(tree.parents) if above == parent]
        before = sum(best[paths(tree)[node]] for node in children)
        assert sum(tree.probabilities[node] for node in children) == pytest.approx(min(1.0, before))
    assert normalized(tree.parents, tree.probabilities) == pytest.approx(tree.probabilities)


@given(trees(), st.data())
def test_the_best_path_brings_the_most_tokens_per_time(tree: Draft, data: st.DataObject) -> None:
    reach = reaches(tree.parents, tree.probabilities)
    times = [1.0] + [data.draw(st.floats(1.0, 9.0)) for _ in range(len(tree))]
    path = best_path(tree.parents, reach, times)
    assert [tree.parents[node] for node in path] == [ROOT, *path[:-1]]
    assert path[-1] not in tree.parents, "a path ends at a leaf"
    gains: dict[int, float] = {}
    for node, tokens in enumerate(paths(tree)):
        upwards = [paths(tree).index(tokens[: size + 1]) for size in range(len(tokens))]
        gains[node] = (1.0 + sum(reach[each] for each in upwards)) / times[len(tokens)]
    assert max(gains[node] for node in path) == pytest.approx(max(gains.values()))


def outcomes(tree: Draft, nodes: list[int]) -> dict[int, float]:
    """The chance of every number of accepted nodes of a subtree."""
    reach = reaches(tree.parents, tree.probabilities)
    by_depth: dict[int, float] = {0: 1.0}
    for node in nodes:
        depth = depths(tree.parents)[node]
        by_depth[depth] = by_depth.get(depth, 0.0) + reach[node]
    return {depth: chance - by_depth.get(depth + 1, 0.0) for depth, chance in by_depth.items()}


@given(trees(), st.floats(1.0, 12.0), st.floats(0.0, 3.0))
def test_shortfall_and_risk_are_those_of_the_distribution_of_tokens(tree: Draft, time: float, noticed: float) -> None:
    reach, order = reaches(tree.parents, tree.probabilities), by_reach(reaches(tree.parents, tree.probabilities))
    deep = depths(tree.parents)
    sizes = Sizes([reach[n] for n in order], [time] * (len(order) + 1), depths=[deep[n] for n in order])
    for size in range(len(order) + 1):
        chances = outcomes(tree, order[:size])
        shortfall = sum(chance * max(0.0, time - depth - 1) for depth, chance in chances.items())
        assert sizes.shortfall(size) == pytest.approx(shortfall, abs=1e-9)
        late = sum(chance for depth, chance in chances.items() if time - depth - 1 > noticed + 1e-6)
        if all(abs(time - depth - 1 - noticed) > 1e-6 for depth in range(size + 2)):
            assert sizes.risk(size, noticed) == pytest.approx(late, abs=1e-9)


@given(trees(), st.floats(1.0, 3.0))
def test_what_is_evaluated_again_is_part_of_what_a_size_takes(tree: Draft, time: float) -> None:
    reach = reaches(tree.parents, tree.probabilities)
    ordered = subtree(tree, by_reach(reach))
    reach = reaches(ordered.parents, ordered.probabilities)
    ratios = [1.0] + [time] * len(tree)
    sizes = Sizes(reach, ratios, depths=depths(ordered.parents), trunk=trunk(ordered.parents))
    for size in range(1, len(tree) + 1):
        draft = subtree(ordered.first(size), trunk_first(ordered.parents[:size]))
        chances = reaches(draft.parents, draft.probabilities)
        again = 0.0
        for node, chance in enumerate(chances):  # the accepted path ends here with this probability
            ends = chance - sum(chances[child] for child, parent in enumerate(draft.parents) if parent == node)
            path = [node]
            while draft.parents[path[0]] != ROOT:
                path.insert(0, draft.parents[path[0]])
            again += ends * Verdict(tuple(path), ()).off_trunk
        assert sizes.times[size] == pytest.approx(time + again * (time - 1.0) / size)


@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=12), st.data())
def test_the_best_size_is_the_best_of_all_that_keep_the_limits(chances: list[float], data: st.DataObject) -> None:
    ratios = [1.0] + [data.draw(st.floats(1.0, 9.0)) for _ in chances]  # steps and teeth
    expected, worst, noticed = (data.draw(st.floats(0.0, 5.0)) for _ in range(3))
    limits = Limits({"": expected}, worst, noticed, risk=data.draw(st.floats(0.0, 1.0)))
    sizes = Sizes(reaches(range(-1, len(chances) - 1), chances), ratios)
    allowed = [s for s in range(1, len(chances) + 1) if sizes.allows(s, limits) and sizes.gains[s] > 1.05]
    best = sizes.best(limits, 1.05)
    assert best in allowed if allowed else best == 0
    if allowed:
        assert sizes.gains[best] == max(sizes.gains[size] for size in allowed)


@given(trees(), st.floats(1.5, 4.0), st.data())
def test_each_drafter_answers_for_its_share_of_the_shortfall(tree: Draft, time: float, data: st.DataObject) -> None:
    reach = sorted(reaches(tree.parents, tree.probabilities), reverse=True)
    authors = [data.draw(st.sampled_from("ab")) for _ in reach]
    sizes = Sizes(reach, [1.0] + [time] * len(reach), authors=authors)
    size = len(reach)
    parts = shares(authors, reach)
    assert sum(parts.values()) == pytest.approx(1.0)
    shortfall = sizes.shortfall(size)
    for name, part in parts.items():
        rest = dict.fromkeys(parts, math.inf)
        assert sizes.allows(size, Limits({**rest, name: shortfall * part + 1e-9}, math.inf, 9.0, 1.0))
        assert shortfall * part < 1e-6 or not sizes.allows(
            size, Limits({**rest, name: shortfall * part * 0.99}, math.inf, 9.0, 1.0)
        )


def test_a_step_of_the_curve_is_looked_over() -> None:
    """On repacked weights four rows may take less time than three."""
    sizes = Sizes([0.95, 0.9, 0.86], [1.0, 1.9, 2.9, 1.8])
    assert sizes.best(ANYTHING, 1.05) == 3


class Oracle:
    """Proposes chains whose tokens are right or wrong as a script says."""

    name = "scripted"

    def __init__(self, right: list[int], probability: float) -> None:
        self._right, self._probability = right, probability
        self.passes = 0

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        right = self._right[self.passes % len(self._right)]
        found = [1 if place < right else 0 for place in range(limit)]
        return Draft.chain(found, [self._probability] * limit, ["any"] * limit, self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """It learns nothing."""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 48), min_size=1, max_size=12), st.floats(0.3, 0.999), st.floats(0.05, 0.9),
    st.integers(0, 5),
)  # fmt: skip
def test_the_promise_holds_for_any_verdicts(right: list[int], probability: float, slope: float, seed: int) -> None:
    """No answer is later than plain by more than the larger of 10 T(1) and 5%, whatever the drafter believes."""
    noise, config = random.Random(seed), PolicyConfig()
    ratios = [1.0 + slope * n + noise.random() * (n > 0) for n in range(MAX_ROWS)]
    cost = LatencyModel(MAX_ROWS)
    cost.measure({n: ratios[n - 1] for n in range(1, MAX_ROWS + 1)})
    drafter = Oracle(right, probability)
    policy = AdaptivePolicy([drafter], cost, clock=lambda: 0.0).begin()
    sequence, tokens, time = TokenSequence([1]), 0, 0.0
    policy.prefilled(without_rows(sequence), Verdict((), (1,)), cached=0, seconds=1.0)
    while tokens < 300:
        plan = policy.plan(sequence, 64)
        draft = plan.draft
        accepted = min(right[drafter.passes % len(right)], len(draft))
        drafter.passes += 1
        seconds = ratios[len(draft)]
        verdict = Verdict(tuple(range(accepted)), (1,) * accepted + (2,))
        policy.settle(plan, without_rows(sequence, draft), verdict, seconds)
        sequence.extend(verdict.emitted)
        tokens, time = tokens + accepted + 1, time + seconds
        assert time - tokens <= max(config.promised_lateness, config.promised_share * tokens) + 1e-6


def test_a_loss_budget_is_refilled_spent_and_capped() -> None:
    config = PolicyConfig()
    budgets = LossBudgets(["a", "b"], config)
    budgets.settle("a", spent=0.0, gained=-2.0)
    budgets.settle("b", spent=0.5, gained=None)
    assert budgets["a"] == pytest.approx(config.initial_budget - 2.0)
    assert budgets["b"] == pytest.approx(config.initial_budget + config.refill - 0.5)
    budgets.settle("a", spent=0.0, gained=100.0)
    assert budgets["a"] == config.budget_cap


def test_what_an_answer_has_gained_may_be_lost_again() -> None:
    config = PolicyConfig()
    answer = AnswerBudget(config)
    assert answer.worst == config.promised_lateness
    answer.settle(16, 9.0)
    assert answer.worst == pytest.approx(config.promised_lateness + 7.0)
    assert answer.noticed(100.0) == pytest.approx(100 * config.noticed_share + 7.0)


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0.5, 9.0), st.floats(0.0, 0.05)), max_size=9))
def test_only_drafts_that_came_late_take_of_the_allowance_of_risk(passes: list[tuple[int, float, float]]) -> None:
    answer = AnswerBudget(PolicyConfig())
    for tokens, seconds, risk in passes:
        answer.settle(tokens, seconds, risk=risk)
    late = sum(risk for tokens, seconds, risk in passes if tokens < seconds)
    assert answer.risk == pytest.approx(PolicyConfig().risk - late)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=16), st.floats(0.01, 0.5), st.floats(0.0, 1.0))
def test_what_no_chain_may_exceed_is_exceeded_by_none(chances: list[float], slope: float, token: float) -> None:
    ratios = [1.0 + slope * n for n in range(len(chances) + 1)]
    best, size = expected_speed_up(chances, ratios, token, token)
    assert 1 <= size <= len(chances)
    assert may_exceed(best * 0.999, ratios, token, token)
    perfect, _ = expected_speed_up([1.0] * len(chances), ratios, token, token)
    assert may_exceed(perfect * 0.999, ratios, token, token)
    assert not may_exceed(perfect * 1.001, ratios, token, token)


def test_a_costed_drafter_drafts_on_over_a_step_of_the_curve() -> None:
    ratios = [1.0, 1.1, 1.2, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    rule = StoppingRule("model", Acceptance(), ratios, [0.95] * 9, 0.1, 0.1)
    assert [rule(0.95, "sure") for _ in range(3)] == [True, True, True]


def test_a_costed_drafter_stops_where_its_tokens_are_doubtful() -> None:
    rule = StoppingRule("model", Acceptance(), [1.0 + 0.3 * n for n in range(10)], [0.8] * 9, 0.2, 0.2)
    assert not rule(0.1, "unsure")


def test_prefill_waits_until_it_would_have_paid_and_is_immediate_once_earned() -> None:
    budgets = PrefillBudgets(["model"], PolicyConfig())
    prefill = DrafterPrefill(budgets)
    assert not prefill.pays("model", 2.0, 1.8, 1.5, tokens=1, remaining=100.0)
    assert prefill.pays("model", 2.0, 1.8, 1.5, tokens=8, remaining=100.0)
    budgets.paid("model", 2.0)
    assert not prefill.pays("model", 2.0, 1.8, 1.5, tokens=50, remaining=100.0)  # in debt
    budgets.earned("model", 6.0)
    assert prefill.pays("model", 2.0, 1.8, 1.5, tokens=1, remaining=100.0)
    assert not prefill.pays("model", 2.0, 1.8, 1.5, tokens=1, remaining=3.0)


def test_the_length_of_answers_is_learned() -> None:
    lengths = AnswerLengths(PolicyConfig())
    before = lengths.mean
    for _ in range(50):
        lengths.begin().add(20)
    lengths.begin()
    assert before == PolicyConfig().answer_length
    assert lengths.mean == pytest.approx(20.0, rel=0.05)
    assert lengths.remaining(300) == 300.0


def test_backoff_leaves_out_more_and_more_and_ends_with_a_draft() -> None:
    config = PolicyConfig()
    backoff = Backoff(config)
    proposed = 0
    for _ in range(400):
        if not backoff.goes_on():
            proposed += 1
            backoff.proposed(1.0, found=False)
    assert proposed < 120
    backoff.proposed(1.0, found=True)
    assert not backoff.goes_on()


def test_the_config_holds_at_most_twenty_numbers() -> None:
    assert len(PolicyConfig.__dataclass_fields__) <= 20
