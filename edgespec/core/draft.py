"""The values of one decode step: draft, evaluation, verdict, plan."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from edgespec.core.tokens import common_prefix

Row = npt.NDArray[np.float32]
"""Logits after one token, shape (n_vocab,), or after several, one row each. The next forward pass overwrites them."""

ROOT = -1
"""The parent of a draft's first nodes: the last token of the sequence."""

MAX_ROWS = 64
"""The most rows that one forward pass returns, and so the longest draft plus one."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft tokens as a tree in which every parent stands before its children. A chain is the usual case.

    `parents[i]` is the node before node i, or `ROOT`. `probabilities[i]` is the drafter's own estimate that the target
    accepts node i, given that it accepts the parent of i. `buckets[i]` is the feature bucket of node i (the length of
    an n-gram match, say): an acceptance rate is learned for each. `drafter` is the drafter's name.

    Where the drafts of several drafters were merged, `authors[i]` are the names of those that proposed node i, whoever
    is surest of it first, and `drafter` is the names of all first ones, joined by `+`. Else `authors` is empty.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    buckets: tuple[Hashable, ...] = ()
    drafter: str = "none"
    authors: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def chain(
        cls, tokens: Sequence[int], probabilities: Sequence[float], buckets: Sequence[Hashable], drafter: str
    ) -> Draft:
        """A draft without branches; the three sequences have one entry for each token."""
        parents = range(ROOT, len(tokens) - 1)
        return cls(tuple(tokens), tuple(parents), tuple(probabilities), tuple(buckets), drafter)

    @property
    def is_chain(self) -> bool:
        """Whether no node has two children."""
        return self.parents == tuple(range(ROOT, len(self.parents) - 1))

    def first(self, size: int) -> Draft:
        """The first `size` nodes: still a tree, since parents stand before their children."""
        if size >= len(self.tokens):
            return self
        return Draft(
            self.tokens[:size], self.parents[:size], self.probabilities[:size], self.buckets[:size], self.drafter,
            self.authors[:size],
        )  # fmt: skip

    def author(self, node: int) -> str:
        """The drafter to which node `node` is credited: the surest of those that proposed it."""
        return self.authors[node][0] if self.authors else self.drafter

    @property
    def trunk(self) -> Draft:
        """The first nodes, as many as are a chain."""
        return self.first(next((node for node, parent in enumerate(self.parents) if parent != node - 1), len(self)))

    def by(self, drafter: str) -> Draft:
        """This draft with `drafter` as its author."""
        return self if self.drafter == drafter or not self.tokens else replace(self, drafter=drafter)

    def __len__(self) -> int:
        return len(self.tokens)


NOTHING = Draft()
"""The draft of plain decoding."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of one forward pass of the target for one sequence.

    `length` is the length of the sequence at that pass; its last token is row 0's. `rows` has the logits after it
    and after every node of `draft`, shape (1 + len(draft), n_vocab); the next forward pass overwrites them. `hidden`
    has the hidden states of the same rows, shape (1 + len(draft), width), where they are collected; they are a copy.
    `reevaluated` tokens before the last were in the pass too, since the last tree left their keys and values out of
    order. After a prefill, `prefilled` has the hidden states of the tokens before the last, shape (k, width).
    """

    sequence: Sequence[int]
    length: int
    draft: Draft
    rows: Row
    hidden: Row | None = None
    reevaluated: int = 0
    prefilled: Row | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of verifying a draft.

    `accepted` are the accepted nodes, from the root down. `emitted` are the tokens of the block: those of `accepted`
    and, unless the answer ended inside the draft, the bonus token.
    """

    accepted: tuple[int, ...]
    emitted: tuple[int, ...]

    @property
    def off_trunk(self) -> int:
        """How many accepted nodes are on a side branch: a context that is alone evaluates them again."""
        return sum(node != depth for depth, node in enumerate(self.accepted))


@dataclass(frozen=True, slots=True)
class Plan:
    """A policy's decision for one decode step, which `settle` takes back.

    `draft` is the one to verify, `proposals` are all drafts that were considered. `spent` is the drafting time of each
    costed drafter that drafted, in units of T(1), without its `prefill` of the text. `reasons` explain the decision,
    one sentence each, where asked for. `risk` is the probability that the draft makes its answer slower than plain
    decoding by more than goes unnoticed. `reach` has the expected probability that each node of the draft is accepted.
    `time` is what the draft is charged with in a pass of several answers, as a multiple of the plain pass of all; 0
    where the answer has the pass for itself.
    """

    draft: Draft = NOTHING
    proposals: tuple[Draft, ...] = ()
    spent: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    reasons: tuple[str, ...] = ()
    prefill: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    risk: float = 0.0
    reach: tuple[float, ...] = ()
    time: float = 0.0

    @property
    def drafted(self) -> dict[str, int]:
        """The draft tokens that took each costed drafter's time, cut off or not: side branches take none."""
        drafted = dict.fromkeys(self.spent, 0)
        for proposal in self.proposals:
            if proposal.drafter in drafted:
                drafted[proposal.drafter] += len(proposal.trunk)
        return drafted


def verified(draft: Draft, emitted: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """The verified nodes of `draft`, given the emitted tokens, each with whether it was accepted."""
    if draft.is_chain:
        n_accepted = common_prefix(draft.tokens, tuple(emitted))
        yield from zip(range(n_accepted), repeat(True))
        if n_accepted < min(len(draft), len(emitted)):
            yield n_accepted, False
        return
    emitted_at: dict[int, int] = {ROOT: 0}  # node on the emitted path -> tokens emitted up to and including it
    for node, parent in enumerate(draft.parents):
        depth = emitted_at.get(parent)
        if depth is None or depth >= len(emitted):
            continue
        is_accepted = emitted[depth] == draft.tokens[node]
        if is_accepted:
            emitted_at[node] = depth + 1
        yield node, is_accepted
