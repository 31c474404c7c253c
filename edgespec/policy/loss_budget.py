"""What each drafter may lose: learned over all answers, in units of T(1)."""

from __future__ import annotations

from collections.abc import Iterable

from edgespec.policy.config import PolicyConfig


class LossBudgets:
    """One for each drafter, by name. Estimates may be wrong, but what they lose is bounded by this.

    A drafter of one answer alone gets its budget when it first comes.
    """

    def __init__(self, names: Iterable[str], config: PolicyConfig) -> None:
        self._config = config
        self._budgets = dict.fromkeys(names, config.initial_budget)

    def __getitem__(self, name: str) -> float:
        return self._budgets.setdefault(name, self._config.initial_budget)

    def settle(self, name: str, *, spent: float, gained: float | None) -> float:
        """A forward pass is over, before which drafting took `spent`; None was gained where it was not its draft.

        What that changes.
        """
        change = self._config.refill - spent if gained is None else gained - spent
        self._budgets[name] = min(self[name] + change, self._config.budget_cap)
        return change


class AnswerBudget:
    """What one answer may still lose: the promise that it is not later than plain decoding by more than a bound."""

    def __init__(self, config: PolicyConfig) -> None:
        self._config = config
        self.tokens = 0
        """Tokens so far, in T(1) the time of plain decoding."""
        self.gained = 0.0
        """What drafts have gained over plain decoding; below 0 what they have lost."""
        self.prefill = 0.0
        """What costed drafters took to read the text: a bet of its own, for as long as the answer is."""
        self.risk = config.risk
        """What is left of the probability that drafts make this answer count as slower."""

    def settle(self, tokens: int, seconds: float, *, prefill: float = 0.0, risk: float = 0.0) -> None:
        """A forward pass brought so many tokens in that time, drafting included and drafter prefill not.

        `risk` was that of its draft. A draft that was no slower than plain decoding takes none of the allowance.
        """
        if tokens < seconds:
            self.risk -= risk
        self.prefill += prefill
        self.tokens += tokens
        self.gained += tokens - seconds

    @property
    def worst(self) -> float:
        """What the next forward pass may lose if all its draft tokens are wrong."""
        config = self._config
        return max(config.promised_lateness, config.promised_share * self.tokens) + self.gained - self.prefill

    def noticed(self, length: float) -> float:
        """What it may lose without counting as slower, in an answer of that length."""
        return self._config.noticed_share * max(length, self.tokens) + self.gained
