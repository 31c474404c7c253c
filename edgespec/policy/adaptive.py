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

import math
import time
from collections.abc import Callable, Hashable, Sequence

from edgespec.core import (
    NO_NOISE,
    NOTHING,
    AnswerPolicy,
    CostedDrafter,
    Draft,
    Drafter,
    Evaluation,
    Plan,
    SharedNoise,
    Verdict,
)
from edgespec.latency.model import LatencyModel, is_typical
from edgespec.policy.acceptance import Acceptance, ChainAcceptance
from edgespec.policy.backoff import Backoff
from edgespec.policy.config import PolicyConfig
from edgespec.policy.costed import StoppingRule, expected_speed_up, upper_bound
from edgespec.policy.drafter_prefill import CATCH_UP, AnswerLengths, DrafterPrefill, PrefillBudgets
from edgespec.policy.loss_budget import AnswerBudget, LossBudgets
from edgespec.policy.speedup import Limits, Sizes
from edgespec.policy.tree import HOPELESS, reaches

MAX_DRAFT = PolicyConfig().max_draft

_LIKELY = 0.6
"""Acceptance of most costed drafters where a prefill is at stake, and not a few tokens."""

_EXPLORED_AT_FIRST = 50
"""Forward passes whose share of exploration may be lost before anything was decoded."""


class AdaptivePolicy:
    """Chooses drafter and size for the most expected tokens per second. `drafters` may be empty: plain decoding.

    What is learned here is shared by all answers: T(n), acceptance, loss budgets, the length of answers.
    """

    def __init__(
        self,
        drafters: Sequence[Drafter],
        cost: LatencyModel,
        *,
        clock: Callable[[], float] = time.perf_counter,
        config: PolicyConfig | None = None,
    ) -> None:
        self.config = config = config or PolicyConfig()
        self.latency = cost
        self.acceptance = Acceptance(config)
        self.clock = clock
        self.drafters = {drafter.name: drafter for drafter in drafters}
        self.costed = [drafter for drafter in drafters if isinstance(drafter, CostedDrafter)]
        self.free = [drafter for drafter in drafters if not isinstance(drafter, CostedDrafter)]
        self.budgets = LossBudgets(self.drafters, config)
        self.prefill_budgets = PrefillBudgets([drafter.name for drafter in self.costed], config)
        self.lengths = AnswerLengths(config)
        self.exploration = config.exploration * _EXPLORED_AT_FIRST

    def begin(self, drafters: Sequence[Drafter] = ()) -> AnswerPolicy:
        """The policy of one more answer. `drafters` are this answer's own, and cost nothing."""
        return _AnswerPolicy(self, drafters)


class _AnswerPolicy:
    """What belongs to one answer: its prompt, what it may lose, drafter prefill, backoff."""

    def __init__(self, shared: AdaptivePolicy, drafters: Sequence[Drafter]) -> None:
        self._shared = shared
        self._free = [*drafters, *shared.free]
        self._drafters = {drafter.name: drafter for drafter in (*drafters, *shared.drafters.values())}
        self._budget = AnswerBudget(shared.config)
        self._prefill = DrafterPrefill(shared.prefill_budgets)
        self._backoff = Backoff(shared.config)
        self._chains = shared.acceptance.begin()
        self._length = shared.lengths.begin()
        self._prompt: tuple[int, float] | None = None  # its size and time, until the depth is known

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
        step = _Planning(
            shared,
            self._free,
            self._budget,
            self._prefill,
            self._chains,
            cost,
            tokens,
            room,
            limit,
            noise,
            explain=explain,
        )
        begun = shared.clock()
        plan = step.plan()
        if cost.known and (plan.draft.tokens or not plan.spent):  # costed drafters' time is in their loss budgets
            self._backoff.proposed((shared.clock() - begun) / cost.t1, found=step.promising)
        return plan

    def settle(self, plan: Plan, evaluation: Evaluation, verdict: Verdict, seconds: float) -> None:
        shared, cost = self._shared, self._shared.latency.for_context(evaluation.length)
        draft, spent, emitted = plan.draft, plan.spent, len(verdict.emitted)
        size = 1 + len(draft)
        cost.observe(size, seconds)
        charged, ratio = cost.charged(size, seconds), cost.ratio(size)
        self._length.add(emitted)
        took = (charged if draft.tokens else 1.0) + sum(spent.values())
        self._budget.settle(emitted, took, prefill=sum(plan.prefill.values()), risk=plan.risk)
        if not spent:
            self._prefill.decoded(emitted, ratio)
        for name in self._drafters:
            gained = emitted - charged if draft.tokens and draft.drafter == name else None
            change = shared.budgets.settle(name, spent=spent.get(name, 0.0), gained=gained)
            shared.prefill_budgets.earned(name, change)
        for costed in shared.costed:
            if costed.name not in spent:
                self._chains.fade(costed.name)
        shared.exploration = min(shared.exploration + shared.config.exploration * ratio, 1.0)
        for proposal in plan.proposals:
            shared.acceptance.observe(proposal, verdict.emitted)
            if proposal.drafter in spent:
                self._chains.observe(proposal, verdict.emitted)
        for drafter in self._drafters.values():
            drafter.observe(evaluation, verdict)


