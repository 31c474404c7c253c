"""What to draft, and whether to draft at all: the choice that maximises expected tokens per second.

A draft of k tokens in a chain, node i right with probability a(i) given those before it, makes an expected block of
E(k) = 1 + a(1) + a(1)a(2) + ... tokens, for an evaluation of T(k + 1). `AdaptivePolicy` takes the k with the largest
E(k) / T(k + 1), k = 0 (plain decoding) included.

Acceptance is learned from every proposal, drafted or not: the tokens that the target emits say how far the proposal
would have been right. So a drafter that got better is noticed without paying for it. What cannot be learned for free is
T(n) for sizes that are not evaluated; trying one that may pay is allowed out of a small allowance of time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgespec.core import NOTHING, ROOT, Draft, Drafter, Verdict
from edgespec.cost import CostCurve

MAX_DRAFT = 48
"""No draft is longer: beyond, even perfect drafts gain little on the curves measured, and a wrong one costs much."""

_PRIOR_STRENGTH = 6.0
"""How many observations the drafter's own estimate is worth."""

_MEMORY = 64.0
"""Observations of a kind of guess that are remembered; older ones fade."""

_MARGIN = 1.2
"""A draft must promise at least this speed-up: estimates are noisy, and the best of many is flattered by it."""

_STAKE = 1.0
"""What drafting may lose before it has gained anything, in units of T(1)."""

_INTEREST = 0.005
"""What every plain evaluation adds to that: so drafting is tried again, in a long text, after it was given up."""

_MOST_ACCOUNT = 15.0
"""Gains beyond this are kept: a text that stops repeating itself may take back no more of them."""

_PROBE_SHARE = 0.001
"""Share of evaluation time that may be lost by trying sizes that look slow and might not be: T(n) is only learned from
evaluations of n, and an estimate may be of a busy moment."""

_PROBE_HOPE = 0.75
"""A size that is tried so may cost this share of its estimate, at best."""


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

    def observe(self, draft: Draft, emitted: Sequence[int]) -> None:
        """Learn from a proposal and the tokens that the target emitted instead."""
        for node, right in judged(draft, emitted):
            counts = self._counts.setdefault((draft.drafter, draft.evidence[node]), [0.0, 0.0])
            if counts[1] >= _MEMORY:
                counts[0] *= 0.5
                counts[1] *= 0.5
            counts[0] += right
            counts[1] += 1.0


class Policy(Protocol):
    """Decides what is drafted for the next evaluation."""

    def plan(self, tokens: Sequence[int], room: int) -> Draft:
        """The draft to verify after `tokens`, at most `room` nodes; `NOTHING` is plain decoding."""
        ...

    def settle(self, draft: Draft, verdict: Verdict, seconds: float) -> None:
        """Learn from the evaluation of the draft planned last: what was emitted, and how long it took."""
        ...

    def prefilled(self, count: int, seconds: float) -> None:
        """Learn that `count` tokens of a prompt were evaluated in `seconds`."""
        ...


class FixedPolicy:
    """Always drafts what the first drafter offers, up to `size` tokens: for tests, and for measuring what others do."""

    def __init__(self, drafter: Drafter, size: int) -> None:
        self._drafter = drafter
        self._size = size

    def plan(self, tokens: Sequence[int], room: int) -> Draft:
        limit = min(self._size, room)
        return self._drafter.propose(tokens, limit).first(limit) if limit > 0 else NOTHING

    def settle(self, draft: Draft, verdict: Verdict, seconds: float) -> None:
        self._drafter.observe(draft, verdict)

    def prefilled(self, count: int, seconds: float) -> None:
        """A fixed size learns nothing."""


class AdaptivePolicy:
    """Chooses drafter and size for the most expected tokens per second. `drafters` may be empty: plain decoding.

    `account` is the time, in units of T(1), that drafting has gained over plain decoding and may lose again; the
    estimates may be wrong, but what they can lose is bounded by it.
    """

    def __init__(self, drafters: Sequence[Drafter], cost: CostCurve) -> None:
        self.cost = cost
        self.acceptance = Acceptance()
        self.account = _STAKE
        self._probe_allowance = 0.0
        self._drafters = {drafter.name: drafter for drafter in drafters}
        self._proposals: list[Draft] = []

    def plan(self, tokens: Sequence[int], room: int) -> Draft:
        limit = min(room, MAX_DRAFT, self.cost.rows - 1)
        self._proposals = []
        if limit <= 0:
            return NOTHING
        best, best_gain = NOTHING, _MARGIN
        probe, probe_gain, probe_loss = NOTHING, _MARGIN, 0.0
        for drafter in self._drafters.values():
            proposal = drafter.propose(tokens, limit)
            if not proposal.tokens:
                continue
            self._proposals.append(proposal)
            for size, gain, hoped, loss in self._prospects(proposal):
                if gain > best_gain and loss <= self.account:
                    best, best_gain = proposal.first(size), gain
                if hoped > probe_gain and loss <= self._probe_allowance:
                    probe, probe_gain, probe_loss = proposal.first(size), hoped, loss
        if best.tokens or not probe.tokens:
            return best
        self._probe_allowance -= probe_loss
        return probe

    def settle(self, draft: Draft, verdict: Verdict, seconds: float) -> None:
        size = 1 + len(draft)
        self.cost.observe(size, seconds)
        gained = len(verdict.emitted) - self.cost.ratio(size) if draft.tokens else _INTEREST
        self.account = min(self.account + gained, _MOST_ACCOUNT)
        self._probe_allowance = min(self._probe_allowance + _PROBE_SHARE * self.cost.ratio(size), 1.0)
        for proposal in self._proposals:
            self.acceptance.observe(proposal, verdict.emitted)
        self._proposals = []
        if draft.tokens:
            self._drafters[draft.drafter].observe(draft, verdict)

    def prefilled(self, count: int, seconds: float) -> None:
        if count > 1:
            self.cost.observe(count, seconds)

    def _prospects(self, proposal: Draft) -> Iterator[tuple[int, float, float, float]]:
        """For every size: the expected speed-up, the one to hope for, and the expected loss in units of T(1)."""
        ratios = self.cost.ratios()
        chances: list[float] = []
        depths: list[int] = []
        reach: list[float] = [1.0]  # reach[m]: the chance that more than m tokens are emitted
        expected = 1.0
        for node, parent in enumerate(proposal.parents):
            chance = self.acceptance.estimate(proposal.drafter, proposal.evidence[node], proposal.probabilities[node])
            depth = 1
            if parent != ROOT:
                chance *= chances[parent]
                depth += depths[parent]
            chances.append(chance)
            depths.append(depth)
            if depth == len(reach):
                reach.append(0.0)
            reach[depth] += chance
            expected += chance
            ratio = ratios[node + 1]
            yield node + 1, expected / ratio, expected / max(1.0, ratio * _PROBE_HOPE), _shortfall(ratio, reach)


def _shortfall(ratio: float, reach: Sequence[float]) -> float:
    """The expected amount by which a block falls short of the `ratio` tokens that plain decoding makes in its time.

    E[max(0, ratio - length)] = ratio - E[min(ratio, length)], and E[min(ratio, length)] adds up P(length > m).
    """
    whole = int(ratio)
    covered = sum(reach[:whole])
    if whole < len(reach):
        covered += (ratio - whole) * reach[whole]
    return ratio - covered
