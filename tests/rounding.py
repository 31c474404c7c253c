"""Are two answers the same, but for the target's rounding?

Kernels round differently at different widths and at different splits of a prompt. So no machine guarantees that drafted
text equals plain text to the token: two answers may part where the target is all but undecided. How much it rounds is
measured where they part, and a parting that this does not explain fails the test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgespec import Engine, SamplingParams
from edgespec.backend import LlamaContext, LlamaSampler, evaluate_together, shared_contexts
from edgespec.core import Context, Draft, Row, Sampler, common_prefix

WIDTHS = (1, 2, 3, 5, 9, 16)
LONGEST = 32
"""Tokens before a parting that are evaluated at every width."""
LIKELY = 64
"""Tokens of a row, the likeliest ones, whose rounding counts where answers part."""

SamplerAfter = Callable[[list[int]], Sampler]
"""A sampler that chooses what follows these tokens."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """The logits after some tokens, which were evaluated one by one, and by how much other evaluations differ.

    `differences` are those of the same row, shape (evaluations, n_vocab); `noise` is the largest one after any of the
    last LONGEST tokens.
    """

    row: Row
    differences: Row
    noise: float

    def among(self, tokens: Sequence[int]) -> float:
        """The largest difference of the likeliest logits, down to those of `tokens`, but for what moves all alike.

        Unlikely tokens are rounded more, and never chosen.
        """
        lowest = min(np.sort(self.row)[-LIKELY:][0], self.row[list(tokens)].min())
        likely = self.differences[:, self.row >= lowest]
        return float(np.abs(likely - likely.mean(axis=1, keepdims=True)).max())


def chain(tokens: Sequence[int]) -> Draft:
    """A draft of these tokens."""
    return Draft.chain(tokens, [1.0] * len(tokens), [0] * len(tokens), "test")


def rounding(context: Context, tokens: Sequence[int]) -> Rounding:
    """What evaluations of `tokens` (at least 2) at different widths, and after different prefills, make of the logits.

    The cache is left as it comes.
    """
    start = max(1, len(tokens) - LONGEST)
    widths = [width for width in WIDTHS if width <= context.max_rows]
    context.rewind(0)
    context.prefill(tokens[:start])
    rows = np.stack([_evaluated(context, tokens, start, width) for width in widths])
    differences = [*(rows[1:, -1] - rows[0, -1])]
    for split in {1, len(tokens) // 2}:
        context.rewind(0)
        context.prefill(tokens[:split])
        prefilled = context.prefill(tokens)
        assert prefilled is not None
        differences.append(prefilled - rows[0, -1])
    found = np.stack(differences)
    return Rounding(rows[0, -1], found, max(float(np.ptp(rows, axis=0).max()), float(np.abs(found).max())))


def rounding_together(engine: Engine, tokens: Sequence[int]) -> Row:
    """The logits after `tokens` where other sequences are in the same passes, and cells lie in any order.

    Shape (evaluations, n_vocab).
    """
    context, found = engine.context, []
    assert isinstance(context, LlamaContext)
    start = max(1, len(tokens) - LONGEST)
    for seed in range(6):
        random = np.random.default_rng(seed)
        contexts = shared_contexts(engine.model, 3, n_ctx=context.n_ctx, threads=context.threads, trees=False)
        texts = [list(tokens[:start]), *(random.permutation(tokens[:start]).tolist() for _ in range(2))]
        for place in range(start, len(tokens)):
            for text in texts:
                text.append(tokens[place])
            drafts = [chain(random.choice(tokens, int(random.integers(0, 6))).tolist()) for _ in texts]
            requests = list(zip(contexts, texts, drafts, strict=True))
            order = random.permutation(len(requests)).tolist()
            evaluations = evaluate_together([requests[index] for index in order])
            row = evaluations[order.index(0)].rows[0].copy()
        found.append(row)
        contexts[0].close()
    return np.stack(found)


def _evaluated(context: Context, tokens: Sequence[int], start: int, width: int) -> Row:
    """The logits after tokens[: start + 1] and so on to the end, `width` at a time, with the rest in the cache."""
    context.rewind(start)
    found = [
        context.evaluate(tokens[: begin + 1], chain(tokens[begin + 1 : begin + width])).rows.copy()
        for begin in range(start, len(tokens), width)
    ]
    rows: Row = np.concatenate(found)
    return rows


def assert_same_choices(
    context: Context,
    prompt: Sequence[int],
    one: Sequence[int],
    other: Sequence[int],
    sampler_after: SamplerAfter,
    least_noise: float = 0.0,
    others: Callable[[list[int]], Row] | None = None,
) -> None:
    """Two answers to `prompt` are equal, or part where logits within the rounding give the token of either.

    The rounding is measured in `context`, whose cache is used for that; it is taken to be at least `least_noise`.
    `others` are rows after some tokens that were evaluated in yet another way, shape (evaluations, n_vocab).
    """
    position = common_prefix(list(one), list(other))
    if position == len(one) == len(other):
        return
    assert position < min(len(one), len(other)), f"one answer ends after {position} tokens, and the other goes on"
    tokens = [*prompt, *one[:position]]
    found = rounding(context, tokens)
    if others is not None:
        found = replace(found, differences=np.concatenate([found.differences, others(tokens) - found.row]))
    left, right = one[position], other[position]
    margin, noise = float(found.row[left] - found.row[right]), max(least_noise, found.among((left, right)))
    for token in (left, right):
        assert _can_be_chosen(token, found.row, noise, lambda: sampler_after(tokens)), (
            f"after {position} equal tokens one answer says {left}, the other {right}: "
            f"{margin:+.4f} between their logits, and rounding explains {2 * noise:.4f}"
        )


def _can_be_chosen(token: int, row: Row, noise: float, sampler: Callable[[], Sampler]) -> bool:
    """Whether logits no further than `noise` from the row make `sampler` choose `token`.

    Where a filter decides, the right change is not obvious, and several are tried.
    """
    random = np.random.default_rng(0)
    changes = [np.full(len(row), -1.0), *random.uniform(-1.0, 1.0, (40, len(row)))]
    for change in changes:
        for own in (1.0, -1.0):
            change[token] = own
            if sampler().choose((row + noise * change).astype(np.float32)) == token:
                return True
    return False


def assert_same_answer(
    engine: Engine,
    prompt: Sequence[int],
    one: Sequence[int],
    other: Sequence[int],
    sampling: SamplingParams,
    least_noise: float = 0.0,
    *,
    together: bool = False,
) -> None:
    """Two answers of `engine`, or of another program with the same model, to `prompt` differ by rounding alone.

    `together`: one of them shared its passes with other answers.
    """

    def sampler_after(tokens: list[int]) -> Sampler:
        return LlamaSampler(engine.model.vocabulary, sampling, history=tokens, position=len(tokens))

    others = partial(rounding_together, engine) if together else None
    assert_same_choices(engine.context, prompt, one, other, sampler_after, least_noise, others)
