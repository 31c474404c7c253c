"""What to draft, and whether to draft at all: the choice that maximises expected tokens per second.

Every draft token has a conditional probability: its drafter's estimate, corrected by that drafter's record in the
token's feature bucket. Its reach is the product along its path. A draft of the n nodes of largest reach brings
E(n) = 1 + the sum of their reaches tokens a forward pass, in T(n + 1) and the time that drafting took; the policy takes
the n of the largest E(n) / time, 0 (plain decoding) included, within what the drafter's loss budget and the promise to
the answer allow.

Acceptance is learned from every proposal, drafted or not. T(n) is learned from forward passes of n tokens only; trying
one that may pay is allowed out of a small share of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgespec.core import NO_NOISE, Drafter, Evaluation, Plan, SharedNoise, Verdict
from edgespec.latency.model import is_typical
from edgespec.policy.backoff import Backoff
from edgespec.policy.config import PolicyConfig
from edgespec.policy.drafter_prefill import DrafterPrefill
from edgespec.policy.learned import Learned
from edgespec.policy.loss_budget import AnswerBudget
from edgespec.policy.planning import AnswerState, Planning
from edgespec.policy.speedup import shares

MAX_DRAFT = PolicyConfig().max_draft


class AdaptivePolicy(Learned):
    """Chooses drafters and size for the most expected tokens per second. `drafters` may be empty: plain decoding."""

    def begin(self, drafters: Sequence[Drafter] = ()) -> _AnswerPolicy:
        """The policy of one more answer. `drafters` are this answer's own, and cost nothing."""
        return _AnswerPolicy(self, drafters)


class _AnswerPolicy:
    """What belongs to one answer: its prompt, what it may lose, drafter prefill, backoff, drafters of its own."""

    def __init__(self, shared: AdaptivePolicy, drafters: Sequence[Drafter]) -> None:
        self._shared = shared
        self._budget = AnswerBudget(shared.config)
        self._prefill = DrafterPrefill(shared.prefill_budgets)
        self._backoff = Backoff(shared.config)
        self._chains = shared.acceptance.begin()
        self._length = shared.lengths.begin()
        self._prompt: tuple[int, float] | None = None  # its size and time, until the depth is known
        self._drafters = {drafter.name: drafter for drafter in (*drafters, *shared.drafters.values())}
        self._state = AnswerState(self._budget, self._prefill, self._chains, [*drafters, *shared.free])

    def prefilled(self, evaluation: Evaluation, verdict: Verdict, *, cached: int, seconds: float) -> None:
        count = evaluation.length - cached
        if count > 1 and is_typical(cached, evaluation.length):
            self._prompt = count, seconds
        for drafter in self._drafters.values():
            drafter.observe(evaluation, verdict)

    def plan(self, tokens: Sequence[int], room: int, noise: SharedNoise = NO_NOISE, *, explain: bool = False) -> Plan:
        shared, cost = self._shared, self._shared.latency.for_context(len(tokens))
        if self._prompt is not None:
            cost.observe_prompt(*self._prompt)
            self._prompt = None
        limit = min(room, shared.config.max_draft, cost.rows - 1)
        if limit <= 0 or not self._drafters:
            return _because("there is no room for a draft" if self._drafters else "nobody drafts", explain)
        if cost.known:  # what the answer cannot afford is not worth proposing
            ratios, allowed = cost.ratios(), 1.0 + self._budget.worst
            limit = next((n for n in range(limit, 0, -1) if ratios[n] <= allowed), 0)
            if not limit:
                return _because("this answer is so late that no draft keeps its promise", explain)
        if self._backoff.goes_on():
            return _because("proposing takes too much of T(1), and was in vain lately", explain)
        step = Planning(shared, self._state, cost, tokens, room, limit, noise, explain=explain)
        begun = shared.clock()
        plan = step.plan()
        if cost.known and (plan.draft.tokens or not plan.spent):  # costed drafters' time is in their loss budgets
            self._backoff.proposed((shared.clock() - begun) / cost.t1, found=step.promising)
        return plan

    def settle(self, plan: Plan, evaluation: Evaluation, verdict: Verdict, seconds: float | None) -> None:
        shared, cost = self._shared, self._shared.latency.for_context(evaluation.length)
        draft, spent, emitted = plan.draft, plan.spent, len(verdict.emitted)
        size = 1 + len(draft)
        charged = ratio = cost.ratio(size)
        if seconds is not None:
            cost.observe(size, seconds)
            charged, ratio = cost.charged(size, seconds), cost.ratio(size)
        self._length.add(emitted)
        took = (charged if draft.tokens else 1.0) + sum(spent.values())
        self._budget.settle(emitted, took, prefill=sum(plan.prefill.values()), risk=plan.risk)
        if not spent:
            self._prefill.decoded(emitted, ratio)
        parts = shares([draft.author(node) for node in range(len(draft))], plan.reach) if draft.authors else {}
        for name in self._drafters:
            part = parts.get(name, 0.0) if parts else float(bool(draft.tokens) and draft.drafter == name)
            gained = (emitted - charged) * part if part else None
            change = shared.budgets.settle(name, spent=spent.get(name, 0.0), gained=gained)
            shared.prefill_budgets.earned(name, change)
        for costed in shared.costed:
            if costed.name not in spent:
                self._chains.fade(costed.name)
        shared.exploration = min(shared.exploration + shared.config.exploration * ratio, 1.0)
        for proposal in plan.proposals:
            shared.acceptance.observe(proposal, verdict.emitted)
            if proposal.drafter in spent:
                self._chains.observe(proposal.trunk, verdict.emitted)
        for drafter in self._drafters.values():
            drafter.observe(evaluation, verdict)


def _because(reason: str, explain: bool) -> Plan:
    """Nothing is drafted."""
    return Plan(reasons=(reason,)) if explain else _PLAINLY


_PLAINLY = Plan()
