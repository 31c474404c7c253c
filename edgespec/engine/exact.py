"""Which evaluations give every token the very bits that it would get alone.

Kernels add up in another order when they work on several rows, and where a target is all but undecided a text can part
there. Up to the width found here rows are identical to single ones, bit by bit, so that drafting cannot change a text
even at a tie.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from edgespec.core import NOTHING, Context, Draft, Row

DEPTHS = (24, 255, 300, 600)
"""Tokens of context at which evaluations are compared: llama.cpp's attention works on the KV cache in pieces of 256
cells, and from 512 on may split them among threads. After 255 tokens every evaluation of several reaches into a piece
that a single token before it does without."""

WIDEST = 16


def sample(n_vocab: int) -> list[int]:
    """Tokens enough for `exact_rows`, of a vocabulary of that size."""
    return np.random.default_rng(0).integers(0, n_vocab, DEPTHS[-1] + 2 * WIDEST).tolist()  # type: ignore[no-any-return]


def exact_rows(
    context: Context, tokens: Sequence[int], progress: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """The largest n, up to WIDEST, such that evaluations of 2 to n rows are bit-identical to single ones; else 1.

    `tokens` are any. Which kernels run depends on widths and depths, not on what is said. `progress(done, total)`
    counts evaluations; the total is the most that there can be, and done in the end.
    """
    widest = min(WIDEST, context.max_rows)
    reached = depths(context.n_ctx)
    # Two rows come first: where not even they are exact, that is known after 5 evaluations.
    trials = [(depth, min(2, widest)) for depth in reached[:1]] + [(depth, widest) for depth in reached]
    total = sum(3 * most - 1 for _, most in trials)
    count = itertools.count(1)

    def evaluate(told: Sequence[int], draft: Draft = NOTHING) -> Row:
        rows: Row = context.evaluate(told, draft).rows.copy()
        progress(next(count), total)
        return rows

    for depth, most in trials:
        found = _exact_at(evaluate, tokens, depth, min(most, widest))
        widest = found if found < most else widest
    progress(total, total)
    return widest


def depths(n_ctx: int) -> list[int]:
    """DEPTHS as far as they fit into a context; what is beyond is taken for the last that does."""
    deepest = n_ctx - WIDEST - 1
    return sorted({min(depth, deepest) for depth in DEPTHS}) if deepest > 0 else []


def _exact_at(evaluate: Callable[..., Row], tokens: Sequence[int], depth: int, widest: int) -> int:
    if widest == 1:
        return 1
    single = np.stack([evaluate(tokens[: depth + place + 1])[0] for place in range(widest + 1)])
    # The last one is after all of them: what an evaluation leaves in the KV cache counts too.
    for width in range(2, widest + 1):
        draft = tokens[depth + 1 : depth + width]
        rows = evaluate(tokens[: depth + 1], Draft.chain(draft, [1.0] * len(draft), draft, "test"))
        after = evaluate(tokens[: depth + width + 1])[0]
        if not np.array_equal(rows, single[:width]) or not np.array_equal(after, single[width]):
            return width - 1
    return widest
