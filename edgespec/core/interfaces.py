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
        """The number of tokens that the KV cache holds."""
        ...

    @property
    def max_rows(self) -> int:
        """The most rows that one forward pass can return."""
        ...

    @property
    def trees(self) -> bool:
        """Whether drafts may have branches."""
        ...

    @property
    def prompt_states(self) -> Row | None:
        """The hidden states of the last tokens of the last prefill, shape (k, width); None where none are collected."""
        ...

    def cached(self, tokens: Sequence[int]) -> int:
        """The number of leading tokens that are in the KV cache; of the last draft tree, their path stays there."""
        ...

    def prefill(
        self, tokens: Sequence[int], proceed: Callable[[int, int], bool] = lambda done, total: True
    ) -> Row | None:
        """Bring the KV cache to `tokens` in chunks and return the logits after the last one.

        `proceed(done, total)` is called before every chunk; when it returns False, the result is None and the cache
        holds the tokens done so far.
        """
        ...

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        """One forward pass: logits after the last of `tokens` (row 0) and after every node i of `draft` (row i + 1)."""
        ...

    def rewind(self, length: int) -> None:
        """Cut the KV cache to at most `length` tokens."""
        ...

    def shift(self, keep: int, drop: int) -> None:
        """Drop `drop` tokens after the first `keep`, and move the rest up, where possible without a forward pass."""
        ...


class PromptStore(Protocol):
    """Keeps what an answer read of its prompt, so that later prompts which begin alike need not read it again."""

    def restore(self) -> None:
        """Before the prefill: bring what is stored of the prompt into the KV cache."""
        ...

    def before_chunk(self, done: int) -> None:
        """During the prefill: the KV cache holds the first `done` tokens."""
        ...

    def take(self, seconds: float) -> None:
        """After a prefill of `seconds`, and before anything else is evaluated; it may have been cancelled."""
        ...

    def write(self) -> None:
        """The answer is over."""
        ...


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log-probability in nats by the model's logits, before temperature, filters and grammar.

    `top` are the likeliest tokens as (id, log-probability), as many as were asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class SharedNoise:
    """The noise of the target's next draw, which a drafter shares to draw the same tokens; temperature 0 is greedy.

    `seed` and `position`, that of the next token, key the noise.
    """

    temperature: float = 0.0
    seed: int = 0
    position: int = 0


NO_NOISE = SharedNoise()
"""Greedy decoding."""


class Sampler(Protocol):
    """Chooses tokens, one after the other. It only moves forward."""

    def choose(self, row: Row, drafted: Sequence[int] = ()) -> int:
        """The token at the next position, given its logits. One of `drafted` may be taken instead: a lossy choice."""
        ...

    @property
    def noise(self) -> SharedNoise:
        """The noise of the next draw."""
        ...

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        """One entry for every token chosen, where log-probabilities were asked for."""
        ...


class Vocabulary(Protocol):
    """Token ids, and text to ids and back."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token as they appear in text; empty for control tokens."""
        ...

    def control_text(self, token: int) -> str:
        """The text of a control token, `<|im_start|>` say, which is not shown; empty for other tokens."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether this token ends an answer."""
        ...


@runtime_checkable
class Drafter(Protocol):
    """Drafts the target's next tokens. Implement these three members for a drafter of your own."""

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
        """Learn from a forward pass, whichever drafter drafted. `verdict.emitted` follows `evaluation.sequence`."""
        ...


@dataclass(frozen=True, slots=True)
class DraftCost:
    """The time of drafting, in seconds.

    `first` is for the first draft token, drafter prefill included, `next` for each further one. `remeasure` is set
    where these are outdated; it measures them by a forward pass or two. `recurring` says that every draft takes
    `first`: it is no prefill, however much it is.
    """

    first: float
    next: float
    remeasure: Callable[[], None] | None = None
    recurring: bool = False


@runtime_checkable
class CostedDrafter(Drafter, Protocol):
    """A drafter whose draft tokens take time that the policy has to weigh: a model."""

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        """The cost of drafting after `tokens`; `target_seconds` is the target's T(1) in seconds."""
        ...

    def draft(
        self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
    ) -> Draft:
        """At most `limit` nodes: a chain, and side branches behind it that take no time to draft.

        After each token of the chain, `go_on(probability, bucket)` says whether to draft another.
        """
        ...


class AnswerPolicy(Protocol):
    """Plans the drafts of one answer, step by step."""

    def prefilled(self, evaluation: Evaluation, verdict: Verdict, *, cached: int, seconds: float) -> None:
        """Learn from the prefill, which took `seconds` without the `cached` leading tokens, and its first token."""
        ...

    def plan(self, tokens: Sequence[int], room: int, noise: SharedNoise = NO_NOISE, *, explain: bool = False) -> Plan:
        """The plan after `tokens`, with a draft of at most `room` nodes. `explain` asks for reasons."""
        ...

    def settle(self, plan: Plan, evaluation: Evaluation, verdict: Verdict, seconds: float | None) -> None:
        """Learn from the forward pass that checked `plan.draft` and took `seconds`.

        None where other sequences had rows in it: its time is not that of this plan.
        """
        ...


class Policy(Protocol):
    """Plans drafts. What it learns is shared by all answers."""

    def begin(self, drafters: Sequence[Drafter] = ()) -> AnswerPolicy:
        """The policy of one more answer. `drafters` are this answer's own; what is learned of each is kept by name."""
        ...


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """An answer that takes part in the next forward pass; the other fields are those of `AnswerPolicy.plan`."""

    answer: AnswerPolicy
    tokens: Sequence[int]
    room: int
    noise: SharedNoise = NO_NOISE


class GroupPolicy(Policy, Protocol):
    """A policy that plans several answers for one forward pass."""

    def plan_many(self, requests: Sequence[PlanRequest]) -> list[Plan]:
        """The plans of all answers in the next forward pass, in their order: their draft tokens compete for its rows.

        Each answer settles its plan as ever, without seconds; `passed` has them.
        """
        ...

    def passed(self, lengths: Sequence[int], rows: int, seconds: float) -> None:
        """Learn that a forward pass of `rows` rows, for answers of these lengths, took `seconds` as a whole."""
        ...
