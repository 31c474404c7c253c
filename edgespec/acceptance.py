"""How often drafted tokens are right, learned from what the target said instead."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from edgespec.core import ROOT, Draft

_PRIOR_STRENGTH = 6.0
"""How many observations the drafter's own estimate is worth."""

_FADE = 0.995
"""What is left after an evaluation of what was learned of a drafter that was not asked: half after 140 tokens."""

_MEMORY = 64.0
"""Observations of a kind of guess that are remembered; older ones fade."""


def judged(draft: Draft, emitted: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """The nodes of `draft` that the emitted tokens settle, each with whether it was right."""
    right_at: dict[int, int] = {ROOT: 0}  # node on the emitted path -> tokens emitted up to and including it
    for node, parent in enumerate(draft.parents):
        depth = right_at.get(parent)
        if depth is None or depth >= len(emitted):
            continue
        right = emitted[depth] == draft.tokens[node]
        if right:
            right_at[node] = depth + 1
        yield node, right


@dataclass(slots=True)
class Acceptance:
    """How often each kind of guess of each drafter is right, given that the guesses before it in the draft were."""

    _counts: dict[tuple[str, Hashable], list[float]] = field(default_factory=dict)

    def estimate(self, drafter: str, evidence: Hashable, prior: float) -> float:
        """The probability that a guess of this kind is right; `prior` is the drafter's own estimate."""
        counts = self._counts.get((drafter, evidence))
        if counts is None:
            return prior
        return (counts[0] + _PRIOR_STRENGTH * prior) / (counts[1] + _PRIOR_STRENGTH)

    def weight(self, drafter: str, evidence: Hashable) -> float:
        """How many observations of this kind of guess are remembered."""
        counts = self._counts.get((drafter, evidence))
        return counts[1] if counts else 0.0

    def by_depth(self, drafter: str, count: int, prior: float) -> list[float]:
        """The probabilities that this drafter's first, second, ... guess is right, before they are made.

        A depth that was seldom reached is taken for the one before it.
        """
        chances: list[float] = []
        for depth in range(count):
            prior = self.estimate(drafter, _Depth(depth), prior)
            chances.append(prior)
        return chances

    def observe(self, draft: Draft, emitted: Sequence[int]) -> None:
        """Learn from a proposal and the tokens that the target emitted instead."""
        for node, right in judged(draft, emitted):
            self._count(draft.drafter, draft.evidence[node], right)

    def observe_depths(self, chain: Draft, emitted: Sequence[int]) -> None:
        """The same for `by_depth`."""
        for node, right in judged(chain, emitted):
            self._count(chain.drafter, _Depth(node), right)

    def fade_depths(self, drafter: str) -> None:
        """Trust `by_depth` a little less: a drafter that is not asked is not judged, and may have got better."""
        for (name, evidence), counts in self._counts.items():
            if name == drafter and isinstance(evidence, _Depth):
                counts[0] *= _FADE
                counts[1] *= _FADE

    def _count(self, drafter: str, evidence: Hashable, right: bool) -> None:
        counts = self._counts.setdefault((drafter, evidence), [0.0, 0.0])
        if counts[1] >= _MEMORY:
            counts[0] *= 0.5
            counts[1] *= 0.5
        counts[0] += right
        counts[1] += 1.0


@dataclass(frozen=True, slots=True)
class _Depth:
    """Evidence of its own kind: no drafter's is equal to it."""

    depth: int
