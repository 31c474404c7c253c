"""Counts of what became of drafts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import NOTHING, ROOT, Draft, Plan, Verdict, verified
from edgespec.decode.stats import Tally
from edgespec.decode.verification import verify


def count(draft: Draft, said: list[int]) -> Tally:
    tally = Tally()
    verdict = verify(draft, lambda row: said[row_depth(draft, row)], lambda token: False, len(said))
    tally.count(Plan(draft), verdict, emitted=len(verdict.emitted))
    return tally


def row_depth(draft: Draft, row: int) -> int:
    """How many drafted tokens stand before the choice at a row."""
    depth, node = 0, row - 1
    while node != ROOT:
        depth, node = depth + 1, draft.parents[node]
    return depth


def test_a_tree_is_counted_by_depth_along_parents() -> None:
    tree = Draft((1, 5, 7, 8), (ROOT, ROOT, 1, 0), (0.5,) * 4, ("x",) * 4, "t")
    tally = count(tree, [5, 7, 9])
    assert tally.of("t").acceptance_by_depth == [1.0, 1.0] and tally.of("t").accepted == 2
    tally = count(tree, [1, 9, 9])
    assert tally.of("t").acceptance_by_depth == [1.0, 0.0] and tally.of("t").accepted == 1
    assert count(tree, [4, 4, 4]).of("t").acceptance_by_depth == [0.0]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.lists(st.integers(0, 1), min_size=1, max_size=8))
def test_of_a_chain_the_depth_of_a_token_is_its_place(tokens: list[int], said: list[int]) -> None:
    said += [2] * 8
    draft = Draft.chain(tokens, [0.5] * len(tokens), [0] * len(tokens), "t")
    tally = count(draft, said)
    verified_nodes = list(verified(draft, said))
    assert sorted(tally.of("t").judged_at) == [node for node, _ in verified_nodes]
    assert tally.of("t").accepted == sum(right for _, right in verified_nodes)


def test_an_answer_may_end_inside_its_draft() -> None:
    draft = Draft.chain([1, 2, 3], [0.5] * 3, [0] * 3, "t")
    tally = Tally()
    tally.count(Plan(draft), Verdict((0, 1), (1, 2, 9)), emitted=1)  # a stop string cut the block
    assert tally.of("t").accepted == 1 and tally.of("t").acceptance_by_depth == [1.0]


def test_draft_tokens_that_were_cut_off_are_counted_for_who_made_them() -> None:
    proposal = Draft.chain([1, 2, 3], [0.5] * 3, [0] * 3, "model")
    tally = Tally()
    tally.count(Plan(NOTHING, (proposal,), {"model": 0.3, "other": 0.1}), Verdict((), (4,)), emitted=1)
    assert tally.draft_tokens["model"] == 3 and not tally.drafted and tally.blocks == 1


def test_each_node_of_a_merged_draft_counts_for_the_drafter_that_was_surest_of_it() -> None:
    draft = Draft((1, 2, 3, 4), (-1, -1, 0, 0), (0.5,) * 4, ("",) * 4, "a+b", (("a", "b"), ("b",), ("a",), ("b", "a")))
    tally = Tally()
    tally.count(Plan(draft), Verdict((0, 3), (1, 4, 9)), emitted=3)
    a, b = tally.of("a"), tally.of("b")
    assert (a.drafts, a.drafted, a.accepted, a.judged_at, a.accepted_at) == (1, 2, 1, {0: 1, 1: 1}, {0: 1})
    assert (b.drafts, b.drafted, b.accepted, b.judged_at, b.accepted_at) == (1, 2, 1, {0: 1, 1: 1}, {1: 1})
    assert list(tally.drafters) == ["a", "b"] and tally.drafted == 4 and tally.accepted == 2


def test_what_the_policy_expected_is_held_against_what_came_true() -> None:
    tally, draft = Tally(), Draft.chain((1, 2, 3), (0.9,) * 3, ("",) * 3, "a")
    plan = Plan(draft, reach=(0.95, 0.91, 0.05))
    tally.count(plan, Verdict((0, 1), (1, 2, 9)), emitted=3)
    tally.count(plan, Verdict((0, 1), (1, 2)), emitted=2)  # the answer ended inside the draft
    tally.count(Plan(draft.first(1), reach=(1.0, 0.5)), Verdict((0,), (1, 9)), emitted=2)  # a context had no more rows
    assert tally.expected_at == {9: 3, 0: 1} and tally.came_true_at == {9: 3}