def _because(reason: str, explain: bool) -> Plan:
    """Nothing is drafted."""
    return Plan(reasons=(reason,)) if explain else _PLAINLY


_PLAINLY = Plan()

_Option = tuple[Draft, Sizes, Limits]
"""A proposal, what its sizes promise, and what they may lose."""


class _Planning:
    """One plan in the making."""

    def __init__(
        self,
        shared: AdaptivePolicy,
        free: Sequence[Drafter],
        budget: AnswerBudget,
        prefill: DrafterPrefill,
        chains: ChainAcceptance,
        cost: LatencyModel,
        tokens: Sequence[int],
        room: int,
        limit: int,
        noise: SharedNoise,
        *,
        explain: bool,
    ) -> None:
        self._shared, self._answer, self._prefill, self._chains, self._cost = shared, budget, prefill, chains, cost
        self.config = shared.config
        self._free = free
        self._tokens, self._room, self._limit, self._noise = tokens, room, limit, noise
        self._proposals: list[Draft] = []
        self._spent: dict[str, float] = {}
        self._deferred: dict[str, float] = {}
        self._risked = 0.0
        self.promising = False
        """Whether a draft would be faster than plain decoding, whether or not its loss can be afforded."""
        self._reasons: list[str] | None = [] if explain else None

    def plan(self) -> Plan:
        """The plan."""
        draft = self._best()
        self.promising = self.promising or bool(draft.tokens)
        risk = self._risked if draft.tokens and not self._spent else 0.0
        return Plan(draft, tuple(self._proposals), self._spent, tuple(self._reasons or ()), self._deferred, risk)

    def _best(self) -> Draft:
        best, gain, options = self._best_free()
        if not self._cost.known:
            self._say("T(1) is not known yet: without it, no forward pass tells what it costs more than that")
            return NOTHING
        if self._cost.needs_remeasure:
            self._say("forward passes take another time than they did: T(1) is measured again")
            return NOTHING
        alone, time = gain, self._cost.ratio(1 + len(best))
        for drafter in self._shared.costed:
            rival = max(gain if best.tokens else 0.0, self.config.minimum_speed_up_costed)
            before = sum(self._spent.values())
            drafted, promised = self._consult(drafter, rival)
            spent = self._spent.get(drafter.name, 0.0)  # whosever draft is taken, as what was spent before
            gain, time = gain * time / (time + spent), time + spent
            own = self._cost.ratio(1 + len(drafted)) + spent
            promised *= own / (own + before)
            if drafted.tokens and (promised > gain or not best.tokens):
                best, gain, time, options = drafted, promised, own + before, []
        return self._explored(options, alone) or best

    def _say(self, reason: str) -> None:
        if self._reasons is not None:
            self._reasons.append(reason)

    def _budget(self, name: str) -> float:
        """What a drafter may lose by expectation: a share of what this answer gained may be lost in any case."""
        return max(self._shared.budgets[name], self.config.promised_share * self._answer.gained)

    def _limits(self, name: str) -> Limits:
        """What a draft of this drafter may lose."""
        noticed = self._answer.noticed(self._shared.lengths.mean)
        # An answer that counts as slower already can only become faster: no draft is a risk then.
        noticed = max(noticed, 0.5) if noticed > 0.0 else math.inf
        return Limits(self._budget(name), self._answer.worst, noticed, self._answer.risk)

    def _sizes(self, proposal: Draft, spent: float = 0.0) -> Sizes:
        """The expected speed-up of every size of a proposal."""
        reach = reaches(proposal.parents, self._shared.acceptance.estimates(proposal))
        end = next((place for place, chance in enumerate(reach) if chance < HOPELESS), len(reach))
        return Sizes(reach[:end], self._cost.ratios(), spent)

    def _best_free(self) -> tuple[Draft, float, list[_Option]]:
        """The best draft that costs nothing to draft, its gain, and all that there was to choose from."""
        best, best_gain = NOTHING, 1.0
        options: list[_Option] = []
        for drafter in self._free:
            proposal = drafter.propose(self._tokens, self._limit).trunk.by(drafter.name)
            if not proposal.tokens:
                self._say(f"{drafter.name}: no draft token")
                continue
            self._proposals.append(proposal)
            sizes = self._sizes(proposal)
            limits = self._limits(drafter.name)
            options.append((proposal, sizes, limits))
            size = sizes.best(limits, max(best_gain, self.config.minimum_speed_up))
            self.promising = self.promising or max(sizes.gains) > self.config.minimum_speed_up
            if size:
                best, best_gain = proposal.first(size), sizes.gains[size]
                self._risked = sizes.risk(size, limits.noticed)
            if self._reasons is not None and len(sizes.gains) > 1:
                most = max(range(1, len(sizes.gains)), key=sizes.gains.__getitem__)
                self._say(
                    f"{drafter.name}: {most} of {len(proposal)} tokens promise {sizes.gains[most]:.2f} times plain "
                    f"speed, needed is {self.config.minimum_speed_up:.2f}; they may lose {sizes.shortfall(most):.2f} "
                    f"T(1), allowed is {limits.expected:.2f}; at worst {sizes.times[most] - 1:.2f}, allowed is "
                    f"{limits.worst:.2f}; risk {sizes.risk(most, limits.noticed):.2f}"
                )
        return best, best_gain, options

    def _explored(self, options: Sequence[_Option], gain: float) -> Draft:
        """A size that may be better than one of that gain, since T(n) may be less than estimated.

        It keeps the promise to the answer as every draft does; what it may lose by expectation is bounded by what
        exploration may, beside whatever draft.
        """
        gain = max(gain, self.config.minimum_speed_up)
        found: tuple[_Option, int, float] | None = None
        optimistic, ratios = self._cost.optimistic(), self._cost.ratios()
        for option in options:
            _, sizes, limits = option
            for size in range(1, len(sizes.gains)):
                if optimistic[size] >= ratios[size]:  # there is nothing to be learned of T(n)
                    continue
                hope = sizes.expected[size] / (optimistic[size] + sizes.times[size] - ratios[size])
                if hope <= gain or not sizes.keeps_promise(size, limits):
                    continue
                price = sizes.shortfall(size) - sizes.shortfall(0)  # what drafting took is spent in any case
                if price <= self._shared.exploration:
                    found, gain = (option, size, price), hope
        if found is None:
            return NOTHING
        (proposal, sizes, limits), size, price = found
        self._shared.exploration -= price
        self._risked = sizes.risk(size, limits.noticed)
        tried = proposal.first(size)
        self._say(f"{tried.drafter}: {size} tokens are tried: T({size + 1}) may be less than estimated")
        return tried

    def _consult(self, drafter: CostedDrafter, rival: float) -> tuple[Draft, float]:
        """What a costed drafter drafts, if that promises more than `rival`, and its expected speed-up."""
        config, cost, name = self.config, self._cost, drafter.name
        drafting = drafter.draft_cost(self._tokens, cost.t1)
        if drafting.remeasure is not None:
            self._remeasure(name, drafting.remeasure)
            return NOTHING, 0.0
        token = drafting.next / cost.t1
        start, prefill = drafting.first / cost.t1, 0.0
        if start > 2 * token:  # more to read than a block leaves behind: that is paid once, not by every draft
            start, prefill = token, start - token
        optimistic = cost.optimistic_unseen()
        if self._reasons is None and upper_bound(optimistic, min(start, token), token) <= rival:
            return NOTHING, 0.0
        limit = self._longest(start, token, prefill)
        if not limit:
            return NOTHING, 0.0
        chances = self._chains.by_depth(name, limit, config.unknown_acceptance)
        budget = self._budget(name)
        gain, size = expected_speed_up(chances, optimistic, start, token)
        expected = Sizes(reaches(range(-1, size - 1), chances[:size]), cost.ratios(), start + (size - 1) * token)
        loss = expected.shortfall(size)
        self._say(
            f"{name}: a draft token takes {token:.2f} T(1), {start + prefill:.2f} the first; promises {gain:.2f} "
            f"times plain speed, needed is {rival:.2f}; may lose {loss:.2f} T(1), allowed is {budget:.2f}"
        )
        if gain <= rival:
            self._try_out(drafter, start + prefill, token, rival)
            return NOTHING, 0.0
        if loss > budget:
            return NOTHING, 0.0
        if prefill and not self._may_prefill(name, prefill, start, token, gain):
            return NOTHING, 0.0
        hopeful = self._shared.exploration >= 50 * config.exploration
        rule = StoppingRule(
            name, self._shared.acceptance, optimistic if hopeful else cost.ratios(),
            self._chains.by_depth(name, cost.rows - 1, config.unknown_acceptance), start, token,
        )  # fmt: skip
        proposal, spent = self._ask(drafter, limit, rule, prefill if prefill > CATCH_UP else 0.0)
        if not proposal.tokens:
            return NOTHING, 0.0
        sizes = self._sizes(proposal, spent)
        # The time is spent whatever comes of it: from here on, a draft has to beat plain decoding after it.
        plainly = 1 / (1 + spent)
        limits = Limits(float("inf"), self._answer.worst, 0.0, 1.0)
        size = sizes.best(limits, plainly)
        draft = proposal.first(size) if size else NOTHING
        gain = sizes.gains[size] if size else plainly
        tried = self._explored([(proposal, sizes, limits)], gain)
        return (tried or draft), gain

    def _longest(self, start: float, token: float, prefill: float) -> int:
        """The longest chain of a costed drafter that keeps the promise to the answer if all of it is wrong."""
        ratios, allowed = self._cost.ratios(), self._answer.worst + 1.0 - prefill - start
        return next((n for n in range(self._limit, 0, -1) if ratios[n] + (n - 1) * token <= allowed), 0)

    def _may_prefill(self, name: str, prefill: float, start: float, token: float, gain: float) -> bool:
        """Whether a drafter prefills, if it may promise `gain` after that."""
        chances = self._chains.by_depth(name, self._room, _LIKELY)
        likely, _ = expected_speed_up(chances, self._cost.optimistic_unseen(), start, token)
        so_far = self._answer.tokens
        remaining = min(self._shared.lengths.remaining(so_far), self._room)
        pays = self._prefill.pays(name, prefill, gain, likely, so_far, remaining)
        if not pays:
            self._say(f"{name}: a prefill of {prefill:.2f} T(1) is not expected to be earned back yet")
        return pays

    def _try_out(self, drafter: CostedDrafter, first: float, token: float, rival: float) -> None:
        """Ask for one draft token, not to draft it but to learn how good it is, if it might be good enough."""
        if first > min(CATCH_UP, 0.5 * self._shared.budgets[drafter.name], self._answer.worst):
            return
        chances = self._chains.by_depth(drafter.name, self.config.max_draft, self.config.optimistic_acceptance)
        if expected_speed_up(chances, self._cost.optimistic_unseen(), token, token)[0] <= rival:
            return
        self._say(f"{drafter.name}: asked for one draft token, to see how good it is by now")
        self._ask(drafter, 1, lambda probability, bucket: False)

    def _ask(
        self, drafter: CostedDrafter, limit: int, go_on: Callable[[float, Hashable], bool], prefill: float = 0.0
    ) -> tuple[Draft, float]:
        """Its draft, and the time that took beyond that of its `prefill`."""
        clock = self._shared.clock
        begun = clock()
        proposal = drafter.draft(self._tokens, limit, self._noise, go_on).by(drafter.name)
        spent = self._spent[drafter.name] = max(0.0, (clock() - begun) / self._cost.t1 - prefill)
        if prefill:
            self._deferred[drafter.name] = prefill
            self._shared.prefill_budgets.paid(drafter.name, prefill)
        self._say(f"{drafter.name}: asked, {len(proposal)} draft tokens in {spent:.2f} T(1)")
        if proposal.tokens:
            self._proposals.append(proposal)
        return proposal, spent

    def _remeasure(self, name: str, remeasure: Callable[[], None]) -> None:
        """Have a cost measured that seems too high to be true."""
        self._say(f"{name}: what a draft token costs is in doubt, and measured")
        clock = self._shared.clock
        begun = clock()
        remeasure()
        self._spent[name] = (clock() - begun) / self._cost.t1
