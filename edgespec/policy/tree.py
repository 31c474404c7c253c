"""Draft trees: merging the proposals of several drafters, and the best subtree of every size.

A node's reach is the product of the conditional probabilities along its path: the chance that it is accepted. The n
nodes of largest reach are a subtree, since no node is reached more often than its parent, and the best of their size:
they bring 1 + sum of their reaches tokens a forward pass (Sequoia, arXiv 2402.12374; OPT-Tree, arXiv 2406.17276).

ProPD (arXiv 2402.13485) chooses a tree's size by a regression of measured times, which is T(n) here. Its other half
drops branches inside the network, after the first layers of a pass: llama.cpp evaluates a batch as a whole.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate
from operator import mul

from edgespec.core import ROOT, Draft

HOPELESS = 0.02
"""Nodes that are reached less often than this are not weighed."""


def merged(proposals: Sequence[Draft], estimates: Sequence[Sequence[float]]) -> Draft:
    """One tree with every path of all proposals, each path once; `estimates` are the probabilities of their nodes.

    Nodes that are reached too seldom to be weighed are left out.
    A node that several propose has the probability of whoever is surest: that others agree makes it no less likely.
    Siblings' probabilities are scaled down where they exceed 1. The feature bucket of a node after whose parent several
    drafters go on is (those that propose the node, those that propose others, tenth of its probability), and None
    elsewhere. `drafter` is none's: see `Draft.authors`.
    """
    places: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    authors: list[tuple[str, ...]] = []
    going_on: dict[int, tuple[str, ...]] = {}  # the drafters that propose children of each node
    for proposal, chances in zip(proposals, estimates, strict=True):
        own, name = (proposal.drafter,), proposal.drafter
        mapped: list[int] = []
        reach: list[float] = []
        for token, parent, chance in zip(proposal.tokens, proposal.parents, chances, strict=True):
            above, here = (ROOT, chance) if parent == ROOT else (mapped[parent], chance * reach[parent])
            reach.append(here)
            if here < HOPELESS:
                mapped.append(ROOT)  # its children are left out, too
                continue
            place = places.setdefault((above, token), len(tokens))
            mapped.append(place)
            if place == len(tokens):
                tokens.append(token)
                parents.append(above)
                probabilities.append(chance)
                authors.append(own)
            elif name not in authors[place]:
                surest = chance > probabilities[place]
                authors[place] = (name, *authors[place]) if surest else (*authors[place], name)
                probabilities[place] = max(chance, probabilities[place])
            names = going_on.get(above)
            if names is None:
                going_on[above] = own
            elif name not in names:
                going_on[above] = (*names, name)
    scaled = normalized(parents, probabilities)
    buckets: list[Hashable] = [None] * len(tokens)
    contested = {parent: names for parent, names in going_on.items() if len(names) > 1}
    for node, parent in enumerate(parents) if contested else ():
        if parent in contested:
            others = tuple([name for name in contested[parent] if name not in authors[node]])
            buckets[node] = authors[node], others, int(10.0 * scaled[node])
    return Draft(tuple(tokens), tuple(parents), tuple(scaled), tuple(buckets), authors=tuple(authors))


def normalized(parents: Sequence[int], probabilities: Sequence[float]) -> list[float]:
    """The same probabilities, scaled down where those of the children of one node exceed 1."""
    totals: dict[int, float] = {}
    for parent, probability in zip(parents, probabilities, strict=True):
        totals[parent] = totals.get(parent, 0.0) + probability
    if all(total <= 1.0 for total in totals.values()):
        return list(probabilities)
    return [p / max(1.0, totals[parent]) for parent, p in zip(parents, probabilities, strict=True)]


def reaches(parents: Sequence[int], probabilities: Sequence[float]) -> list[float]:
    """The chance that each node is accepted."""
    if len(parents) and parents[-1] == len(parents) - 2 and all(p == i - 1 for i, p in enumerate(parents)):
        return list(accumulate(probabilities, mul))
    reach: list[float] = []
    for parent, probability in zip(parents, probabilities, strict=True):
        reach.append(probability if parent == ROOT else probability * reach[parent])
    return reach


def by_reach(reach: Sequence[float]) -> list[int]:
    """The nodes, those of the largest reach first: each prefix of this list is the best subtree of its size.

    Of equals the earlier one comes first, so that parents stand before their children.
    """
    return sorted(range(len(reach)), key=lambda node: -reach[node])


def best_path(parents: Sequence[int], reach: Sequence[float], times: Sequence[float]) -> list[int]:
    """The path from the root to a leaf whose first nodes bring the most tokens per time; `times` of 1, 2, ... rows."""
    deep: list[int] = []
    expected: list[float] = []  # tokens of a forward pass with the path to each node
    total: list[float] = []  # those of the longest path through it
    best, best_gain = ROOT, 0.0
    for node, parent in enumerate(parents):
        deep.append(1 if parent == ROOT else deep[parent] + 1)
        expected.append((1.0 if parent == ROOT else expected[parent]) + reach[node])
        gain = expected[node] / times[deep[node]] if deep[node] < len(times) else 0.0
        if gain > best_gain:
            best, best_gain = node, gain
    total = expected.copy()
    follower: dict[int, int] = {}
    for node in range(len(parents) - 1, -1, -1):
        parent = parents[node]
        if parent != ROOT and total[node] > total[parent]:
            total[parent], follower[parent] = total[node], node
    path = [best] if best != ROOT else []
    while path and (parent := parents[path[-1]]) != ROOT:
        path.append(parent)
    path.reverse()
    while path and path[-1] in follower:
        path.append(follower[path[-1]])
    return path


def subtree(tree: Draft, nodes: Sequence[int]) -> Draft:
    """Some nodes of a tree in another order. The parent of each must be among those before it."""
    places = {ROOT: ROOT}
    for place, node in enumerate(nodes):
        places[node] = place
    return Draft(
        tuple([tree.tokens[node] for node in nodes]),
        tuple([places[tree.parents[node]] for node in nodes]),
        tuple([tree.probabilities[node] for node in nodes]),
        tuple([tree.buckets[node] for node in nodes]),
        tree.drafter,
        tuple([tree.authors[node] for node in nodes]) if tree.authors else (),
    )


def trunk_first(parents: Sequence[int]) -> list[int]:
    """The nodes with the first path of first children in front; the others stay in order.

    Where that path is accepted, its KV cells lie in order, as those of a chain do, and nothing is evaluated again.
    """
    first = trunk(parents)
    known = set(first)
    return first + [node for node in range(len(parents)) if node not in known]


def trunk(parents: Sequence[int]) -> list[int]:
    """The path from the root on that goes on with each node's first child."""
    children: dict[int, int] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, node)
    found: list[int] = []
    node = ROOT
    while (child := children.get(node)) is not None:
        found.append(child)
        node = child
    return found


def depths(parents: Sequence[int]) -> list[int]:
    """The number of nodes on the path to each node, itself included."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent == ROOT else found[parent] + 1)
    return found
