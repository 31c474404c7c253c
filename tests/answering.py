"""A policy driven step by step, as a session does it, with made-up verdicts and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgespec.core import NO_NOISE, Draft, Plan, SharedNoise, Verdict
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.testing import without_rows


class Answering:
    """The answers of a policy, one after the other. `explain` asks for reasons, which `made` then has."""

    def __init__(self, policy: AdaptivePolicy, *, explain: bool = False) -> None:
        self.policy = policy
        self.latency = policy.latency
        self.made = Plan()
        self._explain = explain
        self._tokens: Sequence[int] = ()
        self._answer = policy.begin()

    def prefilled(self, count: int, seconds: float) -> None:
        """Another answer begins, whose prompt's last `count` tokens were evaluated in `seconds`."""
        self._answer = self.policy.begin()
        self._answer.prefilled(without_rows([1] * count), Verdict((), (1,)), cached=0, seconds=seconds)

    def plan(self, tokens: Sequence[int], room: int, noise: SharedNoise = NO_NOISE) -> Draft:
        """The draft that is planned after `tokens`."""
        self._tokens = tokens
        self.made = self._answer.plan(tokens, room, noise, explain=self._explain)
        return self.made.draft

    def settle(self, draft: Draft, verdict: Verdict, seconds: float) -> None:
        """`draft` was verified, the planned one or another, and that took so many seconds."""
        plan = replace(self.made, draft=draft)
        self._answer.settle(plan, without_rows(self._tokens, draft), verdict, seconds)
