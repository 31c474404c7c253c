"""Drafts with heads: small networks that read the target's own hidden states.

Medusa (arXiv 2401.10774, section 2.1) predicts several next tokens from one state. Hydra (arXiv 2402.05109, section 3)
and EAGLE-3 (arXiv 2503.01840, section 3) draft one token after the other. Every forward pass of the target yields the
states: the drafter keeps those of the accepted tokens, as many as its heads read.
"""

from __future__ import annotations

import heapq
import math
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgespec.core import NOTHING, ROOT, Draft, DraftCost, Evaluation, Row, SharedNoise, TokenSequence, Verdict
from edgespec.decode.sampling import gumbel
from edgespec.latency.estimate import Estimate
from edgespec.policy.tree import HOPELESS

_BUCKETS = 20
"""Classes of a head's own probability that the policy learns the acceptance of, as of a model's."""

_RANKS = 4
"""The likeliest tokens of each row that are weighed: the next one is hardly ever above HOPELESS."""

_NEAR = 8.0
"""Nats below the best logit down to which noise is added: all others are hardly ever drawn."""


@dataclass(slots=True)
class States:
    """The hidden states of the last accepted tokens of a sequence, one after the other.

    `tokens[i]` has the state `rows[i]`, shape (width,); the first one stands at position `first` of the sequence.
    `generation` changes where the list does not simply go on.
    """

    first: int
    tokens: list[int]
    rows: list[Row]
    generation: int

    @property
    def end(self) -> int:
        """The position after the last state."""
        return self.first + len(self.rows)


class Heads(Protocol):
    """The heads of one file, in ggml or in llama.cpp."""

    length: int
    """The most tokens that are drafted one after the other."""
    window: int
    """States before the last one that are read, at least; 0 where the last is enough."""
    together: bool
    """Whether the rows of all draft tokens come from one computation, in the time of the first."""

    def unread(self, states: States) -> int:
        """How many of `states` but the last are to be read before the first row."""
        ...

    def start(self, states: States, token: int) -> Row:
        """The logits over the kept ids after `token`, which follows the last state; shape (n_kept,)."""
        ...

    def extend(self, token: int) -> Row:
        """The logits after one more draft token."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


_Ranked = list[tuple[int, float]]
"""Tokens of the target with the heads' own probabilities, the best first."""


