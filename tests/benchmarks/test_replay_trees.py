"""The arithmetic of benchmarks/replay_trees.py."""

from __future__ import annotations

import pytest

from benchmarks.replay_trees import Rates, best_tree, first_path, replayed
from edgespec.core import ROOT, Draft

TREE = Draft((1, 2, 3, 4), (ROOT, 0, ROOT, 2), (0.5, 0.2, 0.4, 0.9), ("a", "a", "b", "b"), "t")
ANSWERS = [{"subtask": "any", "prompt": [7, 1, 2, 3, 4, 5, 6], "answer": [7, 1, 2, 3, 4, 5, 6, 8]}]


def test_the_best_tree_has_the_nodes_of_the_largest_reach() -> None:
    tree = best_tree(TREE, 3)
    assert (tree.tokens, tree.parents) == ((1, 3, 4), (ROOT, ROOT, 1))
    assert first_path(TREE, 3).tokens == (1, 2)


def test_rates_are_of_the_nodes_that_were_verified() -> None:
    rates = Rates()
    rates.observe(TREE, (3, 9))
    assert rates.as_json() == {
        "a": {"verified": 1, "right": 0.0, "estimated": 0.5},
        "b": {"verified": 2, "right": 0.5, "estimated": 0.65},
    }


@pytest.mark.parametrize(("size", "passes"), [(1, 4), (4, 2), (8, 1)])
def test_blocks_are_what_the_record_accepts(size: int, passes: int) -> None:
    counts = replayed("suffix", ANSWERS, first_path, size, Rates(), warm=False)
    tokens, found, nodes = counts["all"]
    assert (tokens, counts["any"]) == (7, counts["all"])
    assert nodes <= size * found and found == passes
