"""ADED: a tri-gram matrix of what the target said, and a tree search for the draft (arXiv 2407.12021).

The matrix stands for the target: for every pair of tokens it has those that followed. The draft is found by a Monte
Carlo tree search in it, and what the target says updates it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from math import sqrt
from sys import getsizeof

from edgespec.core import NOTHING, ROOT, Draft, Evaluation, Verdict
from edgespec.drafters.texts import MAX_TOKENS, Text, Texts, agreement
from edgespec.errors import InvalidRequest
from edgespec.policy.tree import HOPELESS

_BITS = 32
"""A pair of tokens is one integer, the later token in its lowest bits."""

_TOKEN = (1 << _BITS) - 1

_MOST_FOLLOWERS = 12
"""The tokens after a pair that are remembered: the authors' code keeps as many of its corpus."""

_UNSEEN = 0.3
"""The share of first draft tokens in whose place something new follows the pair. At depth d it is a d-th of that: where
all before were right, the text goes on as it did before."""

_FOR_EACH = (1, 2, 3, 4, 6, 8)
"""Feature buckets: the fewest occurrences of the pair for each of the token."""

_DEPTHS = 3
"""Feature buckets: the depth, if it is less."""


class _Followers:
    """What followed a pair of tokens: `counts` of the most frequent ones, of `total` occurrences."""

    __slots__ = ("counts", "total")

    def __init__(self, token: int) -> None:
        self.counts = {token: 1}
        self.total = 1

    def add(self, token: int) -> None:
        counts = self.counts
        self.total += 1
        if token in counts:
            counts[token] += 1
            return
        if len(counts) == _MOST_FOLLOWERS:
            del counts[min(counts, key=counts.__getitem__)]  # of the rarest, that which came first
        counts[token] = 1


