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

import copy
from collections.abc import Sequence

from edgespec.core import (
    NO_NOISE,
    AnswerPolicy,
    Drafter,
    Evaluation,
    Plan,
    PlanRequest,
    SharedNoise,
    Verdict,
)
from edgespec.errors import InvalidRequest
from edgespec.latency.model import LatencyModel, is_typical
from edgespec.policy.backoff import Backoff
from edgespec.policy.config import PolicyConfig
from edgespec.policy.drafter_prefill import DrafterPrefill
from edgespec.policy.goodput import NO_OFFER, Offer, charged_times, rows_for
from edgespec.policy.learned import Learned
from edgespec.policy.loss_budget import AnswerBudget
from edgespec.policy.planning import AnswerState, Option, Planning
from edgespec.policy.speedup import shares

MAX_DRAFT = PolicyConfig().max_draft


class AdaptivePolicy(Learned):
    """Chooses drafters and size for the most expected tokens per second. `drafters` may be empty: plain decoding."""

    def begin(self, drafters: Sequence[Drafter] = ()) -> _AnswerPolicy:
        """The policy of one more answer. `drafters` are this answer's own, and cost nothing."""
        return _AnswerPolicy(self, drafters)

    def with_latency(self, latency: LatencyModel) -> AdaptivePolicy:
        """This policy with T(n) of its own; whatever else is learned is shared."""
        policy = copy.copy(self)
        policy.latency = latency
        return policy

    def plan_many(self, requests: Sequence[PlanRequest]) -> list[Plan]:
        """The plans of several answers for one forward pass, in which their draft tokens compete for its rows.

        Before each answer settles without seconds, tell `passed` what the pass took.
        `requests` have answers that `begin` returned, each once. Drafters whose draft tokens cost time are not asked:
        one drafts for a single answer while all the others wait.
        """
        cost = self._cost_of([len(request.tokens) for request in requests])
        answers = [_own(request.answer) for request in requests]
        offers = [answer.offer(request, cost, len(requests)) for answer, request in zip(answers, requests, strict=True)]
        drafted = self._rows_of([offer for _, offer in offers], cost)
        longer = cost.ratio(len(requests) + sum(drafted)) / cost.ratio(len(requests)) - 1.0
        return [
            step.planned(offer, size, took) if step else _PLAINLY
            for (step, offer), size, took in zip(offers, drafted, charged_times(drafted, longer), strict=True)
        ]

    def _rows_of(self, options: Sequence[Option | None], cost: LatencyModel) -> list[int]:
        """The draft tokens of each answer, or of a size that is tried since T(n) may be less than estimated."""
        plainly = [0] * len(options)
        if not cost.known or cost.needs_remeasure:
            return plainly
        offers = [Offer(option.sizes.reach, option.allows) if option else NO_OFFER for option in options]
        drafted = rows_for(offers, cost.ratios(), self.config.minimum_speed_up)
        hopeful = [Offer(offer.reach, lambda size, time: True) for offer in offers]
        tried = rows_for(hopeful, cost.optimistic(), self.config.minimum_speed_up)
        size = len(options) + sum(tried)
        if tried == drafted or cost.optimistic()[size - 1] >= cost.ratio(size):
            return drafted
        times = charged_times(tried, cost.ratio(size) / cost.ratio(len(options)) - 1.0)
        trial = [(option, n, time) for option, n, time in zip(options, tried, times, strict=True) if option and n]
        price = sum(option.sizes.shortfall(n, time) for option, n, time in trial)
        kept = all(option.sizes.keeps_promise(n, option.limits, time) for option, n, time in trial)
        if price > self.exploration or not kept:
            return drafted
        self.exploration -= price
        return tried

    def passed(self, lengths: Sequence[int], rows: int, seconds: float) -> None:
        """Learn that a forward pass of `rows` rows, for answers of these lengths, took `seconds` as a whole."""
        cost, count = self._cost_of(lengths), len(lengths)
        if rows == count and (not cost.known or cost.needs_remeasure):
            cost.observe(1, seconds / cost.ratio(count))  # no pass of one row comes: it is taken from that of several
        cost.observe(rows, seconds)

    def _cost_of(self, lengths: Sequence[int]) -> LatencyModel:
        """T(n) where every row's attention goes over the cells of so many answers."""
        return self.latency.for_context(sum(lengths))


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
        self._observe_prompt(cost)
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

    def offer(self, request: PlanRequest, cost: LatencyModel, count: int) -> tuple[Planning | None, Option | None]:
        """What the free drafters propose for a pass of `count` answers, of which this one gets a part of the rows."""
        shared = self._shared
        self._observe_prompt(cost)
        limit = min(request.room, shared.config.max_draft, cost.rows - count)
        if limit <= 0 or not self._state.free or self._backoff.goes_on():
            return None, None
        step = Planning(shared, self._state, cost, request.tokens, request.room, limit, request.noise, explain=False)
        begun = shared.clock()
        offer = step.offer()
        if cost.known:
            found = offer is not None and max(offer.sizes.gains) > shared.config.minimum_speed_up
            self._backoff.proposed((shared.clock() - begun) / cost.t1, found=found)
        return step, offer

    def _observe_prompt(self, cost: LatencyModel) -> None:
        if self._prompt is not None:
            cost.observe_prompt(*self._prompt)
            self._prompt = None

    def settle(self, plan: Plan, evaluation: Evaluation, verdict: Verdict, seconds: float | None) -> None:
        shared, cost = self._shared, self._shared.latency.for_context(evaluation.length)
        draft, spent, emitted = plan.draft, plan.spent, len(verdict.emitted)
        size = min(1 + len(draft) + evaluation.reevaluated, cost.rows)
        begun = shared.clock()
        for drafter in self._drafters.values():
            drafter.observe(evaluation, verdict)
        if seconds is not None:
            seconds += shared.clock() - begun  # what is learned from each row is part of what a row takes
            cost.observe(size, seconds)
        took = 1.0
        if size > 1:
            took = plan.time or (cost.ratio(size) if seconds is None else cost.charged(size, seconds))
        self._length.add(emitted)
        self._budget.settle(emitted, took + sum(spent.values()), prefill=sum(plan.prefill.values()), risk=plan.risk)
        if not spent:
            self._prefill.decoded(emitted, took)
        parts = shares([draft.author(node) for node in range(len(draft))], plan.reach) if draft.authors else {}
        for name in self._drafters:
            part = parts.get(name, 0.0) if parts else float(bool(draft.tokens) and draft.drafter == name)
            gained = (emitted - took) * part if part else None
            change = shared.budgets.settle(name, spent=spent.get(name, 0.0), gained=gained)
            shared.prefill_budgets.earned(name, change)
        for costed in shared.costed:
            if costed.name not in spent:
                self._chains.fade(costed.name)
        shared.exploration = min(shared.exploration + shared.config.exploration * took, 1.0)
        for proposal in plan.proposals:
            shared.acceptance.observe(proposal, verdict.emitted)
            if proposal.drafter in spent:
                self._chains.observe(proposal.trunk, verdict.emitted)


def _own(answer: AnswerPolicy) -> _AnswerPolicy:
    """An answer that `begin` returned."""
    if not isinstance(answer, _AnswerPolicy):
        raise InvalidRequest(f"a {type(answer).__name__} cannot take part: begin each answer with this policy")
    return answer


def _because(reason: str, explain: bool) -> Plan:
    """Nothing is drafted."""
    return Plan(reasons=(reason,)) if explain else _PLAINLY


_PLAINLY = Plan()
