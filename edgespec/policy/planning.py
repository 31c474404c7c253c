"""What to draft in one decode step: the drafters' proposals as one tree, and its best size within the limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import accumulate
from operator import mul
from typing import NamedTuple

from edgespec.core import NOTHING, CostedDrafter, Draft, Drafter, Plan, SharedNoise
from edgespec.latency.model import LatencyModel
from edgespec.policy.acceptance import ChainAcceptance
from edgespec.policy.costed import StoppingRule, expected_speed_up, may_exceed
from edgespec.policy.drafter_prefill import CATCH_UP, DrafterPrefill
from edgespec.policy.learned import Learned
from edgespec.policy.loss_budget import AnswerBudget
from edgespec.policy.speedup import Limits, Sizes
from edgespec.policy.tree import (
    HOPELESS,
    best_path,
    by_reach,
    depths,
    merged,
    normalized,
    reaches,
    subtree,
    trunk,
    trunk_first,
)

_LIKELY = 0.6
"""Acceptance of most costed drafters where a prefill is at stake, and not a few tokens."""


class Option(NamedTuple):
    """Draft tokens to choose from, the best first, what their sizes promise, and what these may lose."""

    draft: Draft
    sizes: Sizes
    limits: Limits

    def allows(self, size: int, time: float) -> bool:
        """Whether the limits allow that size in that time."""
        return self.sizes.allows(size, self.limits, time)


class Choice(NamedTuple):
    """A draft, the chance of each of its nodes to be accepted, and its expected speed-up."""

    draft: Draft
    reach: Sequence[float]
    gain: float


_PLAINLY = Choice(NOTHING, (), 1.0)


class AnswerState(NamedTuple):
    """What belongs to one answer: what it may lose, drafter prefill, how far costed drafters' chains came true."""

    budget: AnswerBudget
    prefill: DrafterPrefill
    chains: ChainAcceptance
    free: Sequence[Drafter]
    """The drafters whose draft tokens cost nothing."""