class _Search:
    """A Monte Carlo tree search for likely continuations of one text, without chance.

    A visit goes from the root to the child of the highest score, on to that of its children, and adds the first node
    that was not visited before. Its reach counts for every node on the way: the mean is what a node promises.
    """

    __slots__ = ("_buckets", "_children", "_deepest", "_depths", "_matrix", "_order", "_pairs", "_parents",
                 "_probabilities", "_reaches", "_tokens", "_values", "_visits")  # fmt: skip

    def __init__(self, matrix: dict[int, _Followers], pair: int, deepest: int) -> None:
        self._matrix = matrix
        self._deepest = deepest
        self._tokens = [0]  # of all candidates; the first is the root, the end of the text
        self._parents = [ROOT]
        self._pairs = [pair]
        self._depths = [0]
        self._probabilities = [1.0]
        self._reaches = [1.0]
        self._buckets: list[Hashable] = [None]
        self._visits = [1]
        self._values = [0.0]  # the sum over visits of the reach of the node that each added
        self._children: list[list[int] | None] = [None]  # those that may be visited, once they were looked up
        self._order: list[int] = []  # the nodes, parents before children

    def run(self, limit: int) -> None:
        """Visit at most `limit` nodes."""
        children, visits, values, reaches = self._children, self._visits, self._values, self._reaches
        while len(self._order) < limit:
            path, node = [0], 0
            while visits[node]:
                below = children[node]
                if below is None:
                    below = children[node] = self._expanded(node)
                if below:
                    node = below[0] if len(below) == 1 else self._best(node, below)
                    path.append(node)
                elif node:  # all below it was visited: it is no choice any more
                    path.pop()
                    children[path[-1]].remove(node)  # type: ignore[union-attr]
                    node = path[-1]
                else:
                    return
            self._order.append(node)
            reach = reaches[node]
            for place in path:
                visits[place] += 1
                values[place] += reach

    def _best(self, node: int, children: list[int]) -> int:
        """The child of the highest score: what it promises, plus a bonus that fades as it is visited (PUCT)."""
        visits, values, probabilities = self._visits, self._values, self._probabilities
        spread, reach = sqrt(visits[node]), self._reaches[node]
        best, highest = -1, -1.0
        for child in children:
            count, probability = visits[child], probabilities[child]
            score = values[child] / (count * reach) if count else probability
            score += probability * spread / (1 + count)
            if score > highest:
                best, highest = child, score
        return best

    def _expanded(self, node: int) -> list[int]:
        """The children of a node: what followed its pair of tokens, where that is above `HOPELESS`."""
        found: list[int] = []
        pair, reach, depth = self._pairs[node], self._reaches[node], self._depths[node] + 1
        known = self._matrix.get(pair)
        if known is None or depth > self._deepest:
            return found
        total, later = known.total, (pair & _TOKEN) << _BITS
        seen = (1.0 - _UNSEEN / depth) / total
        for token, hits in known.counts.items():
            probability = seen * hits
            if reach * probability >= HOPELESS:
                found.append(len(self._tokens))
                self._tokens.append(token)
                self._parents.append(node)
                self._pairs.append(later | token)
                self._depths.append(depth)
                self._probabilities.append(probability)
                self._reaches.append(reach * probability)
                each = _FOR_EACH[bisect_right(_FOR_EACH, total // hits) - 1]
                self._buckets.append((agreement(hits, total), each, min(depth, _DEPTHS)))
                self._visits.append(0)
                self._values.append(0.0)
                self._children.append(None)
        return found

    def draft(self, drafter: str) -> Draft:
        """The tree of the nodes that were visited."""
        order = self._order
        if not order:
            return NOTHING
        number = {0: ROOT, **{node: place for place, node in enumerate(order)}}
        return Draft(
            tuple(self._tokens[node] for node in order),
            tuple(number[self._parents[node]] for node in order),
            tuple(self._probabilities[node] for node in order),
            tuple(self._buckets[node] for node in order),
            drafter,
        )


class Aded:
    """The ADED drafter: tokens that followed pairs of tokens, in the text or in what was read before, as a tree.

    Paths have at most `depth` tokens. At most `max_tokens` are remembered, then the older half is forgotten.
    """

    __slots__ = ("_depth", "_matrix", "_texts")

    def __init__(self, depth: int = 12, max_tokens: int = MAX_TOKENS) -> None:
        if depth < 1:
            raise InvalidRequest(f"depth is {depth}: choose paths of at least 1 draft token")
        self._depth = depth
        self._texts = Texts(self, max_tokens)

    @property
    def name(self) -> str:
        return "aded"

    @property
    def memory_bytes(self) -> int:
        """Bytes held, by a walk over the matrix; integers and tokens, which others hold too, are not counted."""
        rows = self._matrix.values()
        own = getsizeof(self._matrix) + len(rows) * getsizeof(1 << _BITS)
        return self._texts.memory_bytes + own + sum(getsizeof(row) + getsizeof(row.counts) for row in rows)

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A tree of at most `limit` nodes; the bucket is (agreement, occurrences for each of the token, depth)."""
        text = self._texts.read(tokens)
        if limit <= 0 or len(text.ids) < 2:
            return NOTHING
        search = _Search(self._matrix, text.ids[-2] << _BITS | text.ids[-1], self._depth)
        search.run(limit)
        return search.draft(self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Nothing: accepted tokens arrive with the next call of `propose`."""

    def read(self, text: Text, tokens: Sequence[int]) -> None:
        """`texts.Index.read`."""
        matrix, before = self._matrix, text.ids[-2:]
        for token in tokens:
            if len(before) == 2:
                pair = before[0] << _BITS | before[1]
                known = matrix.get(pair)
                if known is None:
                    matrix[pair] = _Followers(token)
                else:
                    known.add(token)
                before = [before[1], token]
            else:
                before.append(token)
        text.ids += tokens

    def first_states(self) -> array[int]:
        """`texts.Index.first_states`: the last two tokens are all that there is to remember."""
        return array("i")

    def clear(self) -> None:
        """`texts.Index.clear`."""
        self._matrix: dict[int, _Followers] = {}
