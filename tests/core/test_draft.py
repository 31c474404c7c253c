"""Drafts, and which of their nodes the target decides on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import ROOT, Draft, verified
from tests.curves import chain


def test_verified_walks_the_emitted_path_of_a_tree() -> None:
    tree = Draft((1, 5, 7, 8), (ROOT, ROOT, 1, 0), (0.5,) * 4, ("x",) * 4, "t")
    assert list(verified(tree, (5, 7, 9))) == [(0, False), (1, True), (2, True)]
    assert list(verified(tree, (5,))) == [(0, False), (1, True)]
    assert list(verified(tree, (4, 4))) == [(0, False), (1, False)]


def test_the_trunk_ends_where_a_node_has_another_parent_than_the_one_before() -> None:
    tree = Draft((1, 5, 7, 8), (ROOT, 0, 0, 1), (0.5,) * 4, ("x",) * 4, "t")
    assert tree.trunk == tree.first(2) and tree.trunk.is_chain
    assert chain([1, 2]).trunk == chain([1, 2])


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_verified_says_of_a_chain_what_it_says_of_the_same_chain_as_a_tree(
    tokens: list[int], emitted: list[int]
) -> None:
    plain = chain(tokens)
    tree = Draft((*tokens, 9), (*plain.parents, ROOT), (0.5,) * len(tokens) + (0.5,), ("x",) * (len(tokens) + 1), "t")
    judged_in_tree = [(node, right) for node, right in verified(tree, emitted) if node < len(tokens)]
    assert plain.is_chain and (not tokens or not tree.is_chain)
    assert list(verified(plain, emitted)) == judged_in_tree
