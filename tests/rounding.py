"""Are two answers the same, but for the target's rounding?

Kernels round differently at different widths and at different splits of a prompt. So no machine guarantees that drafted
text equals plain text to the token: two answers may part where the target is all but undecided. How much it rounds is
measured where they part, and a parting that this does not explain fails the test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgespec import Engine, SamplingParams
from edgespec.backend import LlamaSampler
from edgespec.core import Context, Draft, Row, Sampler, common_prefix

WIDTHS = (1, 2, 3, 4, 8, 16)
LONGEST = 32
"""Tokens before a parting that are evaluated at every width."""

SamplerAfter = Callable[[list[int]], Sampler]
"""A sampler that chooses what follows these tokens."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """The logits after some tokens, which were evaluated one by one, and by how much other evaluations differ."""

    row: Row
    noise: float


def chain(tokens: Sequence[int]) -> Draft:
    """A draft of these tokens."""
    return Draft.chain(tokens, [1.0] * len(tokens), [0] * len(tokens), "test")


def rounding(context: Context, tokens: Sequence[int]) -> Rounding:
    """What evaluations of `tokens` (at least 2) at different widths, and after different prefills, make of a logit.

    `noise` is the largest difference of any logit after any of the last LONGEST tokens. The cache is left as it comes.
    """
    start = max(1, len(tokens) - LONGEST)
    widths = [width for width in WIDTHS if width <= context.max_rows]
    rows = np.stack([_evaluated(context, tokens, start, width) for width in widths])
    noise = float(np.ptp(rows, axis=0).max())
    for split in {1, len(tokens) // 2, len(tokens) - 1}:
        context.rewind(0)
        context.prefill(tokens[:split])
        prefilled = context.prefill(tokens)
        assert prefilled is not None
        noise = max(noise, float(np.abs(prefilled - rows[0, -1]).max()))
    return Rounding(rows[0, -1], noise)


def _evaluated(context: Context, tokens: Sequence[int], start: int, width: int) -> Row:
    """The logits after tokens[: start + 1] and so on to the end, `width` at a time."""
    context.rewind(0)
    context.prefill(tokens[:start])
    found = [
        context.evaluate(tokens[: begin + 1], chain(tokens[begin + 1 : begin + width])).copy()
        for begin in range(start, len(tokens), width)
    ]
    rows: Row = np.concatenate(found)
    return rows


def assert_same_choices(
    context: Context, prompt: Sequence[int], one: Sequence[int], other: Sequence[int], sampler_after: SamplerAfter
) -> None:
    """Two answers to `prompt` are equal, or part where logits within the rounding give the token of either.

    The rounding is measured in `context`, whose cache is used for that.
    """
    position = common_prefix(list(one), list(other))
    if position == len(one) == len(other):
        return
    assert position < min(len(one), len(other)), f"one answer ends after {position} tokens, and the other goes on"
    tokens = [*prompt, *one[:position]]
    found = rounding(context, tokens)
    left, right = one[position], other[position]
    margin = float(found.row[left] - found.row[right])
    for token in (left, right):
        assert _can_be_chosen(token, found, lambda: sampler_after(tokens)), (
            f"after {position} equal tokens one answer says {left}, the other {right}: "
            f"{margin:+.4f} between their logits, and rounding explains {2 * found.noise:.4f}"
        )


def _can_be_chosen(token: int, rounding: Rounding, sampler: Callable[[], Sampler]) -> bool:
    """Whether logits no further than the noise from the row make `sampler` choose `token`.

    Where a filter decides, the right change is not obvious, and several are tried.
    """
    random = np.random.default_rng(0)
    changes = [np.full(len(rounding.row), -1.0), *random.uniform(-1.0, 1.0, (40, len(rounding.row)))]
    for change in changes:
        for own in (1.0, -1.0):
            change[token] = own
            if sampler().choose((rounding.row + rounding.noise * change).astype(np.float32)) == token:
                return True
    return False


def assert_same_answer(
    engine: Engine, prompt: Sequence[int], one: Sequence[int], other: Sequence[int], sampling: SamplingParams
) -> None:
    """Two answers of `engine`, or of another program with the same model, to `prompt` differ by rounding alone."""

    def sampler_after(tokens: list[int]) -> Sampler:
        return LlamaSampler(engine.model.vocabulary, sampling, history=tokens, position=len(tokens))

    assert_same_choices(engine.context, prompt, one, other, sampler_after)
