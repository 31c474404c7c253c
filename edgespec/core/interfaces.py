"""The protocols between the packages: context, sampler, vocabulary, drafter, policy."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edgespec.core.draft import Draft, Evaluation, Plan, Row, Verdict


class Context(Protocol):
    """A model with a KV cache, used as a prefix cache of one token list."""

    @property
    def n_ctx(self) -> int:
        """The number of tokens that fit."""
        ...

    @property
    def max_rows(self) -> int:
        """The most rows that one forward pass can return."""
        ...

    def cached(self, tokens: Sequence[int]) -> int:
        """How many leading tokens are in the KV cache."""
        ...

    def prefill(
        self, tokens: Sequence[int], proceed: Callable[[int, int], bool] = lambda done, total: True
    ) -> Row | None:
        """Bring the KV cache to `tokens` in chunks and return the logits after the last one.

        `proceed(done, total)` is asked before every chunk; when it says no, the result is None and the cache holds
        the tokens done so far.
        """
        ...

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        """One forward pass: logits after the last of `tokens` (row 0) and after every node i of `draft` (row i + 1)."""
        ...

    def rewind(self, length: int) -> None:
        """Keep `length` tokens at most."""
        ...

    def shift(self, keep: int, drop: int) -> None:
        """Drop `drop` tokens after the first `keep` and move the rest up, without evaluating them again."""
        ...


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log-probability in nats, of the model itself: before temperature, filters and grammar.

    `top` are the likeliest tokens as (id, log-probability), as many as were asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class SharedNoise:
    """The noise of the target's next draw, so that a drafter can draw alike; temperature 0 is greedy.

    `position` is that of the next token, which keys the noise together with `seed`.
    """

    temperature: float = 0.0
    seed: int = 0
    position: int = 0


NO_NOISE = SharedNoise()
"""Greedy decoding."""


class Sampler(Protocol):
    """Chooses tokens, one after the other. It only moves forward."""

    def choose(self, row: Row) -> int:
        """The token at the next position, given its logits."""
        ...

    @property
    def noise(self) -> SharedNoise:
        """The noise of the next draw."""
        ...

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        """One entry for every token chosen, where they were asked for."""
        ...


class Vocabulary(Protocol):
    """Token ids, and text to ids and back."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token as they appear in text; empty for control tokens."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether this token ends an answer."""
        ...


@runtime_checkable
class Drafter(Protocol):
    """Drafts what the target may say next. Implement these three members to bring your own."""

    @property
    def name(self) -> str:
        """A short name for statistics: `suffix`, say."""
        ...

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A draft of at most `limit` nodes after `tokens` (prompt and answer so far, never empty); it may be empty.

        `tokens` is usually a `TokenSequence`, and several of them may take turns.
        """
        ...

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Learn from a forward pass, whoever drafted for it. `verdict.emitted` comes after `evaluation.sequence`."""
        ...


@dataclass(frozen=True, slots=True)
class DraftCost:
    """What drafting costs, in seconds.

    `first` is for the first draft token, drafter prefill included, `next` for each further one. `remeasure` is set
    where these are in doubt; it measures them by a forward pass or two.
    """

    first: float
    next: float
    remeasure: Callable[[], None] | None = None


@runtime_checkable
class CostedDrafter(Drafter, Protocol):
    """A drafter whose draft tokens take time worth deciding about: a model."""

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        """What drafting after `tokens` would cost; `target_seconds` is T(1) of the target."""
        ...

    def draft(
        self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
    ) -> Draft:
        """A chain of at most `limit` tokens; after each, `go_on(probability, bucket)` says whether to draft another."""
        ...


class AnswerPolicy(Protocol):
    """Decides what is drafted for one answer, step by step."""

    def prefilled(self, evaluation: Evaluation, verdict: Verdict, *, cached: int, seconds: float) -> None:
        """Learn that the prompt was evaluated, but for `cached` leading tokens, in `seconds`, and what came first."""
        ...

    def plan(self, tokens: Sequence[int], room: int, noise: SharedNoise = NO_NOISE, *, explain: bool = False) -> Plan:
        """What to draft after `tokens`: at most `room` nodes. `explain` asks for reasons."""
        ...

    def settle(self, plan: Plan, evaluation: Evaluation, verdict: Verdict, seconds: float) -> None:
        """Learn from the forward pass that checked `plan.draft` and took `seconds`."""
        ...


class Policy(Protocol):
    """Decides what is drafted. What it learns is shared by all answers."""

    def begin(self) -> AnswerPolicy:
        """The policy of one more answer."""
        ...
