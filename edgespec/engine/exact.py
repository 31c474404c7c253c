"""The self-test of exact mode: how many rows of a forward pass are bit-identical to single-token decoding.

Kernels add in another order when they work on several rows, so that at a near-tie another token may win. Up to the
number of rows found here, logits are the same to the bit, so that drafting cannot change a text even at a tie.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from edgespec.core import NOTHING, Context, Draft, Row

DEPTHS = (24, 255, 300, 600)
"""Context lengths, in tokens, at which forward passes are compared. llama.cpp's attention works on the KV cache in
pieces of 256 cells, and from 512 on may split them among threads. After 255 tokens every pass of several rows reaches
into a piece that a pass of one row does not touch."""

MAX_EXACT_ROWS = 16
"""The most rows of a forward pass that are tested."""


def probe_tokens(n_vocab: int) -> list[int]:
    """Random token ids of a vocabulary of `n_vocab`, as many as a self-test needs."""
    return np.random.default_rng(0).integers(0, n_vocab, DEPTHS[-1] + 2 * MAX_EXACT_ROWS).tolist()  # type: ignore[no-any-return]


def exact_rows(
    context: Context, tokens: Sequence[int], progress: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """The largest n, up to MAX_EXACT_ROWS, such that passes of 2 to n rows are bit-identical to those of one row; or 1.

    `tokens` may be any ids: which kernels run depends on rows and context length alone. `progress(done, total)` counts
    forward passes; `total` is an upper bound, which the last call reaches.
    """
    rows_left = min(MAX_EXACT_ROWS, context.max_rows)
    trial_depths = depths(context.n_ctx)
    # Two rows come first: where not even they are exact, 5 forward passes show it.
    trials = [(depth, min(2, rows_left)) for depth in trial_depths[:1]] + [(depth, rows_left) for depth in trial_depths]
    total = sum(3 * trial_rows - 1 for _, trial_rows in trials)
    count = itertools.count(1)

    def evaluate(prefix: Sequence[int], draft: Draft = NOTHING) -> Row:
        rows: Row = context.evaluate(prefix, draft).rows.copy()
        progress(next(count), total)
        return rows

    for depth, trial_rows in trials:
        exact = _exact_at(evaluate, tokens, depth, min(trial_rows, rows_left))
        rows_left = exact if exact < trial_rows else rows_left
    progress(total, total)
    return rows_left


def depths(n_ctx: int) -> list[int]:
    """The context lengths of DEPTHS that fit into `n_ctx`; longer ones are replaced by the longest that fits."""
    deepest = n_ctx - MAX_EXACT_ROWS - 1
    return sorted({min(depth, deepest) for depth in DEPTHS}) if deepest > 0 else []


def _exact_at(evaluate: Callable[..., Row], tokens: Sequence[int], depth: int, rows_left: int) -> int:
    """The largest number of rows, up to `rows_left`, that is exact after `depth` tokens of context."""
    if rows_left == 1:
        return 1
    single = np.stack([evaluate(tokens[: depth + row + 1])[0] for row in range(rows_left + 1)])
    # The last row follows all others: the KV cache that a pass leaves behind must be exact too.
    for width in range(2, rows_left + 1):
        draft = tokens[depth + 1 : depth + width]
        rows = evaluate(tokens[: depth + 1], Draft.chain(draft, [1.0] * len(draft), draft, "test"))
        after = evaluate(tokens[: depth + width + 1])[0]
        if not np.array_equal(rows, single[:width]) or not np.array_equal(after, single[width]):
            return width - 1
    return rows_left