class HeadDrafter:
    """Heads as a `CostedDrafter`. `kept_ids`: the target's id of each row of their logits, shape (n_kept,).

    `step_seconds` and `read_seconds` are the times of a draft token (of all of them, for heads that work together) and
    of a state that is read, measured beforehand; each draft corrects them.
    """

    def __init__(
        self,
        name: str,
        heads: Heads,
        kept_ids: npt.NDArray[np.int64],
        *,
        step_seconds: float,
        read_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.heads = heads
        self.clock: Callable[[], float] = time.perf_counter
        """By which its steps are timed, in seconds."""
        self.columns: slice | list[int] = slice(None)
        """The numbers of the hidden states that the heads read, where others are collected too."""
        self.steps = 0
        """How often the heads were computed."""
        self._kept_ids = kept_ids
        self._step = Estimate(math.log(step_seconds))
        self._read = Estimate(math.log(read_seconds)) if read_seconds else None
        self._states: weakref.WeakKeyDictionary[TokenSequence, States] = weakref.WeakKeyDictionary()
        self._generation = 0

    @property
    def step_seconds(self) -> float:
        """The time of a draft token as known so far; of all of them, for heads that work together."""
        return math.exp(self._step.value)

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        """What drafting after `tokens` costs; without end where the last token's state is not known."""
        states, step = self._states_before(tokens), self.step_seconds
        if states is None:
            return DraftCost(math.inf, step)
        if self.heads.together:
            return DraftCost(step, 0.0, recurring=True)
        reading = math.exp(self._read.value) * self.heads.unread(states) if self._read else 0.0
        return DraftCost(reading + step, step)

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """As `draft` of greedy decoding, as long as the heads go."""
        return self.draft(tokens, limit, SharedNoise(), lambda probability, bucket: True)

    def draft(
        self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
    ) -> Draft:
        """The likeliest chain, then side branches by their reach: at most `limit` nodes.

        Heads that depend on the tokens before have side branches of one token, Medusa's have any. The bucket of a node
        is the class of its probability, whether the target samples, and whether it is the likeliest of its row.
        """
        states = self._states_before(tokens)
        if states is None or limit <= 0:
            return NOTHING
        rows = self._chain_rows(states, tokens[-1], min(limit, self.heads.length), noise, go_on)
        return self._tree(rows, limit, noisy=noise.temperature > 0.0)

    def _chain_rows(
        self, states: States, token: int, length: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
    ) -> list[_Ranked]:
        """The likeliest tokens of each row along the likeliest chain, up to where `go_on` ends it."""
        rows: list[_Ranked] = []
        row = self._start(states, token)
        while ranked := self._ranked(row, noise, len(rows)):
            rows.append(ranked)
            best, probability = ranked[0]
            if len(rows) == length:
                break
            if not (self.heads.together or go_on(probability, _bucket(probability, noise.temperature > 0.0, 0))):
                break
            begun = self.clock()
            row = self.heads.extend(best)
            if not self.heads.together:
                self._learn(self._step, self.clock() - begun)
                self.steps += 1
        return rows

    def _start(self, states: States, token: int) -> Row:
        """The first row, and the time that took."""
        unread = self.heads.unread(states)
        begun = self.clock()
        row = self.heads.start(states, token)
        seconds = self.clock() - begun
        self.steps += 1
        if unread and self._read is not None:
            self._learn(self._read, (seconds - self.step_seconds) / unread)
        else:
            self._learn(self._step, seconds)
        return row

    @staticmethod
    def _learn(estimate: Estimate, seconds: float) -> None:
        """A time that is no more than a tenth of what is known, or below 0, is noise of another one."""
        estimate.update(max(math.log(max(seconds, 1e-9)), estimate.value - math.log(10.0)))

    def _tree(self, rows: Sequence[_Ranked], limit: int, *, noisy: bool) -> Draft:
        """The trunk, and the side branches of largest reach."""
        tokens = [ranked[0][0] for ranked in rows]
        parents = list(range(ROOT, len(rows) - 1))
        probabilities = [ranked[0][1] for ranked in rows]
        ranks = [0] * len(rows)
        waiting: list[tuple[float, int, int, int]] = []  # reach below 0, parent, depth, rank

        def branch(reach: float, parent: int, depth: int, first: int) -> None:
            for rank, (_, probability) in enumerate(rows[depth][first:], start=first):
                if reach * probability >= HOPELESS:
                    heapq.heappush(waiting, (-reach * probability, parent, depth, rank))

        reach = 1.0
        for depth, probability in enumerate(probabilities):
            branch(reach, depth - 1, depth, 1)
            reach *= probability
        while waiting and len(tokens) < limit:
            below, parent, depth, rank = heapq.heappop(waiting)
            token, probability = rows[depth][rank]
            tokens.append(token)
            parents.append(parent)
            probabilities.append(probability)
            ranks.append(rank)
            if self.heads.together and depth + 1 < len(rows):
                branch(-below, len(tokens) - 1, depth + 1, 0)
        if not tokens:
            return NOTHING
        buckets = [_bucket(probability, noisy, rank) for probability, rank in zip(probabilities, ranks, strict=True)]
        return Draft(tuple(tokens), tuple(parents), tuple(probabilities), tuple(buckets), self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Keep the states of the tokens that were accepted."""
        sequence = evaluation.sequence
        if evaluation.hidden is None or not isinstance(sequence, TokenSequence):
            return
        rows: list[Row] = [evaluation.hidden[node + 1, self.columns] for node in (ROOT, *verdict.accepted)]
        begin = evaluation.length - 1
        if (earlier := evaluation.prefilled) is not None:
            rows = [*earlier[:, self.columns], *rows]
            begin -= len(earlier)
        tokens = [*sequence[begin : evaluation.length], *verdict.emitted[: len(verdict.accepted)]]
        states = self._states.get(sequence)
        if states is None or states.end != begin or tuple(states.tokens) != tuple(sequence[states.first : begin]):
            self._generation += 1
            states = self._states[sequence] = States(begin, [], [], self._generation)
        states.tokens += tokens
        states.rows += rows
        if (excess := len(states.rows) - self._most) > 0:
            cut = excess + self.heads.window  # so that not every pass cuts
            self._generation += 1
            self._states[sequence] = States(
                states.first + cut, states.tokens[cut:], states.rows[cut:], self._generation
            )  # fmt: skip

    @property
    def _most(self) -> int:
        """The states that are kept: of those that read many, twice the window."""
        return 1 + 2 * self.heads.window

    def _states_before(self, tokens: Sequence[int]) -> States | None:
        """The states of the tokens before the last, where they are known up to there."""
        states = self._states.get(tokens) if isinstance(tokens, TokenSequence) else None
        if states is None or states.end != len(tokens) - 1 or states.tokens[-1] != tokens[-2]:
            return None
        return states

    def _ranked(self, row: Row, noise: SharedNoise, place: int) -> _Ranked:
        """The likeliest tokens of a row; with sampling, those of the largest logits with the target's noise."""
        peak = row.max()
        if not math.isfinite(peak):
            return []
        scaled = row - peak
        if noise.temperature:
            scaled /= np.float32(noise.temperature)
        masses = np.exp(scaled)
        near = np.flatnonzero(scaled >= -_NEAR)
        scores = scaled[near]
        if noise.temperature:
            scores = scores + gumbel(noise.seed, noise.position + place, self._kept_ids[near])
        best = near[np.argsort(-scores, kind="stable")[:_RANKS]]
        total = float(masses.sum())
        return [(int(self._kept_ids[index]), float(masses[index]) / total) for index in best.tolist()]


def _bucket(probability: float, noisy: bool, rank: int) -> Hashable:
    """The feature bucket of a node: those that are not the likeliest of their row stand apart."""
    confidence = min(int(probability * _BUCKETS), _BUCKETS - 1)
    return (confidence, noisy) if rank == 0 else (confidence, noisy, 2)
