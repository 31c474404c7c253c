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

from edgespec.acceptance import Acceptance
from edgespec.accounts import Accounts
from edgespec.core import GREEDY, NOTHING, Coupling, Draft, Drafter, PricedDrafter, Verdict
from edgespec.cost import CostCurve
from edgespec.prospects import (
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
from edgespec.reading import Reading
from edgespec.rest import Rest

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

    `edgespec.accounts` bounds what wrong estimates can lose, `edgespec.reading` what a model must read before its first
    guess in a text. Put a list into `reasons` to read there, after each plan, why it was made.
    """

    def __init__(
        self, drafters: Sequence[Drafter], cost: CostCurve, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.cost = cost
        self._cost = cost  # at the depth of the last plan
        self._prompt: tuple[int, float] | None = None  # its size and time, until the depth is known
        self._clock = clock
        self.acceptance = Acceptance()
        self._drafters = {drafter.name: drafter for drafter in drafters}
        self._priced = [drafter for drafter in drafters if isinstance(drafter, PricedDrafter)]
        self._free = [drafter for drafter in drafters if not isinstance(drafter, PricedDrafter)]
        self._accounts = Accounts([one.name for one in self._free], [one.name for one in self._priced])
        self._rest = Rest()
        self._probe_allowance = _FIRST_PROBES
        self._proposals: list[Draft] = []
        self._reading = Reading(drafter.name for drafter in self._priced)
        self._spent: dict[str, float] = {}
        self.guessed: dict[str, int] = {}
        self.reasons: list[str] | None = None

    def plan(self, tokens: Sequence[int], room: int, coupling: Coupling = GREEDY) -> Draft:
        self._cost = self.cost.at(len(tokens))
        if self._prompt is not None:
            self._cost.observe_prompt(*self._prompt)
            self._prompt = None
        limit = min(room, MAX_DRAFT, self._cost.rows - 1)
        self._proposals = []
        self._spent, self.guessed = {}, {}
        if self.reasons is not None:
            self.reasons.clear()
        if limit <= 0 or not self._drafters:
            self._say("there is no room for a draft" if self._drafters else "nobody drafts")
            return NOTHING
        if self._rest.goes_on():
            self._say("looking for a draft takes too much of T(1), and was in vain lately")
            return NOTHING
        begun = self._clock()
        draft = self._best(tokens, room, limit, coupling)
        if self._cost.known and (draft.tokens or not self._spent):  # what models spend is charged to their accounts
            self._rest.looked((self._clock() - begun) / self._cost.single, found=bool(draft.tokens))
        return draft

    def _best(self, tokens: Sequence[int], room: int, limit: int, coupling: Coupling) -> Draft:
        best, alone, loss, options = self._best_free(tokens, limit)
        if not self._cost.known:
            self._say("T(1) is not known yet: without it, no evaluation tells what it costs more than that")
            return NOTHING
        if self._cost.due:
            self._say("evaluations take another time than they did: T(1) is measured again")
            return NOTHING
        gain, time = alone, self._cost.ratio(1 + len(best))
        for drafter in self._priced:
            rival = max(gain if best.tokens else 0.0, _PRICED_MARGIN)
            before = sum(self._spent.values())
            drafted, promised = self._consult(drafter, tokens, room, coupling, rival)
            spent = self._spent.get(drafter.name, 0.0)  # whosever draft is taken, as what was spent before
            gain, time = gain * time / (time + spent), time + spent
            own = self._cost.ratio(1 + len(drafted)) + spent
            promised *= own / (own + before)
            if drafted.tokens and (promised > gain or not best.tokens):
                best, gain, time, options = drafted, promised, own + before, []
        return self._worth_trying(options, alone, loss, MARGIN) or best

    def _say(self, reason: str) -> None:
        if self.reasons is not None:
            self.reasons.append(reason)

    def settle(self, draft: Draft, verdict: Verdict, seconds: float) -> None:
        size = 1 + len(draft)
        self._cost.observe(size, seconds)
        self._reading.answered(len(verdict.emitted), None if self._spent else self._cost.ratio(size))
        for name in self._drafters:
            drafted = len(verdict.emitted) - self._cost.taken(size, seconds) if draft.drafter == name else None
            change = self._accounts.settle(name, spent=self._spent.get(name, 0.0), drafted=drafted)
            self._reading.earned(name, change)
        for drafter in self._priced:
            if drafter.name not in self._spent:
                self.acceptance.fade_depths(drafter.name)
        self._probe_allowance = min(self._probe_allowance + _PROBE_SHARE * self._cost.ratio(size), 1.0)
        for proposal in self._proposals:
            self.acceptance.observe(proposal, verdict.emitted)
            if proposal.drafter in self._spent:
                self.acceptance.observe_depths(proposal, verdict.emitted)
        self._proposals = []
        if draft.tokens:
            self._drafters[draft.drafter].observe(draft, verdict)

    def prefilled(self, count: int, seconds: float) -> None:
        self._reading.begin()
        self._rest.begin()
        self.acceptance.begin()
        self._prompt = (count, seconds) if count > 1 else None

    def _best_free(self, tokens: Sequence[int], limit: int) -> tuple[Draft, float, float, list[Prospects]]:
        """The best draft whose guesses are free, its gain and loss, and all that there was to choose from."""
        best, best_gain, best_loss = NOTHING, 1.0, 0.0
        options: list[Prospects] = []
        for drafter in self._free:
            proposal = drafter.propose(tokens, limit).by(drafter.name)
            if not proposal.tokens:
                self._say(f"{drafter.name}: no guess")
                continue
            weight = self.acceptance.weight(proposal.drafter, proposal.evidence[0])
            margin = needed(weight, gained=self._accounts.has_gained(drafter.name))
            self._proposals.append(proposal)
            own = Prospects(proposal, self.acceptance, self._cost)
            options.append(own)
            for size in own.best_first():
                gain = own.gains[size]
                if gain <= max(best_gain, margin):
                    break
                if self._accounts.covers(drafter.name, own.loss(size), own.worst(size)):
                    best, best_gain, best_loss = proposal.first(size), gain, own.loss(size)
                    break
            if self.reasons is not None:
                most = own.best()
                self._say(
                    f"{drafter.name}: {most} of {len(proposal)} tokens promise {own.gains[most]:.2f} times plain "
                    f"speed, needed is {margin:.2f}; they may lose {own.loss(most):.2f} T(1), at worst "
                    f"{own.worst(most):.2f}, allowed is {self._accounts.allowed(drafter.name):.2f}"
                )
        return best, best_gain, best_loss, options

    def _worth_trying(self, options: Sequence[Prospects], gain: float, loss: float, margin: float) -> Draft:
        """A size that may be better than one with that gain and loss, if trying it costs no more than is set aside."""
        tried, price = worth_trying(options, max(gain, margin), loss, self._probe_allowance)
        self._probe_allowance -= max(price, 0.0)
        if tried.tokens:
            self._say(f"{tried.drafter}: {len(tried)} tokens are tried: T({len(tried) + 1}) may be less than thought")
        return tried

    def _consult(
        self, drafter: PricedDrafter, tokens: Sequence[int], room: int, coupling: Coupling, rival: float
    ) -> tuple[Draft, float]:
        """What a drafter whose guesses cost time drafts, if that promises more than `rival`, and its gain."""
        limit = min(room, MAX_DRAFT, self._cost.rows - 1)
        single = self._cost.single
        price = drafter.price(tokens, single)
        if price.check is not None:
            self._check(drafter.name, price.check)
            return NOTHING, 0.0
        guess = price.guess / single
        start, once = price.start / single, 0.0
        if start > 2 * guess:  # more to read than a block leaves behind: that is paid once, not by every block
            start, once = guess, start - guess
        if self.reasons is None and ceiling(self._cost, min(start, guess), guess) <= rival:
            return NOTHING, 0.0
        gain, loss = promise(drafter.name, self.acceptance, self._cost, start, guess, limit)
        account = self._accounts.allowed(drafter.name)
        if self.reasons is not None:
            self._say(
                f"{drafter.name}: a guess takes {guess:.2f} T(1), {start + once:.2f} the first; promises {gain:.2f} "
                f"times plain speed, needed is {rival:.2f}; may lose {loss:.2f} T(1), allowed is {account:.2f}"
            )
        if gain <= rival:
            self._try_out(drafter, tokens, coupling, start + once, guess, rival)
            return NOTHING, 0.0
        if loss > account or (once and not self._may_read(drafter.name, once, start, guess, gain, room)):
            return NOTHING, 0.0
        worth = Worth(
            drafter.name, self.acceptance, self._cost, start, guess, hopeful=self._probe_allowance >= _FIRST_PROBES
        )
        with self._reading.lent(drafter.name, once) as lent:
            proposal, spent = self._ask(drafter, tokens, limit, coupling, worth, lent)
        if not proposal.tokens:
            return NOTHING, 0.0
        own = Prospects(proposal, self.acceptance, self._cost, spent)
        size = own.best()
        draft, gain, loss = proposal.first(size), own.gains[size], own.loss(size)
        # The time is spent whatever comes of it: from here on, a draft has to beat plain decoding after it.
        if gain <= 1 / (1 + spent):
            draft, gain, loss = NOTHING, 1 / (1 + spent), spent
        tried = self._worth_trying([own], gain, loss, _PRICED_MARGIN)
        return (tried or draft), gain

    def _may_read(self, name: str, once: float, start: float, guess: float, gain: float, room: int) -> bool:
        """Whether a model reads for `once` what it has missed of the text, if it may promise `gain` after that."""
        likely, _ = promise(name, self.acceptance, self._cost, start, guess, room, unknown=LIKELY_ACCEPTANCE)
        pays = self._reading.pays(name, once, gain, likely, room)
        if not pays:
            self._say(f"{name}: reading {once:.2f} T(1) is not sure to be earned back yet")
        return pays

    def _try_out(
        self,
        drafter: PricedDrafter,
        tokens: Sequence[int],
        coupling: Coupling,
        first: float,
        guess: float,
        rival: float,
    ) -> None:
        """Ask for one guess, not to draft it but to learn how good it is, if it might be good enough."""
        if first > _TRIAL_SHARE * self._accounts.allowed(drafter.name):
            return
        hoped, _ = promise(drafter.name, self.acceptance, self._cost, guess, guess, MAX_DRAFT, unknown=HOPED_ACCEPTANCE)
        if hoped <= rival:
            return
        self._say(f"{drafter.name}: asked for one guess, to see how good it is by now")
        self._ask(drafter, tokens, 1, coupling, lambda probability, evidence: False)

    def _ask(
        self, drafter: PricedDrafter, tokens: Sequence[int], limit: int, coupling: Coupling,
        go_on: Callable[[float, Hashable], bool], lent: float = 0.0,
    ) -> tuple[Draft, float]:  # fmt: skip
        """Its draft, and the time that took beyond what it was `lent`."""
        begun = self._clock()
        proposal = drafter.draft(tokens, limit, coupling, go_on).by(drafter.name)
        spent = self._spent[drafter.name] = max(0.0, (self._clock() - begun) / self._cost.single - lent)
        self.guessed[drafter.name] = len(proposal)
        self._say(f"{drafter.name}: asked, {len(proposal)} guesses in {spent:.2f} T(1)")
        if proposal.tokens:
            self._proposals.append(proposal)
        return proposal, spent

    def _check(self, name: str, check: Callable[[], None]) -> None:
        """Have a model's price measured that seems too high to be true."""
        self._say(f"{name}: its price is in doubt, and measured")
        begun = self._clock()
        check()
        self._spent[name] = (self._clock() - begun) / self._cost.single
