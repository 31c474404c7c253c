"""The numbers of the decision rule, all in one place.

Times are in units of T(1), the time of one forward pass of one token; speed-ups are over plain decoding. Each number
says what it limits; `benchmarks/results/rule.json` holds the runs that justify them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What `AdaptivePolicy` may risk, and how fast it learns. An experiment is another config."""

    max_draft: int = 48
    """Nodes of a draft at most: beyond, even perfect drafts gain little on the measured curves."""

    minimum_speed_up: float = 1.1
    """Expected speed-up that a draft must reach: estimates are noisy, and the best of many is flattered by that."""

    minimum_speed_up_costed: float = 1.05
    """The same for a costed drafter: its own record promises that, no choice among many sizes of a proposal."""

    promised_lateness: float = 10.0
    """T(1) by which an answer may come later than plain decoding if every further draft token is wrong."""

    promised_share: float = 0.05
    """The same as a share of the answer's plain time so far; the larger of the two counts."""

    noticed_share: float = 0.015
    """Share of an answer's plain time by which it may be later without counting as slower."""

    risk: float = 0.05
    """Probability that one draft makes its answer count as slower, at most."""

    initial_budget: float = 1.0
    """T(1) that a drafter may lose by expectation before it has gained anything."""

    refill: float = 0.01
    """Share of the time without its drafts that is added to a drafter's loss budget."""

    budget_cap: float = 15.0
    """T(1) of gains that a loss budget keeps."""

    exploration: float = 0.002
    """Share of the time that may be lost by trying sizes of which T(n) may be less than estimated."""

    prior_strength: float = 6.0
    """Verified draft tokens that a drafter's own estimate of its acceptance counts for."""

    memory: float = 256.0
    """Verified draft tokens of a feature bucket that are remembered; older ones fade. What is known of the chains of a
    costed drafter that is not asked fades by one in so many forward passes."""

    change: float = 2.5
    """Standard deviations by which the last draft tokens must differ from those before for these to be forgotten."""

    carried: float = 3.0
    """Draft tokens of earlier answers that count, of each feature bucket and of each position of a chain."""

    unknown_acceptance: float = 0.75
    """Acceptance of a costed drafter's token before any was verified."""

    optimistic_acceptance: float = 0.95
    """The same where one token is asked for only to learn whether the drafter has become good enough."""

    answer_length: float = 100.0
    """Tokens of an answer before any was seen; it counts as four answers."""

    backoff_share: float = 0.005
    """Share of T(1) that proposing may take before proposals in vain are left out."""

    backoff_after: int = 8
    """Proposals in vain before one forward pass is left out, and between more of them; so many are left out at most."""
