"""Token Recycling: drafts what the target itself found likely after each token the last time (arXiv 2408.08696).

A forward pass gives the logits after every token that it evaluates, rejected draft tokens included. For each token the
largest ones are kept, and the next draft is a tree over these (section 3). The paper's tree is the same at every step;
here a successor's probability in those logits tells how far each branch is worth following. Tokens that were likely
where the last token was said, and were not said there, may follow it (LogitSpec, arXiv 2507.01449, section 3).
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgespec.core import NOTHING, ROOT, Draft, Evaluation, Row, TokenSequence, Verdict
from edgespec.policy.tree import HOPELESS, depths

SUCCESSORS = 8
"""Successors that are kept for each token, as in the paper."""

MAX_OBSERVED = 16
"""Rows that are looked at after one forward pass: 0.8 ms where the vocabulary has 152k tokens."""

_GROUP = 128
"""Logits that are compared at once, to find the few groups that hold the largest ones."""

_SHARES = (0.0, 0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 0.8, 0.95)
"""The smallest probability of every class from class 1 on; class 0 is of what is no successor."""

_DISTANCES = (2, 16)
"""Tokens between here and the place where successors were found, up to which they count as near, and as not far."""

_PRIOR = (
    (0.0, 0.010, 0.030, 0.040, 0.09, 0.15, 0.36, 0.56, 0.72, 0.82),
    (0.0, 0.010, 0.030, 0.040, 0.08, 0.12, 0.23, 0.31, 0.46, 0.60),
    (0.0, 0.010, 0.022, 0.025, 0.035, 0.06, 0.10, 0.20, 0.32, 0.50),
)
"""How often successors of each class are right: near, not far, and far or in another text."""

_RUNNER_UP = (0.05, 0.035, 0.025, 0.02, 0.02, 0.02, 0.02, 0.02)
"""How often a token that was likely at one place, and not said there, is said at the next one, by its rank."""

_CLASSES = tuple(
    tuple((probability, (distance, share)) for share, probability in enumerate(row))
    for distance, row in enumerate(_PRIOR)
)
"""Probability and feature bucket, by distance and class of probability."""

_TEXT_BITS = 32
"""A place is the number of its sequence, and that many bits for the position in it."""

Ids = npt.NDArray[np.intp]


def largest(row: Row, count: int = SUCCESSORS) -> tuple[Ids, npt.NDArray[np.float32]]:
    """The `count` largest of the logits `row`, and about their probabilities; of equal ones, the smaller id first.

    The ids are exact, and fewer than `count` where fewer logits are finite. The normaliser of the probabilities is
    summed over the largest logit of each group only: they come out too high, where the distribution is flat.
    """
    groups = len(row) // _GROUP
    grouped = groups * _GROUP  # the logits behind are groups of their own
    maxima = np.concatenate((row[:grouped].reshape(_GROUP, groups).max(axis=0), row[grouped:]))
    peak = maxima.max()
    if not peak < np.inf:
        return largest(np.where(row < np.inf, row, np.float32(-np.inf)), count)
    if peak == -np.inf:
        return np.empty(0, np.intp), np.empty(0, np.float32)
    place = len(maxima) - count
    floor = np.partition(maxima, place)[place] if place > 0 else -np.inf
    chosen = np.flatnonzero(maxima >= floor)
    within = chosen[chosen < groups]
    ids = np.concatenate(
        (np.add.outer(np.arange(_GROUP) * groups, within).ravel(), chosen[len(within) :] + (grouped - groups))
    )
    logits = row[ids]
    kept = np.flatnonzero((logits >= floor) & (logits > -np.inf))
    ids, logits = ids[kept], logits[kept]
    order = np.lexsort((ids, -logits))[:count]
    ids, weights = ids[order], np.exp(logits[order] - peak)
    return ids, weights / max(np.exp(maxima - peak).sum(), weights.sum())


class Recycle:
    """The `recycle` drafter: for every token, the `SUCCESSORS` tokens that the target last found likeliest after it.

    What it learns is shared by all answers. Memory depends on the vocabulary alone, however long it runs.
    """

    __slots__ = ("_places", "_shares", "_successors")

    def __init__(self) -> None:
        self._resize(0)

    @property
    def name(self) -> str:
        return "recycle"

    @property
    def memory_bytes(self) -> int:
        """Bytes of the tables: 48 for each token of the vocabulary."""
        return self._successors.nbytes + self._shares.nbytes + 8 * len(self._places)

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """The nodes of largest reach that are worth weighing; the bucket is (distance, class of probability)."""
        found: list[tuple[float, int, int, float, tuple[int, int]]] = []
        waiting: list[tuple[float, int, int, float, tuple[int, int]]] = []
        place = _place(tokens, len(tokens))
        if limit > 0:
            self._branch(waiting, 1.0, ROOT, tokens[-1], place)
            self._add_runners_up(waiting, tokens, place)
        while waiting and len(found) < limit:
            node = heapq.heappop(waiting)
            self._branch(waiting, -node[0], len(found), node[2], place)
            found.append(node)
        if not found:
            return NOTHING
        _, parents, ids, probabilities, buckets = zip(*found, strict=True)
        return Draft(ids, parents, probabilities, buckets, self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Keep the successors of the last token and of every node, rejected ones too, up to `MAX_OBSERVED` in all."""
        rows, draft = evaluation.rows, evaluation.draft
        if not len(rows):
            return
        if len(self._places) != rows.shape[1]:
            self._resize(rows.shape[1])
        place, depth_of = _place(evaluation.sequence, evaluation.length), depths(draft.parents)
        said = [ROOT, *verdict.accepted][-MAX_OBSERVED:]
        rejected = [node for node in range(len(draft)) if node not in verdict.accepted][: MAX_OBSERVED - len(said)]
        for node in (*rejected, *said):  # of several rows after one token, that of what was said last counts
            token = evaluation.sequence[evaluation.length - 1] if node == ROOT else draft.tokens[node]
            ids, shares = largest(rows[node + 1])
            self._successors[token, : len(ids)] = ids
            self._shares[token] = 0
            self._shares[token, : len(ids)] = np.searchsorted(_SHARES, shares, side="right")
            self._places[token] = place if node == ROOT else place + depth_of[node]

    def _branch(
        self, waiting: list[tuple[float, int, int, float, tuple[int, int]]], reach: float, parent: int, token: int,
        place: int,
    ) -> None:  # fmt: skip
        """Add what may follow `token`, which is reached with probability `reach`, to the nodes that are waiting."""
        if token >= len(self._places):
            return
        classes = _CLASSES[bisect_left(_DISTANCES, abs(place - self._places[token]))]
        left = 1.0
        for child, share in zip(self._successors[token].tolist(), self._shares[token].tolist(), strict=True):
            prior, bucket = classes[share]
            probability = min(prior, left)
            if reach * probability < HOPELESS:
                break
            left -= probability
            heapq.heappush(waiting, (-reach * probability, parent, child, probability, bucket))

    def _add_runners_up(
        self, waiting: list[tuple[float, int, int, float, tuple[int, int]]], tokens: Sequence[int], place: int
    ) -> None:
        """Add what was likely where the last token was said: the successors of the one before, if found just there."""
        if len(tokens) < 2 or tokens[-2] >= len(self._places) or self._places[tokens[-2]] != place - 1:
            return
        known = {tokens[-1], *(node[2] for node in waiting)}
        left = 1.0 - sum(node[3] for node in waiting)
        before = tokens[-2]
        for rank, (token, share) in enumerate(
            zip(self._successors[before].tolist(), self._shares[before].tolist(), strict=True)
        ):
            probability = _RUNNER_UP[rank]
            if not share or probability > left:
                break
            if token not in known:
                left -= probability
                heapq.heappush(waiting, (-probability, ROOT, token, probability, (len(_PRIOR), rank)))

    def _resize(self, n_vocab: int) -> None:
        """Empty tables for a vocabulary of this size."""
        self._successors = np.zeros((n_vocab, SUCCESSORS), np.int32)
        self._shares = np.zeros((n_vocab, SUCCESSORS), np.uint8)
        self._places = array("q", bytes(8 * n_vocab))


def _place(tokens: Sequence[int], position: int) -> int:
    """A position in a sequence as one number, which is far from every other sequence's."""
    number = tokens.id if isinstance(tokens, TokenSequence) else 0
    return (number << _TEXT_BITS) + position
