"""Draft trees: merging the proposals of several drafters, and the best subtree of every size.

A node's reach is the product of the conditional probabilities along its path: the chance that it is accepted. The n
nodes of largest reach are a subtree, since no node is reached more often than its parent, and the best of their size:
they bring 1 + sum of their reaches tokens a forward pass (Sequoia, arXiv 2402.12374; OPT-Tree, arXiv 2406.17276).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

ROOT = -1

HOPELESS = 0.02
"""Nodes that are reached less often than this are not weighed."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes whose parents stand before them, each with the probability that it is right given that its parent was.

    `proposals[i]` are the (tree, node) pairs of the trees that node i was merged from.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    probabilities: tuple[float, ...]
    proposals: tuple[tuple[tuple[int, int], ...], ...] = ()


def merged(trees: Sequence[Tree], weights: Sequence[Sequence[float]]) -> Tree:
    """One tree with every path of all of them, each path once.

    A node that several propose has the probability of whoever is better informed: of the larger weight (verified draft
    tokens of its feature bucket). Probabilities of the children of one node are scaled down where they exceed 1.
    """
    places: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    best_weights: list[float] = []
    proposals: list[list[tuple[int, int]]] = []
    for which, tree in enumerate(trees):
        mapped: list[int] = []
        for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            key = (ROOT if parent == ROOT else mapped[parent], token)
            place = places.get(key)
            weight = weights[which][node]
            if place is None:
                place = places[key] = len(tokens)
                tokens.append(token)
                parents.append(key[0])
                probabilities.append(tree.probabilities[node])
                best_weights.append(weight)
                proposals.append([])
            elif weight > best_weights[place]:
                probabilities[place], best_weights[place] = tree.probabilities[node], weight
            proposals[place].append((which, node))
            mapped.append(place)
    totals: dict[int, float] = {}
    for parent, probability in zip(parents, probabilities, strict=True):
        totals[parent] = totals.get(parent, 0.0) + probability
    scaled = (
        probability / max(1.0, totals[parent]) for parent, probability in zip(parents, probabilities, strict=True)
    )
    return Tree(tuple(tokens), tuple(parents), tuple(scaled), tuple(tuple(each) for each in proposals))


def reaches(parents: Sequence[int], probabilities: Sequence[float]) -> list[float]:
    """The chance that each node is accepted."""
    if len(parents) and parents[-1] == len(parents) - 2 and all(p == i - 1 for i, p in enumerate(parents)):
        return list(accumulate(probabilities, mul))
    reach: list[float] = []
    for parent, probability in zip(parents, probabilities, strict=True):
        reach.append(probability * (1.0 if parent == ROOT else reach[parent]))
    return reach


def by_reach(parents: Sequence[int], probabilities: Sequence[float]) -> list[int]:
    """The nodes, those of the largest reach first: each prefix of this list is the best subtree of its size.

    Of equals the earlier one comes first, so that parents stand before their children.
    """
    reach = reaches(parents, probabilities)
    return sorted(range(len(reach)), key=lambda node: (-reach[node], node))


def depths(parents: Sequence[int]) -> list[int]:
    """The number of nodes on the path to each node, itself included."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent == ROOT else found[parent] + 1)
    return found
