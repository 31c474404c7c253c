"""What to draft, and whether to draft at all: the choice that maximises expected tokens per second.

A draft of k tokens in a chain, node i right with probability a(i) given those before it, makes an expected block of
E(k) = 1 + a(1) + a(1)a(2) + ... tokens, for an evaluation of T(k + 1) and the time that drafting took. `AdaptivePolicy`
takes the k with the largest E(k) / (T(k + 1) + drafting), k = 0 (plain decoding) included.

Acceptance is learned from every proposal, drafted or not: the tokens that the target emits say how far the proposal
would have been right. So a drafter that got better is noticed without paying for it, where its guesses are free. What
cannot be learned for free is T(n) for sizes that are not evaluated; trying one that may pay is allowed out of a small
allowance of time. A drafter whose guesses cost time is asked only where its record promises that they pay.
"""

from __future__ import annotations

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
from edgespec.policy.backoff import Rest
from edgespec.policy.drafter_prefill import Debts, Reading
from edgespec.policy.loss_budget import Accounts
from edgespec.policy.speedup import (
    HOPED_ACCEPTANCE,
    LIKELY_ACCEPTANCE,
    MARGIN,
    Prospects,
    Worth,
    ceiling,
    needed,
    promise,
    worth_trying,
)

MAX_DRAFT = 48
"""No draft is longer: beyond, even perfect drafts gain little on the curves measured, and a wrong one costs much."""

_PRICED_MARGIN = 1.05
"""What the draft of a drafter whose guesses cost time must promise: its own record says that, no choice among many."""

_PROBE_SHARE = 0.002
"""Share of evaluation time that may be lost by trying sizes that look slow and might not be: T(n) is only learned
from evaluations of n, and an estimate may be of a busy moment."""

_FIRST_PROBES = 0.1
"""What may be lost so before anything was gained, in units of T(1)."""

_TRIAL_SHARE = 0.5
"""What one guess may cost then, as a share of what the model may lose."""


