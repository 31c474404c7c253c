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

import time
from collections.abc import Callable, Hashable, Sequence

from edgespec.acceptance import Acceptance
from edgespec.backoff import Backoff
from edgespec.core import GREEDY, NOTHING, Coupling, Draft, Drafter, PricedDrafter, Verdict
from edgespec.cost import CostCurve
from edgespec.costed import StoppingRule, expected_speed_up, upper_bound
from edgespec.drafter_prefill import AnswerLengths, DrafterPrefill
from edgespec.expected import Limits, Sizes
from edgespec.loss_budget import AnswerBudget, LossBudgets
from edgespec.policy_config import PolicyConfig
from edgespec.tree import HOPELESS, reaches

MAX_DRAFT = PolicyConfig().max_draft
_LIKELY = 0.6


class AdaptivePolicy:
    """Chooses drafter and size for the most expected tokens per second. `drafters` may be empty: plain decoding.

    Put a list into `reasons` to read there, after each plan, why it was made.
    """

    def __init__(
        self,
        drafters: Sequence[Drafter],
        cost: CostCurve,
        *,
        clock: Callable[[], float] = time.perf_counter,
        config: PolicyConfig | None = None,
    ) -> None:
        self.config = config = config or PolicyConfig()
        self.cost = cost
        self._cost = cost  # at the depth of the last plan
        self._prompt: tuple[int, float] | None = None  # its size and time, until the depth is known
        self._clock = clock
        self.acceptance = Acceptance(config)
        self._drafters = {drafter.name: drafter for drafter in drafters}
        self._costed = [drafter for drafter in drafters if isinstance(drafter, PricedDrafter)]
        self._free = [drafter for drafter in drafters if not isinstance(drafter, PricedDrafter)]
        self._budgets = LossBudgets(self._drafters, config)
        self._prefill = DrafterPrefill([drafter.name for drafter in self._costed], config)
        self._lengths = AnswerLengths(config)
        self._risked = 0.0
        self._exploration = 50 * config.exploration
        self._answer = AnswerBudget(config)
        self._backoff = Backoff(config)
        self._proposals: list[Draft] = []
        self._spent: dict[str, float] = {}
        self._deferred: dict[str, float] = {}
        self.guessed: dict[str, int] = {}
        self.reasons: list[str] | None = None

    def plan(self, tokens: Sequence[int], room: int, coupling: Coupling = GREEDY) -> Draft:
        self._cost = self.cost.at(len(tokens))
        if self._prompt is not None:
            self._cost.observe_prompt(*self._prompt)
            self._prompt = None
        limit = min(room, self.config.max_draft, self._cost.rows - 1)
        self._proposals = []
        self._spent, self._deferred, self.guessed = {}, {}, {}
        if self.reasons is not None:
            self.reasons.clear()
        if limit <= 0 or not self._drafters:
            self._say("there is no room for a draft" if self._drafters else "nobody drafts")
            return NOTHING
        if self._backoff.goes_on():
            self._say("proposing takes too much of T(1), and was in vain lately")
            return NOTHING
        begun = self._clock()
        draft = self._best(tokens, room, limit, coupling)
        if self._cost.known and (draft.tokens or not self._spent):  # costed drafters' time is in their loss budgets
            self._backoff.proposed((self._clock() - begun) / self._cost.single, found=bool(draft.tokens))
        return draft

    def _budget(self, name: str) -> float:
        """What a drafter may lose by expectation: a share of what this answer gained may be lost in any case."""
        return max(self._budgets[name], self.config.promised_share * self._answer.gained)

    def _limits(self, name: str, spent: float = 0.0) -> Limits:
        """What a draft of this drafter may lose, beyond what is spent."""
        length = self._lengths.mean
        noticed = max(self._answer.noticed(length) - spent, 0.5)
        return Limits(self._budget(name), self._answer.worst - spent, noticed, self._answer.risk)

    def _best(self, tokens: Sequence[int], room: int, limit: int, coupling: Coupling) -> Draft:
        best, gain, loss, options = self._best_free(tokens, limit)
        if not self._cost.known:
            self._say("T(1) is not known yet: without it, no forward pass tells what it costs more than that")
            return NOTHING
        if self._cost.due:
            self._say("forward passes take another time than they did: T(1) is measured again")
            return NOTHING
        alone, time = gain, self._cost.ratio(1 + len(best))
        for drafter in self._costed:
            rival = max(gain if best.tokens else 0.0, self.config.minimum_speed_up)
            before = sum(self._spent.values())
            drafted, promised = self._consult(drafter, tokens, room, coupling, rival)
            spent = self._spent.get(drafter.name, 0.0)  # whosever draft is taken, as what was spent before
            gain, time = gain * time / (time + spent), time + spent
            own = self._cost.ratio(1 + len(drafted)) + spent
            promised *= own / (own + before)
            if drafted.tokens and (promised > gain or not best.tokens):
                best, gain, time, options = drafted, promised, own + before, []
        return self._explored(options, alone, loss) or best

    def _say(self, reason: str) -> None:
        if self.reasons is not None:
            self.reasons.append(reason)

    def settle(self, draft: Draft, verdict: Verdict, seconds: float) -> None:
        size, emitted = 1 + len(draft), len(verdict.emitted)
        self._cost.observe(size, seconds)
        charged = self._cost.taken(size, seconds)
        ratio = self._cost.ratio(size)
        if draft.tokens and not self._spent:
            self._answer.risk -= self._risked
        self._answer.settle(emitted, (charged if draft.tokens else 1.0) + sum(self._spent.values()) + sum(self._deferred.values()))
        if not self._spent:
            self._prefill.decoded(emitted, ratio)
        for name in self._drafters:
            gained = emitted - charged if draft.tokens and draft.drafter == name else None
            change = self._budgets.settle(name, seconds=1.0, spent=self._spent.get(name, 0.0), gained=gained)
            if name in self._prefill:
                self._prefill.earned(name, change)
        for drafter in self._costed:
            if drafter.name not in self._spent:
                self.acceptance.fade_depths(drafter.name)
        self._exploration = min(self._exploration + self.config.exploration * ratio, 1.0)
        for proposal in self._proposals:
            self.acceptance.observe(proposal, verdict.emitted)
            if proposal.drafter in self._spent:
                self.acceptance.observe_depths(proposal, verdict.emitted)
        self._proposals = []
        if draft.tokens:
            self._drafters[draft.drafter].observe(draft, verdict)

    def prefilled(self, count: int, seconds: float) -> None:
        self._lengths.ended(self._answer.tokens)
        self._answer = AnswerBudget(self.config)
        self._backoff = Backoff(self.config)
        self._prefill.begin()
        self.acceptance.begin()
        self._prompt = (count, seconds) if count > 1 else None

    def _sizes(self, proposal: Draft, spent: float = 0.0) -> Sizes:
        """The expected speed-up of every size of a proposal."""
        reach = reaches(proposal.parents, self.acceptance.estimates(proposal))
        end = next((place for place, chance in enumerate(reach) if chance < HOPELESS), len(reach))
        return Sizes(reach[:end], self._cost.ratios(), spent)

    def _best_free(self, tokens: Sequence[int], limit: int) -> tuple[Draft, float, float, list[tuple[Draft, Sizes]]]:
        """The best draft that costs nothing to draft, its gain and loss, and all that there was to choose from."""
        best, best_gain, best_loss, self._risked = NOTHING, 1.0, 0.0, 0.0
        options: list[tuple[Draft, Sizes]] = []
        for drafter in self._free:
            proposal = drafter.propose(tokens, limit).by(drafter.name)
            if not proposal.tokens:
                self._say(f"{drafter.name}: no draft token")
                continue
            self._proposals.append(proposal)
            sizes = self._sizes(proposal)
            options.append((proposal, sizes))
            limits = self._limits(drafter.name)
            size = sizes.best(limits, max(best_gain, self.config.minimum_speed_up))
            if size:
                best, best_gain, best_loss = proposal.first(size), sizes.gains[size], sizes.shortfall(size)
                self._risked = sizes.risk(size, limits.noticed)
            if self.reasons is not None and len(sizes.gains) > 1:
                most = max(range(1, len(sizes.gains)), key=sizes.gains.__getitem__)
                self._say(
                    f"{drafter.name}: {most} of {len(proposal)} tokens promise {sizes.gains[most]:.2f} times plain "
                    f"speed, needed is {self.config.minimum_speed_up:.2f}; they may lose {sizes.shortfall(most):.2f} "
                    f"T(1), allowed is {limits.expected:.2f}; at worst {sizes.times[most] - 1:.2f}, allowed is "
                    f"{limits.worst:.2f}; risk {sizes.risk(most, limits.noticed):.2f}"
                )
        return best, best_gain, best_loss, options

    def _explored(self, options: Sequence[tuple[Draft, Sizes]], gain: float, loss: float) -> Draft:
        """A size that may be better than one with that gain and loss, since T(n) may be less than estimated."""
        gain = max(gain, self.config.minimum_speed_up)
        tried, cost = NOTHING, 0.0
        optimistic, worst = self._cost.hoped(), self._answer.worst
        for proposal, sizes in options:
            for size in range(1, len(sizes.gains)):
                spent = sizes.times[size] - self._cost.ratio(size + 1)
                hope = sizes.expected[size] / (optimistic[size] + spent)
                if hope <= gain or hope <= sizes.gains[size]:  # the latter: there is nothing to be learned of T(n)
                    continue
                more = sizes.shortfall(size) - loss
                if more <= self._exploration and sizes.times[size] - 1.0 <= worst:
                    tried, cost, gain = proposal.first(size), more, hope
        self._exploration -= max(cost, 0.0)
        if tried.tokens:
            self._say(f"{tried.drafter}: {len(tried)} tokens are tried: T({len(tried) + 1}) may be less than estimated")
        return tried

    def _consult(
        self, drafter: PricedDrafter, tokens: Sequence[int], room: int, coupling: Coupling, rival: float
    ) -> tuple[Draft, float]:
        """What a costed drafter drafts, if that promises more than `rival`, and its expected speed-up."""
        config, cost, name = self.config, self._cost, drafter.name
        limit = min(room, config.max_draft, cost.rows - 1)
        price = drafter.price(tokens, cost.single)
        if price.check is not None:
            self._check(name, price.check)
            return NOTHING, 0.0
        token = price.guess / cost.single
        start, prefill = price.start / cost.single, 0.0
        if start > 2 * token:  # more to read than a block leaves behind: that is paid once, not by every draft
            start, prefill = token, start - token
        optimistic = cost.hoped_unseen()
        if self.reasons is None and upper_bound(optimistic, min(start, token), token) <= rival:
            return NOTHING, 0.0
        chances = self.acceptance.by_depth(name, limit, config.unknown_acceptance)
        budget = self._budget(name)
        gain, size = expected_speed_up(chances, optimistic, start, token)
        expected = Sizes(reaches(range(-1, size - 1), chances[:size]), cost.ratios(), start + (size - 1) * token)
        loss = expected.shortfall(size)
        self._say(
            f"{name}: a draft token takes {token:.2f} T(1), {start + prefill:.2f} the first; promises {gain:.2f} "
            f"times plain speed, needed is {rival:.2f}; may lose {loss:.2f} T(1), allowed is {budget:.2f}"
        )
        if gain <= rival:
            self._try_out(drafter, tokens, coupling, start + prefill, token, rival)
            return NOTHING, 0.0
        if loss > budget or prefill + expected.times[size] - 1.0 > self._answer.worst:
            return NOTHING, 0.0
        if prefill and not self._may_prefill(name, prefill, start, token, gain, room):
            return NOTHING, 0.0
        hopeful = self._exploration >= 50 * config.exploration
        rule = StoppingRule(
            name, self.acceptance, optimistic if hopeful else cost.ratios(),
            self.acceptance.by_depth(name, cost.rows - 1, config.unknown_acceptance), start, token,
        )  # fmt: skip
        proposal, spent = self._ask(drafter, tokens, limit, coupling, rule, prefill)
        if not proposal.tokens:
            return NOTHING, 0.0
        sizes = self._sizes(proposal, spent)
        # The time is spent whatever comes of it: from here on, a draft has to beat plain decoding after it.
        plainly = 1 / (1 + spent)
        size = sizes.best(Limits(float("inf"), self._answer.worst, 0.0, 1.0), plainly)
        draft = proposal.first(size) if size else NOTHING
        gain, loss = (sizes.gains[size], sizes.shortfall(size)) if size else (plainly, spent)
        tried = self._explored([(proposal, sizes)], gain, loss)
        return (tried or draft), gain

    def _may_prefill(self, name: str, prefill: float, start: float, token: float, gain: float, room: int) -> bool:
        """Whether a drafter prefills, if it may promise `gain` after that."""
        chances = self.acceptance.by_depth(name, room, _LIKELY)
        likely, _ = expected_speed_up(chances, self._cost.hoped_unseen(), start, token)
        so_far = self._answer.tokens
        remaining = min(self._lengths.remaining(so_far), room)
        pays = self._prefill.pays(name, prefill, gain, likely, so_far, remaining)
        if not pays:
            self._say(f"{name}: a prefill of {prefill:.2f} T(1) is not expected to be earned back yet")
        return pays

    def _try_out(
        self, drafter: PricedDrafter, tokens: Sequence[int], coupling: Coupling, first: float, token: float,
        rival: float,
    ) -> None:  # fmt: skip
        """Ask for one draft token, not to draft it but to learn how good it is, if it might be good enough."""
        if first > 0.5 * self._budgets[drafter.name] or first > self._answer.worst:
            return
        chances = self.acceptance.by_depth(drafter.name, self.config.max_draft, self.config.optimistic_acceptance)
        if expected_speed_up(chances, self._cost.hoped_unseen(), token, token)[0] <= rival:
            return
        self._say(f"{drafter.name}: asked for one draft token, to see how good it is by now")
        self._ask(drafter, tokens, 1, coupling, lambda probability, bucket: False)

    def _ask(
        self, drafter: PricedDrafter, tokens: Sequence[int], limit: int, coupling: Coupling,
        go_on: Callable[[float, Hashable], bool], prefill: float = 0.0,
    ) -> tuple[Draft, float]:  # fmt: skip
        """Its draft, and the time that took beyond that of its `prefill`."""
        begun = self._clock()
        proposal = drafter.draft(tokens, limit, coupling, go_on).by(drafter.name)
        spent = self._spent[drafter.name] = max(0.0, (self._clock() - begun) / self._cost.single - prefill)
        if prefill:
            self._deferred[drafter.name] = prefill
            self._prefill.paid(drafter.name, prefill)
        self.guessed[drafter.name] = len(proposal)
        self._say(f"{drafter.name}: asked, {len(proposal)} draft tokens in {spent:.2f} T(1)")
        if proposal.tokens:
            self._proposals.append(proposal)
        return proposal, spent

    def _check(self, name: str, check: Callable[[], None]) -> None:
        """Have a costed drafter's time measured that seems too long to be true."""
        self._say(f"{name}: what a draft token costs is in doubt, and measured")
        begun = self._clock()
        check()
        self._spent[name] = (self._clock() - begun) / self._cost.single
