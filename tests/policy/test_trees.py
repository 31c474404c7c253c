"""Drafts of several drafters as one tree: what is drafted, whose it is, and what is learned of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import ROOT, Draft, Evaluation, Verdict
from edgespec.policy.acceptance import Acceptance
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.policy.speedup import Limits, Sizes
from edgespec.policy.tree import merged, reaches, subtree, trunk_first
from tests.answering import Answering
from tests.curves import chain, curve, flat


class Proposing:
    """Proposes one draft, over and over."""

    def __init__(self, draft: Draft) -> None:
        self.name = draft.drafter
        self._draft = draft

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        return self._draft.first(limit)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """It learns nothing."""


ONE = chain([1, 2, 3], 0.7, "one")
TWO = chain([1, 5], 0.6, "two")
TREE = Draft((1, 2, 3, 4), (ROOT, ROOT, 0, 1), (0.5, 0.4, 0.9, 0.9), ("a", "b", "c", "d"), "tree")


def answering(*drafts: Draft, trees: bool = True) -> Answering:
    policy = Answering(AdaptivePolicy([Proposing(draft) for draft in drafts], curve(flat), trees=trees))
    policy.prefilled(1, 0.0)
    return policy


def paths(draft: Draft) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for token, parent in zip(draft.tokens, draft.parents, strict=True):
        found.append((*(found[parent] if parent != ROOT else ()), token))
    return found


def test_two_drafters_draft_one_tree() -> None:
    policy = answering(ONE, TWO)
    draft = policy.plan([9], 60)
    assert set(paths(draft)) == {(1,), (1, 2), (1, 2, 3), (1, 5)}
    by_path = dict(zip(paths(draft), draft.authors, strict=True))
    assert by_path == {(1,): ("one", "two"), (1, 2): ("one",), (1, 2, 3): ("one",), (1, 5): ("two",)}
    assert draft.drafter == "one+two"
    estimates = dict(zip(paths(draft), policy.made.reach, strict=True))
    assert estimates[1,] >= estimates[1, 2] >= estimates[1, 2, 3] and estimates[1,] >= estimates[1, 5]
    assert sum(chance for path, chance in zip(paths(draft), policy.made.reach, strict=True) if len(path) == 2) <= (
        policy.made.reach[0] + 1e-9
    ), "the children of a node are not likelier than the node"


def test_where_trees_are_not_possible_the_best_path_is_drafted() -> None:
    assert paths(answering(ONE, TWO, trees=False).plan([9], 60)) == [(1,), (1, 2), (1, 2, 3)]
    assert paths(answering(TREE, trees=False).plan([9], 60)) == [(1,), (1, 3)]
    assert answering(ONE, TWO, trees=False).plan([9], 60).drafter == "one"


@given(st.data())
def test_the_trunk_of_a_draft_comes_first(data: st.DataObject) -> None:
    parents = [data.draw(st.integers(ROOT, node - 1)) for node in range(data.draw(st.integers(0, 20)))]
    order = trunk_first(parents)
    assert sorted(order) == list(range(len(parents)))
    tree = subtree(Draft(tuple(range(len(parents))), tuple(parents), *[(0,) * len(parents)] * 2), order)  # type: ignore[arg-type]
    assert all(parent < node for node, parent in enumerate(tree.parents))
    trunk = tree.trunk.tokens
    assert not trunk or trunk[-1] not in parents, "down to a leaf"
    rest = [node for node in order if node not in trunk]
    assert rest == sorted(rest)


def test_a_tree_of_one_drafter_is_its_own() -> None:
    draft = answering(TREE).plan([9], 60)
    assert sorted(paths(draft)) == sorted(paths(TREE))
    assert draft.drafter == "tree" and not draft.authors


def test_room_counts_the_nodes_of_all() -> None:
    assert len(answering(ONE, TWO).plan([9], 3)) == 3


def test_what_a_merged_draft_gained_is_shared_by_reach() -> None:
    policy = answering(ONE, TWO)
    draft = policy.plan([9], 60)
    budgets = policy.policy.budgets
    before = {name: budgets[name] for name in ("one", "two")}
    nodes = [paths(draft).index(path) for path in ((1,), (1, 5))]
    policy.settle(draft, Verdict(tuple(nodes), (1, 5, 7)), 0.01 * flat(1 + len(draft)))
    changed = {name: budgets[name] - before[name] for name in before}
    assert sum(changed.values()) == pytest.approx(3 - flat(1 + len(draft)))
    owned = [chance for names, chance in zip(draft.authors, policy.made.reach, strict=True) if names[0] == "two"]
    assert changed["two"] / sum(changed.values()) == pytest.approx(sum(owned) / sum(policy.made.reach))


def test_what_drafters_agree_on_or_not_has_a_record_of_its_own() -> None:
    """Each is right half of the time; where they agree, always, and where they do not, the second is."""
    acceptance = Acceptance()
    one, two, other = chain([1], 0.5, "one"), chain([1], 0.5, "two"), chain([2], 0.5, "two")
    agreed, contested = (merged([one, each], [(0.5,), (0.5,)]) for each in (two, other))
    for _ in range(40):
        for tree, emitted in ((agreed, 1), (contested, 2)):
            for proposal in (one, two if tree is agreed else other, tree):
                acceptance.observe(proposal, [emitted])
    assert acceptance.estimate("one", "kind", 0.5) == pytest.approx(0.5, abs=0.05)
    assert acceptance.together(agreed)[0] > 0.85
    assert acceptance.together(contested)[0] < 0.15 and acceptance.together(contested)[1] > 0.85
    alone = merged([one, chain([1, 2], 0.5, "two")], [(0.5,), (0.5, 0.5)])
    assert acceptance.together(alone)[1] == 0.5, "the estimate of one drafter is corrected already"


def test_the_policy_learns_what_agreement_is_worth() -> None:
    policy = answering(chain([1], 0.3, "one"), chain([1], 0.3, "two"))
    for _ in range(60):
        draft = policy.plan([9], 60)
        emitted = (1, 2) if draft.tokens else (1,)
        policy.settle(draft, Verdict((0,) if draft.tokens else (), emitted), 0.01 * flat(1 + len(draft)))
    tree = merged([chain([1], 0.3, name) for name in ("one", "two")], [(0.9,), (0.9,)])
    assert policy.policy.acceptance.together(tree)[0] > 0.9
    assert len(policy.made.proposals) == 3, "the merged tree is learned from beside what each proposed"


def test_a_drafter_in_debt_does_not_keep_the_others_from_drafting() -> None:
    policy = answering(ONE, chain([7, 8], 0.2, "two"))
    policy.policy.budgets._budgets["two"] = -5.0
    draft = policy.plan([9], 60)
    assert draft.drafter == "one" and draft.tokens == ONE.tokens


@given(
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=12),
    st.lists(st.floats(0.05, 0.9), min_size=12, max_size=12),
    st.floats(-2.0, 15.0),
    st.booleans(),
)
def test_one_drafter_with_a_chain_is_drafted_by_its_sizes_alone(
    chances: list[float], steps: list[float], budget: float, trees: bool
) -> None:
    """As before there were trees: the best size of the chain within the limits."""
    ratios = [1.0]
    for step in steps:
        ratios.append(ratios[-1] + step)
    proposal = Draft.chain(range(1, len(chances) + 1), chances, [()] * len(chances), "one")
    cost = curve(lambda n: ratios[n - 1], range(2, len(ratios) + 1))
    shared = AdaptivePolicy([Proposing(proposal)], cost, trees=trees)
    shared.exploration = 0.0
    shared.budgets._budgets["one"] = budget
    policy = Answering(shared)
    answer = cast(Any, policy._answer)._budget
    limits = Limits({"one": max(budget, 0.0)}, answer.worst, answer.noticed(shared.lengths.mean), answer.risk)
    reach = [chance for chance in reaches(proposal.parents, chances) if chance >= 0.02]
    size = Sizes(reach, cost.ratios(), authors="one").best(limits, shared.config.minimum_speed_up)
    assert policy.plan([9], 60) == (proposal.first(size) if size else Draft())
