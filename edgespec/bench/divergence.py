"""Compares a drafted answer with the plain one: the first difference, its margin, and the rounding of logits.

Kernels round differently for different numbers of rows. So two answers may diverge at a near-tie, where the margin is
within the rounding noise. A divergence at a larger margin is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgespec.backend import LlamaContext, LlamaSampler
from edgespec.core import NOTHING, Draft, common_prefix
from edgespec.decode.sampling import SamplingParams, gumbel


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference of two answers: `position` counts from the answer's first token.

    `margin` is the plain token's score less the other one's, in logits (at a temperature, in
    logit / temperature + noise), evaluated token by token.
    """

    position: int
    plain: int
    drafted: int
    margin: float


def divergence(
    context: LlamaContext,
    prompt: Sequence[int],
    plain: Sequence[int],
    drafted: Sequence[int],
    sampling: SamplingParams,
    *,
    cached: bool = False,
    sampler: LlamaSampler | None = None,
) -> Divergence | None:
    """The divergence of two answers to `prompt` with the same `sampling`, or None. Filters do not count in its margin.

    An answer that is only shorter diverges where it ends, at margin 0. `cached`: the prompt was cached, and only its
    last token was evaluated again, in a pass of its own. `sampler`: a new one of the answer, where `sampling` has
    penalties.
    """
    position = common_prefix(list(plain), list(drafted))
    if position == len(plain) == len(drafted):
        return None
    if position in (len(plain), len(drafted)):
        return Divergence(position, -1, -1, 0.0)
    tokens = list(prompt)
    context.forget()
    row = context.prefill(tokens)
    if cached:
        context.rewind(len(tokens) - 1)
        row = context.evaluate(tokens, NOTHING).rows[0]
    for token in plain[:position]:
        tokens.append(token)
        row = context.evaluate(tokens, NOTHING).rows[0]
    assert row is not None
    if sampler is not None:
        for token in plain[:position]:
            sampler.accept(token)
        row = sampler.penalized(row)
    pair = np.array([plain[position], drafted[position]])
    scores = row[pair].astype(np.float64)
    if sampling.temperature > 0.0:
        scores = scores / sampling.temperature + gumbel(sampling.seed, len(tokens), pair)
    return Divergence(position, int(pair[0]), int(pair[1]), float(scores[0] - scores[1]))


def rounding_noise(context: LlamaContext, tokens: Sequence[int], width: int) -> float:
    """The largest difference of a logit between passes of one row and of `width` rows, over the end of `tokens`."""
    start = len(tokens) - 2 * width
    worst = 0.0
    for begin in (start, start + width):
        context.forget()
        context.prefill(tokens[:begin])
        block = list(tokens[begin + 1 : begin + width])
        draft = Draft.chain(block, [1.0] * len(block), [0] * len(block), "noise")
        together = context.evaluate(tokens[: begin + 1], draft).rows.copy()
        for row in range(width):
            alone = context.evaluate(tokens[: begin + 1 + row], NOTHING).rows[0]
            worst = max(worst, float(np.abs(together[row] - alone).max()))
    return worst
