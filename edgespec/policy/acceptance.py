"""How often drafted tokens are right, learned from what the target said instead."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any

from edgespec.core import Draft, verified
from edgespec.policy.config import PolicyConfig

_WINDOW = 32.0
"""The last draft tokens of a feature bucket that are held against those before them."""


class _Counts:
    """Guesses of one kind: how many were right, and how many were judged."""

    __slots__ = ("config", "late", "late_right", "right", "verified")

    def __init__(self, config: PolicyConfig, right: float = 0.0, judged: float = 0.0) -> None:
        self.config = config
        self.right = right
        self.verified = judged
        self.late_right = 0.0  # of the last ones, which `judged` counts too
        self.late = 0.0

    def estimate(self, prior: float) -> float:
        strength = self.config.prior_strength
        return (self.right + strength * prior) / (self.verified + strength)

    def add(self, right: int, judged: int = 1) -> None:
        if self.verified >= self.config.memory:
            self.fade(0.5)
        self.right += right
        self.verified += judged
        self.late_right += right
        self.late += judged
        if self.late >= _WINDOW:
            self._notice()

    def _notice(self) -> None:
        """Forget what was before, if the last ones were right far more or far less often."""
        earlier = self.verified - self.late
        if earlier > 0.0:
            share = (self.right + 1.0) / (self.verified + 2.0)
            off = self.late_right / self.late - (self.right - self.late_right) / earlier
            if off**2 > self.config.change**2 * share * (1.0 - share) * (1.0 / self.late + 1.0 / earlier):
                self.right, self.verified = self.late_right, self.late
        self.late_right = self.late = 0.0

    def fade(self, share: float) -> None:
        self.right *= share
        self.verified *= share
        self.late_right *= share
        self.late *= share

    def keep(self, most: float) -> None:
        if self.verified > most:
            self.fade(most / self.verified)

    def kept(self, most: float) -> _Counts:
        """A copy of which no more than that is believed."""
        copy = _Counts(self.config, self.right, self.verified)
        copy.late_right, copy.late = self.late_right, self.late
        copy.keep(most)
        return copy


class Acceptance:
    """How often each kind of guess of each drafter is right, given that the guesses before it in the draft were."""

    def __init__(self, config: PolicyConfig | None = None) -> None:
        self._config = config or PolicyConfig()
        self._kinds: dict[str, dict[Hashable, _Counts]] = {}
        self._last: ChainAcceptance | None = None

    def estimate(self, drafter: str, bucket: Hashable, prior: float) -> float:
        """The probability that a guess of this kind is right; `prior` is the drafter's own estimate."""
        counts = self._kinds.get(drafter, {}).get(bucket)
        return counts.estimate(prior) if counts else prior

    def estimates(self, draft: Draft) -> list[float]:
        """The same for every node of a draft."""
        kinds = self._kinds.get(draft.drafter, {})
        estimates: list[float] = []
        for (kind, prior), nodes in groupby(zip(draft.buckets, draft.probabilities, strict=True)):
            counts = kinds.get(kind)
            estimates += [counts.estimate(prior) if counts else prior] * len(list(nodes))
        return estimates

    def weight(self, drafter: str, bucket: Hashable) -> float:
        """How many observations of this kind of guess are remembered."""
        counts = self._kinds.get(drafter, {}).get(bucket)
        return counts.verified if counts else 0.0

    def observe(self, draft: Draft, emitted: Sequence[int]) -> None:
        """Learn from a proposal and the tokens that the target emitted instead."""
        kinds = self._kinds.setdefault(draft.drafter, {})
        found = [(draft.buckets[node], right) for node, right in verified(draft, emitted)]
        for (kind, right), nodes in groupby(found):
            counts = kinds.get(kind)
            if counts is None:
                counts = kinds[kind] = _Counts(self._config)
            count = len(list(nodes))
            counts.add(count if right else 0, count)

    def begin(self) -> ChainAcceptance:
        """Another answer begins: its chains, believed to be a little like those of the answer before."""
        for kinds in self._kinds.values():
            for counts in kinds.values():
                counts.keep(self._config.carried)
        self._last = ChainAcceptance(self._config, self._last)
        return self._last

    def as_json(self, drafter: str) -> dict[str, Any]:
        """What a later run can start from, for a drafter whose buckets are plain values or tuples of them."""
        kinds = self._kinds.get(drafter, {})
        return {"kinds": [[kind, counts.right, counts.verified] for kind, counts in kinds.items()]}

    def restore(self, drafter: str, stored: Mapping[str, Any]) -> None:
        """Start from what an earlier run left, believed less than it was then. Raises ValueError on nonsense."""
        kinds: dict[Hashable, _Counts] = {}
        for kind, right, judged in stored["kinds"]:
            if not 0.0 <= right <= judged < math.inf:
                raise ValueError(f"a stored kind of guess of which {right} of {judged} were right")
            counts = kinds[tuple(kind) if isinstance(kind, list) else kind] = _Counts(
                self._config, float(right), float(judged)
            )
            counts.keep(self._config.carried)
        self._kinds[drafter] = kinds


class ChainAcceptance:
    """How far the chains of each drafter come true in one answer, beginning with a little of the last one."""

    def __init__(self, config: PolicyConfig, before: ChainAcceptance | None = None) -> None:
        self._config = config
        self._depths: dict[str, list[_Counts]] = {}
        self._faded: dict[str, float] = {}  # what is to be left of those when they are looked at
        for drafter in before._depths if before else ():
            self._depths[drafter] = [counts.kept(config.carried) for counts in before._depths_of(drafter)]  # type: ignore[union-attr]

    def by_depth(self, drafter: str, count: int, prior: float) -> list[float]:
        """The probabilities that this drafter's first, second, ... guess is right, before they are made.

        A depth that was seldom reached is taken for the one before it.
        """
        chances: list[float] = []
        for counts in self._depths_of(drafter)[:count]:
            prior = counts.estimate(prior)
            chances.append(prior)
        return chances + [prior] * (count - len(chances))

    def observe(self, chain: Draft, emitted: Sequence[int]) -> None:
        """Learn from a proposal and the tokens that the target emitted instead."""
        depths = self._depths_of(chain.drafter)
        for node, right in verified(chain, emitted):
            if node == len(depths):
                depths.append(_Counts(self._config))
            depths[node].add(right)

    def fade(self, drafter: str) -> None:
        """Trust `by_depth` a little less: a drafter that is not asked is not judged, and may have got better."""
        self._faded[drafter] = self._faded.get(drafter, 1.0) * (1.0 - 1.0 / self._config.memory)

    def _depths_of(self, drafter: str) -> list[_Counts]:
        depths = self._depths.setdefault(drafter, [])
        share = self._faded.pop(drafter, 1.0)
        if share < 1.0:
            for counts in depths:
                counts.fade(share)
        return depths
