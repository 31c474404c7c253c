"""The nouns that every other module speaks of, and the seams between them.

A *draft* is what a drafter guesses. One *evaluation* of the target checks it. The tokens that come out of that
evaluation are a *block*: the accepted part of the draft, then one token of the target's own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]
"""Logits after one token, shape (n_vocab,), or after several, a row each: the next evaluation overwrites them."""

ROOT = -1
"""The parent of a draft's first nodes: the last token that is certain."""


MAX_ROWS = 64
"""The most rows that one evaluation returns, and so the longest draft plus one."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A guess at the next tokens, as a tree in which every parent stands before its children.

    A chain is the usual case: node i follows node i - 1. `probabilities[i]` is the drafter's own estimate that the
    target says node i, given that it said the parent of i. `evidence[i]` names the kind of guess (the length of an
    n-gram match, say): the policy learns how often each kind is right. `drafter` names who guessed.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    evidence: tuple[Hashable, ...] = ()
    drafter: str = "none"

    @classmethod
    def chain(
        cls, tokens: Sequence[int], probabilities: Sequence[float], evidence: Sequence[Hashable], drafter: str
    ) -> Draft:
        """A draft without branches; the three sequences have one entry a token."""
        parents = range(ROOT, len(tokens) - 1)
        return cls(tuple(tokens), tuple(parents), tuple(probabilities), tuple(evidence), drafter)

    @property
    def is_chain(self) -> bool:
        return self.parents == tuple(range(ROOT, len(self.parents) - 1))

    def first(self, size: int) -> Draft:
        """The first `size` nodes: still a tree, since parents stand before their children."""
        if size >= len(self.tokens):
            return self
        return Draft(
            self.tokens[:size], self.parents[:size], self.probabilities[:size], self.evidence[:size], self.drafter
        )

    def by(self, drafter: str) -> Draft:
        """The same of that drafter, which may have left its name out, or put another there."""
        return self if self.drafter == drafter or not self.tokens else replace(self, drafter=drafter)

    def __len__(self) -> int:
        return len(self.tokens)


NOTHING = Draft()
"""The draft of plain decoding."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one evaluation settled.

    `accepted` are the nodes of the draft that the target said, from the root down. `emitted` are the tokens of the
    block: those of `accepted` and, unless the answer ended inside the draft, one token of the target's own.
    """

    accepted: tuple[int, ...]
    emitted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log-probability in nats, of the model itself: before temperature, filters and grammar.

    `top` are the likeliest tokens as (id, log-probability), as many as were asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@runtime_checkable
class Drafter(Protocol):
    """Guesses what the target will say next. Implement these three to bring your own."""

    @property
    def name(self) -> str:
        """A short name for statistics: `suffix`, say."""
        ...

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """At most `limit` nodes that may follow `tokens` (prompt and answer so far, never empty); none is fine too.

        `tokens` usually extends what the last call saw, and sometimes not (another conversation, a step back).
        """
        ...

    def observe(self, draft: Draft, verdict: Verdict) -> None:
        """Learn what became of `draft`. It may be shorter than the one proposed: the policy cuts."""
        ...


@dataclass(frozen=True, slots=True)
class Price:
    """What drafting costs, in seconds: up to the first guess (reading what is new included), and for each one more.

    `check`: where that is in doubt, measures it by an evaluation or two, so that the next price says what is true.
    """

    start: float
    guess: float
    check: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Coupling:
    """The noise of the target's next draw, for drafters that draw alike: temperature 0 is greedy.

    `position` is that of the next token, which keys the noise together with `seed`.
    """

    temperature: float = 0.0
    seed: int = 0
    position: int = 0


GREEDY = Coupling()


@runtime_checkable
class PricedDrafter(Drafter, Protocol):
    """A drafter whose guesses cost time worth deciding about: a model."""

    def price(self, tokens: Sequence[int], target_seconds: float) -> Price:
        """What drafting after `tokens` would cost; `target_seconds` is an evaluation of one token by the target."""
        ...

    def draft(
        self, tokens: Sequence[int], limit: int, coupling: Coupling, go_on: Callable[[float, Hashable], bool]
    ) -> Draft:
        """A chain of at most `limit` tokens; after each, `go_on(probability, evidence)` says whether to guess more."""
        ...


class Context(Protocol):
    """A model with a KV cache, seen as a prefix cache of one token list."""

    @property
    def n_ctx(self) -> int:
        """The number of tokens that fit."""
        ...

    @property
    def max_rows(self) -> int:
        """The largest number of rows that one evaluation can return."""
        ...

    def cached(self, tokens: Sequence[int]) -> int:
        """How many leading entries of `tokens` need no evaluation."""
        ...

    def prefill(
        self, tokens: Sequence[int], proceed: Callable[[int, int], bool] = lambda done, total: True
    ) -> Row | None:
        """Bring the KV cache to `tokens` in chunks and return the logits after the last one.

        `proceed(done, total)` is asked before every chunk; when it says no, the result is None and the cache holds
        the tokens done so far.
        """
        ...

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Row:
        """Logits after the last of `tokens` (row 0) and every node i of `draft` (row i + 1), in one evaluation.

        Shape (1 + len(draft), n_vocab).
        """
        ...

    def rewind(self, length: int) -> None:
        """Keep `length` tokens at most."""
        ...

    def shift(self, keep: int, drop: int) -> None:
        """Forget `drop` tokens after the first `keep` and move the rest up, without evaluating them again."""
        ...


class Sampler(Protocol):
    """Chooses tokens, one after the other. It only ever moves forward."""

    def choose(self, row: Row) -> int:
        """The token at the next position, given its logits."""
        ...

    @property
    def coupling(self) -> Coupling:
        """The noise of the next draw."""
        ...

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        """One entry for every token chosen, where they were asked for."""
        ...


class Vocabulary(Protocol):
    """Token ids and their bytes."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token as they appear in text; empty for control tokens."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether this token ends an answer."""
        ...


def common_prefix(left: Sequence[Any], right: Sequence[Any]) -> int:
    """The number of leading entries that two lists share."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    low, high = 0, shorter  # left[:low] == right[:low], and left[:high] != right[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Policy(Protocol):
    """Decides what is drafted for the next evaluation."""

    @property
    def guessed(self) -> Mapping[str, int]:
        """By drafter whose guesses cost time, those made in the last call of `plan`, also where none was drafted."""
        ...

    def plan(self, tokens: Sequence[int], room: int, coupling: Coupling = ...) -> Draft:
        """The draft to verify after `tokens`, at most `room` nodes; `NOTHING` is plain decoding."""
        ...

    def settle(self, draft: Draft, verdict: Verdict, seconds: float) -> None:
        """Learn from the evaluation of the draft planned last: what was emitted, and how long it took."""
        ...

    def prefilled(self, count: int, seconds: float) -> None:
        """Learn that an answer begins, and that `count` tokens of its prompt were evaluated in `seconds`.

        0 where their time tells nothing of an evaluation of so many.
        """
        ...