class AdaptivePolicy:
    """Chooses drafter and size for the most expected tokens per second. `drafters` may be empty: plain decoding.

    What is learned here is shared by all answers: T(n), acceptance, loss budgets.
    """

    def __init__(
        self, drafters: Sequence[Drafter], cost: LatencyModel, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.latency = cost
        self.acceptance = Acceptance()
        self.clock = clock
        self.drafters = {drafter.name: drafter for drafter in drafters}
        self.costed = [drafter for drafter in drafters if isinstance(drafter, CostedDrafter)]
        self.free = [drafter for drafter in drafters if not isinstance(drafter, CostedDrafter)]
        self.accounts = Accounts([one.name for one in self.free], [one.name for one in self.costed])
        self.debts = Debts(drafter.name for drafter in self.costed)
        self.probe_allowance = _FIRST_PROBES

    def begin(self) -> AnswerPolicy:
        """The policy of one more answer."""
        return _AnswerPolicy(self)


class _AnswerPolicy:
    """What belongs to one answer: its prompt, when a model reads it, when not even to look for a draft."""

    def __init__(self, shared: AdaptivePolicy) -> None:
        self._shared = shared
        self._reading = Reading(shared.debts)
        self._rest = Rest()
        self._chains = shared.acceptance.begin()
        self._prompt: tuple[int, float] | None = None  # its size and time, until the depth is known

    def prefilled(self, evaluation: Evaluation, verdict: Verdict, *, cached: int, seconds: float) -> None:
        count = evaluation.length - cached
        if count > 1 and is_typical(cached, evaluation.length):
            self._prompt = count, seconds
        for drafter in self._shared.drafters.values():
            drafter.observe(evaluation, verdict)

    def plan(self, tokens: Sequence[int], room: int, noise: SharedNoise = NO_NOISE, *, explain: bool = False) -> Plan:
        shared, cost = self._shared, self._shared.latency.for_context(len(tokens))
        if self._prompt is not None:
            cost.observe_prompt(*self._prompt)
            self._prompt = None
        limit = min(room, MAX_DRAFT, cost.rows - 1)
        if limit <= 0 or not shared.drafters:
            return _because("there is no room for a draft" if shared.drafters else "nobody drafts", explain)
        if self._rest.goes_on():
            return _because("looking for a draft takes too much of T(1), and was in vain lately", explain)
        step = _Planning(shared, self._reading, self._chains, cost, tokens, room, limit, noise, explain=explain)
        begun = shared.clock()
        plan = step.plan()
        if cost.known and (plan.draft.tokens or not plan.spent):  # what models spend is charged to their accounts
            self._rest.looked((shared.clock() - begun) / cost.t1, found=bool(plan.draft.tokens))
        return plan

    def settle(self, plan: Plan, evaluation: Evaluation, verdict: Verdict, seconds: float) -> None:
        shared, cost = self._shared, self._shared.latency.for_context(evaluation.length)
        size = 1 + len(plan.draft)
        cost.observe(size, seconds)
        self._reading.answered(len(verdict.emitted), None if plan.spent else cost.ratio(size))
        for name in shared.drafters:
            mine = plan.draft.tokens and plan.draft.drafter == name
            drafted = len(verdict.emitted) - cost.charged(size, seconds) if mine else None
            change = shared.accounts.settle(name, spent=plan.spent.get(name, 0.0), drafted=drafted)
            shared.debts.earned(name, change)
        for costed in shared.costed:
            if costed.name not in plan.spent:
                self._chains.fade(costed.name)
        shared.probe_allowance = min(shared.probe_allowance + _PROBE_SHARE * cost.ratio(size), 1.0)
        for proposal in plan.proposals:
            shared.acceptance.observe(proposal, verdict.emitted)
            if proposal.drafter in plan.spent:
                self._chains.observe(proposal, verdict.emitted)
        for drafter in shared.drafters.values():
            drafter.observe(evaluation, verdict)


def _because(reason: str, explain: bool) -> Plan:
    """Nothing is drafted."""
    return Plan(reasons=(reason,)) if explain else _PLAINLY


_PLAINLY = Plan()


class _Planning:
    """One plan in the making."""

    def __init__(
        self,
        shared: AdaptivePolicy,
        reading: Reading,
        chains: ChainAcceptance,
        cost: LatencyModel,
        tokens: Sequence[int],
        room: int,
        limit: int,
        noise: SharedNoise,
        *,
        explain: bool,
    ) -> None:
        self._shared, self._reading, self._chains, self._cost = shared, reading, chains, cost
        self._tokens, self._room, self._limit, self._noise = tokens, room, limit, noise
        self._proposals: list[Draft] = []
        self._spent: dict[str, float] = {}
        self._reasons: list[str] | None = [] if explain else None

    def plan(self) -> Plan:
        """The plan."""
        draft = self._best()
        return Plan(draft, tuple(self._proposals), self._spent, tuple(self._reasons or ()))

    def _best(self) -> Draft:
        best, alone, loss, options = self._best_free()
        if not self._cost.known:
            self._say("T(1) is not known yet: without it, no evaluation tells what it costs more than that")
            return NOTHING
        if self._cost.needs_remeasure:
            self._say("evaluations take another time than they did: T(1) is measured again")
            return NOTHING
        gain, time = alone, self._cost.ratio(1 + len(best))
        for drafter in self._shared.costed:
            rival = max(gain if best.tokens else 0.0, _PRICED_MARGIN)
            before = sum(self._spent.values())
            drafted, promised = self._consult(drafter, rival)
            spent = self._spent.get(drafter.name, 0.0)  # whosever draft is taken, as what was spent before
            gain, time = gain * time / (time + spent), time + spent
            own = self._cost.ratio(1 + len(drafted)) + spent
            promised *= own / (own + before)
            if drafted.tokens and (promised > gain or not best.tokens):
                best, gain, time, options = drafted, promised, own + before, []
        return self._worth_trying(options, alone, loss, MARGIN) or best

    def _say(self, reason: str) -> None:
        if self._reasons is not None:
            self._reasons.append(reason)

    def _best_free(self) -> tuple[Draft, float, float, list[Prospects]]:
        """The best draft whose tokens cost nothing, its gain and loss, and all that there was to choose from."""
        shared = self._shared
        best, best_gain, best_loss = NOTHING, 1.0, 0.0
        options: list[Prospects] = []
        for drafter in shared.free:
            proposal = drafter.propose(self._tokens, self._limit).by(drafter.name)
            if not proposal.tokens:
                self._say(f"{drafter.name}: no guess")
                continue
            weight = shared.acceptance.weight(proposal.drafter, proposal.buckets[0])
            margin = needed(weight, gained=shared.accounts.has_gained(drafter.name))
            self._proposals.append(proposal)
            own = Prospects(proposal, shared.acceptance, self._cost)
            options.append(own)
            for size in own.best_first():
                gain = own.gains[size]
                if gain <= max(best_gain, margin):
                    break
                if shared.accounts.covers(drafter.name, own.loss(size), own.worst(size)):
                    best, best_gain, best_loss = proposal.first(size), gain, own.loss(size)
                    break
            if self._reasons is not None:
                most = own.best()
                self._say(
                    f"{drafter.name}: {most} of {len(proposal)} tokens promise {own.gains[most]:.2f} times plain "
                    f"speed, needed is {margin:.2f}; they may lose {own.loss(most):.2f} T(1), at worst "
                    f"{own.worst(most):.2f}, allowed is {shared.accounts.allowed(drafter.name):.2f}"
                )
        return best, best_gain, best_loss, options

    def _worth_trying(self, options: Sequence[Prospects], gain: float, loss: float, margin: float) -> Draft:
        """A size that may be better than one with that gain and loss, if trying it costs no more than is set aside."""
        tried, price = worth_trying(options, max(gain, margin), loss, self._shared.probe_allowance)
        self._shared.probe_allowance -= max(price, 0.0)
        if tried.tokens:
            self._say(f"{tried.drafter}: {len(tried)} tokens are tried: T({len(tried) + 1}) may be less than thought")
        return tried

    def _consult(self, drafter: CostedDrafter, rival: float) -> tuple[Draft, float]:
        """What a costed drafter drafts, if that promises more than `rival`, and its gain."""
        shared, single = self._shared, self._cost.t1
        price = drafter.draft_cost(self._tokens, single)
        if price.remeasure is not None:
            self._remeasure(drafter.name, price.remeasure)
            return NOTHING, 0.0
        guess = price.next / single
        start, once = price.first / single, 0.0
        if start > 2 * guess:  # more to read than a block leaves behind: that is paid once, not by every block
            start, once = guess, start - guess
        if self._reasons is None and ceiling(self._cost, min(start, guess), guess) <= rival:
            return NOTHING, 0.0
        gain, loss = promise(drafter.name, self._chains, self._cost, start, guess, self._limit)
        account = shared.accounts.allowed(drafter.name)
        if self._reasons is not None:
            self._say(
                f"{drafter.name}: a guess takes {guess:.2f} T(1), {start + once:.2f} the first; promises {gain:.2f} "
                f"times plain speed, needed is {rival:.2f}; may lose {loss:.2f} T(1), allowed is {account:.2f}"
            )
        if gain <= rival:
            self._try_out(drafter, start + once, guess, rival)
            return NOTHING, 0.0
        if loss > account or (once and not self._may_read(drafter.name, once, start, guess, gain)):
            return NOTHING, 0.0
        worth = Worth(
            drafter.name, shared.acceptance, self._chains, self._cost, start, guess,
            hopeful=shared.probe_allowance >= _FIRST_PROBES,
        )  # fmt: skip
        with self._reading.lent(drafter.name, once) as lent:
            proposal, spent = self._ask(drafter, self._limit, worth, lent)
        if not proposal.tokens:
            return NOTHING, 0.0
        own = Prospects(proposal, shared.acceptance, self._cost, spent)
        size = own.best()
        draft, gain, loss = proposal.first(size), own.gains[size], own.loss(size)
        # The time is spent whatever comes of it: from here on, a draft has to beat plain decoding after it.
        if gain <= 1 / (1 + spent):
            draft, gain, loss = NOTHING, 1 / (1 + spent), spent
        tried = self._worth_trying([own], gain, loss, _PRICED_MARGIN)
        return (tried or draft), gain

    def _may_read(self, name: str, once: float, start: float, guess: float, gain: float) -> bool:
        """Whether a model reads for `once` what it has missed of the text, if it may promise `gain` after that."""
        likely, _ = promise(name, self._chains, self._cost, start, guess, self._room, unknown=LIKELY_ACCEPTANCE)
        pays = self._reading.pays(name, once, gain, likely, self._room)
        if not pays:
            self._say(f"{name}: reading {once:.2f} T(1) is not sure to be earned back yet")
        return pays

    def _try_out(self, drafter: CostedDrafter, first: float, guess: float, rival: float) -> None:
        """Ask for one token, not to draft it but to learn how good it is, if it might be good enough."""
        if first > _TRIAL_SHARE * self._shared.accounts.allowed(drafter.name):
            return
        hoped, _ = promise(drafter.name, self._chains, self._cost, guess, guess, MAX_DRAFT, unknown=HOPED_ACCEPTANCE)
        if hoped <= rival:
            return
        self._say(f"{drafter.name}: asked for one guess, to see how good it is by now")
        self._ask(drafter, 1, lambda probability, bucket: False)

    def _ask(
        self, drafter: CostedDrafter, limit: int, go_on: Callable[[float, Hashable], bool], lent: float = 0.0
    ) -> tuple[Draft, float]:
        """Its draft, and the time that took beyond what it was `lent`."""
        clock = self._shared.clock
        begun = clock()
        proposal = drafter.draft(self._tokens, limit, self._noise, go_on).by(drafter.name)
        spent = self._spent[drafter.name] = max(0.0, (clock() - begun) / self._cost.t1 - lent)
        self._say(f"{drafter.name}: asked, {len(proposal)} guesses in {spent:.2f} T(1)")
        if proposal.tokens:
            self._proposals.append(proposal)
        return proposal, spent

    def _remeasure(self, name: str, remeasure: Callable[[], None]) -> None:
        """Have a cost measured that seems too high to be true."""
        self._say(f"{name}: its price is in doubt, and measured")
        clock = self._shared.clock
        begun = clock()
        remeasure()
        self._spent[name] = (clock() - begun) / self._cost.t1
