"""A draft tree in the making: a chain, then side branches in the order of their reach."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import accumulate
from operator import mul
from typing import Generic, TypeVar

from edgespec.core import NOTHING, ROOT, Draft
from edgespec.policy.tree import HOPELESS

State = TypeVar("State")


class Growth(Generic[State]):
    """A tree of at most `limit` nodes, parents before children, that begins with a chain.

    What could be a node is offered as (token, probability, bucket, state), where `state` is all that is needed to find
    its children.
    """

    __slots__ = ("_buckets", "_heap", "_limit", "_offered", "_parents", "_probabilities", "_reaches", "_tokens")

    def __init__(
        self, tokens: Sequence[int], probabilities: Sequence[float], buckets: Sequence[Hashable], limit: int
    ) -> None:
        self._limit = limit
        self._tokens = list(tokens)
        self._parents = list(range(ROOT, len(tokens) - 1))
        self._probabilities = list(probabilities)
        self._buckets = list(buckets)
        self._reaches = list(accumulate(probabilities, mul))
        self._heap: list[tuple[float, int, int, tuple[int, float, Hashable, State]]] = []
        self._offered = 0

    def reach(self, node: int) -> float:
        """The product of the probabilities on the path to a node."""
        return 1.0 if node == ROOT else self._reaches[node]

    def offer(self, parent: int, children: Iterable[tuple[int, float, Hashable, State]]) -> None:
        """Offer nodes behind `parent`: different tokens, and none that it leads to already."""
        reach = self.reach(parent)
        for child in children:
            if reach * child[1] >= HOPELESS:
                heappush(self._heap, (-reach * child[1], self._offered, parent, child))
                self._offered += 1

    def grow(self, children_of: Callable[[State, float], Iterable[tuple[int, float, Hashable, State]]]) -> None:
        """Add what was offered, that of the largest reach first, and offer the children of each state and its reach."""
        while self._heap and len(self._tokens) < self._limit:
            reach, _, parent, (token, probability, bucket, state) = heappop(self._heap)
            self._tokens.append(token)
            self._parents.append(parent)
            self._probabilities.append(probability)
            self._buckets.append(bucket)
            self._reaches.append(-reach)
            self.offer(len(self._tokens) - 1, children_of(state, -reach))

    def draft(self, drafter: str) -> Draft:
        """The tree."""
        if not self._tokens:
            return NOTHING
        return Draft(
            tuple(self._tokens), tuple(self._parents), tuple(self._probabilities), tuple(self._buckets), drafter
        )
