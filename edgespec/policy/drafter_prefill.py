"""When a costed drafter prefills: its first draft token in an answer costs the reading of what comes before.

Later draft tokens have to earn that back, by expectation: how long answers are is learned, and so is whether earlier
prefills were earned back. Times are in units of T(1).
"""

from __future__ import annotations

from collections.abc import Iterable

from edgespec.policy.config import PolicyConfig

CATCH_UP = 1.0
"""T(1) up to which a prefill is catching up with a text that was read before, and part of what drafting costs."""

_ANSWERS = 4.0
"""Answers that the prior of their length counts for."""

_MEMORY = 0.9
"""What is left of that after another answer, and of the speed without a costed drafter after a forward pass."""


class AnswerLengths:
    """How long answers are, learned from those that ended."""

    def __init__(self, config: PolicyConfig) -> None:
        self._tokens, self._count = config.answer_length * _ANSWERS, _ANSWERS
        self._last: AnswerLength | None = None

    @property
    def mean(self) -> float:
        """Tokens of an answer."""
        return self._tokens / self._count

    def begin(self) -> AnswerLength:
        """Another answer begins; what the one before has by now is taken for its length."""
        if self._last is not None and self._last.tokens:
            self._tokens = self._tokens * _MEMORY + self._last.tokens
            self._count = self._count * _MEMORY + 1.0
        self._last = AnswerLength()
        return self._last

    def remaining(self, tokens: int) -> float:
        """Tokens that are expected to follow so many: lengths are heavy-tailed."""
        return max(self.mean, float(tokens))


class AnswerLength:
    """The tokens of one answer."""

    def __init__(self) -> None:
        self.tokens = 0

    def add(self, tokens: int) -> None:
        """So many came."""
        self.tokens += tokens


class PrefillBudgets:
    """What prefills of costed drafters may take: what they earned in all answers, less what they took."""

    def __init__(self, names: Iterable[str], config: PolicyConfig) -> None:
        self._cap = config.budget_cap
        self._budgets = dict.fromkeys(names, 0.0)

    def __getitem__(self, name: str) -> float:
        return self._budgets[name]

    def paid(self, name: str, cost: float) -> None:
        """It prefilled."""
        self._budgets[name] -= cost

    def earned(self, name: str, gain: float) -> None:
        """Its drafts gained so much, or the refill of a forward pass without them."""
        if name in self._budgets:
            self._budgets[name] = min(self._budgets[name] + gain, self._cap)


class DrafterPrefill:
    """Allows costed drafters to prefill: at once where the budget covers it, else once it would have paid."""

    def __init__(self, budgets: PrefillBudgets) -> None:
        self._budgets = budgets
        self._tokens = self._time = 1.0

    def decoded(self, tokens: int, seconds: float) -> None:
        """So many tokens came in that time without a costed drafter."""
        self._tokens = self._tokens * _MEMORY + tokens
        self._time = self._time * _MEMORY + seconds

    def pays(self, name: str, cost: float, speed: float, likely: float, tokens: int, remaining: float) -> bool:
        """Whether to prefill for `cost` after so many tokens of an answer, if `remaining` may come at that speed.

        Where nothing is known of this drafter's prefills, it waits until having prefilled at once would have paid at
        the `likely` speed (ski rental): a short answer is then not slowed down.
        """
        alone, budget = self._time / self._tokens, self._budgets[name]
        if remaining * (alone - 1.0 / speed) <= cost:
            return False
        if cost <= CATCH_UP:
            return True
        return budget >= cost or (budget >= 0.0 and tokens * (alone - 1.0 / likely) >= cost)
