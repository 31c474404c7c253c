"""Which evaluations give every token the very bits that it would get alone.

Kernels add up in another order when they work on several rows, and where a target is all but undecided a text can part
there. Up to the width found here rows are identical to single ones, bit by bit, so that drafting cannot change a text
even at a tie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgespec.core import NOTHING, Context, Draft

DEPTHS = (24, 300, 600)
"""Tokens of context at which evaluations are compared: llama.cpp's attention works on the KV cache in pieces of 256
cells, and from 512 on may split them among threads."""

WIDEST = 16


def sample(n_vocab: int) -> list[int]:
    """Tokens enough for `exact_rows`, of a vocabulary of that size."""
    return np.random.default_rng(0).integers(0, n_vocab, DEPTHS[-1] + 2 * WIDEST).tolist()  # type: ignore[no-any-return]


def exact_rows(context: Context, tokens: Sequence[int]) -> int:
    """The largest n, up to WIDEST, such that evaluations of 2 to n rows are bit-identical to single ones; else 1.

    `tokens` are any. Which kernels run depends on widths and depths, not on what is said.
    """
    widest = min(WIDEST, context.max_rows)
    for depth in depths(context.n_ctx):
        if widest > 1:
            widest = _exact_at(context, tokens, depth, widest)
    return widest


def depths(n_ctx: int) -> list[int]:
    """DEPTHS as far as they fit into a context; what is beyond is taken for the last that does."""
    deepest = n_ctx - WIDEST - 1
    return sorted({min(depth, deepest) for depth in DEPTHS}) if deepest > 0 else []


def _exact_at(context: Context, tokens: Sequence[int], depth: int, widest: int) -> int:
    single = np.stack(
        [context.evaluate(tokens[: depth + place + 1], NOTHING)[0].copy() for place in range(widest + 1)]
    )  # the last one is after all of them: what an evaluation leaves in the KV cache counts too
    for width in range(2, widest + 1):
        draft = tokens[depth + 1 : depth + width]
        rows = context.evaluate(tokens[: depth + 1], Draft.chain(draft, [1.0] * len(draft), draft, "test"))
        same = np.array_equal(rows, single[:width])
        after = context.evaluate(tokens[: depth + width + 1], NOTHING)[0]
        if not same or not np.array_equal(after, single[width]):
            return width - 1
    return widest
