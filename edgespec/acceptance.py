"""How often drafted tokens are right, learned from what the target said instead."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby, repeat
from typing import Any

from edgespec.core import ROOT, Draft, common_prefix
from edgespec.policy_config import PolicyConfig

_WINDOW = 32.0
"""The last draft tokens of a feature bucket that are held against those before them."""

_STORED = 24.0
"""Draft tokens of earlier runs that count, of each feature bucket."""


def verified(draft: Draft, emitted: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """The nodes of `draft` that the emitted tokens settle, each with whether it was right."""
    if draft.is_chain:
        right = common_prefix(draft.tokens, tuple(emitted))
        yield from zip(range(right), repeat(True))
        if right < min(len(draft), len(emitted)):
            yield right, False
        return
    right_at: dict[int, int] = {ROOT: 0}  # node on the emitted path -> tokens emitted up to and including it
    for node, parent in enumerate(draft.parents):
        depth = right_at.get(parent)
        if depth is None or depth >= len(emitted):
            continue
        right = emitted[depth] == draft.tokens[node]
        if right:
            right_at[node] = depth + 1
        yield node, right


class _Counts:
    """Guesses of one kind: how many were right, and how many were verified."""

    __slots__ = ("config", "late", "late_right", "right", "verified")

    def __init__(self, config: PolicyConfig, right: float = 0.0, verified: float = 0.0) -> None:
        self.config = config
        self.right = right
        self.verified = verified
        self.late_right = 0.0  # of the last ones, which `verified` counts too
        self.late = 0.0

    def estimate(self, prior: float) -> float:
        strength = self.config.prior_strength
        return (self.right + strength * prior) / (self.verified + strength)

    def add(self, right: int, verified: int = 1) -> None:
        if self.verified >= self.config.memory:
            self.fade(0.5)
        self.right += right
        self.verified += verified
        self.late_right += right
        self.late += verified
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


class Acceptance:
    """How often each kind of guess of each drafter is right, given that the guesses before it in the draft were."""

    def __init__(self, config: PolicyConfig | None = None) -> None:
        self._config = config or PolicyConfig()
        self._kinds: dict[str, dict[Hashable, _Counts]] = {}
        self._depths: dict[str, list[_Counts]] = {}
        self._faded: dict[str, float] = {}  # what is to be left of those when they are looked at

    def estimate(self, drafter: str, evidence: Hashable, prior: float) -> float:
        """The probability that a guess of this kind is right; `prior` is the drafter's own estimate."""
        counts = self._kinds.get(drafter, {}).get(evidence)
        return counts.estimate(prior) if counts else prior

    def estimates(self, draft: Draft) -> list[float]:
        """The same for every node of a draft."""
        kinds = self._kinds.get(draft.drafter, {})
        estimates: list[float] = []
        for (kind, prior), nodes in groupby(zip(draft.evidence, draft.probabilities, strict=True)):
            counts = kinds.get(kind)
            estimates += [counts.estimate(prior) if counts else prior] * len(list(nodes))
        return estimates

    def weight(self, drafter: str, evidence: Hashable) -> float:
        """How many observations of this kind of guess are remembered."""
        counts = self._kinds.get(drafter, {}).get(evidence)
        return counts.verified if counts else 0.0

    def by_depth(self, drafter: str, count: int, prior: float) -> list[float]:
        """The probabilities that this drafter's first, second, ... guess is right, before they are made.

        A depth that was seldom reached is taken for the one before it.
        """
        chances: list[float] = []
        for counts in self._depths_of(drafter)[:count]:
            prior = counts.estimate(prior)
            chances.append(prior)
        return chances + [prior] * (count - len(chances))

    def observe(self, draft: Draft, emitted: Sequence[int]) -> None:
        """Learn from a proposal and the tokens that the target emitted instead."""
        kinds = self._kinds.setdefault(draft.drafter, {})
        found = [(draft.evidence[node], right) for node, right in verified(draft, emitted)]
        for (kind, right), nodes in groupby(found):
            counts = kinds.get(kind)
            if counts is None:
                counts = kinds[kind] = _Counts(self._config)
            count = len(list(nodes))
            counts.add(count if right else 0, count)

    def observe_depths(self, chain: Draft, emitted: Sequence[int]) -> None:
        """The same for `by_depth`."""
        depths = self._depths_of(chain.drafter)
        for node, right in verified(chain, emitted):
            if node == len(depths):
                depths.append(_Counts(self._config))
            depths[node].add(right)

    def fade_depths(self, drafter: str) -> None:
        """Trust `by_depth` a little less: a drafter that is not asked is not verified, and may have got better."""
        self._faded[drafter] = self._faded.get(drafter, 1.0) * self._config.fade

    def _depths_of(self, drafter: str) -> list[_Counts]:
        depths = self._depths.setdefault(drafter, [])
        share = self._faded.pop(drafter, 1.0)
        if share < 1.0:
            for counts in depths:
                counts.fade(share)
        return depths

    def begin(self) -> None:
        """Another answer begins, and there `by_depth` is another."""
        for drafter in self._depths:
            for counts in self._depths_of(drafter):
                counts.keep(self._config.carried)
        for kinds in self._kinds.values():
            for counts in kinds.values():
                counts.keep(self._config.remembered)

    def as_json(self, drafter: str) -> dict[str, Any]:
        """What a later run can start from, for a drafter whose evidence is plain values or tuples of them."""
        kinds = self._kinds.get(drafter, {})
        return {"kinds": [[kind, counts.right, counts.verified] for kind, counts in kinds.items()]}

    def restore(self, drafter: str, stored: Mapping[str, Any]) -> None:
        """Start from what an earlier run left, believed less than it was then. Raises ValueError on nonsense."""
        kinds: dict[Hashable, _Counts] = {}
        for kind, right, verified in stored["kinds"]:
            if not 0.0 <= right <= verified < math.inf:
                raise ValueError(f"a stored kind of guess of which {right} of {verified} were right")
            counts = kinds[tuple(kind) if isinstance(kind, list) else kind] = _Counts(self._config, float(right), float(verified))
            counts.keep(_STORED)
        self._kinds[drafter] = kinds