class Planning:
    """One plan in the making."""

    def __init__(
        self,
        shared: Learned,
        answer: AnswerState,
        cost: LatencyModel,
        tokens: Sequence[int],
        room: int,
        limit: int,
        noise: SharedNoise,
        *,
        explain: bool,
    ) -> None:
        self._shared, self._cost, self._free = shared, cost, answer.free
        self._answer, self._prefill, self._chains = answer.budget, answer.prefill, answer.chains
        self.config = shared.config
        self._tokens, self._room, self._limit, self._noise = tokens, room, limit, noise
        self._proposals: list[Draft] = []
        self._estimates: dict[str, list[float]] = {}  # of the proposals' nodes, by drafter
        self._together: Draft | None = None  # the last merged tree
        self._spent: dict[str, float] = {}
        self._deferred: dict[str, float] = {}
        self._risked = 0.0
        self.promising = False
        """Whether a draft would be faster than plain decoding, whether or not its loss can be afforded."""
        self._reasons: list[str] | None = [] if explain else None

    def plan(self) -> Plan:
        """The plan."""
        return self._planned(self._best())

    def planned(self, offer: Option | None, size: int, time: float) -> Plan:
        """The plan to draft that size of an offer, in a pass of which the answer is charged with that time."""
        if offer is None or not size:
            return self._planned(_PLAINLY)
        self._risked = offer.sizes.risk(size, offer.limits.noticed, time)
        return replace(self._planned(self._cut(offer, size)), time=time)

    def _planned(self, choice: Choice) -> Plan:
        draft, reach = choice.draft, choice.reach
        if not draft.is_chain:
            order = trunk_first(draft.parents)
            draft, reach = subtree(draft, order), [reach[node] for node in order]
        self.promising = self.promising or bool(draft.tokens)
        risk = self._risked if draft.tokens and not self._spent else 0.0
        proposals = (*self._proposals, self._together) if self._together else tuple(self._proposals)
        return Plan(
            draft, proposals, self._spent, tuple(self._reasons or ()), self._deferred, risk, tuple(reach)
        )  # fmt: skip

    def _best(self) -> Choice:
        offer = self.offer()
        best, options = self._best_of(offer)
        if not self._cost.known:
            self._say("T(1) is not known yet: without it, no forward pass tells what it costs more than that")
            return _PLAINLY
        if self._cost.needs_remeasure:
            self._say("forward passes take another time than they did: T(1) is measured again")
            return _PLAINLY
        gain = alone = best.gain
        time = self._cost.ratio(1 + len(best.draft))
        for drafter in self._shared.costed:
            rival = max(gain if best.draft.tokens else 0.0, self.config.minimum_speed_up_costed)
            before = sum(self._spent.values())
            drafted = self._consult(drafter, rival)
            spent = self._spent.get(drafter.name, 0.0)  # whosever draft is taken, as what was spent before
            gain, time = gain * time / (time + spent), time + spent
            own = self._cost.ratio(1 + len(drafted.draft)) + spent
            promised = drafted.gain * own / (own + before)
            if drafted.draft.tokens and (promised > gain or not best.draft.tokens):
                best, gain, time, options = drafted, promised, own + before, []
        return self._explored(options, alone) or best

    def _say(self, reason: str) -> None:
        if self._reasons is not None:
            self._reasons.append(reason)

    def _budget(self, name: str) -> float:
        """What a drafter may lose by expectation: a share of what this answer gained may be lost in any case."""
        return max(self._shared.budgets[name], self.config.promised_share * self._answer.gained)

    def _limits(self) -> Limits:
        """What a draft may lose."""
        noticed = self._answer.noticed(self._shared.lengths.mean)
        # An answer that counts as slower already can only become faster: no draft is a risk then.
        noticed = max(noticed, 0.5) if noticed > 0.0 else math.inf
        budgets = {proposal.drafter: self._budget(proposal.drafter) for proposal in self._proposals}
        return Limits(budgets, self._answer.worst, noticed, self._answer.risk)

    def _estimated(self, proposal: Draft) -> list[float]:
        """The probabilities of a proposal's nodes, corrected by its drafter's record."""
        estimates = self._estimates.get(proposal.drafter)
        if estimates is None:
            estimates = self._estimates[proposal.drafter] = self._shared.acceptance.estimates(proposal)
        return estimates

    def _option(self, proposals: Sequence[Draft], limits: Limits, spent: float = 0.0) -> Option:
        """What proposals promise together, in every size, if drafting took `spent`."""
        ratios, draft = self._cost.ratios(), proposals[0]
        authors: str | list[str] = draft.drafter
        if len(proposals) == 1 and draft.is_chain:
            reach = reaches(draft.parents, self._estimated(draft))
            end = next((place for place, chance in enumerate(reach) if chance < HOPELESS), len(reach))
            return Option(draft, Sizes(reach[:end], ratios, spent, authors=authors), limits)
        if len(proposals) == 1:
            chances = self._estimated(draft)
        else:
            draft = merged(proposals, [self._estimated(proposal) for proposal in proposals])
            chances = self._shared.acceptance.together(draft)
            self._together = draft
        reach = reaches(draft.parents, normalized(draft.parents, chances))
        order = by_reach(reach) if self._shared.trees else best_path(draft.parents, reach, ratios)
        end = next((place for place, node in enumerate(order) if reach[node] < HOPELESS), len(order))
        order = order[: min(end, self._limit)]
        draft = subtree(draft, order)
        if draft.authors:
            authors = [names[0] for names in draft.authors]
            if len(set(authors)) == 1:
                authors, draft = authors[0], replace(draft, drafter=authors[0], authors=())
        reach = [reach[node] for node in order]
        if draft.is_chain:
            return Option(draft, Sizes(reach, ratios, spent, authors=authors), limits)
        sizes = Sizes(reach, ratios, spent, depths(draft.parents), authors, trunk(draft.parents))
        return Option(draft, sizes, limits)

    def _cut(self, option: Option, size: int) -> Choice:
        """The draft of that size."""
        draft = option.draft.first(size)
        if draft.authors:
            first = {names[0] for names in draft.authors}
            name = "+".join(proposal.drafter for proposal in self._proposals if proposal.drafter in first)
            draft = replace(draft, drafter=name, authors=draft.authors if len(first) > 1 else ())
        return Choice(draft, option.sizes.reach[:size], option.sizes.gains[size])

    def offer(self) -> Option | None:
        """What the drafters whose draft tokens cost nothing propose, as one tree; None where they propose nothing."""
        for drafter in self._free:
            proposal = drafter.propose(self._tokens, self._limit).by(drafter.name)
            if proposal.tokens:
                self._proposals.append(proposal)
            else:
                self._say(f"{drafter.name}: no draft token")
        return self._option(self._proposals, self._limits()) if self._proposals else None

    def _best_of(self, offer: Option | None) -> tuple[Choice, list[Option]]:
        """The best draft of an offer, and all that there was to choose from.

        Where a drafter may not lose its share of the tree, the others may draft alone.
        """
        if offer is None:
            return _PLAINLY, []
        minimum = self.config.minimum_speed_up
        most = max(offer.sizes.gains)
        self.promising = self.promising or most > minimum
        size = offer.sizes.best(offer.limits, minimum)
        options, best = [offer], self._cut(offer, size) if size else _PLAINLY
        chosen: Option = offer
        if len(self._proposals) > 1 and best.gain < most and most > minimum:
            for proposal in self._proposals:
                alone = self._option([proposal], offer.limits)
                options.append(alone)
                if size_alone := alone.sizes.best(alone.limits, max(best.gain, minimum)):
                    best, chosen, size = self._cut(alone, size_alone), alone, size_alone
        if best.draft.tokens:
            self._risked = chosen.sizes.risk(size, chosen.limits.noticed)
        if self._reasons is not None:
            for option in options:
                self._explain(option)
        return best, options

    def _explain(self, option: Option) -> None:
        """Say what an option promises in its best size."""
        _, sizes, limits = option
        if len(sizes.gains) < 2:
            return
        most = max(range(1, len(sizes.gains)), key=sizes.gains.__getitem__)
        draft = self._cut(option, most).draft
        allowed = sum(limits.budgets[name] for name in {draft.author(node) for node in range(most)})
        self._say(
            f"{draft.drafter}: {most} of {len(option.draft)} tokens promise {sizes.gains[most]:.2f} times plain "
            f"speed, needed is {self.config.minimum_speed_up:.2f}; they may lose {sizes.shortfall(most):.2f} "
            f"T(1), allowed is {allowed:.2f}; at worst {sizes.times[most] - 1:.2f}, allowed is "
            f"{limits.worst:.2f}; risk {sizes.risk(most, limits.noticed):.2f}"
        )

    def _explored(self, options: Sequence[Option], gain: float) -> Choice | None:
        """A size that may be better than one of that gain, since T(n) may be less than estimated.

        It keeps the promise to the answer as every draft does; what it may lose by expectation is bounded by what
        exploration may, beside whatever draft.
        """
        gain = max(gain, self.config.minimum_speed_up)
        found: tuple[Option, int, float] | None = None
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
            return None
        option, size, price = found
        self._shared.exploration -= price
        self._risked = option.sizes.risk(size, option.limits.noticed)
        tried = self._cut(option, size)
        self._say(f"{tried.draft.drafter}: {size} tokens are tried: T({size + 1}) may be less than estimated")
        return tried

    def _consult(self, drafter: CostedDrafter, rival: float) -> Choice:
        """What is drafted with a costed drafter, if its own tokens promise more than `rival`."""
        config, cost, name = self.config, self._cost, drafter.name
        drafting = drafter.draft_cost(self._tokens, cost.t1)
        if drafting.remeasure is not None:
            self._remeasure(name, drafting.remeasure)
            return _PLAINLY
        token = drafting.next / cost.t1
        start, prefill = drafting.first / cost.t1, 0.0
        if (
            start > 2 * token and not drafting.recurring
        ):  # more to read than a block leaves behind: that is paid once, not by every draft
            start, prefill = token, start - token
        optimistic = cost.optimistic_unseen()
        if self._reasons is None and not may_exceed(rival, optimistic, min(start, token), token):
            return _PLAINLY
        limit = self._longest(start, token, prefill)
        if not limit:
            return _PLAINLY
        chances = self._chains.by_depth(name, limit, config.unknown_acceptance)
        budget = self._budget(name)
        gain, size = expected_speed_up(chances, optimistic, start, token)
        expected = Sizes(list(accumulate(chances[:size], mul)), cost.ratios(), start + (size - 1) * token)
        loss = expected.shortfall(size)
        self._say(
            f"{name}: a draft token takes {token:.2f} T(1), {start + prefill:.2f} the first; promises {gain:.2f} "
            f"times plain speed, needed is {rival:.2f}; may lose {loss:.2f} T(1), allowed is {budget:.2f}"
        )
        if gain <= rival:
            self._try_out(drafter, start + prefill, token, rival)
            return _PLAINLY
        if loss > budget:
            return _PLAINLY
        if prefill and not self._may_prefill(name, prefill, start, token, gain):
            return _PLAINLY
        hopeful = self._shared.exploration >= 50 * config.exploration
        rule = StoppingRule(
            name, self._shared.acceptance, optimistic if hopeful else cost.ratios(),
            self._chains.by_depth(name, cost.rows - 1, config.unknown_acceptance), start, token,
        )  # fmt: skip
        proposal, spent = self._ask(drafter, limit, rule, prefill if prefill > CATCH_UP else 0.0)
        if not proposal.tokens:
            return _PLAINLY
        return self._drafted_with(proposal, spent)

    def _drafted_with(self, proposal: Draft, spent: float) -> Choice:
        """The best draft of all proposals, after a costed drafter spent that time on its own."""
        # The time is spent whatever comes of it: from here on, a draft has to beat plain decoding after it.
        limits = Limits({**self._limits().budgets, proposal.drafter: math.inf}, self._answer.worst, 0.0, 1.0)
        options = [self._option(self._proposals, limits, spent)]
        best = Choice(NOTHING, (), 1 / (1 + spent))
        if size := options[0].sizes.best(limits, best.gain):
            best = self._cut(options[0], size)
        if len(self._proposals) > 1 and best.gain < max(options[0].sizes.gains):
            options.append(self._option([proposal], limits, spent))
            if size := options[1].sizes.best(limits, best.gain):
                best = self._cut(options[1], size)
        tried = self._explored(options, best.gain)
        return tried._replace(gain=best.gain) if tried else best

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
