"""When a costed drafter prefills: its first draft token in an answer costs the reading of what comes before.

Later draft tokens have to earn that back, by expectation: how long answers are is learned, and so is whether earlier
prefills were earned back. Times are in units of T(1).
"""

from __future__ import annotations

from collections.abc import Iterable

from edgespec.policy_config import PolicyConfig

_ANSWERS = 4.0
_FEWEST = 2


class AnswerLengths:
    """How long answers are, learned from those that ended."""

    def __init__(self, config: PolicyConfig) -> None:
        self._tokens, self._count = config.answer_length * _ANSWERS, _ANSWERS

    @property
    def mean(self) -> float:
        """Tokens of an answer."""
        return self._tokens / self._count

    def ended(self, tokens: int) -> None:
        """An answer of so many tokens is over."""
        if tokens:
            self._tokens, self._count = self._tokens * 0.9 + tokens, self._count * 0.9 + 1.0

    def remaining(self, tokens: int) -> float:
        """Tokens that are expected to follow so many: lengths are heavy-tailed."""
        return max(self.mean, float(tokens))


class DrafterPrefill:
    """Allows costed drafters to prefill, at once where earlier gains cover it, else once it would have paid."""

    def __init__(self, names: Iterable[str], config: PolicyConfig) -> None:
        self._config = config
        self._budgets = dict.fromkeys(names, 0.0)
        self.begin()

    def begin(self) -> None:
        """An answer begins."""
        self._tokens = self._time = 1.0

    def decoded(self, tokens: int, seconds: float) -> None:
        """So many tokens came in that time without a costed drafter."""
        self._tokens = self._tokens * 0.9 + tokens
        self._time = self._time * 0.9 + seconds

    def pays(self, name: str, cost: float, speed: float, likely: float, tokens: int, remaining: float) -> bool:
        """Whether to prefill for `cost` after so many tokens of an answer, if `remaining` may come at that speed.

        Where nothing is known of this drafter's prefills, it waits until having prefilled at once would have paid at
        the `likely` speed (ski rental): a short answer is then not slowed down.
        """
        alone = self._time / self._tokens
        budget = self._budgets[name]
        if remaining * (alone - 1.0 / speed) <= cost:
            return False
        if budget >= cost:
            return True
        return budget >= 0.0 and tokens * (alone - 1.0 / likely) >= cost

    def paid(self, name: str, cost: float) -> None:
        """It prefilled."""
        self._budgets[name] -= cost

    def earned(self, name: str, gain: float) -> None:
        """Its drafts gained so much, or the refill of a forward pass without them."""
        self._budgets[name] = min(self._budgets[name] + gain, self._config.budget_cap)

    def __contains__(self, name: object) -> bool:
        return name in self._budgets
