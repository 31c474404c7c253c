"""What the tests of n-gram drafters count by brute force, and the laws of a draft tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgespec.core import ROOT, Draft


def ids(text: str) -> list[int]:
    """A token for each letter."""
    return [ord(letter) for letter in text]


def letters(tokens: Sequence[int]) -> str:
    """The text of such tokens."""
    return "".join(map(chr, tokens))


def ends(text: list[int], part: list[int]) -> list[int]:
    """The positions after every occurrence of `part`."""
    return [end for end in range(len(part), len(text) + 1) if text[end - len(part) : end] == part]


def longest_match(text: list[int]) -> int:
    """The length of the longest suffix that occurred earlier."""
    return max((size for size in range(1, len(text)) if len(ends(text, text[-size:])) > 1), default=0)


def assert_is_tree(draft: Draft, limit: int) -> None:
    """At most `limit` nodes, parents before children; siblings are different tokens, of which one at most is right."""
    assert len(draft) <= max(limit, 0)
    assert len(draft.tokens) == len(draft.parents) == len(draft.probabilities) == len(draft.buckets)
    assert all(ROOT <= parent < node for node, parent in enumerate(draft.parents))
    assert all(0.0 < probability <= 1.0 for probability in draft.probabilities)
    siblings = Counter(zip(draft.parents, draft.tokens, strict=True))
    assert all(count == 1 for count in siblings.values())
    for parent in {*draft.parents}:
        children = [node for node in range(len(draft)) if draft.parents[node] == parent]
        assert sum(draft.probabilities[node] for node in children) <= 1.0 + 1e-9


def path_to(draft: Draft, node: int) -> list[int]:
    """The tokens on the path to a node, without its own."""
    path: list[int] = []
    while (node := draft.parents[node]) != ROOT:
        path.append(draft.tokens[node])
    return path[::-1]
