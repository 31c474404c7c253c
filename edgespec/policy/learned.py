"""What a policy learns, shared by all answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edgespec.core import CostedDrafter, Drafter
from edgespec.latency.model import LatencyModel
from edgespec.policy.acceptance import Acceptance
from edgespec.policy.config import PolicyConfig
from edgespec.policy.drafter_prefill import AnswerLengths, PrefillBudgets
from edgespec.policy.loss_budget import LossBudgets

_EXPLORED_AT_FIRST = 50
"""Forward passes whose share of exploration may be lost before anything was decoded."""


class Learned:
    """T(n), acceptance, loss budgets, the length of answers, and the drafters that these are learned of."""

    def __init__(
        self,
        drafters: Sequence[Drafter],
        cost: LatencyModel,
        *,
        trees: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        config: PolicyConfig | None = None,
    ) -> None:
        """`trees` says whether the target's context evaluates branches; where it does not, chains are drafted."""
        self.config = config = config or PolicyConfig()
        self.latency = cost
        self.trees = trees
        self.acceptance = Acceptance(config)
        self.clock = clock
        self.drafters = {drafter.name: drafter for drafter in drafters}
        self.costed = [drafter for drafter in drafters if isinstance(drafter, CostedDrafter)]
        self.free = [drafter for drafter in drafters if not isinstance(drafter, CostedDrafter)]
        self.budgets = LossBudgets(self.drafters, config)
        self.prefill_budgets = PrefillBudgets([drafter.name for drafter in self.costed], config)
        self.lengths = AnswerLengths(config)
        self.exploration = config.exploration * _EXPLORED_AT_FIRST
