"""What this machine makes of a model: T(n) measured on purpose, and from where on speculation pays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgespec.core import NOTHING, Context, Draft
from edgespec.policy.adaptive import MAX_DRAFT
from edgespec.system.cpu import Used, allowed_cpus

SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64)

DEPTH = 256
"""Tokens of context at which evaluations are timed."""

PAYS = 1.05
"""A speed-up worth the name."""

_ROUNDS = 4

_BUSY = 1.4


class DrafterCost(NamedTuple):
    """What a drafter model costs, in units of the target's T(1)."""

    guess: float
    reading: float
    """Before its first guess in a text."""


class Times(NamedTuple):
    """T(n) in seconds by n, and whether the machine was busy with something else meanwhile."""

    of: dict[int, float]
    busy: bool


def timed(
    context: Context,
    tokens: Sequence[int],
    *,
    depth: int = DEPTH,
    reading: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Times:
    """T(n) for SIZES as far as `context` allows, after `depth` of `tokens`: the least of several rounds in turn.

    All n tokens get logits, as where drafts are checked, or with `reading` only the last one, as where a text is read.
    A round before them warms up. What else runs makes an evaluation slower and never faster, so the least is nearest to
    the machine's own; where the rounds differ by much, or others had the cores too, even that is not to be trusted.
    `progress(done, total)` counts evaluations.
    """
    sizes = [n for n in SIZES if n <= context.max_rows and depth + n <= min(context.n_ctx, len(tokens))]
    times: dict[int, list[float]] = {n: [] for n in sizes}
    context.evaluate(tokens[: depth + 1], NOTHING)
    start = Used.now()
    for done in range((_ROUNDS + 1) * len(sizes)):
        n = sizes[done % len(sizes)]
        draft = tokens[depth + 1 : depth + n]
        context.rewind(depth)
        begun = time.perf_counter()
        if reading:
            context.prefill(tokens[: depth + n])
        else:
            context.evaluate(tokens[: depth + 1], Draft.chain(draft, [1.0] * len(draft), draft, "doctor"))
        if done >= len(sizes):
            times[n].append(time.perf_counter() - begun)
        if progress:
            progress(done + 1, (_ROUNDS + 1) * len(sizes))
    spread = statistics.median(statistics.median(seconds) / min(seconds) for seconds in times.values())
    crowded = start.crowded(Used.now(), len(allowed_cpus()))
    return Times({n: min(seconds) for n, seconds in times.items()}, crowded or spread > _BUSY)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What speculation can bring on a curve, if a guess costs that share of T(1)."""

    best: float
    """The speed-up if every guess is right."""
    size: int
    """The draft length that brings it."""
    break_even: float | None
    """How often a guess must be right for the text to come PAYS times as fast; None where even 1 is not enough."""


def outlook(ratios: Mapping[int, float], guess: float = 0.0) -> Outlook:
    """`ratios` are T(n)/T(1). Chains only, of a fixed length; every guess is right as often as any other."""
    ratios = {n: ratio for n, ratio in ratios.items() if n <= MAX_DRAFT + 1}
    best, size = max((speed_up(n - 1, 1.0, ratio, guess), n - 1) for n, ratio in ratios.items())
    if best < PAYS:
        return Outlook(best, size, None)
    for percent in range(1, 101):
        if max(speed_up(n - 1, percent / 100, ratio, guess) for n, ratio in ratios.items()) >= PAYS:
            return Outlook(best, size, percent / 100)
    raise AssertionError("at 100% it is the best")


def speed_up(size: int, acceptance: float, ratio: float, guess: float) -> float:
    """The expected speed-up of drafts of `size` guesses (Leviathan et al., arXiv 2211.17192, theorem 3.8)."""
    return sum(acceptance**depth for depth in range(size + 1)) / (ratio + size * guess)


def advice(ratios: Mapping[int, float], prices: Mapping[str, DrafterCost], *, busy: bool = False) -> Iterator[str]:
    """Sentences that say whether and how speculation can pay; `prices` are drafter models', in T(1) as are `ratios`."""
    if busy:
        yield "The machine was busy with something else. Stop that and run doctor again: these figures are unreliable."
    free = outlook(ratios)
    if free.break_even is None:
        yield (
            f"Speculation cannot pay here: even if all draft tokens are right, text comes {free.best:.2f} times as "
            "fast. edgespec will decode plainly."
        )
        return
    yield (
        f"Speculation can pay: drafts of {free.size} tokens that are all right make text {free.best:.1f} times as "
        f"fast, and n-gram drafts pay where more than {free.break_even:.0%} of their tokens are right."
    )
    for name, (guess, reading) in prices.items():
        own = outlook(ratios, guess)
        if own.break_even is None:
            yield f"{name} cannot pay: a draft token takes {guess:.2f} T(1), too much even if all are right."
        else:
            yield (
                f"{name} pays where more than {own.break_even:.0%} of its draft tokens are right (each takes "
                f"{guess:.2f} T(1)): at most {own.best:.1f} times as fast. First it reads the end of the text, "
                f"for {reading:.1f} T(1), so it is asked only where an answer is long enough to earn that back."
            )
